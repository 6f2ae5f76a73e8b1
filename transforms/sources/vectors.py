"""Base of kinds of sources whose items hold vectors that others computed."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cliploom.schemas.errors import ItemError
from cliploom.transforms.sources.base import NodeT, SourceKind

if TYPE_CHECKING:
    from cliploom.schemas.media import MediaLimits
    from cliploom.schemas.records import ShardItem
    from cliploom.transforms.store.part_builder import ItemCount, PartBuilder, Timings
    from cliploom.transforms.store.vector_rows import VectorRows


class VectorItems(SourceKind[NodeT]):
    """A kind whose items are files of vectors: ``outputs`` names the vectors, ``vectors`` reads those of one item."""

    @abstractmethod
    def vectors(self, uri: str, path: Path, settings: str) -> VectorRows:
        """Read the rows of one item.

        Args:
            uri: URI as listed.
            path: local file from ``open_item``.
            settings: JSON text of the source's node.

        Raises:
            ItemError: if the item can't be used.
        """

    def count_rows(self, uri: str, path: Path) -> int:
        """Return about how many rows an item has, so that shards are balanced."""
        return 1

    def probe(self, uri: str, path: Path, limits: MediaLimits) -> tuple[str, str]:
        """Return the digest of the bytes, and about how many rows there are."""
        from cliploom.schemas.digests import digest_file
        from cliploom.transforms.watchdog import alive

        size = path.stat().st_size
        if size > limits.max_bytes:
            raise ItemError("probe", f"{uri} has {size} bytes, more than limits.media.max_bytes.")
        return digest_file(path, alive=alive), json.dumps({"rows": max(1, self.count_rows(uri, path))})

    def read(self, item: ShardItem, builders: Sequence[PartBuilder], counts: list[ItemCount], timings: Timings) -> None:
        """Read one item, and check and write its rows."""
        from cliploom.transforms.store.vector_rows import add_vector_rows, check_rows

        settings = builders[0].job.settings
        with self.open_item(item.uri, item.signature, "read", settings, item.digest) as path:
            found = self.vectors(item.uri, path, settings)
        for builder in builders:
            check_rows(item, found, builder.job.outputs)
        add_vector_rows(item, found, builders, counts)
