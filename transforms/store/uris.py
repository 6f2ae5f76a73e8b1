"""Locations of input files: local paths with any bytes, and URIs of objects in buckets."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from cliploom.schemas.errors import SpecError

_BUCKET = re.compile(r"(?P<scheme>s3|s3a|gs):(//(?P<name>[^/]+)|/)?")


def absolute(path: Path) -> Path:
    """Return the absolute path without ``..``, so that a file has one name from any working folder.

    >>> str(absolute(Path("/tmp/none/../clips/./a.mp4")))
    '/tmp/clips/a.mp4'
    """
    parts = path.absolute().parts
    if ".." not in parts:
        return Path(*parts)
    # Only the part before a .. is resolved, as the kernel does; links after it keep their names.
    rest = parts[::-1].index("..")
    cut = len(parts) - rest
    return Path(*parts[:cut]).resolve().joinpath(*parts[cut:])


def is_remote(uri: str) -> bool:
    """Return whether a URI is remote."""
    return "://" in uri and not uri.startswith("file://")


def check_bucket(uri: str) -> None:
    """Refuse a bucket URI without a bucket, before it is taken for a folder.

    Raises:
        SpecError: with the correct form.
    """
    found = _BUCKET.match(uri)
    if found and not found["name"]:
        raise SpecError(f"{uri!r} names no bucket; write {found['scheme']}://bucket/prefix.")


def path_to_uri(path: Path) -> str:
    """Return the path itself if it is valid Unicode, else a file URI with percent-escaped bytes."""
    text = str(path)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return f"file://{quote(os.fsencode(text))}"
    return text


def uri_to_path(uri: str) -> Path:
    """Return the local path of a URI that ``path_to_uri`` or a table wrote."""
    if uri.startswith("file://"):
        return Path(os.fsdecode(unquote_to_bytes(uri.removeprefix("file://"))))
    return Path(uri)
