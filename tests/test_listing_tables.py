"""Tables that list media and their labels: ids stay text, whatever they look like; joins by uid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from cliploom.schemas.errors import SpecError
from cliploom.schemas.sources import MediaSource
from cliploom.transforms.inputs.ids import id_text
from cliploom.transforms.inputs.joins import join_uids
from cliploom.transforms.inputs.listing import list_source
from cliploom.transforms.media.label_listing import list_media


def listed(folder: Path, name: str, **values: Any) -> pl.DataFrame:
    source = MediaSource.model_validate({"kind": "media", "table": name} | values)
    return list_source("clips", source, folder)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_text(name)


NUMBERS = [f"{number:05}" for number in range(150)]
IDS = {
    "zeros": ("uri,uid\na.mp4,00042\nb.mp4,42\n", ["00042", "42"]),
    "text after 150 numbers": (
        "uri,uid\n" + "".join(f"{number}.mp4,{number}\n" for number in NUMBERS) + "z.mp4,clip_a\n",
        [*NUMBERS, "clip_a"],
    ),
    "floats, dates and words": (
        "uri,uid\na,1.50\nb,1e5\nc,true\nd,null\ne,2024-01-02\nf,NaN\n",
        ["1.50", "1e5", "2024-01-02", "NaN", "null", "true"],
    ),
    "semicolons": ("uri;uid\na.mp4;007\n", ["007"]),
    "tabs": ("uri\tuid\na.mp4\t007\n", ["007"]),
    "blanks around names": (' uri , "uid "\na.mp4, 007 \n', ["007"]),
    "byte order mark": ("\ufeffuri,uid\na.mp4,007\n", ["007"]),
    "carriage returns": ("uri,uid\r\na.mp4,007\r\n\r\n", ["007"]),
    "blank lines": ("\nuri,uid\n\na.mp4,007\n,\n  \nb.mp4,8\n", ["007", "8"]),
    "quoted": ('"uri","uid"\n"a, b.mp4","0,7"\n', ["0,7"]),
    "quoted after blanks": ('uri, uid\na.mp4, "0,7"\n', ["0,7"]),
    "a spreadsheet's empty columns": ("uri,uid,,\na.mp4,007,,\n", ["007"]),
    "a column too few": ("uri,uid\n007.mp4\n", ["007"]),
    "derived": ("uri\n00042.mp4\n042.mp4\n", ["00042", "042"]),
    "composed letters": ("uri,uid\na.mp4,cafe\u0301\n", ["caf\u00e9"]),
}


@pytest.mark.parametrize("case", IDS)
def test_ids_of_a_csv_are_text(tmp_path: Path, case: str) -> None:
    text, wanted = IDS[case]
    (tmp_path / "list.csv").write_bytes(text.encode())
    assert listed(tmp_path, "list.csv")["uid"].to_list() == wanted


def test_a_tsv_and_a_spreadsheets_unicode_text_are_tables(tmp_path: Path) -> None:
    (tmp_path / "list.tsv").write_text("uri\tuid\na.mp4\t007\n")
    (tmp_path / "wide.csv").write_text("uri\tuid\na.mp4\tcaf\u00e9\n", encoding="utf-16")
    assert listed(tmp_path, "list.tsv")["uid"].to_list() == ["007"]
    assert listed(tmp_path, "wide.csv")["uid"].to_list() == ["caf\u00e9"]


def test_ids_of_jsonl_may_be_whole_numbers(tmp_path: Path) -> None:
    rows = [
        {"uri": "a.mp4", "uid": 42},
        {"uri": "b.mp4", "uid": "0042", "year": 2024},
        {"uri": "c.mp4", "uid": 7.0},
        {"uri": "d.mp4", "uid": 12345678901234567890},
        {"uri": "e.mp4"},
    ]
    (tmp_path / "list.jsonl").write_text("\ufeff" + "\r\n".join(json.dumps(row) for row in rows) + "\r\n\r\n")
    frame = listed(tmp_path, "list.jsonl")
    assert frame["uid"].to_list() == ["0042", "12345678901234567890", "42", "7", "e"]
    assert [json.loads(text) for text in frame["metadata"]][:2] == [{"year": 2024}, {"year": None}]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("l.csv", b"uri,uid\na.mp4,caf\xe9\n", r"line 2 of .*l\.csv is not UTF-8 .*such as `encoding: cp1252`"),
        ("l.csv", b"uri,uid\na.mp4,a\x00b\n", "line 2 of .* contains a NUL character"),
        ("l.csv", b"uri,uid\na,b,c.mp4,x\n", "line 2 of .* has 4 columns where the header has 2"),
        ("l.csv", b'uri,uid\na.mp4,"x\n', "line 2 of .* is not a row of CSV"),
        ("l.csv", b"uri,uid,uid\na.mp4,x,y\n", "2 columns named 'uid'"),
        ("l.csv", b"", "has no column 'uri'"),
        ("l.csv", b"url;uid\nx;y\n", "has no column 'uri'; it has url, uid"),
        ("l.jsonl", b'{"uri": "a.mp4"}\n{"uri"\n', "line 2 of .* is not JSON"),
        ("l.jsonl", b"[1]\n", "line 1 of .* is not a JSON object"),
        ("l.jsonl", b'{"uri": 5}\n', "row 1 of .* has no uri"),
        ("l.jsonl", b'{"uri": "a.mp4", "uid": 1.5}\n', "the uid in row 1 of .*, 1.5, is a number that cannot be an id"),
        ("l.jsonl", b'{"uri": "a.mp4", "uid": true}\n', "the uid in row 1 of .*, True, is not text"),
        ("l.jsonl", b'{"uri": "a.mp4", "uid": "a\\u0000b"}\n', "contains a NUL character"),
    ],
)
def test_wrong_tables_name_the_line(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SpecError, match=message):
        listed(tmp_path, name)


def test_a_declared_encoding_reads_the_table(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_bytes("uri,uid\na.mp4,caf\u00e9\n".encode("cp1252"))
    assert listed(tmp_path, "l.csv", encoding="cp1252")["uid"].to_list() == ["caf\u00e9"]
    with pytest.raises(SpecError, match="'utf-99' is not an encoding"):
        listed(tmp_path, "l.csv", encoding="utf-99")


def test_no_id_is_no_text() -> None:
    assert [id_text(value) for value in (None, float("nan"), " ", -3, 2.0**52)] == ["", "", "", "-3", str(2**52)]


# Labels


def labels_of(folder: Path, csv: str, notes: list[str] | None = None, **values: Any) -> dict[str, list[str]]:
    (folder / "labels.csv").write_bytes(csv.encode())
    source = MediaSource.model_validate({"kind": "media", "glob": "*.*", "labels": {"csv": "labels.csv"}} | values)
    frame = list_media("clips", source, folder, (notes if notes is not None else []).append)
    labels = {uid: json.loads(text)["labels"] for uid, text in frame.select("uid", "metadata").iter_rows()}
    return {uid: [name for _, name in found] for uid, found in labels.items() if found}


def test_numeric_labels_and_uids_stay_text(tmp_path: Path) -> None:
    touch(tmp_path, "0042.gif", "042.gif")
    found = labels_of(tmp_path, "uid,label\n0042,000\n042,0\n", glob="*.gif")
    assert found == {"0042": ["000"], "042": ["0"]}


def test_labels_without_an_item_are_counted_with_examples(tmp_path: Path) -> None:
    touch(tmp_path, "a.gif")
    notes: list[str] = []
    assert labels_of(tmp_path, "uid,labels\na,x\nb,y\nc,z\n", notes, glob="*.gif") == {"a": ["x"]}
    assert notes == ["clips: labels.csv: 2 uids match no item of clips (such as 'b', 'c')"]


def test_labels_meet_items_by_uid_with_and_without_extension(tmp_path: Path) -> None:
    touch(tmp_path, "a.gif", "b.gif", "c.jpg", "c.gif")
    notes: list[str] = []
    text = "uid,labels\na,x\nb.gif,y\nc,z\nc.gif,w\n"
    assert labels_of(tmp_path, text, notes, glob=["*.gif", "*.jpg"], uid="file") == {
        "a.gif": ["x"],
        "b.gif": ["y"],
        "c.gif": ["w"],
    }
    assert notes == ["clips: labels.csv: 1 uid is ambiguous in clips (such as 'c': c.gif, c.jpg)"]
    assert labels_of(tmp_path, text, glob=["*.gif"]) == {"a": ["x"], "b": ["y"], "c": ["z", "w"]}


def test_label_files_by_path_meet_whatever_leads_there(tmp_path: Path) -> None:
    touch(tmp_path, "a.gif", "caf\u00e9.gif")
    text = f"path;label\n./a.gif;0\n{tmp_path}/cafe\u0301.gif;00\n"
    assert labels_of(tmp_path, text, glob="*.gif") == {"a": ["0"], "caf\u00e9": ["00"]}


ITEMS = [
    ("P01", "/m/P01.MP4"),
    ("y/P02.MP4", "/m/y/P02.MP4"),
    ("v1.5", "/m/v1.5.mp4"),
    ("x/a.mp4", "/m/x/a.mp4"),
    ("b", "/m/b.mov"),
    ("c", "/f/c.pt"),
    ("d", "/f/all.h5::/d"),
]


@pytest.mark.parametrize(
    ("asked", "uri", "wanted"),
    [
        ("P01.mp4", "", "P01"),
        ("y/P02.mp4", "", "y/P02.MP4"),
        ("y/P02.Mp4", "", "y/P02.MP4"),
        ("P01.mov", "", None),
        ("v1.5", "", "v1.5"),
        ("v1", "", None),
        ("v1.5.mp4", "", "v1.5"),
        ("x/a", "", "x/a.mp4"),
        ("a", "", None),
        ("b.mov", "", "b"),
        ("b.jpg", "", None),
        ("b.srt", "/s/b.srt", "b"),
        ("x/a.srt", "/s/x/a.srt", "x/a.mp4"),
        ("c.mp4", "", "c"),
        ("d.mp4", "", "d"),
        ("d.mp4", "/m/d.mp4", "d"),
    ],
)
def test_a_uid_means_the_item_with_it_but_for_the_files_extension(asked: str, uri: str, wanted: str | None) -> None:
    joined = join_uids([(asked, uri)], ITEMS)
    assert joined.found.get(asked) == wanted
    assert joined.unmatched == (() if wanted else (asked,))


def test_an_exact_uid_is_never_ambiguous() -> None:
    joined = join_uids([("a", "")], [("a", "/m/a"), ("a.mp4", "/m/a.mp4"), ("a.gif", "/m/a.gif")])
    assert (joined.found, joined.ambiguous) == ({"a": "a"}, {})


def test_addresses_meet_with_and_without_extension() -> None:
    items = [("h.org/a.gif?s=1", "http://h.org/a.gif?s=1"), ("h.org/b", "http://h.org/b.gif")]
    asked = [("h.org/a?s=1", ""), ("h.org/b.gif", "")]
    assert join_uids(asked, items).found == {"h.org/a?s=1": "h.org/a.gif?s=1", "h.org/b.gif": "h.org/b"}


def test_a_file_listed_twice_is_reported_as_such(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("uri\na.mp4\na.mp4\n")
    with pytest.raises(SpecError, match=r"a\.mp4 is listed 2 times with the uid 'a'; .* or remove its row"):
        listed(tmp_path, "l.csv")


def test_captions_of_a_list_of_addresses_may_hold_any_character(tmp_path: Path) -> None:
    (tmp_path / "l.tsv").write_text("http://h.org/a.gif\tone\u2028two\x0bthree\r\nhttp://h.org/b.gif\n", newline="")
    assert listed(tmp_path, "l.tsv", format="tgif")["uid"].to_list() == ["h.org/a", "h.org/b"]
    assert listed(tmp_path, "l.tsv", format="tgif", uid="file")["uid"].to_list() == ["h.org/a.gif", "h.org/b.gif"]
