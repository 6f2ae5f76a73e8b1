"""The encoder kind pca: another encoder's vectors, projected; its model is complete by itself."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from cliploom.pipelines.planning.check import check_encoders
from cliploom.schemas.errors import SpecError
from cliploom.schemas.models import ModelCard
from cliploom.schemas.spec_file import parse_document
from cliploom.transforms.encoders.pca import PcaOptions, Projected
from cliploom.transforms.encoders.prepare import prepare_model
from cliploom.transforms.encoders.registry import family, load, read_card
from cliploom.transforms.tfrecords.pca import Pca, load_pca, save_pca

LITE0 = {"kind": "efficientnet_lite0"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("pca")
    rng = np.random.default_rng(0)
    vectors = np.linalg.qr(rng.normal(size=(1280, 8)))[0].astype(np.float32)
    save_pca(made / "pca.npz", Pca(rng.normal(size=1280).astype(np.float32), vectors, np.arange(8, 0, -1, np.float32)))
    return made


def options(folder: Path, **changes: object) -> PcaOptions:
    given = {"path": "pca.npz", "encoder": LITE0, "output": "pooled", **changes}
    located: PcaOptions = Projected().located(PcaOptions.model_validate(given), folder)
    return located


@pytest.fixture(scope="module")
def prepared(folder: Path) -> tuple[Path, ModelCard]:
    return prepare_model("pca", options(folder, components=4), folder / "models")


def test_vectors_are_the_projected_ones_of_the_encoder(folder: Path, prepared: tuple[Path, ModelCard]) -> None:
    pictures = list(np.random.default_rng(1).integers(0, 255, (3, 224, 224, 3), np.uint8))
    plain, _ = prepare_model("efficientnet_lite0", family("efficientnet_lite0").Options(), folder / "models")
    wanted = [load_pca(folder / "pca.npz", components=4).apply(row["pooled"]) for row in load(plain).encode(pictures)]
    found = load(prepared[0]).encode(pictures)
    assert [list(row) for row in found] == [["pooled"]] * 3
    np.testing.assert_allclose([row["pooled"] for row in found], wanted, rtol=1e-5, atol=1e-6)


def test_the_card_has_the_projection_s_width_and_a_space_of_its_own(prepared: tuple[Path, ModelCard]) -> None:
    folder, card = prepared
    assert card == read_card(folder)
    (output,) = card.outputs.values()
    assert output.dim == 4
    assert output.space.startswith("efficientnet_lite0/pooled/pca/")
    assert not output.text
    assert card.preprocess is not None


def test_a_file_of_the_same_matrices_under_another_name_is_the_same_model(
    folder: Path, prepared: tuple[Path, ModelCard]
) -> None:
    shutil.copy(folder / "pca.npz", folder / "copy.npz")
    same = options(folder, components=4, path="copy.npz")
    assert prepare_model("pca", same, folder / "models")[1].digest == prepared[1].digest
    other = options(folder, components=5)
    assert prepare_model("pca", other, folder / "models")[1].digest != prepared[1].digest


def test_matrices_of_another_width_are_refused(folder: Path) -> None:
    save_pca(folder / "narrow.npz", Pca(np.zeros(3, np.float32), np.eye(3, dtype=np.float32), np.ones(3, np.float32)))
    with pytest.raises(SpecError, match=r"vectors of 3 numbers; output 'pooled' .* has 1280"):
        prepare_model("pca", options(folder, path="narrow.npz"), folder / "models")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"encoder": {"kind": "pca", "path": "x", "encoder": LITE0}}, "the kind and the options of another encoder"),
        ({"encoder": {"precision": "f32"}}, "the kind and the options of another encoder"),
        ({"encoder": {"kind": "efficientnet_lite9"}}, "efficientnet_lite0"),
        ({"encoder": LITE0 | {"precison": "f32"}}, "precison"),
        ({"output": None}, "output is missing; the encoder has"),
        ({"output": "poled"}, "not 'poled'"),
    ],
)
def test_options_that_can_not_be_are_reported(changes: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        PcaOptions.model_validate({"path": "pca.npz", "encoder": LITE0, "output": "pooled", **changes})


def test_a_spec_names_it_like_any_encoder(folder: Path) -> None:
    encoder = {"kind": "pca", "path": "pca.npz", "encoder": LITE0, "output": "pooled"}
    document = {
        "version": 1,
        "name": "a",
        "store": "./store",
        "sources": {"clips": {"kind": "media", "glob": "*.mp4"}},
        "encoders": {"small": encoder},
        "features": {"frames": {"source": "clips", "sample": {"every": "1s"}, "encoder": "small"}},
    }
    checked = check_encoders(parse_document(document), folder)
    assert checked["small"].options.path == str(folder / "pca.npz")  # type: ignore[attr-defined]
    document["encoders"] = {"small": encoder | {"output": "poled"}}
    with pytest.raises(SpecError, match=r"encoders\.small.*poled"):
        check_encoders(parse_document(document), folder)
