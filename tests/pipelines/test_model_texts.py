"""What is printed of a model's file: comments and a spec in the terminal's width, whatever its file says of itself."""

from __future__ import annotations

import pytest
import yaml

from cliploom.pipelines.models.texts import found_text, list_text, preset_values, show_text
from cliploom.transforms.encoders.presets import presets
from cliploom.transforms.model_files.found import Found


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_a_file_that_an_encoder_takes_is_a_spec_with_comments() -> None:
    name = next(iter(presets()))
    preset = presets()[name]
    found = Found(
        "models/file", "a model", kind=preset.kind, preset=name, options={preset.takes: "models/file"},
        facts=("made by \x1b[31mnobody\x07 " + "word " * 40,), guesses=("the size", "the layout"), sample=preset.sample,
    )  # fmt: skip
    text = found_text(found)
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert comments[0] == "# models/file: a model"
    assert any(line.startswith("# - fits the preset " + name) for line in comments)
    assert "# - guessed: the size; the layout" in comments
    assert max(map(len, comments)) <= 80
    assert "\x1b" not in text
    assert "\x07" not in text
    assert yaml.safe_load(text)["encoders"]["model"]["preset"] == name


def test_a_file_that_no_encoder_takes_is_described_and_no_spec() -> None:
    text = found_text(Found("x.bin", "an archive", facts=("3 files",), advice="unpack it " + "and look " * 20))
    lines = text.splitlines()
    assert lines[:2] == ["x.bin: an archive", "- 3 files"]
    assert lines[2].startswith("- unpack it")
    assert max(map(len, lines)) <= 80
    assert not any(line.startswith("#") or line.startswith("version") for line in lines)


@pytest.mark.parametrize(("count", "more"), [(1, 0), (8, 0), (9, 1), (400, 1)])
def test_of_many_signatures_and_tensors_the_first_are_shown(count: int, more: int) -> None:
    tensor = {"name": "t" * 5_000, "type": "float32", "shape": "[1]"}
    one = {"name": "serve", "inputs": [tensor] * count, "outputs": [tensor]}
    text = found_text(Found("x", "a model", signatures=tuple([one] * count)))
    assert text.count("- serve:\n") == min(count, 8)
    assert text.splitlines().count("- ...") == more
    assert "t" * 101 not in text
    assert len(text) < 20_000


def test_every_preset_is_listed_and_shown_as_a_spec_names_it() -> None:
    listed = list_text()
    for name, preset in presets().items():
        assert listed.count(f"{name} ") >= 1
        shown = show_text(name, preset)
        spec = yaml.safe_load(shown[shown.index("encoders:") :].partition("\n`cliploom")[0])
        assert spec["encoders"][name] == {"kind": preset.kind, "preset": name, preset.takes: f"./{preset.files[0]}"}
        values = preset_values(name, preset)
        assert (values["name"], values["kind"]) == (name, preset.kind)
