"""Lists one source by its kind, and checks what kinds of other packages list."""

from __future__ import annotations

import polars as pl

from cliploom.schemas.errors import CliploomError, SpecError
from cliploom.schemas.sources import BUILT_IN, SourceNode
from cliploom.transforms.inputs.clashes import clash_message
from cliploom.transforms.inputs.listing import LISTING, KnownListing
from cliploom.transforms.sources.base import ListContext
from cliploom.transforms.sources.registry import named_errors, source_kind


def list_one(node: SourceNode, context: ListContext) -> KnownListing:
    """List one source.

    Raises:
        SpecError: if the node names something that is not there, or two items have one uid.
        CliploomError: if the kind of another package fails, or lists something else than ``LISTING`` asks for.
    """
    with named_errors(node.kind, f"list the items of {context.place}"):
        found = source_kind(node.kind).list_items(node, context)
    if node.kind not in BUILT_IN:
        _check_listing(found, node.kind, context)
    return found


def _check_listing(found: object, kind: str, context: ListContext) -> None:
    """Refuse a listing that would end in an error without a name later."""
    said = f"{context.place}: the source kind '{kind}'"
    if not isinstance(found, KnownListing):
        raise CliploomError(f"{said} lists a {type(found).__name__}; list_items has to return a KnownListing.")
    items = found.items
    wrong = [name for name, dtype in LISTING.items() if items.schema.get(name) != dtype or items[name].null_count()]
    wrong += [name for name in ("digest", "facts") if items.schema.get(name, pl.String) != pl.String]
    if wrong:
        dtype = LISTING.get(wrong[0], pl.String)
        raise CliploomError(f"{said} has no full column {wrong[0]!r} of type {dtype}; listed_frame makes all columns.")
    if (items["source"] != context.name).any():
        raise CliploomError(f"{said} lists items of another source; the column source has to be {context.name!r}.")
    doubled = items.filter(pl.col("uid").is_duplicated())
    if doubled.height:
        clashes = dict(doubled.group_by("uid", maintain_order=True).agg("uri").iter_rows())
        raise SpecError(clash_message(context.place, clashes, "rename one of them"))
