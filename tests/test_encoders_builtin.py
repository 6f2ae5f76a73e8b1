"""The two built-in models on real input: agreement with the originals, photographs, and independence of the batch."""

from __future__ import annotations

import threading
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from PIL import Image

from cliploom.schemas.errors import CliploomError, EncodeError
from cliploom.schemas.models import ModelCard
from cliploom.transforms.encoders import registry
from cliploom.transforms.encoders.base import Encoder, EncodeReport
from cliploom.transforms.encoders.conse import conse
from cliploom.transforms.encoders.lite0 import GOLDEN_FILE, class_names, golden_pictures
from cliploom.transforms.encoders.minilm import GOLDEN_FILE as GOLDEN_SENTENCES
from cliploom.transforms.encoders.prepare import prepare_model, prepared_text

PHOTOS = {
    "coffee": ("skimage", "data/coffee.png", "a cup of coffee", {"espresso"}),
    "cat": ("skimage", "data/chelsea.png", "a cat", {"tabby", "tiger cat", "Egyptian cat"}),
    "rocket": ("skimage", "data/rocket.jpg", "a rocket launch", {"missile", "projectile", "space shuttle"}),
    "motorcycle": ("skimage", "data/motorcycle_left.png", "a motorbike", {"moped", "motor scooter"}),
    "temple": ("sklearn", "datasets/images/china.jpg", "an old palace", {"palace", "bell cote", "monastery"}),
    "flower": ("sklearn", "datasets/images/flower.jpg", "a flower", {"daisy"}),
}
WORDS = "the person takes a knife from table and cuts onion then puts it in pan while talking about red chair"
WITH_BF16 = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
Prepared = tuple[Path, ModelCard]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def minilm(models: Path) -> Prepared:
    return prepare_model("minilm", registry.family("minilm").Options(), models)


@pytest.fixture(scope="module")
def lite0(models: Path, minilm: Prepared) -> Prepared:
    options = registry.family("efficientnet_lite0").Options()
    return prepare_model("efficientnet_lite0", options, models, prepared_text(*minilm))


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    return [cropped(package, name) for package, name, *_ in PHOTOS.values()]


def cropped(package: str, name: str) -> np.ndarray:
    """The centre .875 of a photograph as Lite0 takes it."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    with Image.open(Path(spec.origin).parent / name) as image:
        scale = 256 / min(image.size)
        size = round(image.width * scale), round(image.height * scale)
        scaled = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - 224) // 2, (size[1] - 224) // 2
    return np.asarray(scaled.crop((left, top, left + 224, top + 224)))


def column(encoder: Encoder, items: list, output: str) -> np.ndarray:
    rows = encoder.encode(items)
    assert not any(isinstance(row, EncodeError) for row in rows)
    return np.stack([row[output] for row in rows])  # type: ignore[index]


def test_agreement_with_the_originals_is_on_the_cards(minilm: Prepared, lite0: Prepared) -> None:
    assert minilm[1].agreement["embedding"] > 0.999999
    assert set(lite0[1].agreement) == {"pooled", "probs", "semantic"}
    assert min(lite0[1].agreement.values()) > 0.999999


def test_lite0_gives_the_golden_vectors(lite0: Prepared) -> None:
    with np.load(GOLDEN_FILE, allow_pickle=False) as golden:
        found = column(registry.load(lite0[0]), list(golden_pictures()), "pooled")
        np.testing.assert_allclose(found, golden["pooled"], atol=2e-4)


def test_minilm_gives_the_golden_vectors(minilm: Prepared) -> None:
    with np.load(GOLDEN_SENTENCES, allow_pickle=False) as golden:
        found = column(registry.load(minilm[0]), [str(s) for s in golden["sentences"]], "embedding")
        np.testing.assert_allclose(found, golden["embedding"], atol=1e-5)


def test_cards_describe_the_outputs(minilm: Prepared, lite0: Prepared) -> None:
    outputs = lite0[1].outputs
    assert {name: output.dim for name, output in outputs.items()} == {"pooled": 1280, "probs": 1000, "semantic": 384}
    assert outputs["semantic"].space == minilm[1].outputs["embedding"].space
    assert outputs["semantic"].text
    assert not outputs["pooled"].text
    assert registry.referred_models(lite0[1]) == (minilm[1].digest,)
    assert (lite0[0] / outputs["probs"].labels).read_text().splitlines() == [names[0] for names in class_names()]


def test_there_are_a_thousand_classes_with_names_of_their_own() -> None:
    first = [names[0] for names in class_names()]
    assert len(set(first)) == len(first) == 1000
    assert first[0] == "tench"
    assert first[999] == "toilet tissue"


def test_lite0_sees_what_is_on_real_photographs(lite0: Prepared, photos: list[np.ndarray]) -> None:
    probs = column(registry.load(lite0[0]), photos, "probs")
    names = class_names()
    seen = {key: names[row.argmax()][0] for key, row in zip(PHOTOS, probs, strict=True)}
    assert {key: name for key, name in seen.items() if name not in PHOTOS[key][3]} == {}
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-5)


def test_each_photograph_is_found_by_its_sentence(lite0: Prepared, photos: list[np.ndarray]) -> None:
    pictures = column(registry.load(lite0[0]), photos, "semantic")
    queries = registry.load_text_tower(lite0[0])([sentence for _, _, sentence, _ in PHOTOS.values()])
    assert (queries @ pictures.T).argmax(axis=1).tolist() == list(range(len(PHOTOS)))


def test_semantic_is_the_conse_formula(lite0: Prepared, minilm: Prepared, photos: list[np.ndarray]) -> None:
    encoder = registry.load(lite0[0])
    prompts = [f"a photo of a {' or '.join(names)}" for names in class_names()]
    classes = column(registry.load(minilm[0]), prompts, "embedding")
    expected = conse(column(encoder, photos, "probs"), classes)
    np.testing.assert_allclose(column(encoder, photos, "semantic"), expected, atol=1e-5)


def test_without_text_encoder_there_is_no_semantic_output(models: Path) -> None:
    folder, card = prepare_model("efficientnet_lite0", registry.family("efficientnet_lite0").Options(), models)
    assert set(card.outputs) == {"pooled", "probs"}
    with pytest.raises(CliploomError, match="no text tower and no text_encoder"):
        registry.load_text_tower(folder)


def test_pictures_do_not_depend_on_batch_order_or_neighbours(lite0: Prepared, photos: list[np.ndarray]) -> None:
    encoder = registry.load(lite0[0])
    pictures = photos + list(golden_pictures())
    together = column(encoder, pictures, "pooled")
    alone = np.concatenate([column(encoder, [picture], "pooled") for picture in pictures])
    backwards = column(encoder, pictures[::-1], "pooled")[::-1]
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(together, backwards)


def sentences(count: int) -> list[str]:
    words = WORDS.split()
    rng = np.random.default_rng(count)
    return [" ".join(rng.choice(words, rng.integers(1, 30))) for _ in range(count)]


def test_sentences_do_not_depend_on_batch_order_or_neighbours(minilm: Prepared) -> None:
    encoder = registry.load(minilm[0])
    texts = sentences(70)
    together = column(encoder, texts, "embedding")
    alone = np.concatenate([column(encoder, [text], "embedding") for text in texts])
    backwards = column(encoder, texts[::-1], "embedding")[::-1]
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(together, backwards)


def test_vectors_do_not_depend_on_threads(lite0: Prepared, minilm: Prepared, photos: list[np.ndarray]) -> None:
    for folder, items, output in ((lite0[0], photos, "pooled"), (minilm[0], sentences(20), "embedding")):
        expected = column(registry.load(folder, threads=1), items, output)
        shared = registry.load(folder, threads=3)
        found: list[np.ndarray] = []
        workers = [
            threading.Thread(target=lambda: found.append(column(shared, items, output)))  # noqa: B023
            for _ in range(3)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert len(found) == 3
        for vectors in found:
            np.testing.assert_array_equal(vectors, expected)


def test_a_wrong_picture_is_its_own_error_only(lite0: Prepared, photos: list[np.ndarray]) -> None:
    report = EncodeReport()
    wrong = [photos[0][:100], photos[0].astype(np.float32), "a picture"]
    rows = registry.load(lite0[0]).encode([photos[0], *wrong, photos[1]], report)
    assert [isinstance(row, EncodeError) for row in rows] == [False, True, True, True, False]
    assert str(rows[1]) == "the encoder takes uint8 [224, 224, 3], not uint8 [100, 224, 3]."
    assert report == EncodeReport(done=2, failed=3)


def test_a_wrong_sentence_is_its_own_error_only(minilm: Prepared) -> None:
    report = EncodeReport()
    rows = registry.load(minilm[0]).encode(["good", 3, "half \ud83d pair", ""], report)
    assert [isinstance(row, EncodeError) for row in rows] == [False, True, True, False]
    assert "'half \\ud83d pair' holds half a surrogate pair" in str(rows[2])
    assert report == EncodeReport(done=2, failed=2)


def test_an_empty_batch_gives_nothing(minilm: Prepared, lite0: Prepared) -> None:
    assert registry.load(minilm[0]).encode([]) == []
    assert registry.load(lite0[0]).encode([]) == []
    assert registry.load_text_tower(minilm[0])([]).shape == (0, 384)


def test_long_sentences_are_cut_and_counted(minilm: Prepared) -> None:
    report = EncodeReport()
    encoder = registry.load(minilm[0])
    rows = encoder.encode(["word " * 254, "word " * 255, "word " * 9000], report)
    assert report == EncodeReport(done=3, failed=0, truncated=2)
    np.testing.assert_array_equal(rows[0]["embedding"], rows[2]["embedding"])  # type: ignore[index]


def test_bf16_is_prepared_where_the_processor_has_it(models: Path) -> None:
    options = registry.family("minilm").Options(precision="bf16")
    if WITH_BF16:
        _, card = prepare_model("minilm", options, models)
        assert 0.99 < card.agreement["embedding"] < 0.999999
    else:
        with pytest.raises(CliploomError, match="can't compute in bf16; use precision: f32"):
            prepare_model("minilm", options, models)


def test_bf16_pictures_do_not_depend_on_neighbours_either(models: Path, photos: list[np.ndarray]) -> None:
    options = registry.family("efficientnet_lite0").Options(precision="bf16")
    if not WITH_BF16:
        with pytest.raises(CliploomError, match="bf16"):
            prepare_model("efficientnet_lite0", options, models)
        return
    folder, card = prepare_model("efficientnet_lite0", options, models)
    assert card.agreement["pooled"] > 0.99
    encoder = registry.load(folder)
    together = column(encoder, photos, "pooled")
    np.testing.assert_array_equal(together, np.concatenate([column(encoder, [p], "pooled") for p in photos]))


def test_a_damaged_folder_says_so(minilm: Prepared, tmp_path: Path) -> None:
    for name in ("card.json", "text.json", "tokenizer.json", "text.xml"):
        (tmp_path / name).write_bytes((minilm[0] / name).read_bytes())
    with pytest.raises(CliploomError, match=r"text\.xml can't be opened"):
        registry.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CliploomError, match=r"text model in .* can't be opened"):
        registry.load(tmp_path)
