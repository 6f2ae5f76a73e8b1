"""Malicious servers (wrong, slow, endless or compressed responses) cause a failure of that file only."""

from __future__ import annotations

import gzip
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from urllib3.exceptions import ConnectTimeoutError
from web_server import Page, WebServer, web_server

from cliploom.schemas.errors import ItemError, TooLargeError, UnreadableError
from cliploom.schemas.sources import HttpSpec
from cliploom.transforms.inputs.addresses import Validators
from cliploom.transforms.inputs.http import Fetcher
from cliploom.transforms.inputs.http_headers import MOST_BYTES, retry_after
from cliploom.transforms.inputs.timed_http import connections, waiting

SPEC = HttpSpec(rate=10_000, read_timeout="200ms", connect_timeout="5s", timeout="1s", attempts=1, max_size="1MB")
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
PAUSE = 0.02


@pytest.fixture
def server() -> Iterator[WebServer]:
    with web_server() as found:
        yield found


def fetcher(server: WebServer, folder: Path, page: Page, spec: HttpSpec = SPEC) -> Fetcher:
    server.pages["/a.mp4"] = page
    return Fetcher(server.url("/a.mp4"), spec, folder, "probe", lambda seconds: None)


def downloading(found: Fetcher, wanted: Validators = Validators()) -> ItemError:  # noqa: B008
    with pytest.raises(ItemError) as told:
        found.download(found.folder / "target", wanted)
    return told.value


HEADERS_WITHOUT_END = {
    "status line": (b"HTTP/1.1 2", b"0"),
    "header": (OK + b"X-Long: ", b"a"),
    "headers": (OK, b"X: 1\r\n"),
    "answers that promise another": (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "redirect": (b"HTTP/1.1 302 Found\r\nLocation: /b.mp4", b"b"),
}


@pytest.mark.parametrize("name", HEADERS_WITHOUT_END)
def test_headers_that_drip_without_end_are_given_up(server: WebServer, tmp_path: Path, name: str) -> None:
    raw, repeats = HEADERS_WITHOUT_END[name]
    with pytest.raises(UnreadableError) as told:
        fetcher(server, tmp_path, Page(raw=raw, repeats=repeats, pause=PAUSE)).look()
    assert told.value.transient
    assert "did not send all headers of its answer within 0.2 s" in str(told.value)


@pytest.mark.parametrize("name", HEADERS_WITHOUT_END)
def test_headers_that_pour_without_end_are_given_up(server: WebServer, tmp_path: Path, name: str) -> None:
    raw, repeats = HEADERS_WITHOUT_END[name]
    with pytest.raises(UnreadableError):
        fetcher(server, tmp_path, Page(raw=raw, repeats=repeats * 1000)).look()


BODIES_WITHOUT_END = {
    "of a length": (OK + b"Content-Length: 900000\r\n\r\n", b"a"),
    "of no length": (OK + b"\r\n", b"a"),
    "in chunks": (CHUNKED, b"1\r\na\r\n"),
    "size of a chunk": (CHUNKED, b"0"),
    "trailers": (CHUNKED + b"1\r\na\r\n0\r\n", b"X: 1\r\n"),
}


@pytest.mark.parametrize("name", BODIES_WITHOUT_END)
def test_bodies_that_drip_without_end_meet_the_deadline(server: WebServer, tmp_path: Path, name: str) -> None:
    raw, repeats = BODIES_WITHOUT_END[name]
    error = downloading(fetcher(server, tmp_path, Page(raw=raw, repeats=repeats, pause=PAUSE)))
    assert error.transient
    assert "it was not complete after 1 s" in str(error)


@pytest.mark.parametrize(
    ("raw", "repeats"), [(OK + b"\r\n", bytes(10_000)), (CHUNKED, b"2710\r\n" + bytes(10_000) + b"\r\n")]
)
def test_bodies_that_pour_without_end_meet_the_largest_size(
    server: WebServer, tmp_path: Path, raw: bytes, repeats: bytes
) -> None:
    spec = SPEC.model_copy(update={"timeout": 1000.0})
    error = downloading(fetcher(server, tmp_path, Page(raw=raw, repeats=repeats), spec))
    assert isinstance(error, TooLargeError)


def test_the_page_of_a_refusal_is_not_read_to_its_end(server: WebServer, tmp_path: Path) -> None:
    page = Page(raw=b"HTTP/1.1 404 Gone\x1b[31m\r\n\r\n", repeats=bytes(1000), pause=PAUSE)
    error = downloading(fetcher(server, tmp_path, page, SPEC.model_copy(update={"timeout": 1000.0})))
    assert "the server answered 404 Gone[31m." in str(error)


@pytest.mark.parametrize("length", ["1" + "0" * 30, "9" * 19, "9" * 5000])
def test_a_length_beyond_all_measure_is_bounded(server: WebServer, tmp_path: Path, length: str) -> None:
    page = Page(raw=OK + b"Content-Length: " + length.encode() + b"\r\n\r\nshort")
    found = fetcher(server, tmp_path, page)
    assert found.look() == Validators(length=MOST_BYTES)
    error = downloading(found, found.look())
    assert isinstance(error, TooLargeError)
    assert "http.max_size" in str(error)


@pytest.mark.parametrize("length", ["-5", "0x10", "1e3", "\u00b2", ""])
def test_a_length_that_is_no_number_says_nothing(server: WebServer, tmp_path: Path, length: str) -> None:
    page = Page(raw=OK + b"Content-Length: " + length.encode("latin-1") + b"\r\n\r\nshort")
    assert fetcher(server, tmp_path, page).look() == Validators()


def test_lengths_that_contradict_each_other_are_a_failure(server: WebServer, tmp_path: Path) -> None:
    page = Page(raw=OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nshort!")
    error = downloading(fetcher(server, tmp_path, page))
    assert "contradict" in str(error)


def test_a_range_beyond_all_measure_is_bounded(server: WebServer, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"12345")
    raw = b'HTTP/1.1 206 Partial\r\nETag: "a"\r\nContent-Range: bytes 5-9/1' + b"0" * 30 + b"\r\n\r\nshort"
    error = downloading(fetcher(server, tmp_path, Page(raw=raw)), Validators('"a"'))
    assert isinstance(error, TooLargeError)


def test_what_a_server_packs_is_never_unpacked(server: WebServer, tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(20_000_000))
    error = downloading(fetcher(server, tmp_path, Page(bomb, encoding="gzip")))
    assert not error.transient
    assert "the server compresses the file (gzip) although asked not to" in str(error)
    raw = OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + b"%x\r\n%s\r\n0\r\n\r\n" % (len(bomb), bomb)
    assert "compresses the file (gzip)" in str(downloading(fetcher(server, tmp_path, Page(raw=raw))))
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("location", ["http://[::1", "http://" + "a" * 300 + "/", "//", "http://\udcff/", "h" * 60_000])
def test_places_that_redirects_make_up_are_failures(server: WebServer, tmp_path: Path, location: str) -> None:
    raw = b"HTTP/1.1 302 Found\r\nLocation: " + location.encode("latin-1", "replace") + b"\r\nContent-Length: 0\r\n\r\n"
    error = downloading(fetcher(server, tmp_path, Page(raw=raw)))
    assert len(str(error)) < 1000


@pytest.mark.parametrize("text", ["Wed, 21 Oct 2015 07:28:00 +99999999999999999999", "9" * 5000, "Wed, 21 Oct 99999"])
def test_waits_beyond_all_measure_are_no_error(text: str) -> None:
    assert retry_after(text) in (None, float("inf"))


class Hosts:
    """Addresses of one name; connecting to each takes so long on a clock of its own.

    Attributes:
        tried: addresses with the time-out that each was given, in seconds.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float], answering: str = "") -> None:
        self.tried: list[tuple[str, float]] = []
        self._now, self._seconds, self._answering = 100.0, seconds, answering
        places = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in seconds for _ in range(2)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: places)
        monkeypatch.setattr("cliploom.transforms.inputs.timed_http.time", self)
        monkeypatch.setattr("urllib3.util.connection.create_connection", self._connect)

    def monotonic(self) -> float:
        return self._now

    def _connect(self, place: tuple[str, int], timeout: float, **options: object) -> socket.socket:
        address = place[0]
        self.tried.append((address, timeout))
        self._now += min(timeout, self._seconds[address])
        if address != self._answering:
            raise TimeoutError if self._seconds[address] >= timeout else ConnectionRefusedError
        return socket.socket()


def new_connection(until: float = float("inf")) -> None:
    pool = connections(None).connection_from_host("three.example", 80, "http", {"timeout": 4.0})
    found = pool.ConnectionCls("three.example", 80, timeout=4.0)
    with waiting(until, 1.0):
        found._new_conn().close()


def test_all_addresses_of_a_host_share_one_deadline_of_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = Hosts(monkeypatch, {"192.0.2.1": 1.5, "192.0.2.2": 1.5, "192.0.2.3": 9.0, "192.0.2.4": 9.0})
    with pytest.raises(ConnectTimeoutError):
        new_connection()
    assert hosts.tried == [("192.0.2.1", 4.0), ("192.0.2.2", 2.5), ("192.0.2.3", 1.0)]


def test_the_deadline_of_the_whole_request_bounds_connecting_too(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = Hosts(monkeypatch, {"192.0.2.1": 1.5, "192.0.2.2": 9.0, "192.0.2.3": 9.0})
    with pytest.raises(ConnectTimeoutError):
        new_connection(until=102.0)
    assert hosts.tried == [("192.0.2.1", 2.0), ("192.0.2.2", 0.5)]


def test_an_address_that_answers_is_taken_after_those_that_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = Hosts(monkeypatch, {"192.0.2.1": 1.5, "192.0.2.2": 0.1, "192.0.2.3": 9.0}, answering="192.0.2.2")
    new_connection()
    assert [address for address, _ in hosts.tried] == ["192.0.2.1", "192.0.2.2"]
