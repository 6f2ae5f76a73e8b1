"""A web server on loopback that does what its files say: serve, stall, cut, lie, refuse, redirect."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Page:
    """A file, and how the server behaves when it is asked for.

    Attributes:
        body: what it holds.
        etag: entity tag without quotes; none is sent when empty.
        modified: ``Last-Modified``.
        kind: ``Content-Type``.
        statuses: answers of the first requests, HEAD or GET; then 200.
        retry_after: sent with those.
        cuts: of the first GETs, bytes after which the connection is cut.
        says: length that is said instead of the true one.
        stalls: the first GETs send the headers and then nothing until the server stops.
        location: where it redirects to.
        ranges: takes ``Range``.
        heads: answers HEAD.
        silent: says neither tag, time nor length.
        encoding: ``Content-Encoding``.
        raw: the answer as a whole, headers and all, to HEAD and GET.
        repeats: bytes that are sent again and again after ``raw`` until the client goes away.
        pause: seconds between those.
    """

    body: bytes = b""
    etag: str = ""
    modified: str = ""
    kind: str = "application/octet-stream"
    statuses: list[int] = field(default_factory=list)
    retry_after: str = ""
    cuts: list[int] = field(default_factory=list)
    says: int | None = None
    stalls: int = 0
    location: str = ""
    ranges: bool = True
    heads: bool = True
    silent: bool = False
    encoding: str = ""
    raw: bytes = b""
    repeats: bytes = b""
    pause: float = 0.0


@dataclass(frozen=True)
class Asked:
    """A request that came, and the bytes of body that were sent."""

    method: str
    path: str
    range: str
    headers: dict[str, str]


@dataclass
class WebServer:
    """Pages by path; what was asked for, in order."""

    port: int
    pages: dict[str, Page] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def count(self, method: str, path: str = "") -> int:
        """Requests of a method, for a path or all."""
        return sum(a.method == method and path in ("", a.path) for a in self.asked)


@contextmanager
def web_server() -> Iterator[WebServer]:
    """A server that runs until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and body are written apart; without this each answer waits 40 ms for the client's acknowledgement.
        disable_nagle_algorithm = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            server.asked.append(Asked(self.command, self.path, self.headers.get("Range", ""), dict(self.headers)))
            page = server.pages.get(self.path.partition("?")[0])
            if page is None:
                self._end(404)
            elif self.command == "HEAD" and not page.heads:
                self._end(405)
            elif page.statuses:
                self._end(page.statuses.pop(0), {"Retry-After": page.retry_after} if page.retry_after else {})
            elif page.raw:
                self._pour(page)
            elif page.location:
                self._end(302, {"Location": page.location})
            else:
                self._serve(page, body=body)

        def _end(self, status: int, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _pour(self, page: Page) -> None:
            self.close_connection = True
            self.wfile.write(page.raw)
            while page.repeats and not server.stopped.wait(page.pause):
                self.wfile.write(page.repeats)

        def _serve(self, page: Page, *, body: bool) -> None:
            begin = 0
            asked = self.headers.get("Range", "")
            same = self.headers.get("If-Range", "") in (f'"{page.etag}"', page.modified)
            if body and page.ranges and asked and same:
                begin = int(asked.removeprefix("bytes=").rstrip("-"))
                if begin >= len(page.body):
                    self._end(416)
                    return
            self.send_response(206 if begin else 200)
            self.send_header("Content-Type", page.kind)
            if page.encoding:
                self.send_header("Content-Encoding", page.encoding)
            if page.silent:
                self.send_header("Connection", "close")
            else:
                if page.etag:
                    self.send_header("ETag", f'"{page.etag}"')
                if page.modified:
                    self.send_header("Last-Modified", page.modified)
                length = len(page.body) - begin if page.says is None else page.says
                self.send_header("Content-Length", str(length))
            if begin:
                self.send_header("Content-Range", f"bytes {begin}-{len(page.body) - 1}/{len(page.body)}")
            self.end_headers()
            self.close_connection = page.silent
            if not body:
                return
            if page.stalls:
                page.stalls -= 1
                self.wfile.flush()
                server.stopped.wait(30)
                self.close_connection = True
                return
            end = len(page.body)
            if page.cuts:
                end = begin + page.cuts.pop(0)
            if end < len(page.body) or (page.says or 0) > len(page.body):
                self.close_connection = True
            self.wfile.write(page.body[begin:end])

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that goes away amid an answer is part of the tests."""

    found = Server(("127.0.0.1", 0), Handler)
    found.daemon_threads = True
    server = WebServer(found.server_address[1])
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopped.set()
        found.shutdown()
        found.server_close()
        thread.join()
