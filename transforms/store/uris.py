"""Places of input files: local paths, whatever their bytes, and URIs of objects in buckets."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from cliploom.schemas.errors import SpecError

_BUCKET = re.compile(r"(?P<scheme>s3|s3a|gs):(//(?P<name>[^/]+)|/)?")


def absolute(path: Path) -> Path:
    """The path from the root, without ``..``: a file has one name, whatever folder a command is run from.

    >>> str(absolute(Path("/tmp/none/../clips/./a.mp4")))
    '/tmp/clips/a.mp4'
    """
    parts = path.absolute().parts
    if ".." not in parts:
        return Path(*parts)
    # Only what stands before a .. is resolved, as the kernel does it: links further on keep their names.
    rest = parts[::-1].index("..")
    cut = len(parts) - rest
    return Path(*parts[:cut]).resolve().joinpath(*parts[cut:])


def is_remote(uri: str) -> bool:
    """The uri needs fetching."""
    return "://" in uri and not uri.startswith("file://")


def check_bucket(uri: str) -> None:
    """Refuse what looks like a bucket's address and names none, before a folder is made of it.

    Raises:
        SpecError: with the right form.
    """
    found = _BUCKET.match(uri)
    if found and not found["name"]:
        raise SpecError(f"{uri!r} names no bucket; write {found['scheme']}://bucket/prefix.")


def path_to_uri(path: Path) -> str:
    """The path itself when it is Unicode text, else a file URI with its bytes percent-escaped."""
    text = str(path)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return f"file://{quote(os.fsencode(text))}"
    return text


def uri_to_path(uri: str) -> Path:
    """The local path that ``path_to_uri`` or a table wrote."""
    if uri.startswith("file://"):
        return Path(os.fsdecode(unquote_to_bytes(uri.removeprefix("file://"))))
    return Path(uri)
