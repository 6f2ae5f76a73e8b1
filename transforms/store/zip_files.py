"""Untrusted zip archives, whose directory is checked before it is read."""

from __future__ import annotations

import zipfile
from pathlib import Path

MAX_DIRECTORY_BYTES = 8 * 1024**2
"""Maximum bytes of an archive's directory, at least 60 per file; Python's zipfile needs ten times as much memory."""

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open an archive for reading.

    Raises:
        zipfile.BadZipFile: it is not an archive, is damaged, lists more files than any archive of arrays, or uses bzip2
            or LZMA, of which Python expands each 4 kB at once, possibly to gigabytes.
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        try:
            end = zipfile._EndRecData(stream)  # type: ignore[attr-defined]
        except (OverflowError, ValueError, OSError) as error:
            raise zipfile.BadZipFile(str(error)) from None
    if not end:
        raise zipfile.BadZipFile("File is not a zip file")
    size = end[zipfile._ECD_SIZE]  # type: ignore[attr-defined]
    if size > MAX_DIRECTORY_BYTES:
        raise zipfile.BadZipFile(f"its list of files has {size} bytes, more than {MAX_DIRECTORY_BYTES}")
    archive = zipfile.ZipFile(path)
    other = next((info for info in archive.infolist() if info.compress_type not in _METHODS), None)
    if other is not None:
        archive.close()
        raise zipfile.BadZipFile(
            f"{other.filename!r} is compressed by {_name(other.compress_type)}; numpy and PyTorch store arrays as they "
            "are or deflate them"
        )
    return archive


def _name(method: int) -> str:
    return zipfile.compressor_names.get(method, f"method {method}")  # type: ignore[attr-defined,no-any-return]
