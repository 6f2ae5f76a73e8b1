"""PyTorch files: exported programs, TorchScript and weights, distinguished by their archives; nothing is unpickled."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from cliploom.schemas.errors import CliploomError
from cliploom.transforms.encoders.presets import presets
from cliploom.transforms.encoders.torch_model import program_kind
from cliploom.transforms.encoders.weights import sha256_of
from cliploom.transforms.model_files.found import Found, with_preset
from cliploom.transforms.model_files.shapes import Guess, guessed_input
from cliploom.transforms.store.zip_files import open_zip

_MOST_JSON = 64 << 20
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The first bytes of files by ``torch.save`` before it wrote archives."""


def torch(path: Path, given: str) -> Found:
    """Identify a ``.pt2``, ``.pt``, ``.pth``, ``.bin`` or ``.safetensors`` file.

    Raises:
        CliploomError: it is not one, or has rejected content.
    """
    for name, preset in presets().items():
        wanted = preset.sha256.get(path.name)
        if wanted is not None and preset.kind == "torch":
            if not sha256_of(path).startswith(wanted):
                raise CliploomError(
                    f"'{given}' is not the published {path.name}: its SHA-256 does not begin with {wanted}; download "
                    f"it again from {preset.published}."
                )
            found = Found(given, "weights of PyTorch", facts=(f"its SHA-256 begins with {wanted}, as published",))
            return with_preset(found, name, preset, given)
    if path.suffix == ".safetensors":
        return _tensors(path, given)
    if not zipfile.is_zipfile(path):
        with path.open("rb") as stream:
            if stream.read(len(_LEGACY)) == _LEGACY:
                return _weights(given, "weights of PyTorch, in the format before version 1.6")
        raise CliploomError(f"'{given}' is not a PyTorch file (or it is damaged); download or export it again.")
    with open_zip(path) as archive:
        names = archive.namelist()
        if any(name.endswith("/data.pkl") for name in names) and not any("/code/" in name for name in names):
            return _weights(given, "weights of PyTorch")
    kind = program_kind(path)
    found = Found(given, f"a program of PyTorch ({'torch.export' if kind == 'pt2' else 'TorchScript'})")
    guess = _exported_input(path) if kind == "pt2" else None
    guesses: tuple[str, ...] = ()
    if guess is None:
        guess = Guess("nchw", 224, 224)
        guesses = ("its input, 224 x 224 pictures (the file does not say)",)
    for name, preset in presets().items():
        given_shape = preset.options.get("input", {})
        same = (given_shape.get("layout"), given_shape.get("frames")) == (guess.layout, guess.frames or None)
        if preset.kind == "torch" and guess.frames and same and path.stem == Path(preset.files[0]).stem:
            found = with_preset(found, name, preset, given)
            return replace(found, options={**found.options, "trusted": True})
    return replace(
        found,
        kind="torch",
        options={
            "model": given,
            "trusted": True,
            "input": guess.options(None),
            "outputs": {"vector": {"pool": "flatten"}},
        },
        sample=guess.sample,
        output="vector",
        guesses=(*guesses, *guess.guesses, "values / 255; if the model expects others, add offset and scale to input"),
    )


def _weights(given: str, what: str) -> Found:
    return Found(
        given,
        what,
        advice=f"they need their model: model: torchvision:NAME (or timm:NAME) with weights: {given} in kind: torch.",
    )


def _tensors(path: Path, given: str) -> Found:
    """Identify weights in safetensors: a length of eight bytes, followed by JSON of that length."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        text = stream.read(length) if 2 <= length <= min(_MOST_JSON, size - 8) else b""
    try:
        header = json.loads(text)
        tensors = [value for name, value in header.items() if name != "__metadata__"]
        whole = max(int(value["data_offsets"][1]) for value in tensors) + 8 + length
    except (ValueError, AttributeError, KeyError, TypeError, IndexError):
        raise CliploomError(f"'{given}' is not a safetensors file (or it is damaged); download it again.") from None
    if whole != size:
        raise CliploomError(f"'{given}' has {size:,} bytes where its header says {whole:,}; download it again.")
    return replace(_weights(given, "weights in safetensors"), facts=(f"{len(tensors):,} tensors",))


def _exported_input(path: Path) -> Guess | None:
    """Return the input of an exported program by its description; None if that is not as expected."""
    try:
        with open_zip(path) as archive:
            name = next(each for each in archive.namelist() if each.endswith("/models/model.json"))
            with archive.open(name) as stream:
                text = stream.read(_MOST_JSON + 1)
        module: dict[str, Any] = json.loads(text)["graph_module"]
        inputs = [spec["user_input"]["arg"] for spec in module["signature"]["input_specs"] if "user_input" in spec]
        (taken,) = [each["as_tensor"]["name"] for each in inputs]
        sizes = module["graph"]["tensor_values"][taken]["sizes"]
        return guessed_input([size.get("as_int") for size in sizes])
    except (StopIteration, ValueError, KeyError, TypeError, AttributeError):
        return None
