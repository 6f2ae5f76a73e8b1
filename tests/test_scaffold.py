"""A first spec for a folder of media, and a spec as a picture."""

from __future__ import annotations

from pathlib import Path

import pytest

from cliploom.pipelines.cli.scaffold import mermaid, write_spec
from cliploom.schemas.errors import SpecError
from cliploom.schemas.spec_file import load_spec
from cliploom.transforms.inputs.listing import list_source


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return folder


def listed(home: Path) -> list[str]:
    """The files that a run with the spec written below ``home`` would take."""
    source = load_spec(home / "cliploom.yaml").sources["clips"]
    return sorted(list_source("clips", source, home)["uid"])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["videos", "My Videos (2)", "2024", "h\u00e4user", "it's", "a: b", "[x]", 'say "hi"'])
def test_any_folder_gets_a_spec_that_lists_its_files(tmp_path: Path, name: str) -> None:
    touch(tmp_path / name, "a.mp4", "deep/b.GIF", "c.webp", "readme.md")
    assert write_spec(tmp_path / name, tmp_path / "cliploom.yaml", force=False).types.total() == 3
    assert [uid.removeprefix(f"{name}/") for uid in listed(tmp_path)] == ["a.mp4", "c.webp", "deep/b.GIF"]


def test_spec_also_finds_the_files_of_tomorrow(tmp_path: Path) -> None:
    touch(tmp_path / "media", "a.mp4")
    write_spec(tmp_path / "media", tmp_path / "cliploom.yaml", force=False)
    tomorrow = ["UPPER.MP4", "b.jpeg", "c.avi", "d.bmp", "e.Tif", "f.tiff", "g.avif", "h.HEIC", "i.m2ts", "j.apng"]
    touch(tmp_path / "media", *tomorrow, "notes.txt", "k.mp4.part")
    assert listed(tmp_path) == sorted(["a.mp4", *tomorrow])


def test_counts_are_those_of_a_run_and_what_is_left_out_is_named(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "linked.mp4")
    touch(tmp_path / "media", "a.mp4", "b.mov", "c.gif", ".trash/d.mp4", "._a.mp4", "notes.txt", "Makefile", "e.txt")
    (tmp_path / "media" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "media" / "again").symlink_to(tmp_path / "media")
    census = write_spec(tmp_path / "media", tmp_path / "cliploom.yaml", force=False)
    assert listed(tmp_path) == ["a.mp4", "b.mov", "c.gif", "link/linked.mp4"]
    assert census.found_text() == "3 videos, 1 GIF"
    assert census.left_out_text().startswith("Left out: 2 hidden files or folders (")
    assert census.left_out_text().endswith("), 3 files of other types (.txt, without an extension).")


def test_folder_without_media_says_what_it_holds(tmp_path: Path) -> None:
    touch(tmp_path / "media", "notes.txt", ".hidden.mp4")
    with pytest.raises(
        SpecError, match=r"no videos, GIFs or images; .*1 hidden file or folder \(\.hidden\.mp4\), 1 file"
    ):
        write_spec(tmp_path / "media", tmp_path / "cliploom.yaml", force=False)


def test_folder_elsewhere_is_named_in_full(tmp_path: Path) -> None:
    touch(tmp_path / "far", "a.mp4")
    (tmp_path / "near").mkdir()
    write_spec(tmp_path / "far", tmp_path / "near" / "cliploom.yaml", force=False)
    [pattern] = load_spec(tmp_path / "near" / "cliploom.yaml").sources["clips"].glob  # type: ignore[union-attr]
    assert pattern == f"{tmp_path}/far/**/*"


def test_folder_of_the_spec_itself_is_left_out_of_patterns(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    write_spec(tmp_path, tmp_path / "cliploom.yaml", force=False)
    assert load_spec(tmp_path / "cliploom.yaml").sources["clips"].glob == ["**/*"]  # type: ignore[union-attr]


def test_spec_is_only_replaced_when_told_to(tmp_path: Path) -> None:
    touch(tmp_path / "media", "a.mp4")
    (tmp_path / "cliploom.yaml").write_text("mine")
    with pytest.raises(
        SpecError, match="is there already; choose another name with --spec, or replace it with --force"
    ):
        write_spec(tmp_path / "media", tmp_path / "cliploom.yaml", force=False)
    assert (tmp_path / "cliploom.yaml").read_text() == "mine"
    write_spec(tmp_path / "media", tmp_path / "cliploom.yaml", force=True)
    assert load_spec(tmp_path / "cliploom.yaml").name == "media"


def test_model_for_pictures_and_sentences_is_what_the_spec_searches_with(tmp_path: Path) -> None:
    touch(tmp_path / "media", "a.mp4")
    write_spec(tmp_path / "media", tmp_path / "cliploom.yaml", force=False, model="clip:google/siglip-base-patch16-224")
    spec = load_spec(tmp_path / "cliploom.yaml")
    assert spec.encoders["clip"].options == {"model": "google/siglip-base-patch16-224"}
    assert spec.indexes["frames"].output == "image"


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("siglip:./x", "write clip:FOLDER"),
        ("./x", "write clip:FOLDER"),
        ("clip:./none", "there is no folder './none'"),
    ],
)
def test_model_that_is_none_is_refused(tmp_path: Path, model: str, said: str) -> None:
    touch(tmp_path / "media", "a.mp4")
    with pytest.raises(SpecError, match=said):
        write_spec(tmp_path / "media", tmp_path / "cliploom.yaml", force=False, model=model)


def test_flowchart_has_every_node_and_edge(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    write_spec(tmp_path, tmp_path / "cliploom.yaml", force=False)
    assert mermaid(load_spec(tmp_path / "cliploom.yaml")).splitlines() == [
        "flowchart LR",
        "  source_clips[/clips: media/]",
        "  encoder_minilm([minilm: minilm])",
        "  encoder_lite0([lite0: efficientnet_lite0])",
        "  feature_frames[frames]",
        "  index_frames[(frames: index)]",
        "  index_looks[(looks: index)]",
        "  export_frames_h5[[frames_h5: hdf5]]",
        "  encoder_minilm -.-> encoder_lite0",
        "  source_clips --> feature_frames",
        "  encoder_lite0 --> feature_frames",
        "  feature_frames --> index_frames",
        "  feature_frames --> index_looks",
        "  feature_frames --> export_frames_h5",
    ]
