"""TFRecord shards as a kind of source."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cliploom.schemas.sources import TfrecordSource
from cliploom.transforms.sources.base import FeatureRecipe, ListContext, SourceKind

if TYPE_CHECKING:
    from cliploom.schemas.media import MediaLimits
    from cliploom.schemas.records import ShardItem
    from cliploom.schemas.spec import FeatureSpec
    from cliploom.transforms.inputs.listing import KnownListing
    from cliploom.transforms.store.part_builder import ItemCount, PartBuilder, Timings


class TfrecordKind(SourceKind[TfrecordSource]):
    """Shards of vectors; an item is a shard, and rows have the ids of their records."""

    Node = TfrecordSource

    def list_items(self, node: TfrecordSource, context: ListContext) -> KnownListing:
        """List the shards."""
        from cliploom.transforms.inputs.listing import KnownListing
        from cliploom.transforms.tfrecords.settings import list_shards

        return KnownListing(list_shards(context.name, node, context.base))

    def outputs(self, node: TfrecordSource) -> dict[str, int]:
        """Return names and lengths of the vectors of a record."""
        from cliploom.transforms.tfrecords.settings import ShardSettings

        return ShardSettings.of(node, None).outputs

    def texts(self, node: TfrecordSource) -> tuple[str, ...]:
        """Return the fields of records that are texts."""
        return tuple(name for name, field in (node.fields or {}).items() if field.type == "text")

    def recipe(self, node: TfrecordSource, feature: FeatureSpec, base: Path) -> FeatureRecipe:
        """Return how records are read; the vocabulary is read here.

        Raises:
            SpecError: if the vocabulary can't be read.
        """
        from cliploom.transforms.tfrecords.settings import source_settings

        settings = source_settings(node, base, f"sources.{feature.source}")
        kept = feature.outputs or [*settings.outputs, *settings.texts]
        outputs = {output: settings.outputs[output] for output in kept if output in settings.outputs}
        texts = tuple(name for name in kept if name in settings.texts)
        return FeatureRecipe(
            values={"records": settings.recipe(), "outputs": sorted([*outputs, *texts])},
            settings=settings.to_json(),
            outputs=outputs,
            compact=tuple(output for output in outputs if output in settings.compact),
            texts=texts,
            types={output: kind for output, kind in settings.types.items() if output in outputs},
            records=True,
        )

    def probe(self, uri: str, path: Path, limits: MediaLimits) -> tuple[str, str]:
        """Return the digest of a shard's bytes, and about how many rows it has."""
        from cliploom.schemas.digests import digest_file
        from cliploom.transforms.tfrecords.probe import probe_shard
        from cliploom.transforms.watchdog import alive

        facts = json.dumps(probe_shard(path, limits), separators=(",", ":"))
        return digest_file(path, alive=alive), facts

    def read(self, item: ShardItem, builders: Sequence[PartBuilder], counts: list[ItemCount], timings: Timings) -> None:
        """Read the records of a shard once for all features."""
        from cliploom.transforms.tfrecords.item_reader import read_tfrecord_item

        read_tfrecord_item(item, builders, counts, timings)

    def class_names(self, settings: str) -> dict[int, str]:
        """Return the names of the vocabulary."""
        from cliploom.transforms.tfrecords.settings import ShardSettings

        return ShardSettings.from_json(settings).names
