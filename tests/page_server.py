"""The page server on a free port in a thread of the test's process, and requests to it byte by byte."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from waiting import wait_until

from cliploom.serving.catalog import Catalog
from cliploom.serving.server import make_server
from cliploom.serving.settings import ServeSettings


@dataclass(frozen=True)
class PageServer:
    """A server that answers.

    Attributes:
        port: on 127.0.0.1.
        catalog: its stores.
    """

    port: int
    catalog: Catalog

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return httpx.post(self.url + path, timeout=60, **options)


@contextmanager
def page_server(*stores: Path | str, **settings: Any) -> Iterator[PageServer]:
    """Serve stores until the block ends; every request has ended by then."""
    chosen = ServeSettings(refresh_s=0.2, **settings)
    catalog = Catalog([str(store) for store in stores], chosen.refresh_s)
    server = make_server(catalog, chosen)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive(), "the start of the page server")
        yield PageServer(listener.getsockname()[1], catalog)
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        listener.close()


@dataclass(frozen=True)
class RawAnswer:
    """What came back over a socket; status 0 when the connection was closed without an answer."""

    status: int
    headers: str
    body: bytes


def ask_raw(port: int, data: bytes, timeout: float = 30) -> RawAnswer:
    """Send bytes as they are and read until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        with suppress(OSError):  # refused while it was being sent; the answer is there nevertheless
            connection.sendall(data)
        found = bytearray()
        try:
            while block := connection.recv(1 << 16):
                found += block
        except (ConnectionResetError, TimeoutError):
            pass
    head, _, body = bytes(found).partition(b"\r\n\r\n")
    first = head.split(b"\r\n")[0].split(b" ")
    return RawAnswer(int(first[1]) if len(first) > 1 else 0, head.decode("latin-1").lower(), body)
