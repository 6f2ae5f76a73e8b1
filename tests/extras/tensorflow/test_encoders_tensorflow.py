"""SavedModels, frozen graphs and Keras files after conversion, against TensorFlow itself."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_models import (
    WORDS,
    frozen_says,
    pack,
    saved_model_says,
    write_bit,
    write_frozen,
    write_s3d,
    write_two_towers,
)

from cliploom.schemas.errors import CliploomError
from cliploom.transforms.encoders import registry
from cliploom.transforms.encoders.agreement import smallest_cosine
from cliploom.transforms.encoders.measuring import golden_sentences
from cliploom.transforms.encoders.prepare import prepare_model
from cliploom.transforms.encoders.word_tokens import WordTokens

RNG = np.random.default_rng(5)
CLIP = {"layout": "nthwc", "width": 32, "height": 32, "frames": 8, "fit": "square", "filter": "bilinear"}
PICTURE = {"layout": "nhwc", "width": 48, "height": 40, "fit": "squash"}
LETTERS = (
    "abcDEF'!?.,-_ \t\n\v\f\r\u00a0\u2028éÉß\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}\N{LATIN SMALL LETTER LONG S}"
    "\N{KELVIN SIGN}Σ中\N{WOMAN}\N{ZERO WIDTH JOINER}\N{ROCKET}0\N{ARABIC-INDIC DIGIT THREE}²"
)


def prepared(kind: str, values: dict[str, Any], tmp_path: Path) -> tuple[Path, Any]:
    return prepare_model(kind, registry.family(kind).Options.model_validate(values), tmp_path / "models")


def random_sentences(words: list[str], count: int) -> list[str]:
    """Words of the vocabulary among odd characters, some longer than any model takes."""
    drawn = random.Random(1)
    sentences = []
    for _ in range(count):
        parts = []
        for _ in range(drawn.choice([0, 1, 3, 8, 30])):
            word = drawn.choice(words)
            parts.append(drawn.choice([word, word, word.upper(), word.title(), "".join(drawn.choices(LETTERS, k=4))]))
        sentences.append(drawn.choice([" ", " ", "  ", ", ", "\n"]).join(parts))
    return sentences


def test_a_large_vocabulary_and_both_towers(tmp_path: Path) -> None:
    words = [*WORDS, *(f"word{number}" for number in range(66_000 - len(WORDS)))]
    folder = write_s3d(tmp_path / "s3d", words)
    values = {
        "model": str(pack(folder, tmp_path / "s3d.tar.gz")),
        "signature": "video",
        "input": CLIP,
        "outputs": {"clip": {"node": "video_embedding"}, "mixed": {"node": "mixed_5c"}},
        "text": {"output": "clip"},
        "batch": 3,
    }
    model, card = prepared("saved_model", values, tmp_path)
    assert card.note == ""
    assert min(card.agreement[name] for name in ("clip", "mixed", "text tower")) > 0.999999
    assert len(WordTokens.read(model).known) == 66_000
    sentences = random_sentences(words[:300], 300)
    found = registry.load_text_tower(model)(sentences)
    wanted = saved_model_says(folder, "text", sentences, "text_embedding", [])
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    clips = RNG.integers(0, 256, (4, 8, 32, 32, 3), np.uint8)
    rows = registry.load(model).encode(list(clips))
    wanted = saved_model_says(folder, "video", clips.astype(np.float32) / 255, "video_embedding", [])
    np.testing.assert_allclose([row["clip"] for row in rows], wanted, rtol=1e-4, atol=1e-5)  # type: ignore[index]


@pytest.mark.parametrize("rules", ["ragged", "dropped", "separators"])
def test_tokens_are_tensorflows(tmp_path: Path, rules: str) -> None:
    words = [*WORDS, "λόγος", "i\u0307zmir", "straße"]
    folder = write_two_towers(tmp_path / "two", words, rules)
    values = {
        "model": str(folder),
        "signature": "image",
        "input": PICTURE,
        "outputs": {"picture": {"node": "embedding"}},
        "text": {"prompt": "A "},
    }
    model, card = prepared("saved_model", values, tmp_path)
    assert card.agreement["text tower"] > 0.999999
    sentences = [*random_sentences(words, 300), *golden_sentences(model)]
    found = registry.load_text_tower(model)(sentences)
    wanted = saved_model_says(folder, "text", [f"A {sentence}" for sentence in sentences], "embedding")
    off = [text for text, a, b in zip(sentences, found, wanted, strict=True) if not np.allclose(a, b, atol=1e-5)]
    assert off == []


def test_wrong_rules_are_found_out(tmp_path: Path) -> None:
    values = {
        "model": str(write_two_towers(tmp_path / "two")),
        "signature": "image",
        "input": PICTURE,
        "outputs": {"picture": {"node": "embedding"}},
        "text": {"lower": "none"},
    }
    with pytest.raises(CliploomError, match="gives 'text tower' with cosine"):
        prepared("saved_model", values, tmp_path)


@pytest.mark.parametrize("size", [(40, 48), (96, 64)])
def test_standardised_weights_and_group_norm_at_any_size(tmp_path: Path, size: tuple[int, int]) -> None:
    height, width = size
    folder = write_bit(tmp_path / "bit")
    values = {
        "model": str(folder),
        "input": PICTURE | {"width": width, "height": height},
        "outputs": {"picture": {"node": "output_1"}},
        "batch": 2,
    }
    model, card = prepared("saved_model", values, tmp_path)
    assert card.agreement["picture"] > 0.999999
    pictures = RNG.integers(0, 256, (3, height, width, 3), np.uint8)
    rows = registry.load(model).encode(list(pictures))
    wanted = saved_model_says(folder, "serving_default", pictures.astype(np.float32) / 255, "output_1")
    np.testing.assert_allclose([row["picture"] for row in rows], wanted, rtol=1e-4, atol=1e-5)  # type: ignore[index]


def test_a_frozen_graph_of_2015(tmp_path: Path) -> None:
    path = write_frozen(tmp_path / "inception.pb")
    values = {
        "model": str(path),
        "input": {"layout": "hwc", "node": "DecodeJpeg:0", "width": 50, "height": 40, "offset": 0, "scale": 1},
        "outputs": {"pool": {"node": "pool_3/_reshape:0"}, "map": {"node": "pool_3"}},
    }
    model, card = prepared("frozen_graph", values, tmp_path)
    assert min(card.agreement.values()) > 0.999999
    pictures = RNG.integers(0, 256, (3, 40, 50, 3), np.uint8)
    rows = registry.load(model).encode(list(pictures))
    for picture, row in zip(pictures, rows, strict=True):
        wanted = frozen_says(path, "DecodeJpeg:0", picture, "pool_3/_reshape:0")[0]
        np.testing.assert_allclose(row["pool"], wanted, rtol=1e-4, atol=1e-5)  # type: ignore[index]


def test_a_model_that_can_write_files_is_never_run(tmp_path: Path) -> None:
    class Writes(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec([None, 40, 48, 3], tf.float32)])
        def serve(self, pixels: Any) -> dict[str, Any]:
            return {"mean": tf.reduce_mean(pixels, [1, 2])}

        @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
        def write(self, text: Any) -> dict[str, Any]:
            tf.io.write_file(str(tmp_path / "written"), text)
            return {"text": text}

    module = Writes()
    signatures = {"serving_default": module.serve, "write": module.write}
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=signatures)
    values = {"model": str(tmp_path / "model"), "input": PICTURE, "outputs": {"v": {"node": "mean"}}}
    _, card = prepared("saved_model", values, tmp_path)
    assert "it can touch files or call Python (WriteFile), so TensorFlow was not asked" in card.note
    assert card.agreement == {}
    assert not (tmp_path / "written").exists()


def keras_model() -> Any:
    keras.utils.set_random_seed(0)
    pixels = keras.Input((40, 48, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1)(pixels)
    x = keras.layers.Conv2D(8, 3, strides=2)(x)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.DepthwiseConv2D(3, name="last_map")(x)
    x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    return keras.Model(pixels, keras.layers.Dense(4, activation="softmax", name="probs")(x))


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_keras_files(tmp_path: Path, name: str) -> None:
    original = keras_model()
    original.save(tmp_path / name)
    values = {
        "model": str(tmp_path / name),
        "input": PICTURE | {"offset": 0, "scale": 1},
        "outputs": {
            "pooled": {"node": "avg_pool"},
            "probs": {"node": "probs"},
            "mean": {"node": "last_map", "pool": "mean", "channel_axis": -1},
        },
        "batch": 3,
    }
    model, card = prepared("keras", values, tmp_path)
    assert min(card.agreement.values()) > 0.999999
    pictures = RNG.integers(0, 256, (4, 40, 48, 3), np.uint8)
    rows = registry.load(model).encode(list(pictures))
    wanted = original(tf.cast(pictures, tf.float32), training=False).numpy()
    found = np.stack([row["probs"] for row in rows])  # type: ignore[index]
    assert smallest_cosine(found, wanted) > 0.999999
    np.testing.assert_allclose([row["mean"] for row in rows], [row["pooled"] for row in rows], rtol=1e-4)  # type: ignore[index]


def test_keras_files_that_are_refused(tmp_path: Path) -> None:
    original = keras_model()
    original.save(tmp_path / "m.keras")
    values: dict[str, Any] = {"model": str(tmp_path / "m.keras"), "input": PICTURE, "outputs": {"v": {"node": "pool"}}}
    with pytest.raises(CliploomError, match=r"no output or layer 'pool'; its outputs are probs \[None, 4\], its last"):
        prepared("keras", values, tmp_path)
    doubled = keras.Model(original.inputs, keras.layers.Lambda(lambda value: value * 2)(original.output))
    doubled.save(tmp_path / "code.keras")
    values |= {"model": str(tmp_path / "code.keras"), "outputs": {"v": {"node": "probs"}}}
    with pytest.raises(CliploomError, match=r"Keras can't load .* save the model again as \.keras with built-in"):
        prepared("keras", values, tmp_path)
