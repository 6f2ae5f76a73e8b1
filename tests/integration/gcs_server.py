"""A small Google Cloud Storage of the tests' own, in memory, on this machine.

It speaks what the programs under test speak: of the XML API what ``object_store`` uses (also conditional puts by
generation), of the JSON API what Beam's staging through ``google-cloud-storage`` uses. Sources: the two APIs'
reference pages. It checks no credentials.
"""

from __future__ import annotations

import base64
import ctypes
import hashlib
import importlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "corpus"
_UPLOAD, _STORAGE = "/upload/storage/v1/b/", "/storage/v1/b/"


@dataclass(frozen=True)
class Stored:
    """An object."""

    data: bytes
    generation: int

    @property
    def tag(self) -> str:
        return f'"{hashlib.md5(self.data, usedforsecurity=False).hexdigest()}-{self.generation}"'


@dataclass
class State:
    """What the server holds: the objects of one bucket by name, and uploads that have begun."""

    address: str
    objects: dict[str, Stored] = field(default_factory=dict)
    uploads: dict[str, tuple[str, bytearray]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    generation: int = 1000

    def put(self, name: str, data: bytes, *, absent: bool = False) -> Stored | None:
        """Create or replace; None when it should be absent and is not."""
        with self.lock:
            if absent and name in self.objects:
                return None
            self.generation += 1
            self.objects[name] = Stored(data, self.generation)
            return self.objects[name]


@contextmanager
def gcs_server(folder: Path) -> Iterator[dict[str, str]]:
    """A server with an empty bucket for the time of the block.

    It is a process of its own: deltalake may hold the interpreter's lock while it waits for an answer.

    Args:
        folder: for the account's file.

    Yields:
        What clients need in their environment: a service account that says where the server is and that nothing is
        signed.
    """
    with subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = f"http://{process.stdout.readline().strip()}"
            account = folder / "account.json"
            nothing = dict.fromkeys(("private_key", "private_key_id", "client_email"), "")
            account.write_text(json.dumps(nothing | {"gcs_base_url": url, "disable_oauth": True}), encoding="utf-8")
            yield {
                "GOOGLE_SERVICE_ACCOUNT": str(account),
                "GOOGLE_ALLOW_HTTP": "true",
                "STORAGE_EMULATOR_HOST": url,
            }
        finally:
            process.kill()


def serve() -> None:
    """Serve until the process that waits for it ends; the first line of output is ``host:port``."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    listener = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    listener.daemon_threads = True
    state = State(f"127.0.0.1:{listener.server_address[1]}")
    listener.state = state  # type: ignore[attr-defined]
    print(state.address, flush=True)
    listener.serve_forever()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body are written apart; without this each answer waits 40 ms for the client's acknowledgement.
    disable_nagle_algorithm = True

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    @property
    def gcs(self) -> State:
        found: State = self.server.state  # type: ignore[attr-defined]
        return found

    def _serve(self) -> None:
        body = self._body()
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
        if parts.path.startswith(_UPLOAD):
            self._upload(query, body)
        elif parts.path.startswith(_STORAGE) or parts.path.startswith("/download/"):
            self._json(parts.path.removeprefix("/download").removeprefix(_STORAGE), query)
        else:
            bucket, _, name = parts.path.lstrip("/").partition("/")
            if bucket != BUCKET:
                self._answer(404, b"<Error><Code>NoSuchBucket</Code></Error>")
            elif name:
                self._object(unquote(name), body)
            else:
                self._list(query)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _object(self, name: str, body: bytes) -> None:
        """The XML API of one object."""
        if self.command == "PUT":
            stored = self.gcs.put(name, body, absent=self.headers.get("x-goog-if-generation-match") == "0")
            self._answer(200 if stored else 412, b"", stored)
            return
        found = self.gcs.objects.get(name)
        if found is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        elif self.command == "DELETE":
            self.gcs.objects.pop(name, None)
            self._answer(204, b"")
        else:
            self._content(found)

    def _content(self, found: Stored) -> None:
        wanted = self.headers.get("Range", "")
        if self.headers.get("If-Match", found.tag) != found.tag:
            self._answer(412, b"")
        elif not wanted:
            self._answer(200, found.data, found)
        else:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            size = len(found.data)
            start = int(first) if first else max(0, size - int(last))
            end = min(int(last) + 1, size) if first and last else size
            self._answer(206, found.data[start:end], found, {"Content-Range": f"bytes {start}-{end - 1}/{size}"})

    def _list(self, query: dict[str, str]) -> None:
        """The XML API's listing."""
        prefix, after = query.get("prefix", ""), query.get("start-after", "")
        named = sorted((n, o) for n, o in self.gcs.objects.items() if n.startswith(prefix) and n > after)
        shared: set[str] = set()
        if delimiter := query.get("delimiter"):
            rests = [(name, name.removeprefix(prefix).partition(delimiter)) for name, _ in named]
            shared = {prefix + first + cut for _, (first, cut, _) in rests if cut}
            named = [(n, o) for n, o in named if delimiter not in n.removeprefix(prefix)]
        rows = "".join(
            f"<Contents><Key>{escape(name)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>{escape(found.tag)}</ETag><Size>{len(found.data)}</Size></Contents>"
            for name, found in named
        )
        rows += "".join(f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in sorted(shared))
        self._answer(200, f"<ListBucketResult>{rows}</ListBucketResult>".encode())

    def _json(self, path: str, query: dict[str, str]) -> None:
        """The JSON API of the bucket and its objects."""
        _, _, rest = path.partition("/")
        name = unquote(rest.removeprefix("o").removeprefix("/"))
        if not rest:
            self._answer(200, json.dumps({"kind": "storage#bucket", "name": BUCKET}).encode())
        elif not name:
            prefix = query.get("prefix", "")
            items = [_meta(n, o) for n, o in sorted(self.gcs.objects.items()) if n.startswith(prefix)]
            self._answer(200, json.dumps({"kind": "storage#objects", "items": items}).encode())
        elif name not in self.gcs.objects:
            self._answer(404, b"{}")
        elif self.command == "DELETE":
            self.gcs.objects.pop(name, None)
            self._answer(204, b"")
        elif query.get("alt") == "media":
            self._content(self.gcs.objects[name])
        else:
            self._answer(200, json.dumps(_meta(name, self.gcs.objects[name])).encode())

    def _upload(self, query: dict[str, str], body: bytes) -> None:
        """The JSON API's resumable upload: begun by a POST, carried by PUTs."""
        if "upload_id" not in query:
            name = query.get("name") or json.loads(body)["name"]
            key = str(len(self.gcs.uploads))
            self.gcs.uploads[key] = name, bytearray()
            where = f"http://{self.gcs.address}{_UPLOAD}{BUCKET}/o?uploadType=resumable&upload_id={quote(key)}"
            self._answer(200, b"", headers={"Location": where})
            return
        name, data = self.gcs.uploads[query["upload_id"]]
        data += body
        if self.headers.get("Content-Range", "").endswith("/*"):
            self._answer(308, b"", headers={"Range": f"bytes=0-{len(data) - 1}"})
            return
        stored = self.gcs.put(name, bytes(data))
        assert stored is not None
        self._answer(200, json.dumps(_meta(name, stored)).encode())

    def _answer(
        self, status: int, body: bytes, found: Stored | None = None, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        named = dict(headers or {})
        if found is not None:
            named |= {"ETag": found.tag, "x-goog-generation": str(found.generation)}
            named |= {"Last-Modified": formatdate(1_700_000_000, usegmt=True)}
        for name, value in named.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and status != 204:
            self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815


def _meta(name: str, found: Stored) -> dict[str, str]:
    """An object's metadata in the JSON API."""
    crc32c: Any = importlib.import_module("google_crc32c")
    return {
        "crc32c": base64.b64encode(crc32c.Checksum(found.data).digest()).decode(),
        "kind": "storage#object",
        "name": name,
        "bucket": BUCKET,
        "size": str(len(found.data)),
        "generation": str(found.generation),
        "etag": found.tag,
        "updated": "2026-01-01T00:00:00.000Z",
    }


if __name__ == "__main__":
    serve()
