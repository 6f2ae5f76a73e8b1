"""The work of one shard: read, decode once, encode, write one part for each wanted feature.

Everything here is plain Python on plain values; ``work.shards`` wraps it for Beam. Rows of an item stand
together in a part, in the order of their ordinals.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path

from cliploom.schemas.digests import digest_part
from cliploom.schemas.errors import CliploomError, ItemError
from cliploom.schemas.faults import machine_fault
from cliploom.schemas.jobs import FeatureJob
from cliploom.schemas.records import PartRecord, Processor, Shard, ShardItem
from cliploom.transforms.sources.registry import source_kind
from cliploom.transforms.store.part_builder import BatchEncoder, ItemCount, PartBuilder, Timings
from cliploom.transforms.store.parts import PartWriter
from cliploom.transforms.work.models import processors


def compute_item(item: ShardItem, builders: Sequence[PartBuilder], timings: Timings) -> None:
    """Read one item once for all features and hand its samples on; how depends on the kind of its source."""
    counts = [ItemCount(item) for _ in builders]
    kind = source_kind(builders[0].job.kind)
    error: ItemError | None = None
    began = time.perf_counter()
    elsewhere = timings.encode_s + timings.write_s
    try:
        kind.read(item, builders, counts, timings)
    except ItemError as caught:
        error = caught
    except SystemExit as caught:
        error = ItemError("read", f"the kind of source tried to end the program (exit code {caught.code!r})")
    except MemoryError:
        error = ItemError("read", "out of memory", transient=True)
    except CliploomError:
        raise  # the store's fault (a full disk), not the item's
    except Exception as caught:
        fault = machine_fault(caught)
        if fault is not None:
            raise fault from caught
        # Whatever a damaged file does to its reader is that file's failure, not the run's.
        error = ItemError("read", f"{type(caught).__name__}: {caught}")
    for builder, count in zip(builders, counts, strict=True):
        count.error = count.error or error
        builder.end_item(count)
    timings.decode_s += time.perf_counter() - began - (timings.encode_s + timings.write_s - elsewhere)


def compute_parts(
    shard: Shard,
    jobs: Sequence[FeatureJob],
    encoders: Mapping[str, BatchEncoder],
    open_part: Callable[[FeatureJob, str], AbstractContextManager[Path]],
    each_item: Callable[[ShardItem, Sequence[PartBuilder]], None],
    on_end: Callable[[ShardItem, int], None],
    run: str,
    timings: Timings,
    on_rows: Callable[[ShardItem, float, int], None] = lambda item, start_s, rows: None,
) -> list[PartRecord]:
    """Compute the parts of ``jobs`` for a shard.

    Args:
        shard: what to compute.
        jobs: the features that have no part yet.
        encoders: by feature; none for features whose source brings vectors.
        open_part: gives the local file to write a part to, and publishes it when closed without an error.
        each_item: computes one item into the builders; the poison rule stands around ``compute_item`` there.
        on_end: told of each finished (item, rows), once a feature.
        run: id of the run, for the footer.
        timings: added to.
        on_rows: told of the rows of an item as they are written; see ``PartBuilder``.
    """
    records = []
    with ExitStack() as files:
        paths = [files.enter_context(open_part(job, shard.part_name(job.config))) for job in jobs]
        writers = [
            files.enter_context(PartWriter(path, job.outputs, job.compact, job.texts, records=job.records))
            for path, job in zip(paths, jobs, strict=True)
        ]
        builders = [
            PartBuilder(job, encoders.get(job.name), writer, timings, on_end, on_rows)
            for job, writer in zip(jobs, writers, strict=True)
        ]
        # A device that is lost in the middle leaves rows of two processors.
        before = {job.name: processors(encoders.get(job.name)) for job in jobs}
        for item in shard.items:
            each_item(item, builders)
        for job, path, writer, builder in zip(jobs, paths, writers, builders, strict=True):
            record = builder.finish(shard.part_name(job.config))
            record = replace(record, processors=_computed_on(before[job.name], encoders.get(job.name)))
            writer.finish(record.to_dict() | {"run": run}, record.processors)
            writer.close()
            records.append(replace(record, size=path.stat().st_size, digest=digest_part(path), run=run))
    return records


def _computed_on(before: tuple[Processor, ...], encoder: object) -> tuple[Processor, ...]:
    """What the rows of a part were computed on: as known when it was begun, and when it was finished."""
    return tuple(dict.fromkeys([*before, *processors(encoder)]))
