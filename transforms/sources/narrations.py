"""Timed texts about videos as a kind of source; other kinds whose items are texts extend ``TextItems``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cliploom.schemas.sources import NarrationsSource
from cliploom.transforms.sources.base import ListContext, NodeT, SourceKind

if TYPE_CHECKING:
    from cliploom.schemas.records import ShardItem
    from cliploom.schemas.spec import FeatureSpec
    from cliploom.transforms.inputs.listing import KnownListing
    from cliploom.transforms.store.part_builder import ItemCount, PartBuilder, Timings


class TextItems(SourceKind[NodeT]):
    """A kind whose items are texts: listing them puts the texts into a spool, and facts say where in it they are.

    A release's table ``narrations`` has all texts of such items.
    """

    whole_files = False

    def read(self, item: ShardItem, builders: Sequence[PartBuilder], counts: list[ItemCount], timings: Timings) -> None:
        """Read one item's texts from the spool."""
        from cliploom.transforms.narrations.item_reader import read_text_item

        read_text_item(item, builders, counts, timings)


class NarrationsKind(TextItems[NarrationsSource]):
    """Narrations, captions and subtitles."""

    Node = NarrationsSource

    def list_items(self, node: NarrationsSource, context: ListContext) -> KnownListing:
        """Read what is new of the files, and list their videos."""
        from cliploom.transforms.narrations.listing import list_narrations

        return list_narrations(context.name, node, context.base, context.objects)

    def values(self, node: NarrationsSource, feature: FeatureSpec) -> dict[str, Any]:
        """Return what is replaced in texts, and their order."""
        from cliploom.transforms.narrations import text
        from cliploom.transforms.narrations.readers import rules_of

        rules = [list(pair) for pair in rules_of(node).replace]
        return {"rules": rules, "order": node.order, "revisions": {"texts": text.REVISION}}
