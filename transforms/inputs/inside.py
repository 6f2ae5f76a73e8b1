"""Items inside files: how their URIs are written, and what is reported of a file whose items can't be listed."""

from __future__ import annotations

from cliploom.schemas.errors import ItemError
from cliploom.schemas.records import Failure

INSIDE = "::"
"""Separates the URI of a file from the name of an item inside it."""
LIST = "list"
"""Stage of failures of files whose items are not known; items that the last release has of them are kept."""


def unlisted(source: str, name: str, uri: str, error: ItemError) -> Failure:
    """Return the failure of a file whose items can't be listed.

    Args:
        source: name of the source.
        name: name of the file.
        uri: path or URI of the file.
        error: the reason.
    """
    return Failure(
        source=source,
        feature="",
        uid=name,
        uri=uri,
        item_no=0,
        digest="",
        config="",
        stage=LIST,
        type="Unlisted" if type(error) is ItemError else error.failure_type,
        message=str(error),
        transient=error.transient,
    )
