"""Pairs of media and texts whose uids differ by an extension, and of clips whose rows have no places in time."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from media_factory import write_image, write_video

from cliploom.pipelines.running.run import RunOptions, run_spec
from cliploom.schemas.errors import SpecError
from cliploom.schemas.narrations import SplitRule
from cliploom.schemas.spec_file import load_document, parse_document
from cliploom.transforms.narrations.pairs_export import _Videos
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.releases import read_releases

SPEC = """\
version: 1
name: joins
store: ./store
sources:
  said: {kind: narrations, format: ego4d, path: narration.json}
  captions: {kind: narrations, format: csv, path: captions.csv, columns: {start: ""}}
  file: {kind: media, glob: "media/*.*", uid: file}
encoders:
  minilm: {kind: minilm}
  lite0: {kind: efficientnet_lite0}
features:
  said: {source: said, encoder: minilm}
  captions: {source: captions, encoder: minilm}
  file: {source: file, sample: {every: 1s}, encoder: lite0, outputs: [pooled]}
  chunks: {source: file, sample: {every_frames: 2}, encoder: lite0, outputs: [pooled]}
exports:
  file: {kind: pairs, feature: file, text: said, splits: {lists: {train: train.txt, val: val.txt}}}
  chunks: {kind: pairs, feature: chunks, text: captions, keep: {without: no.txt}}
limits: {max_deleted: 100%}
"""
OTHERS = """\
sources:
  path: {kind: media, glob: "media/*.*"}
  stem: {kind: media, glob: "media/*.*", uid: stem}
features:
  path: {source: path, sample: {every: 1s}, encoder: lite0, outputs: [pooled]}
  stem: {source: stem, sample: {every: 1s}, encoder: lite0, outputs: [pooled]}
exports:
  path: {kind: pairs, feature: path, text: said, splits: {lists: {train: train.txt, val: val.txt}}}
  stem: {kind: pairs, feature: stem, text: said, splits: {lists: {train: train.txt, val: val.txt}}}
"""


@dataclass(frozen=True)
class Project:
    folder: Path

    def run(self, overrides: list[str], notes: list[str]) -> None:
        document = load_document(self.folder / "spec.yaml", overrides)
        run_spec(parse_document(document), document, self.folder, RunOptions(), notes.append)

    def pairs(self, export: str) -> tuple[dict[str, Any], pl.DataFrame]:
        """The manifest and the rows of all files, sorted."""
        objects = ObjectStore(self.folder / "store")
        files = read_releases(objects).get(None).exports[export].files
        manifest: dict[str, Any] = json.loads(objects.get(files[0].path))
        frames = [
            pl.read_parquet(self.folder / "store" / "pairs" / export / file["name"]).with_columns(split=pl.lit(split))
            for split, each in manifest["splits"].items()
            for file in each["files"]
        ]
        return manifest, pl.concat(frames).sort("uid", "idx")


@pytest.fixture(scope="module")
def notes() -> list[str]:
    return []


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, notes: list[str]) -> Project:
    folder = tmp_path_factory.mktemp("joins")
    (folder / "media").mkdir()
    for uid in ("a", "b", "c"):
        write_video(folder / "media" / f"{uid}.mp4", 15, fps=5, size=(64, 48))
    rows = [{"timestamp_sec": second, "narration_text": f"#C C does thing {second}"} for second in range(3)]
    videos = {uid: {"narration_pass_1": {"narrations": rows}} for uid in ("a", "b", "c", "gone")}
    (folder / "narration.json").write_text(json.dumps(videos))
    (folder / "captions.csv").write_text("uid,text\na,one\na.mp4,two\nb.mp4,three\nc,four\n")
    (folder / "train.txt").write_text("a.mp4\nb\nelsewhere\n")
    (folder / "val.txt").write_text("c.mp4\n")
    (folder / "no.txt").write_text("c.mp4\nnever\n")
    (folder / "spec.yaml").write_text(SPEC)
    made = Project(folder)
    made.run([line.strip().replace(": {", "={", 1) for line in _flat(OTHERS)], notes)
    return made


def _flat(text: str) -> list[str]:
    """The nodes of a piece of a spec as overrides."""
    lines, group = [], ""
    for line in text.splitlines():
        group = line.rstrip(":") if not line.startswith(" ") else group
        lines += [f"{group}.{line.strip()}"] if line.startswith(" ") else []
    return lines


def test_pairs_are_equal_whatever_names_the_media(project: Project) -> None:
    manifest, wanted = project.pairs("path")
    assert [(*row,) for row in wanted.select("uid", "split").unique(maintain_order=True).iter_rows()] == [
        ("a", "train"),
        ("b", "train"),
        ("c", "val"),
    ]
    assert wanted.height == 9
    for export in ("file", "stem"):
        other, rows = project.pairs(export)
        assert rows.equals(wanted)
        assert (other["pairs"], other["dropped"]) == (manifest["pairs"], manifest["dropped"])


def test_notes_count_what_meets(project: Project, notes: list[str]) -> None:
    assert "said and file: 3 videos in both, 1 only in said (such as gone), 0 only in file" in notes
    assert "exports.file.splits.lists.train: 1 uid matches no item of said or file (such as 'elsewhere')" in notes
    assert "exports.chunks.keep.without: 1 uid matches no item of captions or file (such as 'never')" in notes


def test_captions_without_times_pair_with_the_whole_clip(project: Project) -> None:
    manifest, rows = project.pairs("chunks")
    assert rows.select("uid", "text", "first", "end").rows() == [
        ("a", "one", 0, 8),
        ("a.mp4", "two", 0, 8),
        ("b.mp4", "three", 0, 8),
    ]
    assert np.isfinite(np.array(rows["features"].to_list())).all()
    assert manifest["rows_per_second"] == 0
    assert {drop["reason"]: drop["videos"] for drop in manifest["dropped"]} == {"video of a split left out": 1}


def test_texts_with_times_need_a_grid(project: Project) -> None:
    with pytest.raises(SpecError, match=r"do not lie on a grid of time; sample it .* or pair it with texts without"):
        project.run(["exports.wrong={kind: pairs, feature: chunks, text: said}"], [])


def test_a_picture_beside_the_video_makes_its_texts_ambiguous(project: Project) -> None:
    write_image(project.folder / "media" / "b.jpg", 0)
    notes: list[str] = []
    project.run([], notes)
    said = next(note for note in notes if note.startswith("said and file"))
    assert said.endswith(", 1 ambiguous (such as 'b': b.jpg, b.mp4)")
    manifest, rows = project.pairs("file")
    assert rows["uid"].unique().sort().to_list() == ["a", "c"]
    assert {drop["reason"]: drop["videos"] for drop in manifest["dropped"]} == {
        "video of several items with features": 1,
        "video without features": 1,
    }
    assert manifest["ambiguous"] == {"b": ["b.jpg", "b.mp4"]}
    assert project.pairs("chunks")[1]["uid"].to_list() == ["a", "a.mp4", "b.mp4"]


TEXTS = [("a", "/n.json"), ("b", "/n.json"), ("h.org/c", "/n.tsv")]
CLIPS = [("a.mp4", "/m/a.mp4"), ("b.mp4", "/m/b.mp4"), ("b.jpg", "/m/b.jpg"), ("h.org/c", "http://h.org/c.gif")]


def test_lists_name_videos_by_either_uid_or_by_their_address() -> None:
    lists = (("train", frozenset({"a.mp4"})), ("val", frozenset({"b", "http://h.org/c.gif"})))
    videos = _Videos(TEXTS, CLIPS, SplitRule(lists=lists))
    assert [videos.split_of(uid) for uid, _ in TEXTS] == ["train", "val", "val"]


def test_a_video_that_two_lists_name_in_different_words_is_in_neither() -> None:
    videos = _Videos(TEXTS, CLIPS, SplitRule(lists=(("train", frozenset({"a"})), ("val", frozenset({"a.mp4"})))))
    assert videos.split_of("a") is None
    assert videos.disputed == {"a"}


def test_what_a_list_may_mean_is_left_out() -> None:
    texts = [("x.srt", "/s/x.srt"), ("x.vtt", "/s/x.vtt"), ("y", "/s/y.srt")]
    videos = _Videos(texts, [], SplitRule())
    assert videos.meant_by(frozenset({"x"})) == {"x.srt", "x.vtt"}
    assert videos.meant_by(frozenset({"x"}), certain=True) == frozenset()
