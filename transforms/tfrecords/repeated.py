"""Ids that occur in several shards of a source: each pair of such shards becomes a failure that names both.

Within a shard the reader rejects an id's second record; an id shared by two shards is detected only when all parts
exist. Memory: 24 bytes per id, 200 MB for the 8 million of YouTube-8M.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cliploom.schemas.errors import StoreError
from cliploom.schemas.jobs import FeatureJob
from cliploom.schemas.records import Failure
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.parts import part_path
from cliploom.transforms.store.record_ids import ID_FOOTER, ItemIds, hash_ids, ids_of_rows, unpack_ids

STAGE = "ids"
"""Stage of these failures; they are determined again whenever the parts have changed."""
EXAMPLES = 3
MOST_PAIRS = 100
"""Maximum number of failure rows; a data set listed twice would give one for each of its shards."""
_READERS = 16


@dataclass(frozen=True)
class SharedIds:
    """Ids that two items share.

    Attributes:
        first, second: the item numbers, ``first`` being the smaller one.
        count: the number of shared ids.
        hashes: the hashes of a few of the ids.
    """

    first: int
    second: int
    count: int
    hashes: tuple[int, ...]


def read_ids(objects: ObjectStore, table: str, part: str) -> ItemIds:
    """Return the ids of a part's records: from its footer, or from its rows in parts of older versions.

    Raises:
        StoreError: the part is missing or damaged.
    """
    path = part_path(table, part)
    try:
        with objects.open_file(path) as stream, pq.ParquetFile(stream) as file:
            text = (file.metadata.metadata or {}).get(ID_FOOTER)
            return ids_of_rows(file.read(["row_id", "uid"])) if text is None else unpack_ids(text)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StoreError(f"{objects.uri_of(path)} is missing or damaged ({type(error).__name__}).") from None


def shared_ids(ids: Sequence[ItemIds]) -> list[SharedIds]:
    """Return the items that share ids; each repeated id counts for its first item and every other one.

    >>> one, two, three = (hash_ids([name]) for name in ("a", "b", "c"))
    >>> [(found.first, found.second, found.count) for found in shared_ids([{1: one, 2: two}, {3: one}])]
    [(1, 3, 1)]
    """
    blocks = sorted(((item, hashes) for each in ids for item, hashes in each.items()), key=lambda block: block[0])
    if not blocks:
        return []
    every = np.concatenate([hashes for _, hashes in blocks])
    ordered = np.sort(every)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    if not len(repeated):
        return []
    places = np.flatnonzero(np.isin(every, repeated))
    ends = np.cumsum([len(hashes) for _, hashes in blocks])
    numbers = np.array([item for item, _ in blocks])[np.searchsorted(ends, places, side="right")]
    return _pairs(every[places], numbers)


def _pairs(hashes: NDArray[np.int64], items: NDArray[np.int64]) -> list[SharedIds]:
    """Return the pairs among repeated hashes, whose items are ascending."""
    first: dict[int, int] = {}
    counts: Counter[tuple[int, int]] = Counter()
    some: dict[tuple[int, int], list[int]] = {}
    for value, item in zip(hashes.tolist(), items.tolist(), strict=True):
        owner = first.setdefault(value, item)
        if owner != item:
            counts[owner, item] += 1
            examples = some.setdefault((owner, item), [])
            if len(examples) < EXAMPLES:
                examples.append(value)
    return [SharedIds(*pair, count, tuple(some[pair])) for pair, count in sorted(counts.items())]


def repeated_failures(
    objects: ObjectStore, job: FeatureJob, contents: pl.DataFrame, uris: Mapping[int, str]
) -> Iterator[Failure]:
    """Yield a failure for each pair of items that share ids: for the later item, naming both.

    Args:
        objects: the store.
        job: a feature of records.
        contents: the contents of its new table: part, item_no, uid, digest, planned, rows.
        uris: the uris of the items, by number.
    """
    filled = contents.filter(pl.col("rows") > 0)
    parts = filled["part"].unique().sort().to_list()
    with ThreadPoolExecutor(_READERS) as readers:
        found = shared_ids(list(readers.map(lambda part: read_ids(objects, job.table, part), parts)))
    rows = {row["item_no"]: row for row in filled.iter_rows(named=True)} if found else {}
    for number, pair in enumerate(found[:MOST_PAIRS]):
        mine = rows[pair.second]
        names = _named(objects, job.table, mine["part"], pair)
        what = f"the id {names}" if pair.count == 1 else f"{pair.count} ids, such as {names},"
        left = len(found) - MOST_PAIRS
        more = f" So do {left} more pairs of shards." if left > 0 and number == MOST_PAIRS - 1 else ""
        yield Failure(
            source=job.source,
            feature=job.name,
            uid=mine["uid"],
            uri=uris.get(pair.second, ""),
            item_no=pair.second,
            digest=mine["digest"],
            config=job.config,
            stage=STAGE,
            type="RepeatedId",
            message=f"{uris.get(pair.second, mine['uid'])} and {uris.get(pair.first, rows[pair.first]['uid'])} both "
            f"hold {what} whose rows are in the table twice; take one of the records out.{more}",
            partial=True,
            expected=mine["planned"],
            got=mine["rows"],
        )


def _named(objects: ObjectStore, table: str, part: str, pair: SharedIds) -> str:
    """Return the ids behind a pair's example hashes."""
    with objects.open_file(part_path(table, part)) as stream, pq.ParquetFile(stream) as file:
        uids = file.read(["uid"])["uid"].unique().to_pylist()
    wanted = set(pair.hashes)
    hashes = hash_ids(uids).tolist()
    return ", ".join(repr(uid) for uid, value in zip(uids, hashes, strict=True) if value in wanted)
