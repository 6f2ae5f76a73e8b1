"""Keras files: their inputs and layers, read from the configuration; nothing in them is run."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from cliploom.schemas.errors import CliploomError
from cliploom.transforms.model_files.found import Found
from cliploom.transforms.model_files.shapes import guessed_input, name_of
from cliploom.transforms.store.zip_files import open_zip

_MOST_JSON = 64 << 20


def keras(path: Path, given: str) -> Found:
    """Identify a ``.keras`` or ``.h5`` file.

    Raises:
        CliploomError: it is not one, or is damaged.
    """
    config = _zipped_config(path, given) if zipfile.is_zipfile(path) else _hdf5_config(path, given)
    inner = config.get("config", {})
    layers = [layer for layer in inner.get("layers", ()) if isinstance(layer, dict)]
    if not layers:
        raise CliploomError(f"'{given}' describes no layers, so it is not a Keras model; save it again by model.save.")
    names = [str(layer.get("config", {}).get("name", "")) for layer in layers]
    first = layers[0].get("config", {})
    shape = (
        first.get("batch_shape") or first.get("batch_input_shape") or config.get("build_config", {}).get("input_shape")
    )
    facts = [f"{len(layers):,} layers, from {names[0]} to {names[-1]}", f"takes {shape or 'an unknown shape'}"]
    found = Found(given, "a Keras model", facts=tuple(facts))
    if any(layer.get("class_name") == "Lambda" for layer in layers):
        return replace(found, advice="it holds code (a Lambda layer), which is never run; export the model as ONNX.")
    sizes = [size if isinstance(size, int) else None for size in shape] if isinstance(shape, list) else None
    guess = guessed_input(sizes)
    if guess is None:
        return replace(found, advice="its input is not a picture or clip, so no encoder supports it.")
    return replace(
        found,
        kind="keras",
        options={"model": given, "input": guess.options(None), "outputs": {name_of(names[-1]): {"node": names[-1]}}},
        sample=guess.sample,
        output=name_of(names[-1]),
        guesses=(*guess.guesses, f"the output {names[-1]} (any layer may be named)", "values / 255"),
    )


def _zipped_config(path: Path, given: str) -> dict[str, Any]:
    with open_zip(path) as archive:
        if "config.json" not in archive.namelist():
            raise CliploomError(f"'{given}' has no config.json, so it is not a Keras file; save it by model.save.")
        with archive.open("config.json") as stream:
            text = stream.read(_MOST_JSON + 1)
    return _json(text, given)


def _hdf5_config(path: Path, given: str) -> dict[str, Any]:
    import h5py

    with h5py.File(path) as file:
        text = file.attrs.get("model_config")
        if text is None:
            what = "weights alone" if "layer_names" in file.attrs or "model_weights" in file else "other data"
            raise CliploomError(
                f"'{given}' is HDF5 with {what}, not a whole Keras model; save it by model.save, not save_weights."
            )
    return _json(text if isinstance(text, bytes) else str(text).encode(), given)


def _json(text: bytes, given: str) -> dict[str, Any]:
    try:
        value = json.loads(text) if len(text) <= _MOST_JSON else None
    except ValueError:
        value = None
    if not isinstance(value, dict) or not isinstance(value.get("config", {}), dict):
        raise CliploomError(f"The description in '{given}' is damaged; save the model again.")
    return value
