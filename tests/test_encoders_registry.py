"""Families are found by kind, third parties' among them, and options are checked cheaply and in words."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from cliploom.schemas.errors import CliploomError, SpecError, StoreError
from cliploom.schemas.media import Preprocess
from cliploom.transforms.encoders import base, registry
from cliploom.transforms.encoders.base import EncodeReport
from cliploom.transforms.encoders.prepare import prepare_model

PREAMBLE = """
import numpy as np
from cliploom.schemas.media import Preprocess
from cliploom.schemas.models import Output
from cliploom.transforms.encoders.base import Family
"""


def documented_example() -> str:
    """The class that the docstring of ``base`` shows."""
    text = textwrap.dedent((base.__doc__ or "").split("::\n", 1)[1].split("\nIn the package's")[0])
    ast.parse(text)
    # A kind of its own: the nights' tests install one of the documented name.
    return PREAMBLE + text.replace("mean_colour", "documented")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Installs a package with encoder entry points."""

    def install(code: str, points: dict[str, str], name: str) -> None:
        (tmp_path / f"{name}.py").write_text(code)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = "".join(f"{kind} = {target}\n" for kind, target in points.items())
        (info / "entry_points.txt").write_text(f"[cliploom.encoders]\n{lines}")
        monkeypatch.syspath_prepend(tmp_path)

    return install


def test_the_documented_example_is_a_working_encoder(installed: Any, tmp_path: Path) -> None:
    installed(documented_example(), {"documented": "docs_example:MeanColour"}, "docs_example")
    family = registry.family("documented")
    assert family.modality(family.Options()) == "frame"
    folder, card = prepare_model("documented", family.Options(), tmp_path / "models")
    assert card.preprocess == Preprocess(32, 32, fit="squash")
    picture = np.full((32, 32, 3), (10, 20, 30), np.uint8)
    rows = registry.load(folder).encode([picture])
    assert rows[0]["colour"].tolist() == [10, 20, 30]  # type: ignore[index]
    assert len(documented_example().splitlines()) < 40


def test_kinds_lists_built_in_and_installed_ones(installed: Any) -> None:
    installed(documented_example(), {"documented": "listed:MeanColour"}, "listed")
    assert {"efficientnet_lite0", "minilm", "onnx", "sentence_transformer", "documented"} <= set(registry.kinds())


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"There is no encoder kind 'minilmm'; did you mean 'minilm'\?"):
        registry.family("minilmm")


def test_an_entry_point_that_fails_names_its_package(installed: Any) -> None:
    installed("import no_such_module", {"broken": "broken_one:X"}, "broken_one")
    with pytest.raises(CliploomError, match=r"'broken' of package 'broken_one' can't be loaded: ModuleNotFoundError"):
        registry.family("broken")


def test_an_entry_point_that_is_no_family_is_refused(installed: Any) -> None:
    installed("X = 3", {"three": "three_one:X"}, "three_one")
    with pytest.raises(CliploomError, match=r"'three' of package 'three_one' is not a class that extends Family"):
        registry.family("three")


def test_a_kind_that_two_packages_offer_is_refused(installed: Any) -> None:
    installed("X = 3", {"twice": "first_one:X"}, "first_one")
    installed("X = 3", {"twice": "second_one:X"}, "second_one")
    with pytest.raises(
        CliploomError, match=r"'twice' is offered by package 'first_one' and package 'second_one'; uninstall"
    ):
        registry.family("twice")


def test_an_entry_point_can_not_replace_a_built_in(installed: Any) -> None:
    installed(documented_example(), {"minilm": "usurper:MeanColour"}, "usurper")
    assert registry.family("minilm").kind == "minilm"


def test_checking_options_loads_no_heavy_library() -> None:
    code = (
        "import sys; from cliploom.transforms.encoders.registry import family, kinds\n"
        "for kind in ('efficientnet_lite0', 'minilm', 'onnx', 'sentence_transformer'): family(kind).Options\n"
        "family('efficientnet_lite0').output_names(family('efficientnet_lite0').Options(), True)\n"
        "print([m for m in ('openvino', 'apache_beam', 'torch', 'tokenizers', 'numpy', 'onnx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


PICTURE = {"layout": "nchw", "width": 8, "height": 8}
VECTOR = {"v": {"node": "y"}}


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("minilm", {"precision": "f16"}, "'f32', 'bf16', 'int8' or 'int8_weights'"),
        ("minilm", {"batch": 3}, "Extra inputs are not permitted"),
        ("efficientnet_lite0", {"batch": 0}, "greater than or equal to 1"),
        ("efficientnet_lite0", {"batch": "4"}, "valid integer"),
        ("efficientnet_lite0", {"size": 96}, "Extra inputs are not permitted"),
        ("sentence_transformer", {}, "Field required"),
        ("onnx", {"model": "m.onnx", "input": PICTURE, "outputs": {}}, "at least 1 item"),
        ("onnx", {"model": "m", "input": PICTURE | {"layout": "chw"}, "outputs": VECTOR}, "'nchw', 'nhwc'"),
        ("onnx", {"model": "m", "input": PICTURE | {"layout": "nthwc"}, "outputs": VECTOR}, "give frames"),
        ("onnx", {"model": "m", "input": PICTURE | {"frames": 4}, "outputs": VECTOR}, "leave frames out"),
        ("onnx", {"model": "m", "input": PICTURE | {"scale": 0}, "outputs": VECTOR}, "divides by zero"),
        ("onnx", {"model": "m", "input": PICTURE | {"scale": [1, 2]}, "outputs": VECTOR}, "Field required"),
        ("onnx", {"model": "m", "input": PICTURE | {"crop": 1.5}, "outputs": VECTOR}, "less than or equal to 1"),
        (
            "onnx",
            {
                "model": "m",
                "input": PICTURE,
                "outputs": {"a": {"node": "a"}, "b": {"node": "b"}},
                "text": {"model": "t", "tokenizer": "t.json", "max_tokens": 5},
            },
            "text.output is missing; name the output whose space it shares: a, b",
        ),
        (
            "onnx",
            {
                "model": "m",
                "input": PICTURE,
                "outputs": VECTOR,
                "text": {"model": "t", "tokenizer": "t.json", "max_tokens": 5, "output": "w"},
            },
            "text.output 'w' is not an output; known: v",
        ),
    ],
)
def test_a_wrong_option_says_what_is_right(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message.replace("[", r"\[")):
        registry.family(kind).Options.model_validate(options)


def test_one_number_stands_for_three_channels() -> None:
    options = registry.family("onnx").Options.model_validate(
        {"model": "m", "input": PICTURE | {"offset": 127, "scale": [58.4, 57.1, 57.4]}, "outputs": VECTOR}
    )
    assert options.input.preprocess.offset == (127.0, 127.0, 127.0)  # type: ignore[attr-defined]
    assert options.input.preprocess.scale == (58.4, 57.1, 57.4)  # type: ignore[attr-defined]


def test_outputs_are_known_from_the_options() -> None:
    lite0 = registry.family("efficientnet_lite0")
    assert lite0.output_names(lite0.Options(), text=False) == ("pooled", "probs")
    assert lite0.output_names(lite0.Options(), text=True) == ("pooled", "probs", "semantic")


def test_a_folder_without_card_and_a_damaged_card_are_store_errors(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"has no card\.json"):
        registry.load(tmp_path)
    for text in ("{", "[]", '{"kind": "minilm"}'):
        (tmp_path / "card.json").write_text(text)
        with pytest.raises(StoreError, match="is damaged"):
            registry.read_card(tmp_path)


def test_a_report_starts_at_zero() -> None:
    assert EncodeReport() == EncodeReport(done=0, failed=0, truncated=0)


@pytest.mark.parametrize("doing", ["opened", "prepared"])
def test_code_that_ends_the_program_is_an_error_that_names_the_encoder(doing: str) -> None:
    said = rf"The encoder 'mine' tried to end the program \(exit code 3\) when it was {doing}"
    with pytest.raises(CliploomError, match=said), registry.not_ending("mine", doing):
        sys.exit(3)
