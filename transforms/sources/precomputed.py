"""Feature files that others computed as a kind of source."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cliploom.schemas.sources import PrecomputedSource
from cliploom.transforms.sources.base import ListContext, SourceKind

if TYPE_CHECKING:
    from cliploom.schemas.media import MediaLimits
    from cliploom.schemas.records import ShardItem
    from cliploom.schemas.spec import FeatureSpec
    from cliploom.transforms.inputs.listing import KnownListing
    from cliploom.transforms.store.part_builder import ItemCount, PartBuilder, Timings


class PrecomputedKind(SourceKind[PrecomputedSource]):
    """Arrays of vectors; an item is a file, or a dataset of an HDF5 file."""

    Node = PrecomputedSource
    whole_files = False

    def list_items(self, node: PrecomputedSource, context: ListContext) -> KnownListing:
        """List files and datasets."""
        from cliploom.transforms.precomputed.source import list_precomputed

        return list_precomputed(context.name, node, context.base)

    def outputs(self, node: PrecomputedSource) -> dict[str, int]:
        """Return the declared output."""
        return {node.output: node.dim}

    def values(self, node: PrecomputedSource, feature: FeatureSpec) -> dict[str, Any]:
        """Return the windows that rows stand for, and which array is read."""
        from cliploom.transforms.precomputed import read

        return {
            "window": node.window.model_dump(mode="json"),
            "outputs": self.outputs(node),
            "key": node.key,
            "revisions": {"read": read.REVISION},
        }

    def open_item(
        self, uri: str, signature: str, stage: str, settings: str, digest: str = ""
    ) -> AbstractContextManager[Path]:
        """Give the file that an item is in."""
        from cliploom.transforms.precomputed.source import split_uri

        return super().open_item(split_uri(uri)[0], signature, stage, settings)

    def probe(self, uri: str, path: Path, limits: MediaLimits) -> tuple[str, str]:
        """Return the digest of a file's bytes or of a dataset's values, and the number of rows."""
        from cliploom.schemas.digests import digest_file
        from cliploom.transforms.precomputed.read import refuse_large_file
        from cliploom.transforms.precomputed.source import array_facts, digest_dataset, split_uri
        from cliploom.transforms.watchdog import alive

        refuse_large_file(path)
        dataset = split_uri(uri)[1]
        digest = digest_dataset(path, dataset) if dataset else digest_file(path, alive=alive)
        return digest, json.dumps(array_facts(uri, path))

    def read(self, item: ShardItem, builders: Sequence[PartBuilder], counts: list[ItemCount], timings: Timings) -> None:
        """Read the vectors of an item once for all features."""
        from cliploom.transforms.precomputed.item_reader import read_precomputed_item

        read_precomputed_item(item, builders, counts, timings)
