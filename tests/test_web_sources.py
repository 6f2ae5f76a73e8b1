"""Media listed by http(s) addresses, from a list to a release and through the nights after; TGIF's list as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image
from web_server import Page, WebServer, web_server

from cliploom.pipelines.running.run import RunOptions, RunResult, run_spec
from cliploom.schemas.errors import SpecError
from cliploom.schemas.sources import MediaSource
from cliploom.schemas.spec_file import load_document, parse_document
from cliploom.transforms.inputs.addresses import UNASKED, next_address
from cliploom.transforms.inputs.listing import list_source
from cliploom.transforms.readers.pair_reading import Pairs
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.releases import read_releases
from cliploom.transforms.store.tables import read_table

SPEC = """\
version: 1
name: tgif
store: ./store
sources:
  gifs: {kind: media, table: tgif.tsv, format: tgif, http: {rate: 1000, attempts: 2, read_timeout: 5s}}
  said: {kind: narrations, format: tgif, path: tgif.tsv}
encoders:
  minilm: {kind: minilm}
  lite0: {kind: efficientnet_lite0, text_encoder: minilm}
features:
  frames: {source: gifs, sample: {every: 500ms}, encoder: lite0, outputs: [pooled]}
  captions: {source: said, encoder: minilm}
exports:
  pairs: {kind: pairs, feature: frames, text: captions, splits: {shares: {train: 100%}}}
limits: {max_failed: 50%, max_deleted: 100%}
"""

DATE = "Wed, 21 Oct 2015 07:28:00 GMT"


def gif(path: Path, colours: list[str]) -> bytes:
    """Pictures of one colour each, half a second long."""
    pictures = [Image.new("RGB", (48, 32), colour) for colour in colours]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=500)
    return path.read_bytes()


@dataclass
class Project:
    folder: Path
    server: WebServer
    notes: list[str] = field(default_factory=list)

    def run(self) -> RunResult:
        (self.folder / "spec.yaml").write_text(SPEC)
        document = load_document(self.folder / "spec.yaml")
        self.notes.clear()
        return run_spec(parse_document(document), document, self.folder, RunOptions(), self.notes.append)

    def table(self, name: str) -> pl.DataFrame:
        objects = ObjectStore(self.folder / "store")
        release = read_releases(objects).get(None)
        entry = release.features.get(name)
        return (
            read_table(objects, entry.table, entry.version)
            if entry
            else read_table(objects, name, release.tables[name])
        )

    def manifest(self) -> dict[str, Any]:
        objects = ObjectStore(self.folder / "store")
        found: dict[str, Any] = json.loads(objects.get(read_releases(objects).get(None).exports["pairs"].files[0].path))
        return found


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    with web_server() as server:
        server.pages |= {
            "/9e/cat.gif": Page(gif(tmp_path / "cat.gif", ["red", "blue", "green"]), etag="c1"),
            "/4f/dog.gif": Page(gif(tmp_path / "dog.gif", ["white", "black"]), modified=DATE),
        }
        lines = [
            f"{server.url('/9e/cat.gif')}\ta cat jumps off a table",
            f"{server.url('/4f/dog.gif')}\ta dog shakes its head",
            f"{server.url('/9e/cat.gif')}\tan animal leaps",
            f"{server.url('/gone.gif')}\ta man waves",
        ]
        (tmp_path / "tgif.tsv").write_text("\n".join(lines) + "\n")
        yield Project(tmp_path, server)


@pytest.mark.slow
def test_list_of_addresses_becomes_pairs_and_nothing_is_fetched_twice(project: Project) -> None:
    first = project.run()
    assert first.changed
    frames = project.table("frames")
    assert dict(frames.group_by("uid").len().rows()) == {"127.0.0.1/9e/cat": 3, "127.0.0.1/4f/dog": 2}
    assert [project.server.count("GET", path) for path in ("/9e/cat.gif", "/4f/dog.gif", "/gone.gif")] == [1, 1, 1]
    (failure,) = project.table("failures").to_dicts()
    assert (failure["type"], failure["transient"]) == ("Unreadable", False)
    assert "answered 404" in failure["message"]
    items = {row["uid"]: row for row in project.table("items").filter(pl.col("source") == "gifs").to_dicts()}
    assert items["127.0.0.1/9e/cat"]["size"] == len(project.server.pages["/9e/cat.gif"].body)

    pairs = Pairs(str(project.folder / "store"), "pairs", "train")
    assert len(pairs) == 3
    whole = frames.filter(pl.col("uid") == "127.0.0.1/9e/cat")["pooled"].to_list()
    means = [sum(column) / len(whole) for column in zip(*whole, strict=True)]
    assert any(pairs[number][0].tolist() == pytest.approx(means, abs=1e-5) for number in range(3))
    assert project.manifest()["dropped"]

    project.server.asked.clear()
    assert not project.run().changed
    assert project.server.count("GET") == 0
    assert project.server.count("HEAD") == 3

    project.server.pages["/9e/cat.gif"] = Page(gif(project.folder / "cat.gif", ["red", "yellow"]), etag="c2")
    project.server.asked.clear()
    third = project.run()
    assert third.verdicts["frames"]["content_changed"] == 1
    assert [asked.path for asked in project.server.asked if asked.method == "GET"] == ["/9e/cat.gif"]

    for page in project.server.pages.values():
        page.statuses = [503] * 10
    assert not project.run().changed
    (told,) = [note for note in project.notes if "could not be asked" in note]
    assert told.startswith("2 addresses could not be asked and count as unchanged")


@pytest.mark.slow
def test_a_length_beyond_all_measure_is_that_file_s_failure(project: Project) -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 1" + b"0" * 30 + b"\r\n\r\nGIF89a"
    project.server.pages["/gone.gif"] = Page(raw=raw)
    assert project.run().changed
    assert project.table("frames")["uid"].n_unique() == 2
    (failure,) = project.table("failures").to_dicts()
    assert (failure["uid"], failure["type"]) == ("127.0.0.1/gone", "TooLarge")
    assert not project.run().changed


def listed(folder: Path, lines: list[str], **options: Any) -> pl.DataFrame:
    (folder / "list.csv").write_text("\n".join(["uri", *lines]) + "\n")
    source = MediaSource(kind="media", table="list.csv", **options)
    return list_source("clips", source, folder)


@pytest.mark.parametrize(
    ("rule", "uid"),
    [
        ("path", "media.example.org/a b/clip?size=2"),
        ("stem", "clip"),
        ({"regex": "org/(.*)[.]mp4"}, "a%20b/clip"),
    ],
)
def test_uids_of_addresses(tmp_path: Path, rule: Any, uid: str) -> None:
    frame = listed(tmp_path, ["https://media.example.org/a%20b/clip.mp4?size=2#t=3"], uid=rule)
    assert frame["uid"].to_list() == [uid]
    assert frame["uri"].to_list() == ["https://media.example.org/a%20b/clip.mp4?size=2"]
    assert frame["signature"].to_list() == [UNASKED]


def test_uid_column_precedes_the_rule(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("uid,uri,title\nmine,https://h/a.mp4,A\n")
    frame = list_source("clips", MediaSource(kind="media", table="list.csv"), tmp_path)
    assert frame["uid"].to_list() == ["mine"]
    assert json.loads(frame["metadata"][0]) == {"title": "A"}


def test_credentials_in_an_address_are_refused_and_not_shown(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"row 1: the address of 'https://h/a.mp4' has a user name") as told:
        listed(tmp_path, ["https://me:sesame@h/a.mp4"])
    assert "sesame" not in str(told.value)
    assert "~/.netrc" in str(told.value)


@pytest.mark.parametrize(
    "address",
    [
        "https://h/a.mp4?api_key=sesame",
        "https://h/a.mp4?x=1;clientSecret=sesame",
        "https://h/a;token=sesame/b.mp4",
        "https://sesame@h/a.mp4",
        "s3://sesame@bucket/a.mp4",
        "s3://bucket/a.mp4?hmac=sesame",
    ],
)
def test_secrets_in_a_table_are_refused_and_not_shown(tmp_path: Path, address: str) -> None:
    with pytest.raises(SpecError, match="row 1") as told:
        listed(tmp_path, [address])
    assert "sesame" not in str(told.value)


def test_a_parameter_that_is_no_secret_may_be_allowed(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"add allow_parameters: \[country_code\]"):
        listed(tmp_path, ["https://h/a.mp4?country_code=de&author=me"])
    frame = listed(tmp_path, ["https://h/a.mp4?country_code=de&author=me"], allow_parameters=["country_code"])
    assert frame["uid"].to_list() == ["h/a?country_code=de&author=me"]


@pytest.mark.parametrize("column", ["uid", "page"])
def test_secrets_in_columns_that_are_kept_are_refused(tmp_path: Path, column: str) -> None:
    (tmp_path / "list.csv").write_text(f"uri,{column}\nhttps://h/a.mp4,https://h/a?token=sesame\n")
    with pytest.raises(SpecError, match=rf"row 1: the column '{column}' contains a URL with a secret") as told:
        list_source("clips", MediaSource(kind="media", table="list.csv"), tmp_path)
    assert "sesame" not in str(told.value)


def test_list_with_a_line_that_is_no_address_is_reported(tmp_path: Path) -> None:
    (tmp_path / "tgif.tsv").write_text("https://h/a.gif\ta cat\nh/b.gif\ta dog\n")
    with pytest.raises(SpecError, match=r"line 2: 'h/b\.gif' is not an http or https address"):
        list_source("gifs", MediaSource(kind="media", table="tgif.tsv", format="tgif"), tmp_path)


def test_split_without_captions_is_a_list_too(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("\ufeffhttps://h/a.gif\n\nhttps://h/b.gif\n")
    frame = list_source("gifs", MediaSource(kind="media", table="train.txt", format="tgif"), tmp_path)
    assert frame["uid"].to_list() == ["h/a", "h/b"]


def test_web_servers_are_not_listed_by_globs(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"write the URLs into a table"):
        list_source("clips", MediaSource(kind="media", glob=["https://h/*.mp4"]), tmp_path)


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://93.184.216.34/b", "from https to http"),
        ("https://127.0.0.1/b", "private network"),
        ("https://169.254.169.254/latest", "private network"),
        ("https://[::1]/b", "private network"),
        ("https://[64:ff9b::7f00:1]/b", "private network"),
        ("https://[64:ff9b:1::7f00:1]/b", "private network"),
        ("https://[64:ff9b::a9fe:a9fe]/b", "private network"),
        ("https://[2002:7f00:1::]/b", "private network"),
        ("https://[::7f00:1]/b", "private network"),
        ("https://[::ffff:10.0.0.1]/b", "private network"),
        ("https://[ff02::1]/b", "private network"),
        ("https://2130706433/b", "private network"),
        ("gopher://93.184.216.34/b", "not an http"),
    ],
)
def test_redirects_that_are_not_followed(location: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        next_address("https://93.184.216.34/a", "https://93.184.216.34/a", location)


def test_redirects_within_a_private_network_are_followed() -> None:
    assert (
        next_address("http://127.0.0.1/a", "http://127.0.0.1/a", "http://127.0.0.2/b?c=1#d") == "http://127.0.0.2/b?c=1"
    )
