"""Files for HDF5 that report when the disk is full.

The HDF5 library must not see a failing write: it ignores errors when a dataset is closed, so that a damaged file seems
to be complete, or it crashes the process. Here each write succeeds for the library, and the first error is stored and
raised after the library has closed the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class Hdf5Output:
    """A file object for ``h5py.File`` that ignores writes after an error."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb+", buffering=0)
        self._error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        """Write all bytes at the position of the last ``seek``."""
        view = memoryview(data).cast("B")
        written = 0
        try:
            while self._error is None and written < len(view):
                written += self._file.write(view[written:]) or 0
        except OSError as error:
            self._error = error
        return len(view)

    def read(self, size: int = -1) -> bytes:
        """Read some bytes; h5py recognises a file object by this method."""
        return self._file.read(size)

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read the bytes at the position of the last ``seek``."""
        return self._file.readinto(buffer)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a position in the file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position in the file."""
        return self._file.tell()

    def truncate(self, size: int | None = None) -> int:
        """Set the file's size."""
        try:
            return self._file.truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size or 0

    def flush(self) -> None:
        """Do nothing: nothing is buffered."""

    def check(self) -> None:
        """Raise the first write error, if there was one.

        Raises:
            OSError: that error.
        """
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def use_in(self, access: Any) -> bytes:
        """Configure a file access property list to write here; return a name for the file."""
        access.set_fileobj_driver(h5py.h5fd.fileobj_driver, self)
        return repr(self).encode()


@contextmanager
def hdf5_output(path: Path) -> Iterator[Hdf5Output]:
    """Create a file for HDF5 to write to; close ``h5py.File`` within the block.

    Raises:
        OSError: not everything could be written, whatever HDF5 reported.
    """
    output = Hdf5Output(path)
    try:
        try:
            yield output
        except Exception:
            output.check()
            raise
        output.check()
    finally:
        output.close()
