"""Probes a shard before it is read: whether it is one, and its approximate number of rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cliploom.schemas.errors import ItemError
from cliploom.schemas.media import MediaLimits
from cliploom.schemas.tfrecords import BadRecord, Record
from cliploom.transforms.tfrecords.framing import compression_of, read_records
from cliploom.transforms.tfrecords.proto import RecordError, parse

_OVERHEAD = 16
_GZIP_RATIO = 1.1
"""Quantised video features hardly compress."""


@dataclass(frozen=True)
class ShardFacts:
    """The facts about a shard needed for planning.

    Attributes:
        rows: the approximate number of rows, assuming that all records are like the first; 0 without records.
    """

    type: str
    compression: str
    rows: int


def probe_shard(path: Path, limits: MediaLimits) -> dict[str, Any]:
    """Return the facts of a shard, from its first readable record. A shard without records is valid.

    Raises:
        ItemError: the file is not empty, but nothing in it can be read as a TFRecord.
    """
    size = path.stat().st_size
    if size > limits.max_bytes:
        raise ItemError("probe", f"{path.name} has {size} bytes, more than limits.media.max_bytes.")
    with path.open("rb") as stream:
        compression = compression_of(stream.read(12))
        stream.seek(0)
        trouble: BadRecord | None = None
        for found in read_records(stream, path.name):
            if isinstance(found, Record):
                each = len(found.data) + _OVERHEAD
                records = size / each * (_GZIP_RATIO if compression != "none" else 1)
                return asdict(ShardFacts("tfrecord", compression, max(1, round(records * _steps(found.data)))))
            trouble = trouble or found
    if trouble is None:
        return asdict(ShardFacts("tfrecord", compression, 0))
    raise ItemError("probe", f"{path.name} holds no record that can be read: {trouble.reason}.")


def _steps(data: bytes) -> int:
    """Return the number of rows of a record: frames of its longest list, else one."""
    try:
        return max((len(steps.features()) for steps in parse(data).lists.values()), default=1)
    except RecordError:
        return 1
