"""What a kind of source is: one class that lists, probes, describes and reads its items.

The launcher calls ``list_items`` and ``recipe``, workers call ``open_item``, ``probe`` and ``read``. An object of a
kind has no state: all it needs is in the source's node of the spec, or in the JSON text that ``recipe`` made of it.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from cliploom.schemas.sources import HttpSpec, SourceNode

if TYPE_CHECKING:
    from cliploom.schemas.media import MediaLimits
    from cliploom.schemas.records import ShardItem
    from cliploom.schemas.spec import FeatureSpec
    from cliploom.transforms.inputs.listing import KnownListing
    from cliploom.transforms.store.object_store import ObjectStore
    from cliploom.transforms.store.part_builder import ItemCount, PartBuilder, Timings

NodeT = TypeVar("NodeT", bound=SourceNode)


@dataclass(frozen=True)
class ListContext:
    """What listing a source may use.

    Attributes:
        name: name of the source.
        base: folder that relative paths start from.
        objects: the store.
        note: takes sentences for the person who runs.
    """

    name: str
    base: Path
    objects: ObjectStore
    note: Callable[[str], object]

    @property
    def place(self) -> str:
        """Path of the source in the spec, for messages."""
        return f"sources.{self.name}"


@dataclass(frozen=True)
class FeatureRecipe:
    """What a source adds to a feature.

    Attributes:
        values: everything of the source and of its reader that rows depend on; part of the config digest.
        settings: JSON text for workers.
        outputs: names and lengths of vectors that the source brings and the feature keeps.
        compact: outputs that are kept as 8-bit codes.
        texts: string columns besides the outputs.
        types: types of outputs that are not stored as floats.
        records: whether rows belong to records of an item.
    """

    values: Mapping[str, Any]
    settings: str
    outputs: Mapping[str, int] = field(default_factory=dict)
    compact: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    types: Mapping[str, str] = field(default_factory=dict)
    records: bool = False


class SourceKind(ABC, Generic[NodeT]):
    """One kind of source.

    Attributes:
        Node: model of its keys in a spec; its class variables say what an item holds.
        REVISION: number to raise if the same items give other rows; features are then computed again.
        whole_files: an item's digest is that of the bytes that ``open_item`` gives, so that a renamed or touched item
            is recognized without being parsed.
    """

    Node: type[NodeT]
    REVISION: ClassVar[int] = 1
    whole_files: ClassVar[bool] = True

    @abstractmethod
    def list_items(self, node: NodeT, context: ListContext) -> KnownListing:
        """List the items of a source.

        Returns:
            One row for each item with the columns of ``LISTING``, unique by uid. If the columns ``digest`` and
            ``facts`` are filled, items are not probed.

        Raises:
            SpecError: if the node names something that is not there, or two items have one uid.
        """

    def outputs(self, node: NodeT) -> dict[str, int]:
        """Return names and lengths of the vectors that a source brings; for content ``vectors``."""
        return {}

    def texts(self, node: NodeT) -> tuple[str, ...]:
        """Return the names of string columns beside the vectors of the source."""
        return ()

    def recipe(self, node: NodeT, feature: FeatureSpec, base: Path) -> FeatureRecipe:
        """Return what the source adds to a feature.

        Args:
            node: the source's node of the spec.
            feature: the feature.
            base: folder that relative paths start from.
        """
        kept = feature.outputs or [*self.outputs(node), *self.texts(node)]
        outputs = {name: dim for name, dim in self.outputs(node).items() if name in kept}
        values = self.values(node, feature)
        if node.own_vectors:
            values.setdefault("outputs", outputs)
        return FeatureRecipe(
            values=values,
            settings=node.model_dump_json(),
            outputs=outputs,
            texts=tuple(name for name in self.texts(node) if name in kept),
            records=node.records,
        )

    def values(self, node: NodeT, feature: FeatureSpec) -> dict[str, Any]:
        """Return what rows depend on besides the items' bytes and the model; JSON-able."""
        return {"revisions": self.revisions()} if self.revisions() else {}

    def revisions(self) -> dict[str, Any]:
        """Return ``REVISION`` as a part of ``values``; the first one is left out."""
        return {} if self.REVISION == 1 else {"reader": self.REVISION}

    def open_item(
        self, uri: str, signature: str, stage: str, settings: str, digest: str = ""
    ) -> AbstractContextManager[Path]:
        """Give a local file with an item's bytes, as long as the context is open.

        Workers call it, and the page server, for players and thumbnails.

        Args:
            uri: URI as listed.
            signature: signature as listed.
            stage: word for failures: ``probe``, ``decode`` or ``read``.
            settings: JSON text of the source's node, or what ``recipe`` made of it.
            digest: digest of the item if it was probed.

        Raises:
            ItemError: if the item is gone or has changed.
        """
        from cliploom.transforms.inputs.spool import open_input

        return open_input(uri, signature, stage, http_of(settings), digest)

    def probe(self, uri: str, path: Path, limits: MediaLimits) -> tuple[str, str]:
        """Return the digest of an item, and its facts as a JSON object.

        Planning reads these facts: width, height, frames, start_s and end_s of media, or the number of rows.

        Args:
            uri: URI as listed.
            path: local file from ``open_item``.
            limits: sizes beyond which media are refused.

        Raises:
            ItemError: if the item can't be used.
        """
        raise NotImplementedError(f"{type(self).__name__} lists items without a digest, but does not probe them")

    @abstractmethod
    def read(self, item: ShardItem, builders: Sequence[PartBuilder], counts: list[ItemCount], timings: Timings) -> None:
        """Read one item and hand its samples or rows to the features that want them.

        Args:
            item: the item, or a segment of it.
            builders: one for each feature; ``builder.job.settings`` is the JSON text that ``recipe`` made.
            counts: one for each feature; ``planned`` is set to the number of rows that are expected.
            timings: counters of the shard.

        Raises:
            ItemError: if the item can't be used; any other exception counts as a damaged item, too.
        """

    def class_names(self, settings: str) -> dict[int, str]:
        """Return the names of classes that labels of records refer to, by number."""
        return {}


def http_of(settings: str) -> HttpSpec:
    """Return how a source's files at http(s) addresses are fetched."""
    return HttpSpec.model_validate(json.loads(settings or "{}").get("http", {}))
