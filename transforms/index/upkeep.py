"""Index upkeep: decides which shards of an index stay, change or are built, as a pure function of parts.

Without ``shards: n`` a shard has the rows of whole parts: parts that left the table are removed from their shard, new
parts go to the smallest shard until it is full. With ``shards: n`` there are n shards of equal size, so a part may be
split: a *piece* is a part's name, or ``name[start:end]`` for some of its rows. Centroids are kept until the rows
double, recall falls below the target, or a row that they reveal is deleted (see ``cliploom.transforms.index.traces``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cliploom.schemas.index import INVERTED, Kind, Metric
from cliploom.schemas.release import FileEntry, IndexEntry, IndexShardEntry
from cliploom.transforms.index.build import SHARD_ROWS, choose_kind, must_rebuild
from cliploom.transforms.index.pieces import cut, part_of, rows_in
from cliploom.transforms.index.recall import TARGET

SLACK = 0.005
"""How far recall may fall below the target without training again, since measurements vary."""
UNEVEN = 0.1
"""Maximum difference between the largest and smallest of ``shards: n`` files, relative to their mean size."""


@dataclass(frozen=True)
class IndexTask:
    """One shard to build.

    Attributes:
        index: the name of the index.
        table: the folder of the feature's table, relative to the store.
        previous: the shard file to start from, or None.
        trained: the file with the centroids, or None.
        remove: the parts whose rows are removed; still readable.
        add: the pieces whose rows are added.
        parts: all pieces of the resulting shard.
    """

    index: str
    table: str
    output: str
    metric: Metric
    kind: Kind
    dim: int
    previous: FileEntry | None
    trained: FileEntry | None
    remove: tuple[str, ...]
    add: tuple[str, ...]
    parts: tuple[str, ...]


@dataclass(frozen=True)
class IndexUpkeep:
    """The changes to one index.

    Attributes:
        keep: the unchanged shards.
        change: (old shard, remaining pieces, new pieces) of shards that change.
        build: pieces of new shards.
        retrain: whether centroids are trained again; ``build`` then has all pieces.
        reason: the reason, for the report.
    """

    kind: Kind
    keep: tuple[IndexShardEntry, ...]
    change: tuple[tuple[IndexShardEntry, tuple[str, ...], tuple[str, ...]], ...]
    build: tuple[tuple[str, ...], ...]
    retrain: bool
    reason: str


def plan_upkeep(
    rows: Mapping[str, int],
    wanted_kind: str,
    recipe: str,
    shards: int | None,
    previous: IndexEntry | None,
    *,
    traced: str = "",
    mapped_rows: int | None = None,
) -> IndexUpkeep:
    """Decide what to build.

    Args:
        rows: maps part names to rows, for the new table.
        wanted_kind: ``auto`` or a kind, from the spec.
        recipe: digest of the index's declaration and its feature's config.
        shards: number of shards asked for, or None for one for each 2,000,000 rows.
        previous: the last release's index of this name.
        traced: why its centroids give deleted rows away, empty when they do not.
        mapped_rows: as for ``choose_kind``.
    """
    total = sum(rows.values())
    kind = choose_kind(total, wanted_kind, mapped_rows)  # type: ignore[arg-type]

    def anew(reason: str, *, retrain: bool = True) -> IndexUpkeep:
        build = _whole(sorted(rows), rows) if shards is None else _equal(rows, shards)
        return IndexUpkeep(kind, (), (), tuple(build), retrain and kind in INVERTED and bool(rows), reason)

    if previous is None or previous.recipe != recipe:
        return anew("the index is new" if previous is None else "its declaration or feature changed")
    if previous.kind != kind:
        return anew(f"{previous.kind} -> {kind} at {total} rows")
    if kind in INVERTED and total >= 2 * previous.trained_rows:
        return anew(f"rows doubled since training ({previous.trained_rows} -> {total})")
    bar = min(TARGET, previous.trained_recall if previous.trained_recall is not None else TARGET)
    if kind in INVERTED and previous.recall is not None and previous.recall < bar - SLACK:
        return anew(f"recall@10 fell to {previous.recall:.3f}")
    if kind in INVERTED and traced:
        return anew(traced)
    stays = [tuple(piece for piece in shard.parts if part_of(piece) in rows) for shard in previous.shards]
    held = {part_of(piece) for shard in previous.shards for piece in shard.parts}
    fresh = sorted(set(rows) - held)
    sizes = [sum(rows_in(piece, rows) for piece in stay) for stay in stays]
    build: list[tuple[str, ...]] = []
    if shards is None or not total:
        added = _fill(sizes, fresh, rows)
        build = _whole(fresh, rows)
    else:
        shares = _shares(sizes, sum(rows[part] for part in fresh))
        ends = [size + share for size, share in zip(sizes, shares, strict=True)]
        if len(ends) != min(shards, total) or max(ends) - min(ends) > max(1, UNEVEN * total / shards):
            spread = f"{min(ends, default=0)} to {max(ends, default=0)} rows"
            reason = f"{len(ends)} shards of {spread} -> {shards} equal ones"
            return anew(reason, retrain=previous.trained is None)
        added = cut(fresh, rows, shares)
    keep, change, leaving = [], [], 0
    for shard, stay, more in zip(previous.shards, stays, added, strict=True):
        leaving += len(shard.parts) - len(stay)
        if len(stay) == len(shard.parts) and not more:
            keep.append(shard)
        elif stay or more:
            change.append((shard, stay, more))
    came = len(set(rows) - held)
    reason = f"{leaving} parts left, {came} came" if leaving or came else ""
    return IndexUpkeep(kind, tuple(keep), tuple(change), tuple(build), retrain=False, reason=reason)


def _whole(parts: Iterable[str], rows: Mapping[str, int]) -> list[tuple[str, ...]]:
    """Return shards of whole parts, each filled before the next one starts."""
    shards: list[tuple[str, ...]] = []
    current: list[str] = []
    size = 0
    for part in parts:
        if current and size + rows[part] > SHARD_ROWS:
            shards.append(tuple(current))
            current, size = [], 0
        current.append(part)
        size += rows[part]
    return [*shards, tuple(current)] if current else shards


def _equal(rows: Mapping[str, int], shards: int) -> list[tuple[str, ...]]:
    """Return ``shards`` shards whose sizes differ by at most one row; fewer if there are fewer rows."""
    total = sum(rows.values())
    return cut(sorted(rows), rows, _shares([0] * min(shards, total), total))


def _fill(sizes: Sequence[int], fresh: list[str], rows: Mapping[str, int]) -> list[tuple[str, ...]]:
    """Move new parts from ``fresh`` to shards with free space, to the smallest (of equal ones the last) first."""
    added: list[tuple[str, ...]] = [()] * len(sizes)
    for number in sorted(range(len(sizes)), key=lambda number: (sizes[number], -number)):
        mine: list[str] = []
        size = sizes[number]
        while fresh and (size + rows[fresh[0]] <= SHARD_ROWS or not size):
            size += rows[fresh[0]]
            mine.append(fresh.pop(0))
        added[number] = tuple(mine)
    return added


def _shares(sizes: Sequence[int], new: int) -> list[int]:
    """Return how many of ``new`` rows each shard gets so that their sizes become as equal as possible.

    >>> _shares([5, 0, 2], 4), _shares([0, 0], 3)
    ([0, 3, 1], [2, 1])
    """
    order = sorted(range(len(sizes)), key=lambda number: sizes[number])
    shares = [0] * len(sizes)
    for count in range(1, len(order) + 1):
        level = sum(sizes[number] for number in order[:count]) + new
        if count < len(order) and level > count * sizes[order[count]]:
            continue
        for place, number in enumerate(order[:count]):
            shares[number] = level // count + (place < level % count) - sizes[number]
        break
    return shares


def tasks_of(
    upkeep: IndexUpkeep,
    index: str,
    table: str,
    output: str,
    metric: Metric,
    dim: int,
    trained: FileEntry | None,
) -> list[IndexTask]:
    """Return the shards to build as work elements."""
    tasks = []
    for shard, stay, added in upkeep.change:
        # Ids that are not in the shard are ignored, so a split part is removed by its full name.
        removed = tuple(part_of(piece) for piece in shard.parts if piece not in stay)
        everything = (*stay, *added)
        rebuild = upkeep.kind == "flat" or must_rebuild(upkeep.kind, len(removed))
        tasks.append(
            IndexTask(
                index,
                table,
                output,
                metric,
                upkeep.kind,
                dim,
                previous=None if rebuild else shard.file,
                trained=trained,
                remove=() if rebuild else removed,
                add=everything if rebuild else added,
                parts=everything,
            )
        )
    return tasks + [
        IndexTask(index, table, output, metric, upkeep.kind, dim, None, trained, (), parts, parts)
        for parts in upkeep.build
    ]
