"""Records that flow between the steps: what is listed, planned, computed and published.

All are frozen and small: Beam shuffles them, never the bytes they describe.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from cliploom.schemas.digests import digest_of

ORDINAL_BITS = 24
MAX_ORDINAL = (1 << ORDINAL_BITS) - 1
MAX_ITEM_NO = (1 << (63 - ORDINAL_BITS)) - 1
LABELS_KEY = "labels"
"""Key of an item's metadata with its labels, a list of [index or null, name]."""


def row_id(item_no: int, ordinal: int) -> int:
    """The row's int64 id, also its vector's id in indexes: ``item_no << 24 | ordinal``.

    >>> row_id(1, 2)
    16777218

    Raises:
        ValueError: when either number does not fit.
    """
    if not 0 <= ordinal <= MAX_ORDINAL or not 0 <= item_no <= MAX_ITEM_NO:
        raise ValueError(f"item {item_no}, row {ordinal}: a row id holds items to {MAX_ITEM_NO}, rows to {MAX_ORDINAL}")
    return item_no << ORDINAL_BITS | ordinal


@dataclass(frozen=True)
class Listed:
    """One input as a listing or a table gives it.

    Attributes:
        uid: unique in its source.
        uri: absolute path or URI.
        size: bytes.
        signature: changes when the file may have changed: size with mtime, or the store's etag.
        metadata: JSON object text of further table columns.
    """

    source: str
    uid: str
    uri: str
    size: int
    signature: str
    metadata: str = "{}"


@dataclass(frozen=True)
class Segment:
    """A stretch of an item in seconds from its start; ``number`` of ``of``; whole items are 0 of 1."""

    start_s: float = 0.0
    end_s: float = 0.0
    number: int = 0
    of: int = 1

    @property
    def whole(self) -> bool:
        """The item is not split."""
        return self.of == 1


@dataclass(frozen=True)
class Duplicate:
    """An item that gets the rows of an equal one: same bytes, its own uid and number."""

    item_no: int
    uid: str


POSTPONED = "Postponed"
"""Type of the failure of an item whose turn had not come when the run's time was up."""
REFRESHED = 1000
"""What a full refresh adds to ``ShardItem.attempt``, times one more than the number of the release before it."""


@dataclass(frozen=True)
class ShardItem:
    """One item's segment inside a shard.

    Attributes:
        facts: JSON text of what probing found, such as a ``MediaFacts``; it says what the source's kind needs to know.
        duplicates: all items with these bytes, at least one; each gets its own rows.
        attempt: 0 at first; raised when a failed item is tried again or ``REFRESHED``, so that its part gets a new
            name.
        cost_ms: estimated work in milliseconds of one core, for progress.
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
        """How often the item has failed before."""
        return self.attempt % REFRESHED

    def recipe(self) -> list[Any]:
        """What the item's rows are made from, for the part's name."""
        segment = [self.segment.number, self.segment.of, self.segment.start_s, self.segment.end_s]
        return [self.digest, segment, [[twin.item_no, twin.uid] for twin in self.duplicates], self.attempt]


@dataclass(frozen=True)
class Shard:
    """A bundle of work: items that all want the same features. The element that Beam distributes."""

    features: tuple[str, ...]
    items: tuple[ShardItem, ...]

    def part_name(self, config: str) -> str:
        """Name of the part that holds this shard's rows of the feature with this config digest."""
        return f"part-{digest_of(['compute', config, [item.recipe() for item in self.items]])}.parquet"


@dataclass(frozen=True)
class RowCopy:
    """Rows of one item's segment in an existing part, and whose rows they become."""

    from_item_no: int
    segment: int
    to: Duplicate


@dataclass(frozen=True)
class PartUse:
    """What a rewrite takes from one existing part."""

    part: str
    copies: tuple[RowCopy, ...]


@dataclass(frozen=True)
class Rewrite:
    """Make one part from rows of others: deletes, renames, merging of small parts. Nothing is decoded."""

    feature: str
    uses: tuple[PartUse, ...]

    def part_name(self, config: str) -> str:
        """Name of the part that comes out."""
        uses = [
            [use.part, [[t.from_item_no, t.segment, t.to.item_no, t.to.uid] for t in use.copies]] for use in self.uses
        ]
        return f"part-{digest_of(['rewrite', config, uses])}.parquet"


@dataclass(frozen=True)
class Content:
    """What a part holds of one item.

    Attributes:
        planned: rows that the sampling asked for; ``rows`` of them are there, none when the item failed.
        first_row: position of the item's first row in the part.
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
        feature: empty for failures before any feature (listing, probing).
        partial: some rows were made; ``got`` of ``expected``.
        transient: trying again on another night may help.
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
    """What rows were computed on.

    Attributes:
        features: of the processor that change what quantised models give, such as ``x86_64 avx2 avx_vnni``.
        agreement: smallest cosine between vectors of fixed inputs that this processor computed and those of the one
            that prepared the model; None for models that are not quantised.
    """

    features: str
    agreement: float | None = None


@dataclass(frozen=True)
class PartRecord:
    """A finished part: what a worker reports, and what the part's own footer says.

    Attributes:
        part: file name inside the feature's folder; parts without rows are kept for adoption but not listed in tables.
        size, digest: of the file's bytes; not in the footer, which can't know them.
        adopted: found finished, not computed now.
        processors: that the rows were computed on; kept in the file beside the footer.
        run: id of the run that made the part; also in the footer.
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
        """Plain values for the footer."""
        value = asdict(self)
        for key in ("adopted", "size", "digest", "processors", "run"):
            del value[key]
        return value

    @classmethod
    def from_dict(cls, value: dict[str, Any], size: int, digest: str, adopted: bool) -> PartRecord:
        """Read back a footer."""
        contents = tuple(Content(**content) for content in value["contents"])
        failures = tuple(Failure(**failure) for failure in value["failures"])
        return cls(**(value | {"contents": contents, "failures": failures}), size=size, digest=digest, adopted=adopted)
