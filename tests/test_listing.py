"""Listing a source: globs, uids, tables, on disk and in buckets; and errors that stop a plan early."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cliploom.schemas.errors import SpecError
from cliploom.schemas.sources import MediaSource
from cliploom.transforms.inputs.listing import clean_uid, glob_regex, list_source, split_pattern
from cliploom.transforms.store.uris import absolute, path_to_uri, uri_to_path


def source(**values: Any) -> MediaSource:
    return MediaSource.model_validate({"kind": "media"} | values)


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


def uids(folder: Path, **values: Any) -> list[str]:
    return list_source("clips", source(**values), folder)["uid"].to_list()


def test_globs_find_what_a_shell_finds(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "sub/b.mp4", "sub/deep/c.mp4", "sub/d.gif", ".hidden/e.mp4", "sub/.f.mp4")
    assert uids(tmp_path, glob="*.mp4") == ["a"]
    assert uids(tmp_path, glob="**/*.mp4") == ["a", "sub/b", "sub/deep/c"]
    assert uids(tmp_path, glob="sub/*.mp4") == ["b"]
    assert uids(tmp_path, glob=["sub/*.mp4", "sub/*.gif"]) == ["b", "d"]
    assert uids(tmp_path, glob="sub/?.[mg]*") == ["b", "d"]
    assert uids(tmp_path, glob="sub/[!b].*") == ["d"]
    assert uids(tmp_path, glob="a.mp4") == ["a"]
    assert uids(tmp_path, glob=str(tmp_path / "**" / "*.gif")) == ["sub/d"]


def test_a_file_found_twice_is_one_item(tmp_path: Path) -> None:
    touch(tmp_path, "sub/a.mp4")
    assert uids(tmp_path, glob=["sub/*.mp4", "sub/a.*"]) == ["a"]


def test_rows_say_where_the_file_is_and_when_it_changed(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    row = list_source("clips", source(glob="*.mp4"), tmp_path).row(0, named=True)
    stat = (tmp_path / "a.mp4").stat()
    assert row == {
        "source": "clips",
        "uid": "a",
        "uri": str(tmp_path / "a.mp4"),
        "size": stat.st_size,
        "signature": f"{stat.st_size}:{stat.st_mtime_ns}",
        "metadata": "{}",
    }


def test_folder_named_like_a_file_and_broken_link_are_items_that_will_fail(tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "link.mp4").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    frame = list_source("clips", source(glob="*.mp4"), tmp_path)
    assert frame["uid"].to_list() == ["folder", "link", "loop"]
    assert frame["signature"].to_list()[1:] == ["missing", "missing"]


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "real/a.mp4")
    (tmp_path / "real" / "again").symlink_to(tmp_path / "real")
    assert uids(tmp_path, glob="real/**/*.mp4") == ["a"]


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ("path", ["x/clip_1_left", "y/clip_2_left"]),
        ("file", ["x/clip_1_left.mp4", "y/clip_2_left.mp4"]),
        ("stem", ["clip_1_left", "clip_2_left"]),
        ({"regex": r"clip_(\d)"}, ["1", "2"]),
        ({"regex": r"(x|y)/(?P<uid>clip_\d)"}, ["clip_1", "clip_2"]),
    ],
)
def test_uid_rules(tmp_path: Path, rule: Any, wanted: list[str]) -> None:
    touch(tmp_path, "x/clip_1_left.mp4", "y/clip_2_left.mp4")
    assert uids(tmp_path, glob="**/*.mp4", uid=rule) == wanted


def test_two_files_of_one_uid_are_both_named(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.mp4", "y/a.mp4", "a.gif", "a.mp4")
    with pytest.raises(SpecError, match=r"x/a\.mp4 and .*y/a\.mp4 have the same uid 'a'"):
        uids(tmp_path, glob=["x/*.mp4", "y/*.mp4"])
    with pytest.raises(SpecError, match=r"a\.gif and .*a\.mp4 have the same uid 'a'; rename one, or write `uid: file`"):
        uids(tmp_path, glob=["*.gif", "*.mp4"])
    assert uids(tmp_path, glob=["*.gif", "*.mp4"], uid="file") == ["a.gif", "a.mp4"]


def test_all_uids_of_more_than_one_file_are_listed_at_once(tmp_path: Path) -> None:
    touch(tmp_path, "IMG_1.jpg", "IMG_1.mov", "b/IMG_2.gif", "b/IMG_2.png", "b/IMG_2.webp", "c.mp4")
    with pytest.raises(SpecError) as caught:
        uids(tmp_path, glob="**/*.*")
    assert str(caught.value).replace(f"{tmp_path}/", "").splitlines() == [
        "sources.clips: 2 uids belong to more than one file:",
        "  IMG_1.jpg and IMG_1.mov have the same uid 'IMG_1'",
        "  b/IMG_2.gif, b/IMG_2.png and b/IMG_2.webp have the same uid 'b/IMG_2'",
        "For each, rename one, or write `uid: file` below sources.clips, which keeps the extension.",
    ]
    assert len(uids(tmp_path, glob="**/*.*", uid="file")) == 6


def test_files_that_share_a_uid_with_its_extension_are_not_told_to_keep_it(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.mp4", "y/a.mp4")
    with pytest.raises(SpecError, match=r"rename one, narrow the glob") as caught:
        uids(tmp_path, glob=["x/*.mp4", "y/*.mp4"])
    assert "uid: file" not in str(caught.value)


def test_names_that_only_look_the_same_are_shown_escaped(tmp_path: Path) -> None:
    touch(tmp_path, "caf\u00e9.mp4", "cafe\u0301.mp4")
    with pytest.raises(
        SpecError, match=r"cafe\\u0301\.mp4' and .*caf\\xe9\.mp4' have the same uid 'caf\u00e9\.mp4'"
    ) as caught:
        uids(tmp_path, glob="*.mp4", uid="file")
    assert "uid: file" not in str(caught.value)


def test_uids_are_unicode_in_one_form_whatever_the_bytes(tmp_path: Path) -> None:
    touch(tmp_path, "cafe\u0301.mp4")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.mp4")).write_text("x")
    frame = list_source("clips", source(glob="*.mp4"), tmp_path)
    assert frame["uid"].to_list() == ["bad%FF", "caf\u00e9"]
    assert all(uri_to_path(uri).exists() for uri in frame["uri"])


@given(st.binary(min_size=1, max_size=30).filter(lambda name: b"\0" not in name and b"/" not in name))
def test_any_file_name_has_a_uri_and_a_uid(name: bytes) -> None:
    path = Path("/media") / os.fsdecode(name)
    assert uri_to_path(path_to_uri(path)) == path
    path_to_uri(path).encode()
    clean_uid(os.fsdecode(name)).encode()


@given(st.text(alphabet="ab*?/[].!\\^-", max_size=12))
def test_any_pattern_is_a_glob_or_a_spec_error(pattern: str) -> None:
    with contextlib.suppress(SpecError):
        glob_regex(split_pattern(pattern)[1])


def test_range_that_runs_backwards_is_reported() -> None:
    with pytest.raises(SpecError, match=r"'\[z-a\]\.mp4' is not a glob pattern \(bad character range z-a"):
        glob_regex("[z-a].mp4")


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_tables_list_files_with_metadata(tmp_path: Path, suffix: str) -> None:
    touch(tmp_path, "media/a.mp4", "media/b.mp4")
    table = pl.DataFrame({"uri": ["media/a.mp4", "media/gone.mp4"], "uid": ["one", None], "stars": [5, 3]})
    write = {".csv": table.write_csv, ".parquet": table.write_parquet, ".jsonl": table.write_ndjson}[suffix]
    write(tmp_path / f"list{suffix}")
    frame = list_source("clips", source(table=f"list{suffix}"), tmp_path)
    assert frame["uid"].to_list() == ["media/gone", "one"]
    assert frame["signature"][0] == "missing"
    stars = ["3", "5"] if suffix == ".csv" else [3, 5]
    assert [json.loads(text)["stars"] for text in frame["metadata"]] == stars


def test_table_paths_start_from_the_table(tmp_path: Path) -> None:
    touch(tmp_path, "lists/media/a.mp4")
    (tmp_path / "lists" / "l.csv").write_text("uri\nmedia/a.mp4\n")
    frame = list_source("clips", source(table="lists/l.csv"), tmp_path)
    assert Path(frame["uri"][0]) == tmp_path / "lists/media/a.mp4"
    assert frame["signature"][0] != "missing"


def test_empty_sources_list_nothing(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("uri,uid\n")
    assert uids(tmp_path, glob="*.mp4") == []
    assert uids(tmp_path, table="l.csv") == []


def test_a_file_has_one_uri_from_whichever_folder_it_is_listed(tmp_path: Path) -> None:
    for folder in ("media", "elsewhere"):
        (tmp_path / folder).mkdir()
    (tmp_path / "media" / "a.mp4").write_bytes(b"a")
    source = MediaSource(kind="media", glob=["media/*.mp4"])
    straight, around = (list_source("s", source, base) for base in (tmp_path, tmp_path / "elsewhere" / ".."))
    assert straight.equals(around)


def test_two_dots_after_a_link_leave_the_folder_that_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "deep")
    assert absolute(tmp_path / "link" / ".." / "a.mp4") == (tmp_path / "far").resolve() / "a.mp4"
    assert absolute(tmp_path / "link" / "a.mp4") == tmp_path / "link" / "a.mp4"
