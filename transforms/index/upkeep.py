"""Index upkeep: which shards of an index stay, change or are built, as a pure function of parts.

A shard holds the rows of whole parts. Parts that left the table take their rows out of their shard, new parts go to
the last shard until it is full. Centroids are kept until the rows double or recall falls below the bar.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cliploom.schemas.index import Kind, Metric
from cliploom.schemas.release import FileEntry, IndexEntry, IndexShardEntry
from cliploom.transforms.index.build import SHARD_ROWS, choose_kind, must_rebuild
from cliploom.transforms.index.recall import TARGET

SLACK = 0.005
"""How far recall may wander below the bar between measurements without training again."""


@dataclass(frozen=True)
class IndexTask:
    """One shard to build.

    Attributes:
        index: name of the index.
        table: folder of the feature's table, relative to the store.
        previous: shard file to start from, or None.
        trained: file with the centroids, or None.
        remove: parts whose rows leave, still readable.
        add: parts whose rows are added.
        parts: all parts that the shard then holds.
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
    """What becomes of one index.

    Attributes:
        keep: shards that stay as they are.
        change: (old shard, remaining parts, new parts) of shards that change.
        build: part lists of new shards.
        retrain: centroids are trained anew; everything is then in ``build``.
        reason: why, for the report.
    """

    kind: Kind
    keep: tuple[IndexShardEntry, ...]
    change: tuple[tuple[IndexShardEntry, tuple[str, ...], tuple[str, ...]], ...]
    build: tuple[tuple[str, ...], ...]
    retrain: bool
    reason: str


def plan_upkeep(
    rows: Mapping[str, int], wanted_kind: str, recipe: str, shards: int | None, previous: IndexEntry | None
) -> IndexUpkeep:
    """Decide what to build.

    Args:
        rows: part name -> rows, of the next table.
        wanted_kind: ``auto`` or a kind, from the spec.
        recipe: digest of the index's declaration and its feature's config.
        shards: number of shards asked for, or None for one a 2,000,000 rows.
        previous: the last release's index of this name.
    """
    total = sum(rows.values())
    kind = choose_kind(total, wanted_kind)  # type: ignore[arg-type]
    most = SHARD_ROWS if shards is None else max(1, -(-total // shards))
    if previous is None or previous.recipe != recipe:
        return _anew(kind, rows, most, "the index is new" if previous is None else "its declaration or feature changed")
    if previous.kind != kind:
        return _anew(kind, rows, most, f"{previous.kind} -> {kind} at {total} rows")
    if kind == "ivf_sq8" and total >= 2 * previous.trained_rows:
        return _anew(kind, rows, most, f"rows doubled since training ({previous.trained_rows} -> {total})")
    bar = min(TARGET, previous.trained_recall if previous.trained_recall is not None else TARGET)
    if kind == "ivf_sq8" and previous.recall is not None and previous.recall < bar - SLACK:
        return _anew(kind, rows, most, f"recall@10 fell to {previous.recall:.3f}")
    return _adapt(kind, rows, most, previous)


def _anew(kind: Kind, rows: Mapping[str, int], most: int, reason: str) -> IndexUpkeep:
    return IndexUpkeep(kind, (), (), tuple(_fill(sorted(rows), rows, most)), kind == "ivf_sq8" and bool(rows), reason)


def _adapt(kind: Kind, rows: Mapping[str, int], most: int, previous: IndexEntry) -> IndexUpkeep:
    held = {part for shard in previous.shards for part in shard.parts}
    fresh = sorted(set(rows) - held)
    keep, change = [], []
    leaving = 0
    for number, shard in enumerate(previous.shards):
        stay = tuple(part for part in shard.parts if part in rows)
        added: list[str] = []
        if number == len(previous.shards) - 1:
            size = sum(rows[part] for part in stay)
            while fresh and (size + rows[fresh[0]] <= most or not (stay or added)):
                size += rows[fresh[0]]
                added.append(fresh.pop(0))
        leaving += len(shard.parts) - len(stay)
        if len(stay) == len(shard.parts) and not added:
            keep.append(shard)
        elif stay or added:
            change.append((shard, stay, tuple(added)))
    reason = f"{leaving} parts left, {len(set(rows) - held)} came" if leaving or set(rows) - held else ""
    return IndexUpkeep(kind, tuple(keep), tuple(change), tuple(_fill(fresh, rows, most)), retrain=False, reason=reason)


def _fill(parts: list[str], rows: Mapping[str, int], most: int) -> list[tuple[str, ...]]:
    shards: list[tuple[str, ...]] = []
    current: list[str] = []
    size = 0
    for part in parts:
        if current and size + rows[part] > most:
            shards.append(tuple(current))
            current, size = [], 0
        current.append(part)
        size += rows[part]
    return [*shards, tuple(current)] if current else shards


def tasks_of(
    upkeep: IndexUpkeep,
    index: str,
    table: str,
    output: str,
    metric: Metric,
    dim: int,
    trained: FileEntry | None,
) -> list[IndexTask]:
    """The shards to build, as elements of work."""
    tasks = []
    for shard, stay, added in upkeep.change:
        removed = tuple(part for part in shard.parts if part not in stay)
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
