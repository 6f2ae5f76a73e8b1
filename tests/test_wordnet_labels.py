"""Folders named by WordNet ids, with ImageNet's ``words.txt`` and ``wnids.txt`` as published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from cliploom.schemas.errors import SpecError
from cliploom.schemas.sources import MediaSource
from cliploom.schemas.spec_file import load_spec
from cliploom.transforms.heads.word_hits import synonyms_of
from cliploom.transforms.media.label_listing import list_media

WORDS = (
    "n00004475\torganism, being\n"
    "n02123045\ttabby, tabby cat\n"
    "n02012849\tcrane\n"
    "n03126707\tcrane\n"
    "n01443537\tgoldfish, Carassius auratus\n"
)
FILES = (
    "train/n02123045/images/n02123045_0.png",
    "train/n03126707/n03126707_7.png",
    "train/n02012849/n02012849_7.png",
    "val/images/val_0.png",
)
SPEC = """\
version: 1
name: tiny
store: ./store
sources:
  pictures: {kind: media, glob: "**/*.png", labels: {folder, texts: words.txt}}
encoders: {lite0: {kind: efficientnet_lite0}}
features: {frames: {source: pictures, sample: {every: 1s}, encoder: lite0, outputs: [pooled]}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "words.txt").write_text(WORDS)
    (tmp_path / "wnids.txt").write_text("n02123045\nn03126707\n")
    (tmp_path / "spec.yaml").write_text(SPEC)
    return tmp_path


def labels_of(folder: Path, *overrides: str) -> tuple[dict[str, list[tuple[int, str]]], list[str]]:
    notes: list[str] = []
    source = load_spec(folder / "spec.yaml", overrides).sources["pictures"]
    assert isinstance(source, MediaSource)
    frame = list_media("pictures", source, folder, notes.append)
    rows = frame.select("uid", "metadata").iter_rows()
    return {uid: [(number, name) for number, name in json.loads(text)["labels"]] for uid, text in rows}, notes


def test_ids_of_folders_become_words_numbered_by_their_list(folder: Path) -> None:
    found, notes = labels_of(folder)
    assert found == {
        "train/n02123045/images/n02123045_0": [(1, "tabby, tabby cat")],
        "train/n03126707/n03126707_7": [(3, "crane")],
        "train/n02012849/n02012849_7": [(2, "crane")],
        "val/images/val_0": [],
    }
    assert notes == ["pictures: 1 of 4 files lie below no folder that words.txt names"]
    assert synonyms_of("tabby, tabby cat") == ["tabby", "tabby cat"]


def test_a_list_of_ids_says_which_are_classes_and_their_numbers(folder: Path) -> None:
    found, notes = labels_of(folder, "sources.pictures.labels.ids=wnids.txt")
    assert sorted(labels for labels in found.values() if labels) == [[(0, "tabby, tabby cat")], [(1, "crane")]]
    assert notes == ["pictures: 2 of 4 files lie below no folder that words.txt names"]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "words.txt",
            "n02123045 tabby\n",
            r"labels.texts: line 1 of words.txt is 'n02123045 tabby'; it needs an id",
        ),
        ("words.txt", "n1\tcat\nn1\tdog\n", "line 2 of words.txt has other words for 'n1' than an earlier line"),
        ("words.txt", "\n", "words.txt is empty"),
        ("words.txt", None, "labels.texts: there is no file '.*words.txt'"),
        ("wnids.txt", "n02123045\nn02123045\n", "labels.ids: line 2 of wnids.txt repeats 'n02123045'; remove it"),
        ("wnids.txt", "n9\n", "labels.ids: 'n9' has no words in the list of texts; correct it, or add it to the list"),
    ],
)
def test_bad_lists_are_explained_with_the_line(folder: Path, file: str, text: str | None, message: str) -> None:
    if text is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(text)
    with pytest.raises(SpecError, match=message):
        labels_of(folder, "sources.pictures.labels.ids=wnids.txt")


def test_texts_and_a_vocabulary_do_not_go_together(folder: Path) -> None:
    with pytest.raises(SpecError, match="remove 'vocabulary'"):
        load_spec(folder / "spec.yaml", ["sources.pictures.vocabulary=v.csv"])
