"""HTML pages of hits and of releases: self-contained, escaped, with thumbnails."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from commands import Command, assert_one_sentence, command
from PIL import Image
from stores import SmallStore

from cliploom.transforms.readers.release_tables import ItemLabel
from cliploom.transforms.search.hits_page import hits_page
from cliploom.transforms.search.html_page import media_link
from cliploom.transforms.search.searching import open_store
from cliploom.transforms.search.thumbnails import ThumbnailCache

HOSTILE = "<img src=x onerror=alert(1)>\"'&\0\u202e\ud800</title><script>alert(2)</script>"


@pytest.fixture
def cliploom(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return command(capsys)


class Page(HTMLParser):
    """What a browser would see of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.attributes if key == name]

    def pictures(self) -> list[Image.Image]:
        prefix = "data:image/webp;base64,"
        return [Image.open(io.BytesIO(base64.b64decode(src.removeprefix(prefix)))) for src in self.all("src")]


def assert_loads_nothing(page: Page, text: str) -> None:
    assert not {"script", "iframe", "link", "object", "form", "base"} & set(page.tags)
    assert all(src.startswith("data:image/webp;base64,") for src in page.all("src"))
    assert all(href.startswith(("file:///", "http://", "https://")) for href in page.all("href"))
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "url(" not in text
    assert "@import" not in text
    assert any("default-src 'none'" in content for content in page.all("content"))


def test_a_page_of_hits_shows_each_with_its_picture_and_a_link_to_the_moment(
    cliploom: Command, built_store: SmallStore, tmp_path: Path
) -> None:
    ended = cliploom(
        "search", built_store.store, "a cat", "--index", "frames", "--top", 3, "--html", tmp_path / "hits.html"
    )
    assert (ended.code, ended.out) == (0, "")
    text = (tmp_path / "hits.html").read_text(encoding="utf-8")
    page = Page(text)
    assert_loads_nothing(page, text)
    hits = open_store(str(built_store.store)).search("a cat", index=["frames"], top=3)
    assert len(page.pictures()) == 3
    assert [href.removeprefix("file://") for href in page.all("href")] == [
        hit.uri + (f"#t={hit.start_s:g}" if hit.start_s else "") for hit in hits
    ]
    for hit in hits:
        assert hit.uid in page.text
        assert f"{hit.score:.3f}" in page.text


def test_json_and_a_page_can_be_had_at_once(cliploom: Command, built_store: SmallStore, tmp_path: Path) -> None:
    ended = cliploom("search", built_store.store, "a cat", "--json", "--html", tmp_path / "hits.html")
    assert json.loads(ended.out)[0]["uid"]
    assert (tmp_path / "hits.html").stat().st_size > 1000


def test_nothing_from_the_store_or_the_query_becomes_markup(built_store: SmallStore, tmp_path: Path) -> None:
    store = open_store(str(built_store.store))
    hit = store.search("a cat", index=["frames"], top=1)[0]
    label = ItemLabel(HOSTILE, 0.5, HOSTILE)
    hostile = replace(
        hit,
        index=HOSTILE,
        uid=HOSTILE,
        uri="javascript:alert(1)",
        metadata={HOSTILE: HOSTILE},
        text=HOSTILE,
        labels=(label,),
    )
    text = hits_page(store, [hit, hostile], HOSTILE, HOSTILE, ThumbnailCache(tmp_path))
    page = Page(text)
    assert_loads_nothing(page, text)
    assert page.tags.count("img") == 1
    assert page.text.count("alert(2)") >= 8
    assert "\0" not in text
    text.encode("utf-8", errors="backslashreplace")


def test_a_picture_that_is_missing_says_why(small_store: SmallStore, tmp_path: Path) -> None:
    small_store.run()  # lists the media of the copy, which this test changes
    store = open_store(str(small_store.store))
    hit = store.search(like="page", index=["frames"], top=1)[0]
    (small_store.media / "page-again.png").unlink()
    page = Page(hits_page(store, [hit], "like page", cache=ThumbnailCache(tmp_path / "cache")))
    assert "img" not in page.tags
    assert "page-again.png does not exist any more" in page.text


def test_no_hits_are_said(built_store: SmallStore) -> None:
    assert "Nothing was found." in Page(hits_page(open_store(str(built_store.store)), [], "a cat")).text


def test_a_page_that_cannot_be_written_is_one_sentence(
    cliploom: Command, built_store: SmallStore, tmp_path: Path
) -> None:
    ended = cliploom("search", built_store.store, "a cat", "--html", tmp_path / "no" / "hits.html")
    assert_one_sentence(ended, 2, ("no/hits.html' can't be written: No such file or directory",))
    assert_one_sentence(cliploom("report", built_store.store, "--html", tmp_path), 2, ("it is a folder",))


@pytest.mark.parametrize(
    ("uri", "at_s", "link"),
    [
        ("/clips/a#1?.mp4", 1.5, "file:///clips/a%231%3F.mp4#t=1.5"),
        ("file:///clips/%FF.mp4", 0.0, "file:///clips/%FF.mp4"),
        ("https://example.org/a.mp4", 3.0, "https://example.org/a.mp4#t=3"),
        ("javascript:alert(1)", None, ""),
        ("s3://bucket/a.mp4", 1.0, ""),
        ("", None, ""),
    ],
)
def test_links_open_files_and_addresses_only(uri: str, at_s: float | None, link: str) -> None:
    assert media_link(uri, at_s) == link


def test_the_report_of_a_release_says_counts_failures_and_figures(
    cliploom: Command, built_store: SmallStore, tmp_path: Path
) -> None:
    said = json.loads(cliploom("report", built_store.store, "--json").out)
    assert (said["release"], said["counts"]["items"], said["counts"]["failed"]) == (1, 7, 1)
    assert {row["index"]: row["kind"] for row in said["indexes"]} == {
        "frames": "flat",
        "graph": "hnsw",
        "lists": "ivf_sq8",
    }
    assert all(row["agreement"] > 0.999 for row in said["features"])
    assert said["failures"][0]["uid"] == "noise"
    assert said["seconds"]["compute"] > 0
    ended = cliploom("report", built_store.store, "--html", tmp_path / "report.html")
    assert (ended.code, ended.out) == (0, "")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert_loads_nothing(page, text)
    # All items but the damaged one are on the contact sheet.
    assert len(page.pictures()) == 6
    for fragment in ("noise.mp4", "recall@10", "compute", "efficientnet_lite0", "first release"):
        assert fragment in page.text


def test_the_report_in_the_terminal_is_short(cliploom: Command, built_store: SmallStore) -> None:
    out = cliploom("report", built_store.store).out
    assert "7 items, 1 failed" in out
    assert "index frames" in out
    assert len(out.splitlines()) < 15


def test_a_release_whose_run_left_no_report_is_reported(small_store: SmallStore, cliploom: Command) -> None:
    for path in (small_store.store / "runs").rglob("report.json"):
        path.unlink()
    said = json.loads(cliploom("report", small_store.store, "--json").out)
    assert (said["verdicts"], said["seconds"]) == ({}, {})
    assert said["counts"]["items"] == 7
