"""The files of a SavedModel: located in a folder or an archive, hashed, and unpacked within limits."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from cliploom.schemas.errors import CliploomError
from cliploom.transforms.encoders.known_hashes import known
from cliploom.transforms.encoders.weights import sha256_of

GRAPH = "saved_model.pb"
# the files that vectors depend on; fingerprints, Keras metadata and read-mes are ignored
_FOLDERS = ("variables", "assets")
MOST_FILES = 10_000
MOST_BYTES = 64 << 30
MOST_DESCRIPTION = 1 << 30
"""Maximum size of a description that is only inspected."""
_BLOCK = 1 << 20


def is_archive(path: Path) -> bool:
    """Return whether a path is that of an archived model."""
    return path.name.endswith((".tar.gz", ".tgz", ".tar"))


def model_hashes(model: str) -> dict[str, str]:
    """Return relative name -> sha256 of graph, variables and assets; the same for a folder and its archive.

    Raises:
        CliploomError: there is no SavedModel, or the archive is rejected.
    """
    path = Path(model).expanduser()
    if is_archive(path):
        return dict(known(path, "archive", lambda: dict(_archive_hashes(path, *_state(path)))))
    return {name: sha256_of(path / name) for name in _files(path, model)}


def _state(path: Path) -> tuple[int, int]:
    """Return size and time of a file; zeros if it does not exist."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


@functools.lru_cache(maxsize=8)
def _archive_hashes(path: Path, size: int, time_ns: int) -> tuple[tuple[str, str], ...]:
    """Return the names and hashes, sorted; cached, since unpacking gigabytes takes long and a plan asks repeatedly."""
    hashes: dict[str, str] = {}

    def add(name: str, stream: IO[bytes]) -> None:
        hashes[name] = _sha256(stream)

    _read_archive(path, add)
    return tuple(sorted(hashes.items()))


@contextlib.contextmanager
def model_folder(model: str) -> Iterator[Path]:
    """Provide the folder of a model; an archive is unpacked to a temporary one for the duration of the context.

    Raises:
        CliploomError: there is no SavedModel, or the archive is rejected.
    """
    path = Path(model).expanduser()
    if not is_archive(path):
        _files(path, model)
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="cliploom-") as name:
        folder = Path(name).resolve()

        def unpack(relative: str, stream: IO[bytes]) -> None:
            target = folder / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as out:
                shutil.copyfileobj(stream, out, _BLOCK)

        _read_archive(path, unpack)
        yield folder


class _FoundError(Exception):
    """The file searched for in an archive was found."""


def description_of(path: Path) -> bytes:
    """Return the ``saved_model.pb`` of an archive; files after it are not read.

    Raises:
        CliploomError: there is none, or the archive is rejected.
    """
    found = b""

    def keep(relative: str, stream: IO[bytes]) -> None:
        nonlocal found
        if relative == GRAPH:
            found = stream.read(MOST_DESCRIPTION + 1)
            raise _FoundError

    with contextlib.suppress(_FoundError):
        _read_archive(path, keep)
    if len(found) > MOST_DESCRIPTION:
        raise CliploomError(f"The {GRAPH} in '{path}' has more than {MOST_DESCRIPTION >> 30} GiB; it is not read.")
    return found


def _files(folder: Path, model: str) -> list[str]:
    """Return the relative names of the relevant files, sorted."""
    if not (folder / GRAPH).is_file():
        if folder.is_file():
            raise CliploomError(f"'{model}' is a file; give the folder that holds {GRAPH}, or its .tar.gz.")
        found = [path.parent for path in sorted(folder.glob(f"*/{GRAPH}"))]
        hint = f"did you mean '{found[0]}'?" if found else f"give the folder that holds {GRAPH}, or its .tar.gz."
        raise CliploomError(f"There is no SavedModel in '{model}'; {hint}")
    return sorted(
        path.relative_to(folder).as_posix()
        for path in (folder / GRAPH, *(path for name in _FOLDERS for path in (folder / name).rglob("*")))
        if path.is_file()
    )


def _read_archive(path: Path, use: Callable[[str, IO[bytes]], None]) -> None:
    """Call ``use`` with the relative name and the content of each relevant file of an archive.

    Nothing else is unpacked. Links, absolute names and names with ``..`` are rejected, even for irrelevant files: no
    published archive has them.
    """
    if not path.is_file():
        raise CliploomError(f"There is no archive '{path}'; give its path, or the folder that holds {GRAPH}.")
    total = files = graphs = 0
    root: PurePosixPath | None = None
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts or not (member.isreg() or member.isdir()):
                    raise CliploomError(
                        f"The archive '{path}' has {member.name!r}, which is a link or leads out of its folder; "
                        "unpack it yourself if you trust it, and give the folder."
                    )
                files, total = files + 1, total + member.size
                if files > MOST_FILES or total > MOST_BYTES:
                    raise CliploomError(
                        f"The archive '{path}' holds more than {MOST_FILES:,} files or {MOST_BYTES >> 30} GiB; unpack "
                        "it yourself if you trust it, and give the folder."
                    )
                relative = _relative(name)
                stream = archive.extractfile(member) if member.isreg() and relative is not None else None
                if stream is None or relative is None:
                    continue
                here = PurePosixPath(*name.parts[: len(name.parts) - len(relative.parts)])
                if root is not None and here != root:
                    raise CliploomError(
                        f"The archive '{path}' holds several SavedModels ('{root}', '{here}'); unpack it and give the "
                        "folder of one."
                    )
                root = here
                graphs += relative.as_posix() == GRAPH
                use(relative.as_posix(), stream)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise CliploomError(f"The archive '{path}' can't be read: {error}; download it again.") from None
    if not graphs:
        raise CliploomError(f"The archive '{path}' holds no {GRAPH}, so it is not a SavedModel.")


def _relative(name: PurePosixPath) -> PurePosixPath | None:
    """Return the path relative to the model's folder, for relevant files.

    >>> [str(_relative(PurePosixPath(n))) for n in ("./saved_model.pb", "s3d/1/variables/variables.index", "a/x.md")]
    ['saved_model.pb', 'variables/variables.index', 'None']
    """
    if name.name == GRAPH:
        return PurePosixPath(GRAPH)
    for place, part in enumerate(name.parts[:-1]):
        if part in _FOLDERS:
            return PurePosixPath(*name.parts[place:])
    return None


def _sha256(stream: IO[bytes]) -> str:
    state = hashlib.sha256()
    while block := stream.read(_BLOCK):
        state.update(block)
    return state.hexdigest()
