"""Downloads over HTTP: requests, retries, resumption, rejections and caching, against a local server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from web_server import Page, WebServer, web_server

from cliploom.schemas.errors import ItemError, TooLargeError, UnreadableError
from cliploom.schemas.sources import HttpSpec
from cliploom.transforms.inputs.addresses import Validators
from cliploom.transforms.inputs.http import Fetcher
from cliploom.transforms.inputs.pace import take_turn
from cliploom.transforms.inputs.spool import PART, open_input

BODY = bytes(range(256)) * 2000
DATE = "Wed, 21 Oct 2015 07:28:00 GMT"
SPEC = HttpSpec(rate=10_000, read_timeout="300ms", timeout="20s")


@dataclass
class Bench:
    """A server, and a fetcher whose waits are written down instead of waited for."""

    server: WebServer
    folder: Path
    waits: list[float] = field(default_factory=list)

    def fetcher(self, path: str, spec: HttpSpec = SPEC) -> Fetcher:
        address = path if "://" in path else self.server.url(path)
        return Fetcher(address, spec, self.folder, "probe", self.waits.append)

    def look(self, path: str) -> Validators:
        return self.fetcher(path).look()

    def download(self, path: str, wanted: Validators | None = None, spec: HttpSpec = SPEC) -> bytes:
        fetcher = self.fetcher(path, spec)
        fetcher.download(self.target, fetcher.look() if wanted is None else wanted)
        return self.target.read_bytes()

    @property
    def target(self) -> Path:
        return self.folder / "target"

    def failure(self, path: str, spec: HttpSpec = SPEC) -> ItemError:
        with pytest.raises(ItemError) as told:
            self.download(path, spec=spec)
        assert told.value.stage == "probe"
        return told.value


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Bench]:
    with web_server() as server:
        yield Bench(server, tmp_path)


def test_looking_reads_nothing(web: Bench) -> None:
    web.server.pages["/a.mp4"] = Page(BODY, etag="v1", modified=DATE)
    assert web.look("/a.mp4") == Validators('"v1"', DATE, len(BODY))
    assert web.server.count("GET") == 0


def test_server_without_head_is_asked_by_get(web: Bench) -> None:
    web.server.pages["/a.mp4"] = Page(BODY, etag="v1", heads=False)
    assert web.look("/a.mp4").length == len(BODY)


def test_file_arrives(web: Bench) -> None:
    web.server.pages["/a.mp4"] = Page(BODY, etag="v1")
    assert web.download("/a.mp4") == BODY


@pytest.mark.parametrize("status", [404, 410, 403, 401])
def test_refusals_last(web: Bench, status: int) -> None:
    web.server.pages["/a.mp4"] = Page(BODY, statuses=[status] * 20)
    error = web.failure("/a.mp4")
    assert not error.transient
    assert f"the server answered {status}" in str(error)
    assert web.waits == []


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_what_may_pass_is_tried_again(web: Bench, status: int) -> None:
    web.server.pages["/a.mp4"] = Page(BODY, etag="v1", statuses=[status, status])
    assert web.download("/a.mp4") == BODY
    assert len(web.waits) == 2
    assert 0.5 <= web.waits[0] <= 0.75
    assert 1.0 <= web.waits[1] <= 1.5


def test_what_does_not_pass_is_a_failure_that_may(web: Bench) -> None:
    web.server.pages["/a.mp4"] = Page(BODY, statuses=[500] * 20)
    error = web.failure("/a.mp4")
    assert error.transient
    assert "the server answered 500 Internal Server Error (4 attempts)" in str(error)


def test_retry_after_in_seconds_is_waited_for(web: Bench) -> None:
    web.server.pages["/a.mp4"] = Page(BODY, etag="v1", statuses=[503], retry_after="7")
    assert web.download("/a.mp4") == BODY
    assert web.waits == [7.0]


def test_retry_after_as_a_date_is_waited_for(web: Bench) -> None:
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=9), usegmt=True)
    web.server.pages["/a.mp4"] = Page(BODY, etag="v1", statuses=[429], retry_after=until)
    assert web.download("/a.mp4") == BODY
    assert 0 < web.waits[0] <= 9


def test_server_that_asks_for_too_long_a_wait_is_left_for_another_night(web: Bench) -> None:
    web.server.pages["/a.mp4"] = Page(BODY, statuses=[503] * 20, retry_after="86400")
    assert web.failure("/a.mp4").transient
    assert web.waits == []


def test_cut_download_goes_on_where_it_was(web: Bench) -> None:
    web.server.pages["/a.mp4"] = Page(BODY, etag="v1", cuts=[100_000, 100_000])
    assert web.download("/a.mp4") == BODY
    ranges = [asked.range for asked in web.server.asked if asked.method == "GET"]
    assert ranges == ["", "bytes=100000-", "bytes=200000-"]


def test_times_serve_where_there_is_no_tag(web: Bench) -> None:
    web.server.pages["/a.mp4"] = Page(BODY, modified=DATE, cuts=[100_000])
    assert web.download("/a.mp4") == BODY
    assert web.server.asked[-1].headers["If-Range"] == DATE


def test_server_that_knows_no_ranges_sends_all_again(web: Bench) -> None:
    web.server.pages["/a.mp4"] = Page(BODY, etag="v1", cuts=[100_000], ranges=False)
    assert web.download("/a.mp4") == BODY


def test_file_without_tag_or_time_is_begun_again(web: Bench) -> None:
    web.server.pages["/a.mp4"] = Page(BODY, cuts=[100_000])
    assert web.download("/a.mp4") == BODY
    assert web.server.asked[-1].range == ""


def test_what_is_left_from_another_night_is_gone_on_from(web: Bench) -> None:
    web.server.pages["/a.mp4"] = Page(BODY, etag="v1", cuts=[100_000] * 4)
    assert web.failure("/a.mp4").transient
    had = web.target.stat().st_size
    assert had == 400_000
    assert web.download("/a.mp4") == BODY
    assert web.server.asked[-1].range == "bytes=400000-"


def test_left_part_longer_than_the_file_is_thrown_away(web: Bench) -> None:
    web.server.pages["/a.mp4"] = Page(BODY, etag="v1")
    web.target.write_bytes(bytes(len(BODY) + 5))
    assert web.download("/a.mp4") == BODY


def test_stalled_server_is_asked_again(web: Bench) -> None:
    web.server.pages["/a.mp4"] = Page(BODY, etag="v1", stalls=1)
    assert web.download("/a.mp4") == BODY
    assert len(web.waits) == 1


def test_server_that_is_silent_is_reported(web: Bench) -> None:
    web.server.pages["/a.mp4"] = Page(BODY, etag="v1", stalls=9)
    error = web.failure("/a.mp4", SPEC.model_copy(update={"attempts": 2}))
    assert error.transient
    assert "the server did not respond in time (2 attempts)" in str(error)


def test_time_limit_holds_for_all_attempts(web: Bench) -> None:
    web.server.pages["/a.mp4"] = Page(BODY, etag="v1", stalls=9)
    spec = SPEC.model_copy(update={"timeout": 0.1, "attempts": 50})
    assert web.failure("/a.mp4", spec).transient
    assert web.server.count("GET") == 1


def test_length_that_is_too_long_is_a_cut(web: Bench) -> None:
    web.server.pages["/a.mp4"] = Page(BODY, says=len(BODY) + 10)
    error = web.failure("/a.mp4")
    assert error.transient
    assert "the connection was cut" in str(error)


def test_length_that_changes_between_asking_and_reading_is_another_file(web: Bench) -> None:
    web.server.pages["/a.mp4"] = Page(BODY)
    with pytest.raises(UnreadableError, match=r"changed since it was listed.*10 bytes then, 512000 now") as told:
        web.download("/a.mp4", Validators(length=10))
    assert told.value.transient
    assert web.waits == []


def test_tag_that_changes_between_asking_and_reading_is_another_file(web: Bench) -> None:
    web.server.pages["/a.mp4"] = Page(BODY, etag="v2")
    with pytest.raises(UnreadableError, match="another entity tag"):
        web.download("/a.mp4", Validators('"v1"', length=len(BODY)))


def test_file_that_changes_amid_a_resumed_download_is_not_mixed(web: Bench) -> None:
    web.server.pages["/a.mp4"] = Page(BODY, etag="v1", cuts=[100_000])
    fetcher = web.fetcher("/a.mp4")
    wanted = fetcher.look()

    def change(_: float) -> None:
        web.server.pages["/a.mp4"] = Page(BODY[::-1], etag="v2")

    with pytest.raises(UnreadableError, match="another entity tag"):
        replace(fetcher, sleep=change).download(web.target, wanted)
    assert not web.target.exists()


def test_file_that_says_nothing_of_itself_is_read(web: Bench) -> None:
    web.server.pages["/a.mp4"] = Page(BODY, silent=True)
    assert web.look("/a.mp4") == Validators()
    assert web.download("/a.mp4") == BODY


def test_size_that_is_said_is_checked_before_reading(web: Bench) -> None:
    web.server.pages["/a.mp4"] = Page(BODY)
    error = web.failure("/a.mp4", SPEC.model_copy(update={"max_size": 1000}))
    assert isinstance(error, TooLargeError)
    assert not web.target.exists()


def test_size_that_is_not_said_is_checked_while_reading(web: Bench) -> None:
    web.server.pages["/a.mp4"] = Page(BODY, silent=True)
    assert isinstance(web.failure("/a.mp4", SPEC.model_copy(update={"max_size": 1000})), TooLargeError)


@pytest.mark.parametrize(
    "page", [Page(b"gone", kind="text/html; charset=utf-8"), Page(b"\n <!DOCTYPE html><html>no such clip")]
)
def test_page_instead_of_a_file_is_refused(web: Bench, page: Page) -> None:
    web.server.pages["/a.gif"] = page
    error = web.failure("/a.gif")
    assert not error.transient
    assert "an HTML page instead of a file" in str(error)


def test_redirects_are_followed(web: Bench) -> None:
    web.server.pages |= {"/a.gif": Page(location="/b.gif"), "/b.gif": Page(BODY, etag="v1")}
    assert web.download("/a.gif") == BODY


def test_redirects_in_a_ring_end(web: Bench) -> None:
    web.server.pages |= {"/a.gif": Page(location="/b.gif"), "/b.gif": Page(location="/a.gif")}
    error = web.failure("/a.gif")
    assert not error.transient
    assert "redirects more than 5 times" in str(error)


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/a.gif", "s3://bucket/a.gif"])
def test_redirects_to_other_schemes_are_not_followed(web: Bench, location: str) -> None:
    web.server.pages["/a.gif"] = Page(location=location)
    error = web.failure("/a.gif")
    assert not error.transient
    assert "not followed" in str(error)


def test_host_that_nobody_answers_for_may_come_back(tmp_path: Path) -> None:
    with web_server() as server:
        address = server.url("/a.gif")
    with pytest.raises(UnreadableError, match=r"no connection to its host \(4 attempts\)") as told:
        Fetcher(address, SPEC, tmp_path, "probe", lambda _: None).look()
    assert told.value.transient


def test_messages_do_not_quote_queries(web: Bench) -> None:
    error = web.failure("/a.gif?key=sesame")
    assert "sesame" not in str(error)
    assert "/a.gif?..." in str(error)


def test_name_and_password_come_from_netrc(web: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(web.folder))
    (web.folder / ".netrc").write_text("machine 127.0.0.1 login me password sesame\n")
    (web.folder / ".netrc").chmod(0o600)
    web.server.pages["/a.gif"] = Page(BODY)
    web.look("/a.gif")
    assert web.server.asked[0].headers["authorization"] == "Basic bWU6c2VzYW1l"


def test_hosts_are_asked_at_a_pace(tmp_path: Path) -> None:
    waits = [take_turn(tmp_path, "h", 2.0) for _ in range(4)]
    assert waits[0] == 0
    assert waits[1:] == pytest.approx([0.5, 1.0, 1.5], abs=0.1)
    assert take_turn(tmp_path, "other", 2.0) == 0


def test_pace_survives_a_damaged_file_and_a_clock_put_back(tmp_path: Path) -> None:
    take_turn(tmp_path, "h", 1.0)
    (file,) = tmp_path.iterdir()
    for text in (b"what", b"99999999999"):
        file.write_bytes(text)
        assert take_turn(tmp_path, "h", 1.0) == 0


@pytest.fixture
def spooled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path / f"cliploom-spool-{os.getuid()}"


def test_probe_and_decode_share_one_download(web: Bench, spooled: Path) -> None:
    web.server.pages["/a.mp4"] = Page(BODY, etag="v1")
    address = web.server.url("/a.mp4")
    signature = web.look("/a.mp4").signature(address)
    for stage in ("probe", "decode"):
        with open_input(address, signature, stage, SPEC) as path:
            assert path.read_bytes() == BODY
            assert path.suffix == ".mp4"
    assert web.server.count("GET") == 1


def test_other_bytes_under_the_same_signature_are_reported(web: Bench, spooled: Path) -> None:
    web.server.pages["/a.mp4"] = Page(BODY)
    with (
        pytest.raises(UnreadableError, match="changed since it was probed") as told,
        open_input(web.server.url("/a.mp4"), Validators(length=len(BODY)).signature("x"), "decode", SPEC, "0" * 40),
    ):
        pass
    assert told.value.transient
    assert [path.name[:6] for path in spooled.iterdir()] == [".pace-"]


def test_cut_file_stays_for_the_next_run_and_a_refused_one_does_not(web: Bench, spooled: Path) -> None:
    web.server.pages |= {"/cut.mp4": Page(BODY, etag="v1", cuts=[1000] * 4), "/page.mp4": Page(b"<html>")}
    spec = SPEC.model_copy(update={"attempts": 1})
    for path in ("/cut.mp4", "/page.mp4"):
        signature = web.look(path).signature(web.server.url(path))
        with pytest.raises(UnreadableError), open_input(web.server.url(path), signature, "probe", spec):
            pass
    (part,) = spooled.glob(f"{PART}*")
    assert part.stat().st_size == 1000
