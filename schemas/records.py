"""Records that are passed between steps: listed, planned, computed and published things.

All are frozen and small: Beam shuffles them, never the data that they describe.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from cliploom.schemas.digests import digest_of

ORDINAL_BITS = 24
MAX_ORDINAL = (1 << ORDINAL_BITS) - 1
MAX_ITEM_NO = (1 << (63 - ORDINAL_BITS)) - 1
LABELS_KEY = "labels"
"""Metadata key of an item's labels, a list of [index or null, name]."""


def row_id(item_no: int, ordinal: int) -> int:
    """Return the row's int64 id, which is also its vector's id in indexes: ``item_no << 24 | ordinal``.

    >>> row_id(1, 2)
    16777218

    Raises:
        ValueError: a number does not fit.
    """
    if not 0 <= ordinal <= MAX_ORDINAL or not 0 <= item_no <= MAX_ITEM_NO:
        raise ValueError(f"item {item_no}, row {ordinal}: a row id holds items to {MAX_ITEM_NO}, rows to {MAX_ORDINAL}")
    return item_no << ORDINAL_BITS | ordinal


@dataclass(frozen=True)
class Listed:
    """One input from a listing or a table.

    Attributes:
        uid: the uid, unique in its source.
        uri: the absolute path or URI.
        size: the size in bytes.
        signature: changes if the file may have changed: size with mtime, or the object store's etag.
        metadata: the other columns of the table, as a JSON object.
    """

    source: str
    uid: str
    uri: str
    size: int
    signature: str
    metadata: str = "{}"


@dataclass(frozen=True)
class Segment:
    """A time range of an item in seconds from its start; ``number`` of ``of``; a whole item is 0 of 1."""

    start_s: float = 0.0
    end_s: float = 0.0
    number: int = 0
    of: int = 1

    @property
    def whole(self) -> bool:
        """Whether the item is not split."""
        return self.of == 1


@dataclass(frozen=True)
class Duplicate:
    """An item with the same bytes as another one, which gets a copy of its rows with its own uid and number."""

    item_no: int
    uid: str


POSTPONED = "Postponed"
"""Type of the failure of an item whose turn had not come when the run's time was up."""
REFRESHED = 1000
"""A full refresh adds this, times one more than the previous release's number, to ``ShardItem.attempt``."""


@dataclass(frozen=True)
class ShardItem:
    """A segment of an item in a shard.

    Attributes:
        facts: the result of probing as JSON, such as ``MediaFacts``; depends on the kind of the source.
        duplicates: all items with these bytes, at least one; each gets its own rows.
        attempt: 0 at first; increased when a failed item is retried or by ``REFRESHED``, so that its part gets a new
            name.
        cost_ms: the estimated work in milliseconds of one core, for progress.
    """

    uri: str
    signature: str
    digest: str
    facts: str
    duplicates: tuple[Duplicate, ...]
    segment: Segment = Segment()
    attempt: int = 0
    cost_ms: int = 0

    @property
    def tries(self) -> int:
        """The number of earlier failures of the item."""
        return self.attempt % REFRESHED

    def recipe(self) -> list[Any]:
        """Return what the item's rows depend on, for the part's name."""
        segment = [self.segment.number, self.segment.of, self.segment.start_s, self.segment.end_s]
        return [self.digest, segment, [[twin.item_no, twin.uid] for twin in self.duplicates], self.attempt]


@dataclass(frozen=True)
class Shard:
    """A unit of work: items that need the same features. The element that Beam distributes."""

    features: tuple[str, ...]
    items: tuple[ShardItem, ...]

    def part_name(self, config: str) -> str:
        """Return the name of the part that holds this shard's rows of the feature with this config digest."""
        return f"part-{digest_of(['compute', config, [item.recipe() for item in self.items]])}.parquet"


@dataclass(frozen=True)
class RowCopy:
    """Rows of one item's segment in an existing part, and the item that they are copied for."""

    from_item_no: int
    segment: int
    to: Duplicate


@dataclass(frozen=True)
class PartUse:
    """The rows that a rewrite copies from one existing part."""

    part: str
    copies: tuple[RowCopy, ...]


@dataclass(frozen=True)
class Rewrite:
    """A new part made from rows of others: after deletions and renames, or to merge small parts. Nothing is decoded."""

    feature: str
    uses: tuple[PartUse, ...]

    def part_name(self, config: str) -> str:
        """Return the name of the resulting part."""
        uses = [
            [use.part, [[t.from_item_no, t.segment, t.to.item_no, t.to.uid] for t in use.copies]] for use in self.uses
        ]
        return f"part-{digest_of(['rewrite', config, uses])}.parquet"


@dataclass(frozen=True)
class Content:
    """The content of a part for one item.

    Attributes:
        planned: the rows requested by the sampling; ``rows`` of them exist, none if the item failed.
        first_row: the position of the item's first row in the part.
    """

    item_no: int
    uid: str
    digest: str
    segment: int
    segments: int
    planned: int
    rows: int
    first_row: int


@dataclass(frozen=True)
class Failure:
    """A row of the ``failures`` table.

    Attributes:
        feature: the name of the feature; empty for failures before computing features (listing, probing).
        partial: whether some rows were computed; ``got`` of ``expected``.
        transient: whether a later run may succeed.
    """

    source: str
    feature: str
    uid: str
    uri: str
    item_no: int
    digest: str
    config: str
    stage: str
    type: str
    message: str
    transient: bool = False
    partial: bool = False
    expected: int = 0
    got: int = 0
    attempts: int = 1


@dataclass(frozen=True)
class Processor:
    """The processor that rows were computed on.

    Attributes:
        features: the processor features that affect quantised models, such as ``x86_64 avx2 avx_vnni``.
        agreement: the smallest cosine between this processor's vectors of fixed inputs and those of the processor that
            prepared the model; None for models that are not quantised.
    """

    features: str
    agreement: float | None = None


@dataclass(frozen=True)
class PartRecord:
    """A finished part: reported by a worker, and stored in the part's footer.

    Attributes:
        part: the file name in the feature's folder; parts without rows are kept for reuse but not listed in tables.
        size, digest: of the file; not in the footer, which cannot contain them.
        adopted: whether a finished part was reused.
        processors: the processors that the rows were computed on; stored in the file beside the footer.
        run: the id of the run that made the part; also in the footer.
    """

    feature: str
    config: str
    part: str
    rows: int
    size: int
    digest: str
    contents: tuple[Content, ...]
    failures: tuple[Failure, ...] = ()
    adopted: bool = field(default=False, compare=False)
    processors: tuple[Processor, ...] = field(default=(), compare=False)
    run: str = field(default="", compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for the footer."""
        value = asdict(self)
        for key in ("adopted", "size", "digest", "processors", "run"):
            del value[key]
        return value

    @classmethod
    def from_dict(cls, value: dict[str, Any], size: int, digest: str, adopted: bool) -> PartRecord:
        """Create a record from a footer."""
        contents = tuple(Content(**content) for content in value["contents"])
        failures = tuple(Failure(**failure) for failure in value["failures"])
        return cls(**(value | {"contents": contents, "failures": failures}), size=size, digest=digest, adopted=adopted)
