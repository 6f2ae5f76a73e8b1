"""Recognises errors of the machine (full disk, too little memory, too few open files) and describes them.

Libraries wrap system errors in their own types, and Beam turns all of them into strings, so an error is recognised by
its errno or by the system's message.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cliploom.schemas.errors import CliploomError, DiskFullError, StoreError

_FULL = re.compile(r"No space left on device|Disk quota exceeded|\(os error (?:28|122)\)|\berrno = (?:28|122)\b")
_FULL_NUMBERS = {errno.ENOSPC, errno.EDQUOT}
_FILES_NUMBERS = {errno.EMFILE, errno.ENFILE}
_FULL_DISK = "the disk is full; free some space and run again."
# OpenVINO's only message for a file that it cannot write.
_STREAM = "basic_ios::clear: iostream error"
_TOO_LARGE = re.compile(r"File too large|\(os error 27\)")
# The last two are messages of gRPC.
_FILES = re.compile(
    r"Too many open files|\(os error (?:23|24)\)|epoll_create1 unavailable|Eventfd wakeup fd is not supported"
)
_MEMORY = re.compile(
    r"Cannot allocate memory|\(os error 12\)|failed to map segment from shared object|std::bad_alloc|bad allocation|"
    r"[Mm]emory allocation still failed|memory allocation of|"
    r"can't start new thread|[Uu]nable to allocate|[Oo]ut of memory|ArrowMemoryError|malloc of size|MemoryError"
)


def system_fault(error: BaseException, place: str = "") -> CliploomError | None:
    """Return the error to show to users for an error of the machine; None for any other error.

    Args:
        error: the caught exception; its causes are examined as well.
        place: file or folder that was processed; by default the one that the error names.
    """
    chain = list(_causes(error))
    if any(isinstance(each, CliploomError) for each in chain):
        return None
    text = "\n".join(str(each) for each in chain)
    numbers = {each.errno for each in chain if isinstance(each, OSError)}
    bounded = resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY
    unwritten = _STREAM in text
    if numbers & _FULL_NUMBERS or _FULL.search(text) or (unwritten and not bounded):
        return DiskFullError(f"{place}: {_FULL_DISK}" if place else full_sentence(_named(chain)))
    if errno.EFBIG in numbers or _TOO_LARGE.search(text) or unwritten:
        return StoreError(f"{place or _named(chain) or 'A file'}: {_too_large()}.")
    if numbers & _FILES_NUMBERS or _FILES.search(text):
        return CliploomError(files_sentence())
    if errno.ENOMEM in numbers or any(isinstance(each, MemoryError) for each in chain) or _MEMORY.search(text):
        return CliploomError(memory_sentence())
    return None


def machine_fault(error: BaseException) -> CliploomError | None:
    """Return the error of ``system_fault`` if a full disk or too few open files caused it, and not the processed file.

    Libraries that read damaged files use errno values for their own errors, so only Python's errors count.
    """
    if type(error) is not OSError or error.errno not in _FULL_NUMBERS | _FILES_NUMBERS:
        return None
    return system_fault(error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    here: BaseException | None = error
    seen: set[int] = set()
    while here is not None and id(here) not in seen:
        seen.add(id(here))
        yield here
        here = here.__cause__ or here.__context__


def _named(chain: list[BaseException]) -> str:
    return next((str(each.filename) for each in chain if isinstance(each, OSError) and each.filename), "")


def full_sentence(place: str) -> str:
    """Return the message for a full disk of a file or folder.

    >>> full_sentence("/data/store/lock")
    '/data/store/lock: the disk is full; free some space and run again.'
    """
    temporary = Path(tempfile.gettempdir())
    if not place:
        return (
            f"The disk is full (of the store, or of the temporary folder {temporary}); free some space and run again."
        )
    if Path(place).is_relative_to(temporary) and is_full(temporary):
        return _full_temporary()
    return f"{place}: {_FULL_DISK}"


def files_sentence() -> str:
    """Return the message for too many open files."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return f"Too many open files: this process may have {limit} at once; raise it with `ulimit -n 4096` and run again."


@contextmanager
def temporary_faults() -> Iterator[None]:
    """Name the temporary folder in errors of the block if its disk is full.

    Raises:
        DiskFullError: instead of any library's error.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL_NUMBERS or _FULL.search(str(error)):
            raise DiskFullError(_full_temporary()) from error
        raise


def _full_temporary() -> str:
    folder = tempfile.gettempdir()
    return f"The temporary folder {folder} is full; free some space or set TMPDIR to another, and run again."


def _too_large() -> str:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return f"a file may have at most {limit} bytes here (ulimit -f); raise the limit and run again"


def memory_sentence() -> str:
    """Return the message for too little memory."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    bound = "" if limit == resource.RLIM_INFINITY else f" under a limit of {limit // 1024} kB (ulimit -v)"
    return f"There is too little memory{bound}; raise the limit, or set `workers: 1` in the target, and run again."


def is_full(folder: Path) -> bool:
    """Return whether writing a few bytes into a folder fails because its disk is full."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 16))
    except OSError as error:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return False


def check_temporary_folder() -> None:
    """Check that the temporary folder is writable; Python would silently use another one, libraries would not.

    Raises:
        CliploomError: if TMPDIR does not name a folder, or no folder is usable.
        DiskFullError: if it is full.
    """
    for name in ("TMPDIR", "TEMP", "TMP"):
        given = os.environ.get(name)
        if given:
            if not Path(given).is_dir():
                raise CliploomError(f"{name} is {given!r}, and there is no such folder; make it, or unset {name}.")
            if is_full(Path(given)):
                raise StoreError(
                    f"{name} is {given!r}, and its disk is full; free some space or choose another folder."
                )
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise CliploomError(f"{error.strerror or error}; set TMPDIR to a folder that can be written.") from None
