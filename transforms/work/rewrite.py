"""Makes a part from rows of other parts: deletions, renames, copies for duplicates, merging of small parts."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa

from cliploom.schemas.digests import digest_part
from cliploom.schemas.errors import StoreError
from cliploom.schemas.jobs import FeatureJob
from cliploom.schemas.records import Content, Failure, PartRecord, PartUse, Processor, Rewrite
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.part_builder import renamed
from cliploom.transforms.store.parts import PartWriter, footer_of, part_path, processors_of, read_rows


def rewrite_part(objects: ObjectStore, job: FeatureJob, rewrite: Rewrite, run: str) -> PartRecord:
    """Write the part that ``rewrite`` describes.

    Rows keep their order within an item; row ids keep their ordinals and get the new item numbers.

    Raises:
        StoreError: a source part is missing or does not contain what the plan expects.
    """
    name = rewrite.part_name(job.config)
    contents: list[Content] = []
    failures: list[Failure] = []
    processors: dict[Processor, None] = {}
    with objects.create_file(part_path(job.table, name)) as path:
        with PartWriter(path, job.outputs, job.compact, job.texts, records=job.records) as writer:
            for use in rewrite.uses:
                copied, failed, computed_on = _copy(objects, job, use, writer)
                contents += copied
                failures += failed
                processors |= dict.fromkeys(computed_on)
            record = PartRecord(job.name, job.config, name, writer.rows, 0, "", tuple(contents), tuple(failures))
            record = replace(record, processors=tuple(processors))
            writer.finish(record.to_dict() | {"run": run}, processors)
        return replace(record, size=path.stat().st_size, digest=digest_part(path))


def _copy(
    objects: ObjectStore, job: FeatureJob, use: PartUse, writer: PartWriter
) -> tuple[list[Content], list[Failure], tuple[Processor, ...]]:
    """Copy the rows of ``use``; return the contents, their known failures, and the rows' processors."""
    try:
        with objects.local_copy(part_path(job.table, use.part)) as local:
            old = PartRecord.from_dict({k: v for k, v in footer_of(local).items() if k != "run"}, 0, "", True)
            rows = pa.concat_tables(read_rows(local)) if old.rows else None
            processors = processors_of(local)
    except FileNotFoundError:
        raise StoreError(f"{part_path(job.table, use.part)} is missing; `cliploom verify` lists all damage.") from None
    contents: list[Content] = []
    failures: list[Failure] = []
    held = {(content.item_no, content.segment): content for content in old.contents}
    for copy in use.copies:
        content = held.get((copy.from_item_no, copy.segment))
        if content is None or (content.rows and rows is None):
            raise StoreError(f"{part_path(job.table, use.part)} does not contain item {copy.from_item_no}.")
        first = writer.rows
        if rows is not None and content.rows:
            taken = rows.slice(content.first_row, content.rows)
            if (content.item_no, content.uid) != (copy.to.item_no, copy.to.uid):
                taken = renamed(taken, copy.to.item_no, None if job.records else copy.to.uid)
            writer.write_table(taken)
        contents.append(replace(content, item_no=copy.to.item_no, uid=copy.to.uid, first_row=first))
        failures += [
            replace(failure, item_no=copy.to.item_no, uid=copy.to.uid)
            for failure in old.failures
            if failure.item_no == copy.from_item_no
            and (failure.expected, failure.got) == (content.planned, content.rows)
        ]
    writer.detach()
    return contents, failures, processors
