"""A first spec for a folder of media, and a spec as a picture."""

from __future__ import annotations

from pathlib import Path

import pytest

from cliploom.pipelines.cli.scaffold import mermaid, write_spec
from cliploom.schemas.errors import SpecError
from cliploom.schemas.spec_file import load_spec


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return folder


@pytest.mark.parametrize("name", ["videos", "My Videos (2)", "2024", "h\u00e4user", "it's", "a: b", "[x]", 'say "hi"'])
def test_any_folder_gets_a_spec_that_lists_its_files(tmp_path: Path, name: str) -> None:
    from cliploom.transforms.inputs.listing import list_source

    touch(tmp_path / name, "a.mp4", "deep/b.GIF", "c.webp", "readme.md")
    assert write_spec(tmp_path / name, tmp_path / "cliploom.yaml", force=False) == 3
    spec = load_spec(tmp_path / "cliploom.yaml")
    found = list_source("clips", spec.sources["clips"], tmp_path)  # type: ignore[arg-type]
    assert sorted(uid.removeprefix(f"{name}/") for uid in found["uid"]) == ["a.mp4", "c.webp", "deep/b.GIF"]


def test_folder_elsewhere_is_named_in_full(tmp_path: Path) -> None:
    touch(tmp_path / "far", "a.mp4")
    (tmp_path / "near").mkdir()
    write_spec(tmp_path / "far", tmp_path / "near" / "cliploom.yaml", force=False)
    [pattern] = load_spec(tmp_path / "near" / "cliploom.yaml").sources["clips"].glob  # type: ignore[union-attr]
    assert pattern == f"{tmp_path}/far/**/*.mp4"


def test_folder_of_the_spec_itself_is_left_out_of_patterns(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    write_spec(tmp_path, tmp_path / "cliploom.yaml", force=False)
    assert load_spec(tmp_path / "cliploom.yaml").sources["clips"].glob == ["**/*.mp4"]  # type: ignore[union-attr]


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
        "  export_frames_h5[[frames_h5: hdf5]]",
        "  encoder_minilm -.-> encoder_lite0",
        "  source_clips --> feature_frames",
        "  encoder_lite0 --> feature_frames",
        "  feature_frames --> index_frames",
        "  feature_frames --> export_frames_h5",
    ]
