"""Folders of transformers and sentence-transformers, and files of word vectors."""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from cliploom.schemas.errors import CliploomError, short
from cliploom.transforms.encoders.clip_folder import OPEN_CLIP_CONFIG, find_clip
from cliploom.transforms.encoders.presets import presets
from cliploom.transforms.model_files.found import Found, with_preset

_MOST_JSON = 16 << 20
_LOOKED_AT = 1 << 20
_MOST_DIMS = 65_536
_CLIP_MODULE = "CLIPModel"


def transformers(folder: Path, given: str) -> Found:
    """Identify a folder with ``config.json``, ``modules.json`` or open_clip's configuration.

    Raises:
        CliploomError: a file is missing or damaged.
    """
    config, modules = _json(folder / "config.json", {}), _json(folder / "modules.json", [])
    inner = [str(each.get("path", "")) for each in modules if isinstance(each, dict)]
    if modules and not any(_CLIP_MODULE in path for path in inner):
        if not any(folder.glob("*.safetensors")) and not any(folder.glob("0_*/*.safetensors")):
            raise CliploomError(f"'{given}' has no .safetensors weights; download them, too.")
        facts = (f"type {config.get('model_type', 'unknown')}, {config.get('hidden_size', '?')} numbers a sentence",)
        found = Found(given, "a model of sentence-transformers", kind="sentence_transformer", facts=facts)
        return _chosen(found, config)
    if config.get("model_type") in (None, "clip", "siglip", "siglip2") or (folder / OPEN_CLIP_CONFIG).is_file():
        clip = find_clip(given if given == str(folder) else str(folder))
        config = _json(clip.folder / "config.json", {})
        names = {"clip": "CLIP", "siglip": "SigLIP", "siglip2": "SigLIP2", "open_clip": "open_clip"}
        found = Found(given, f"a model of {names[clip.family]}, pictures and sentences", kind="clip", output="image")
        if clip.family == "open_clip" and not (folder / "config.json").is_file():
            return replace(found, options={"model": f"local-dir:{given}"})
        return _chosen(found, config)
    return Found(
        given,
        f"a model of transformers of type '{config['model_type']}'",
        advice="no encoder supports it; save it by sentence-transformers, or export it as ONNX and use kind: onnx.",
    )


def _chosen(found: Found, config: dict[str, Any]) -> Found:
    """Return the description with the preset whose values match the configuration."""
    for name, preset in presets().items():
        fits = all(_value(config, key) == value for key, value in preset.config.items())
        if preset.kind == found.kind and preset.config and fits:
            return with_preset(found, name, preset, found.path)
    return replace(found, options={"model": found.path})


def _value(config: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        config = config.get(key) if isinstance(config, dict) else None
    return config


def _json(path: Path, missing: Any) -> Any:
    """Return the content of a JSON file, which must have the type of ``missing``; ``missing`` if there is no file."""
    if not path.is_file():
        return missing
    with path.open("rb") as stream:
        text = stream.read(_MOST_JSON + 1)
    try:
        value = json.loads(text) if len(text) <= _MOST_JSON else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, type(missing)):
        raise CliploomError(f"'{path}' is damaged, or not a configuration file; download it again.")
    return value


def word_vectors(path: Path, given: str) -> Found:
    """Identify a file of word vectors as text.

    Raises:
        CliploomError: its first lines are not a word and numbers.
    """
    try:
        with path.open("rb") as plain:
            zipped = plain.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if zipped else path.open("rb") as stream:
            block = stream.read(_LOOKED_AT)
    except (OSError, EOFError, zlib.error) as error:
        raise CliploomError(f"'{given}' can't be read ({error}); download it again.") from None
    lines = [line.split() for line in block.split(b"\n")[:3]]
    told = len(lines[0]) == 2 and all(part.isdigit() for part in lines[0])
    first = lines[1] if told and len(lines) > 1 else lines[0]
    dim = int(lines[0][1]) if told else len(first) - 1
    if told and not _is_row(first, dim) and b"\x00" in block:
        raise CliploomError(
            f"'{given}' has word vectors in word2vec's binary format, which is not supported; save them as text "
            "(gensim: model.save_word2vec_format(path, binary=False))."
        )
    if not 2 <= dim <= _MOST_DIMS or not _is_row(first, dim):
        raise CliploomError(
            f"'{given}' is not a model: it begins with {short(block[:40].decode('utf-8', 'replace'))}, which is "
            "neither a known format nor a word and its numbers."
        )
    what = f"word vectors as text, {dim} numbers a word" + (", gzipped" if zipped else "")
    facts = (f"{int(lines[0][0]):,} words by its first line",) if told else ()
    found = Found(given, what, kind="word_vectors", facts=facts, options={"model": given})
    for name, preset in presets().items():
        if preset.kind == "word_vectors" and path.name in preset.files and preset.dims["embedding"] == dim:
            return with_preset(found, name, preset, given)
    return found


def _is_row(parts: list[bytes], dim: int) -> bool:
    try:
        return len([float(part) for part in parts[-dim:]]) == dim < len(parts)
    except ValueError:
        return False
