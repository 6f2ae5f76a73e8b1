"""Videos, GIFs and images as a kind of source; other kinds whose items are media extend ``MediaItems``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cliploom.schemas.sources import MediaSource
from cliploom.transforms.sources.base import ListContext, NodeT, SourceKind

if TYPE_CHECKING:
    from cliploom.schemas.media import MediaLimits
    from cliploom.schemas.records import ShardItem
    from cliploom.schemas.spec import FeatureSpec
    from cliploom.transforms.inputs.listing import KnownListing
    from cliploom.transforms.store.part_builder import ItemCount, PartBuilder, Timings


class MediaItems(SourceKind[NodeT]):
    """A kind whose items are media: they are probed, sampled and decoded here, wherever ``open_item`` finds them."""

    def values(self, node: NodeT, feature: FeatureSpec) -> dict[str, Any]:
        """Return the sampling, how pictures are made, and the revisions of both."""
        from cliploom.transforms.media import sampling, scale
        from cliploom.transforms.store import repeats

        revisions = {"sampling": sampling.REVISION, "pixels": scale.REVISION}
        if feature.sample is not None and feature.sample.repeats is not None:
            revisions["repeats"] = repeats.REVISION
        return {
            "sample": feature.sample.values() if feature.sample is not None else None,
            "stereo": getattr(node, "stereo", None) or "",
            "revisions": revisions | self.revisions(),
            # Only where they are switched off, so that older configs keep their digests.
            **{name: False for name in ("deinterlace", "tone_map") if not getattr(node, name, True)},
        }

    def probe(self, uri: str, path: Path, limits: MediaLimits) -> tuple[str, str]:
        """Return the digest of a file's bytes with the corrections of its pictures, and a ``MediaFacts``."""
        from cliploom.schemas.digests import digest_file, item_digest
        from cliploom.transforms.media.probe import probe
        from cliploom.transforms.watchdog import alive

        facts = probe(path, limits)
        text = json.dumps(facts.to_dict(), separators=(",", ":"))
        return item_digest(digest_file(path, alive=alive), facts.corrections), text

    def read(self, item: ShardItem, builders: Sequence[PartBuilder], counts: list[ItemCount], timings: Timings) -> None:
        """Decode one item once for all features."""
        from cliploom.transforms.media.item_reader import read_media_item

        read_media_item(item, builders, counts, timings, self.open_item)


class MediaKind(MediaItems[MediaSource]):
    """Media files found by globs, or listed by a table."""

    Node = MediaSource

    def list_items(self, node: MediaSource, context: ListContext) -> KnownListing:
        """List files with the labels that the source gives them."""
        from cliploom.transforms.inputs.listing import KnownListing
        from cliploom.transforms.media.label_listing import list_media

        return KnownListing(list_media(context.name, node, context.base, context.note))
