"""Attacks on the server: each gets a rejection or a harmless response, and the server stays available."""

from __future__ import annotations

import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from page_server import PageServer, ask_raw, page_server
from stores import SmallStore, still
from test_serve_api import events_of, publish_labels_head

from cliploom.pipelines.demo.corpus import PAGE
from cliploom.serving.worker import refuse_private_networks

TOKEN = "a-long-secret-token"
CANARY = "the-canary-that-must-not-be-read"
HOSTILE_NAMES = (
    "<img src=x onerror=alert(1)>",
    "\"><script>alert(2)<script>",
    "' onmouseover='alert(3)",
    "{{7*7}}${7*7}",
    "a?b=1&c=2#d",
    "%2e%2e%2fetc",
    "javascript:alert(4)",
)  # fmt: skip


@pytest.fixture(scope="module")
def project(built_store: SmallStore, tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    """A store with hostile uids, beside a file that nobody may read."""
    folder = tmp_path_factory.mktemp("attacked") / "project"
    shutil.copytree(built_store.folder, folder, symlinks=True)
    found = SmallStore(folder)
    for name in HOSTILE_NAMES:
        still(PAGE, found.media / f"{name}.png")
    (folder / "canary.txt").write_text(CANARY)
    (folder / "store" / "canary.txt").write_text(CANARY)
    (folder / "media" / "canary.txt").write_text(CANARY)
    found.run()
    publish_labels_head(found, folder.parent / "head")
    return found


@pytest.fixture(scope="module")
def server(project: SmallStore) -> Iterator[PageServer]:
    limits = {"max_upload": 2_000_000, "body_s": 2.0, "header_s": 2.0, "streams": 4, "queue": 2}
    with page_server(project.store, **limits) as found:  # type: ignore[arg-type]
        yield found


@pytest.fixture(scope="module")
def locked(project: SmallStore) -> Iterator[PageServer]:
    with page_server(project.store, token=TOKEN) as found:
        yield found


@dataclass(frozen=True)
class Attack:
    """A request as bytes after the method, and the statuses that are right for it."""

    target: str
    statuses: tuple[int, ...]
    method: str = "GET"
    headers: tuple[str, ...] = ()
    body: bytes = b""
    host: str = "127.0.0.1"

    def data(self) -> bytes:
        lines = [f"{self.method} {self.target} HTTP/1.1"]
        if self.host:
            lines.append(f"Host: {self.host}")
        lines += ["Connection: close", *self.headers]
        if self.body and not any(line.lower().startswith(("content-length", "transfer")) for line in self.headers):
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + self.body


JSON = ("Content-Type: application/json",)
FORM = ("Content-Type: multipart/form-data; boundary=b",)
TRAVERSALS = [
    "../canary.txt", "../../canary.txt", "..%2f..%2fcanary.txt", "%2e%2e/%2e%2e/canary.txt", "..%252fcanary.txt",
    "..\\..\\canary.txt", "..%5c..%5ccanary.txt", "....//....//canary.txt", "%c0%ae%c0%ae/canary.txt", "canary.txt",
    "canary", "/etc/passwd", "%2fetc%2fpasswd", "//etc/passwd", "file:///etc/passwd", "file:%2f%2f%2fetc%2fpasswd",
    "videos/../canary.txt", "videos/cat/../../canary.txt", "videos/cat%00.txt", "%00", "videos/cat%0d%0aX-Evil:1",
    "http://127.0.0.1:1/a.mp4", "s3://bucket/key", "~/.netrc", "/proc/self/environ", "/dev/zero", "CON", "a" * 5000,
]  # fmt: skip


def form(name: str, value: bytes, filename: str | None = None, boundary: str = "b") -> bytes:
    given = f'; filename="{filename}"' if filename is not None else ""
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{given}\r\n\r\n'.encode()
    return head + value + f"\r\n--{boundary}--\r\n".encode()


BIG_CHUNK = b"90000\r\n" + b"a" * 0x90000 + b"\r\n0\r\n\r\n"
MANY_FIELDS = b"".join(form(f"f{n}", b"x").replace(b"--b--\r\n", b"") for n in range(50)) + b"--b--\r\n"
GONE = (400, 404, 414)
ATTACKS: list[Attack] = [
    *(Attack(f"/api/media/{path}", GONE) for path in TRAVERSALS),
    *(Attack(f"/api/thumbnail/{path}", (*GONE, 422)) for path in TRAVERSALS),
    *(Attack(f"/api/converted/{path}", GONE) for path in TRAVERSALS),
    *(Attack(f"/api/playback/{path}?convert=true", GONE) for path in TRAVERSALS[:16]),
    *(Attack(f"/static/{path}", GONE) for path in TRAVERSALS[:16]),
    *(Attack(f"/item/{path}", GONE) for path in TRAVERSALS[:6]),
    *(Attack(f"/api/search?like={path}", (400, 422, 414)) for path in TRAVERSALS if "\\" not in path),
    Attack("/api/search?like=/etc/passwd@1s", (400,)),
    Attack("/api/search?q=" + "a" * 10_000, (400,)),
    Attack("/api/search?q=" + "%F0%9F%90%88" * 1000, (200, 400)),
    Attack("/api/search?q=" + "a" * 60_000, (400, 414, 431)),
    Attack("/api/search?q=%00%01%02", (400,)),
    Attack("/api/search?q=%ff%fe", (200, 400)),
    Attack("/api/search?q=%20%20", (400,)),
    Attack("/api/search", (400,)),
    Attack("/api/search?q=cat&like=/etc/passwd", (400,)),
    Attack("/api/search?q=cat&top=0", (422,)),
    Attack("/api/search?q=cat&top=-1", (422,)),
    Attack("/api/search?q=cat&top=99999", (400,)),
    Attack("/api/search?q=cat&top=1e9", (422,)),
    Attack("/api/search?q=cat&top=9999999999999999999999999", (422,)),
    Attack("/api/search?q=cat&rank=__class__", (422,)),
    Attack("/api/search?q=cat&index=../../secret", (400,)),
    Attack("/api/search?q=cat" + "&index=frames" * 60, (422,)),
    Attack("/api/search?q=cat&store=../other", (400,)),
    *(
        Attack(f"/api/search?q=cat&where={where}", (400,))
        for where in (
            "1;drop+table+items", "uid='a';select+1", "(select+1)", "read_csv('/etc/passwd')", "uid=read_text('x')",
            "copy+items+to+'x'", "attach+'x'", "__import__('os')", "uid+like", "(" * 2000, "not+" * 1500, "uid='a'--",
            "uid='a'/*", "nothing+=+1", "uid+in+()", "1e999=1e999+or", "%00",
        )
    ),
    Attack("/api/search?q='+or+1=1--", (200,)),
    Attack("/api/thumbnail/videos/cat?at=nan", (422,)),
    Attack("/api/thumbnail/videos/cat?at=-5", (422,)),
    Attack("/api/thumbnail/videos/cat?at=1e308", (422,)),
    Attack("/api/thumbnail/videos/cat?at=inf", (422,)),
    Attack("/api/thumbnail/videos/cat?width=100000", (400,)),
    Attack("/api/thumbnail/videos/cat?width=0", (400,)),
    Attack("/api/thumbnail/videos/cat?source=../../x", (400, 404)),
    Attack("/api/releases/-1", (404,)),
    Attack("/api/releases/99999999999999999999999", (404, 422)),
    Attack("/api/releases/1;drop", (422,)),
    Attack("/store?release=abc", (422,)),
    Attack("/store?release=77", (400, 404)),
    Attack("/item/videos/cat?t=nan", (200, 422)),
    Attack("/item/videos/cat?t=1e400", (200, 422)),
    Attack("/?rank=evil&q=cat", (200,)),
    Attack("/?top=-3&q=cat", (200,)),
    Attack("/?q=<script>alert(1)</script>", (200, 400)),
    Attack("/?q=%3Cscript%3Ealert(1)%3C/script%3E", (200,)),
    Attack("/?like=%22%3E%3Cimg%20src=x%20onerror=alert(1)%3E", (200,)),
    Attack("/item/%3Cscript%3Ealert(1)%3C%2Fscript%3E", (404,)),
    Attack("/predict/..%2f..%2fcanary.txt", (404,)),
    Attack("/api/predict/..%2f..%2fcanary.txt/media", (404,)),
    Attack("/api/predict/x/events", (404,)),
    Attack("/docs", (404,)),
    Attack("/redoc", (404,)),
    Attack("/.git/config", (404,)),
    Attack("/server-status", (404,)),
    Attack("/api/search", (400, 422), "POST", JSON, b"{"),
    Attack("/api/search", (400, 422), "POST", JSON, b"[]"),
    Attack("/api/search", (400, 422), "POST", JSON, b"null"),
    Attack("/api/search", (400, 422), "POST", JSON, b'{"text": 5}'),
    Attack("/api/search", (400, 422), "POST", JSON, b'{"text": "cat", "like": ["a"]}'),
    Attack("/api/search", (400, 422), "POST", JSON, b'{"text": "cat", "__proto__": {}}'),
    Attack("/api/search", (400, 422), "POST", JSON, b'{"text": "cat", "where": "1=1; attach \'x\'"}'),
    Attack("/api/search", (400, 422), "POST", JSON, b'{"text": "\\ud800"}'),
    Attack("/api/search", (400, 422), "POST", JSON, b"[" * 20_000),
    Attack("/api/search", (400, 422), "POST", JSON, b'{"a":' * 5000),
    Attack("/api/search", (400, 422), "POST", JSON, b'{"text": "cat", "top": 1e999}'),
    Attack("/api/search", (413,), "POST", JSON, b'{"text": "' + b"a" * 600_000 + b'"}'),
    Attack("/api/search", (400, 413), "POST", (*JSON, "Content-Length: 99999999999")),
    Attack("/api/search", (400,), "POST", (*JSON, "Content-Length: -5")),
    Attack("/api/search", (400,), "POST", (*JSON, "Content-Length: 1e3")),
    Attack("/api/search", (400,), "POST", (*JSON, "Content-Length: 5", "Content-Length: 6"), b"{}"),
    Attack("/api/search", (400, 422), "POST", (*JSON, "Transfer-Encoding: chunked", "Content-Length: 5"), b"0\r\n\r\n"),
    Attack("/api/search", (400, 501), "POST", (*JSON, "Transfer-Encoding: gzip, evil"), b"x"),
    Attack("/api/search", (400,), "POST", (*JSON, "Transfer-Encoding: chunked"), b"zz\r\nx\r\n0\r\n\r\n"),
    Attack("/api/search", (413,), "POST", (*JSON, "Transfer-Encoding: chunked"), BIG_CHUNK),
    Attack("/api/search/file", (400,), "POST", JSON, b"{}"),
    Attack("/api/search/file", (400,), "POST", FORM, b"no form at all"),
    Attack("/api/search/file", (400,), "POST", ("Content-Type: multipart/form-data",), b"x"),
    Attack("/api/search/file", (400,), "POST", FORM, form("file", b"")),
    Attack("/api/search/file", (400,), "POST", FORM, form("file", b"", "a.png")),
    Attack("/api/search/file", (400,), "POST", FORM, form("file", b"GIF89a", "../../evil.gif")),
    Attack("/api/search/file", (400,), "POST", FORM, form("file", b"\x89PNG" + b"\0" * 50, "a\r\nX-Evil: 1.png")),
    Attack("/api/search/file", (400,), "POST", FORM, form("top", b"9" * 1000)),
    Attack("/api/search/file", (400,), "POST", FORM, MANY_FIELDS),
    Attack("/api/search/file", (413,), "POST", FORM, form("file", b"\0" * 2_100_000, "a.mp4")),
    Attack("/api/predict", (400,), "POST", JSON, b'{"url": "file:///etc/passwd"}'),
    Attack("/api/predict", (400,), "POST", JSON, b'{"url": "ftp://example.org/a.mp4"}'),
    Attack("/api/predict", (400,), "POST", JSON, b'{"url": "s3://bucket/a.mp4"}'),
    Attack("/api/predict", (400,), "POST", JSON, b'{"url": "/etc/passwd"}'),
    Attack("/api/predict", (400,), "POST", JSON, b'{"url": "http://user:pass@example.org/a.mp4"}'),
    Attack("/api/predict", (400,), "POST", JSON, b'{"url": "http://[::1/a.mp4"}'),
    Attack("/api/predict", (400,), "POST", JSON, b'{"url": "http://a b/"}'),
    Attack("/api/predict", (400,), "POST", JSON, b'{"url": "http://example.org/' + b"a" * 3000 + b'"}'),
    Attack("/api/predict", (400,), "POST", JSON, b'{"url": "http://example.org/a.mp4", "head": "../../x"}'),
    Attack("/api/predict", (400,), "POST", JSON, b'{"url": "http://example.org/a.mp4", "path": "/etc/passwd"}'),
    Attack("/api/predict", (400, 403), "POST", (*JSON, "Sec-Fetch-Site: cross-site"), b'{"url": "http://example.org"}'),
    Attack("/login", (401,), "POST", ("Content-Type: application/x-www-form-urlencoded",), b"token="),
    Attack("/api/search", (405,), "PUT"),
    Attack("/api/search", (405,), "DELETE"),
    Attack("/api/media/videos/cat", (405,), "POST"),
    Attack("/", (405,), "TRACE"),
    Attack("/", (405,), "OPTIONS"),
    Attack("/", (400, 405), "PROPFIND"),
    Attack("/", (400, 405), "A" * 5000),
    Attack("/healthz", (421,), host="evil.example"),
    Attack("/api/search?q=cat", (421,), host="127.0.0.1.evil.example:80"),
    Attack("/api/search?q=cat", (421,), host="localhost@evil.example"),
    Attack("/healthz", (400, 421), host=""),
    Attack("/healthz", (400,), headers=("Host: evil.example",)),
    Attack("http://evil.example/healthz", (200, 400, 404)),
    Attack("/healthz", (400, 431), headers=(f"X-Long: {'a' * 100_000}",)),
    Attack("/healthz", (400, 431), headers=tuple(f"X-{n}: {'a' * 100}" for n in range(1000))),
    Attack("/healthz", (400,), headers=("X-Bad\x00: 1",)),
    Attack("/healthz", (200,), headers=("X-Forwarded-For: 1.2.3.4, <script>", "Forwarded: for=evil")),
    Attack("/healthz", (200,), headers=("Cookie: " + "a=b; " * 2000,)),
    Attack("/api/media/videos/cat", (200,), headers=("Range: bytes=" + ",".join(f"{n}-" for n in range(500)),)),
    Attack("/api/media/videos/cat", (200,), headers=("Range: bytes=--5",)),
    Attack("/api/media/videos/cat", (200,), headers=("Range: bytes=99999999999999999999-",)),
    Attack("/api/media/videos/cat", (416,), headers=("Range: bytes=999999999999-",)),
    Attack("/api/media/videos/cat", (416,), headers=("Range: bytes=-0",)),
    Attack("/api/media/videos/cat", (206,), headers=("Range: bytes=-999999999999",)),
]  # fmt: skip


def name_of(attack: Attack) -> str:
    return re.sub(r"[^\w/.?=&%-]+", "_", f"{attack.method} {attack.target} {attack.headers[-1:]} {attack.body[:30]!r}")[
        :90
    ]


def test_table_of_attacks_is_long_enough() -> None:
    assert len(ATTACKS) >= 80


@pytest.mark.parametrize("attack", ATTACKS, ids=name_of)
def test_attack_gets_its_refusal(server: PageServer, project: SmallStore, attack: Attack) -> None:
    answer = ask_raw(server.port, attack.data())
    assert answer.status in attack.statuses, (answer.status, answer.body[:300])
    text = answer.body.decode("utf-8", "replace")
    assert CANARY not in text
    assert "root:" not in text
    assert "Traceback" not in text
    assert str(project.folder.parent) not in text
    assert "x-evil" not in answer.headers
    if "content-type: application/json" not in answer.headers:
        assert "<script>alert" not in text
        assert "<img src=x" not in text
    if answer.status not in (400, 0):  # what is no HTTP at all is refused before any header is set
        assert "content-security-policy: default-src 'none'; script-src 'self'" in answer.headers
        assert "x-content-type-options: nosniff" in answer.headers


def test_server_still_answers_after_all_attacks(server: PageServer) -> None:
    assert server.get("/healthz").json()["ok"]
    assert server.get("/api/search?q=a+cat").json()["hits"]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_names_are_shown_and_run_nothing(server: PageServer, name: str) -> None:
    from urllib.parse import quote

    found = server.get(f"/api/items/{quote(name, safe='')}").json()
    assert found["uid"] == name
    page = server.get(f"/item/{quote(name, safe='')}").text
    for bad in ("<img src=x", "<script>alert", "onmouseover='alert", 'href="javascript:'):
        assert bad not in page
    assert "49" not in re.sub(r"\d\d\d+|=\d+|\w49|49\w", "", page) or "{{7*7}}" in page
    assert server.get(f"/api/thumbnail/{quote(name, safe='')}").status_code == 200


@pytest.mark.parametrize(
    "path", ["/", "/api/search?q=cat", "/api/media/videos/cat", "/api/thumbnail/videos/cat", "/metrics",
             "/openapi.json", "/item/videos/cat", "/store", "/api/runs", "/predict", "/api/predict/x/media"]
)  # fmt: skip
@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN[:-1]}, {"Cookie": "cliploom_token=wrong"},
     {"Authorization": "Basic " + TOKEN}, {"Cookie": "cliploom_token=\x80; =;"}],
)  # fmt: skip
def test_nothing_is_given_without_the_token(locked: PageServer, path: str, headers: dict[str, str]) -> None:
    answer = locked.get(path, headers={name: value.encode("latin-1") for name, value in headers.items()})  # type: ignore[arg-type]
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"


def test_token_opens_by_header_and_by_cookie(locked: PageServer) -> None:
    assert locked.get("/api/search?q=cat", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert locked.get("/", headers={"Accept": "text/html"}).headers["location"] == "/login"
    assert "project" not in locked.get("/login").text
    assert locked.post("/login", data={"token": "wrong"}).status_code == 401
    answer = locked.post("/login", data={"token": TOKEN})
    cookie = answer.headers["set-cookie"]
    assert answer.status_code == 303
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    pair = cookie.partition(";")[0]
    assert locked.get("/api/media/videos/cat", headers={"Cookie": pair, "Range": "bytes=0-1"}).status_code == 206


def test_slow_headers_get_408(server: PageServer) -> None:
    begun = time.monotonic()
    answer = ask_raw(server.port, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
    assert answer.status == 408
    assert time.monotonic() - begun < 30


def test_slow_bodies_get_408(server: PageServer) -> None:
    data = Attack("/api/search", (408,), "POST", (*JSON, "Content-Length: 50"), b'{"text"').data()
    assert ask_raw(server.port, data).status == 408


def test_storm_of_media_requests_gets_429_and_frees_its_places(server: PageServer) -> None:
    held = []
    for _ in range(4):
        connection = socket.create_connection(("127.0.0.1", server.port))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        held.append(connection)
    statuses = [server.get("/api/media/videos/cat").status_code for _ in range(8)]
    assert set(statuses) <= {200, 429}
    for connection in held:
        connection.close()
    assert server.get("/api/media/videos/cat").status_code == 200
    assert 'cliploom_serve_busy{kind="media files"} 0' in server.get("/metrics").text


def test_full_queue_says_its_length(server: PageServer, project: SmallStore) -> None:
    data = (project.media / "videos" / "cat.mp4").read_bytes()
    answers = [server.post("/api/predict", files={"file": ("cat.mp4", data)}) for _ in range(8)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert re.search(r"\d files are waiting", refused[0].json()["error"])
    assert refused[0].headers["retry-after"]
    for answer in answers:
        if answer.status_code == 202:
            events_of(server, answer.json()["job"])  # wait for its end


class Redirect(BaseHTTPRequestHandler):
    """A server of a private network that would rather send one on."""

    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        self.send_response(200)
        self.end_headers()
        self.wfile.write(CANARY.encode())

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def private_server() -> Iterator[int]:
    found = ThreadingHTTPServer(("127.0.0.1", 0), Redirect)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found.server_address[1]
    found.shutdown()


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "127.1", "2130706433", "0x7f000001", "[::ffff:127.0.0.1]"]
)
def test_links_into_the_servers_own_network_are_never_asked(server: PageServer, private_server: int, host: str) -> None:
    Redirect.asked = 0
    made = server.post("/api/predict", json={"url": f"http://{host}:{private_server}/clip.mp4"})
    if made.status_code == 202:
        assert "error" in events_of(server, made.json()["job"])[-1]
    else:
        assert made.status_code == 400
    assert Redirect.asked == 0


def test_names_resolve_to_public_addresses_only_whoever_asks() -> None:
    resolve = socket.getaddrinfo
    try:
        refuse_private_networks()
        with pytest.raises(socket.gaierror):
            socket.getaddrinfo("localhost", 80)
        assert socket.getaddrinfo("93.184.216.34", 80)
    finally:
        socket.getaddrinfo = resolve


def test_a_uid_is_never_taken_for_a_file_in_the_servers_folder(
    server: PageServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"like": "videos/cat", "index": "frames"}
    before = server.get("/api/search", params=asked).json()["hits"]
    (tmp_path / "videos").mkdir()
    still(PAGE, tmp_path / "page.png").rename(tmp_path / "videos" / "cat")
    monkeypatch.chdir(tmp_path)
    assert server.get("/api/search", params=asked).json()["hits"] == before


def test_media_replaced_by_a_link_is_not_followed(small_store: SmallStore, tmp_path: Path) -> None:
    small_store.run()
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(CANARY.encode() * 100)
    with page_server(small_store.store) as server:
        cat = small_store.media / "videos" / "cat.mp4"
        cat.unlink()
        cat.symlink_to(secret)
        answer = server.get("/api/media/videos/cat")
        assert answer.status_code == 404
        assert CANARY not in answer.text
