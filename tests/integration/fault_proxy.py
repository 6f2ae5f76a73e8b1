"""A proxy before an HTTP server that breaks what it is told to break: answers, bodies, connections."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

Fault = Literal["", "409", "429", "500", "502", "503", "504", "cut", "hang", "lost"]
"""What befalls a request: an error answer, that of 429 and 503 with ``Retry-After``; half of the body, then the end; no
answer for ``HANG_S``; passed on, but the answer lost."""
HANG_S = 3.0
_OWN_HEADERS = ("connection", "transfer-encoding", "keep-alive")


@dataclass
class Proxy:
    """A running proxy.

    Attributes:
        address: ``host:port``.
        rule: told method and path of each request, says what befalls it.
        seen: faults that were made, with method and path.
    """

    address: str
    rule: Callable[[str, str], Fault] = lambda method, path: ""
    seen: list[tuple[Fault, str, str]] = field(default_factory=list)

    def count(self, fault: Fault) -> int:
        """How often a fault was made."""
        return sum(kind == fault for kind, _, _ in self.seen)


@contextmanager
def fault_proxy(server: str) -> Iterator[Proxy]:
    """A proxy before ``server`` (``host:port``) for the time of the block."""
    listener = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    listener.daemon_threads = True
    proxy = Proxy(f"127.0.0.1:{listener.server_address[1]}")
    listener.proxy, listener.behind = proxy, server  # type: ignore[attr-defined]
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        listener.shutdown()
        listener.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body are written apart; without this each answer waits 40 ms for the client's acknowledgement.
    disable_nagle_algorithm = True

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    def _pass(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        proxy: Proxy = self.server.proxy  # type: ignore[attr-defined]
        fault = proxy.rule(self.command, self.path)
        if fault:
            proxy.seen.append((fault, self.command, self.path))
        if fault == "hang":
            time.sleep(HANG_S)
            self._drop()
        elif fault.isdecimal():
            busy = {"Retry-After": "1"} if fault in ("429", "503") else {}
            self._answer(int(fault), busy, b"<Error><Code>SlowDown</Code></Error>", whole=True)
        else:
            status, headers, answer = self._ask(body)
            if fault == "lost":
                self._drop()
            else:
                self._answer(status, headers, answer, whole=fault != "cut")

    def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.server.behind, timeout=60)  # type: ignore[attr-defined]
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _OWN_HEADERS:
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            found = connection.getresponse()
            return found.status, dict(found.getheaders()), found.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: dict[str, str], body: bytes, *, whole: bool) -> None:
        self.send_response(status)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
        for name, value in headers.items():
            if name.lower() not in (*_OWN_HEADERS, "content-length", "date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            with suppress(OSError):  # who asks may have had enough
                self.wfile.write(body if whole else body[: len(body) // 2])
        if not whole:
            self._drop()

    def _drop(self) -> None:
        """Close the connection, whatever is due on it."""
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass  # noqa: N815
