"""Places of input files: local paths, whatever their bytes, and URIs of objects in buckets."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes


def is_remote(uri: str) -> bool:
    """The uri needs fetching."""
    return "://" in uri and not uri.startswith("file://")


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
