"""Identifies a model file or folder by its names and first bytes, within limits."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

from cliploom.schemas.errors import CliploomError
from cliploom.schemas.models import CARD_FILE
from cliploom.transforms.encoders.clip_folder import OPEN_CLIP_CONFIG
from cliploom.transforms.encoders.saved_model_files import GRAPH, is_archive
from cliploom.transforms.model_files.found import Found
from cliploom.transforms.model_files.text_files import transformers, word_vectors

MOST_ENTRIES = 10_000
_SHOWN = 4
_TORCH = (".pt2", ".pt", ".pth", ".safetensors", ".ts", ".bin")
_KERAS = (".keras", ".h5", ".hdf5")
_WORDS = (".vec", ".txt", ".gz")
_FILES = (*_TORCH, *_KERAS, *_WORDS, ".onnx", ".pb", ".tgz", ".tar")
_CONFIGURATIONS = ("config.json", "modules.json", OPEN_CLIP_CONFIG)
KNOWN = (
    "a SavedModel, a frozen graph (.pb), a Keras file, a CLIP or SigLIP folder, open_clip, sentence-transformers, a "
    "PyTorch program (.pt2, .pt), word vectors (.vec, .txt) or an ONNX file"
)


def look(path: Path, given: str) -> Found:
    """Identify a file or folder. Nothing in it is run or unpickled.

    Args:
        path: the path of the file or folder.
        given: the path as written by the user, for messages and for the spec.

    Raises:
        CliploomError: it is not a model, or is damaged.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if path.is_symlink():
            raise CliploomError(f"'{given}' is a link that leads nowhere; give the file or folder itself.") from None
        raise CliploomError(f"There is no model '{given}' ({error.strerror}); give a file or folder.") from None
    if stat.S_ISDIR(mode):
        return _folder(path, given)
    if not stat.S_ISREG(mode):
        raise CliploomError(f"'{given}' is neither a file nor a folder; give {KNOWN}.")
    if path.stat().st_size == 0:
        raise CliploomError(f"'{given}' is empty; download it again.")
    return _file(path, given)


def _folder(folder: Path, given: str) -> Found:
    names = _entries(folder, given)
    if (folder / GRAPH).is_file():
        from cliploom.transforms.model_files.tensorflow_files import saved_model

        return saved_model(folder, given)
    if CARD_FILE in names and (folder / CARD_FILE).is_file():
        return _prepared(folder, given)
    if any((folder / name).is_file() for name in _CONFIGURATIONS):
        return transformers(folder, given)
    inner = [name for name in names if Path(name).suffix in _FILES and (folder / name).is_file()]
    # models have tokenizers and read-mes beside them; word vectors have no usual extension
    better = [name for name in inner if Path(name).suffix not in (".txt", ".gz") or is_archive(Path(name))]
    inner = better or inner
    inner += [name for name in names if _is_model_folder(folder / name)]
    if len(inner) == 1:
        return look(folder / inner[0], f"{given.rstrip('/')}/{inner[0]}")
    if inner:
        shown = ", ".join(inner[:_SHOWN]) + (", ..." if len(inner) > _SHOWN else "")
        raise CliploomError(f"'{given}' has {len(inner)} files that may be models ({shown}); give one of them.")
    if (folder / "releases" / "_delta_log").is_dir():
        raise CliploomError(f"'{given}' is a store, not a model; see `cliploom inspect {given}`.")
    raise CliploomError(f"'{given}' is not a model: it has none of the files of {KNOWN}.")


def _is_model_folder(folder: Path) -> bool:
    """Return whether a path is a folder, not a link to one, with the description of a model."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    return any((folder / name).is_file() for name in (GRAPH, *_CONFIGURATIONS))


def _entries(folder: Path, given: str) -> list[str]:
    """Return the names in a folder, sorted."""
    names = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                names.append(entry.name)
                if len(names) > MOST_ENTRIES:
                    raise CliploomError(
                        f"'{given}' has more than {MOST_ENTRIES:,} files, too many for a model; give the folder "
                        "of one model."
                    )
    except OSError as error:
        raise CliploomError(f"'{given}' can't be listed ({error.strerror}).") from None
    return sorted(names)


def _file(path: Path, given: str) -> Found:
    suffix = path.suffix.lower()
    if is_archive(path):
        from cliploom.transforms.model_files.tensorflow_files import saved_model

        return saved_model(path, given)
    if path.name == GRAPH:
        raise CliploomError(f"'{given}' is the description of a SavedModel; give its folder, '{Path(given).parent}'.")
    if suffix in (".pb", ".pbtxt"):
        from cliploom.transforms.model_files.tensorflow_files import frozen_graph

        return frozen_graph(path, given)
    if suffix in _KERAS:
        from cliploom.transforms.model_files.keras_files import keras

        return keras(path, given)
    if suffix == ".onnx":
        from cliploom.transforms.model_files.onnx_files import onnx

        return onnx(path, given)
    if suffix in _TORCH and not _is_text(path):
        from cliploom.transforms.model_files.torch_files import torch

        if (path.parent / OPEN_CLIP_CONFIG).is_file():
            return transformers(path.parent, str(Path(given).parent))
        return torch(path, given)
    return word_vectors(path, given)


def _is_text(path: Path) -> bool:
    """Return whether a ``.bin`` file is one of word2vec, which begins with two numbers."""
    with path.open("rb") as stream:
        first = stream.read(64).split(b"\n")[0].split()
    return path.suffix == ".bin" and len(first) == 2 and all(part.isdigit() for part in first)


def _prepared(folder: Path, given: str) -> Found:
    try:
        with (folder / CARD_FILE).open("rb") as stream:
            card = json.loads(stream.read(1 << 20))
        outputs = ", ".join(f"{name} {output['dim']}" for name, output in card["outputs"].items())
        facts = (f"kind {card['kind']}, precision {card['precision']}", f"outputs: {outputs}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CliploomError(f"The {CARD_FILE} in '{given}' is damaged; run again to prepare the model.") from None
    return Found(
        given,
        "a model that cliploom has prepared for a store",
        facts=facts,
        advice="its store uses it; a spec names the files that it was made from.",
    )
