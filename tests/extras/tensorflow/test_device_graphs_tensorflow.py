"""The ONNX graph of a Keras file; SavedModels and frozen graphs are tried where no TensorFlow is needed."""

from __future__ import annotations

from pathlib import Path

import test_encoders_tensorflow as originals

from cliploom.transforms.encoders.device_graphs import prepare_graphs


def test_a_keras_file(tmp_path: Path) -> None:
    originals.keras_model().save(tmp_path / "m.keras")
    values = {
        "model": str(tmp_path / "m.keras"),
        "input": originals.PICTURE | {"offset": 0, "scale": 1},
        "outputs": {"pooled": {"node": "avg_pool"}, "probs": {"node": "probs"}},
    }
    folder, card = originals.prepared("keras", values, tmp_path)
    made = prepare_graphs(str(folder.parent), card.digest)
    assert made["graphs"] == {"model.onnx": 0}
    assert min(made["agreement"].values()) >= 0.9999
