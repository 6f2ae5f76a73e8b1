"""Reads media items for shards: decodes an item once for all features that need it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from cliploom.schemas.jobs import FeatureJob
from cliploom.schemas.media import MediaFacts
from cliploom.schemas.records import ShardItem
from cliploom.transforms.media.decode import DecodeReport, Request, decode
from cliploom.transforms.store.part_builder import ItemCount, PartBuilder, Timings

OpenItem = Callable[[str, str, str, str, str], AbstractContextManager[Path]]
"""Gives the local file of an item: URI, signature, stage, settings (JSON), digest; see ``SourceKind.open_item``."""


def read_media_item(
    item: ShardItem,
    builders: Sequence[PartBuilder],
    counts: list[ItemCount],
    timings: Timings,
    open_item: OpenItem,
) -> None:
    """Decode one item and hand each sample to the feature that wants it; see ``SourceKind.read``."""
    facts = MediaFacts.from_json(item.facts)
    report = DecodeReport()
    requests = [request_of(builder.job) for builder in builders]
    segment = None if item.segment.whole else (item.segment.start_s, item.segment.end_s)
    try:
        with open_item(item.uri, item.signature, "decode", builders[0].job.settings, item.digest) as path:
            for sampled in decode(path, facts, requests, segment, report):
                builders[sampled.request].add(counts[sampled.request], sampled)
    finally:
        timings.frames_decoded += report.frames_decoded
        for number, count in enumerate(counts):
            count.planned = report.planned[number] if report.planned else 0
            count.lost = f"{facts.lost} {report.lost}".strip()


def request_of(job: FeatureJob) -> Request:
    """Return the decoder request of a feature."""
    if job.sampling is None or job.card is None or job.card.preprocess is None:
        raise ValueError(f"feature {job.name!r} has no sampling or no picture encoder; it can't be computed from media")
    settings = json.loads(job.settings)
    return Request(
        job.sampling,
        job.card.preprocess,
        "left" if settings.get("stereo") == "left" else "",
        deinterlace=settings.get("deinterlace", True),
        tone_map=settings.get("tone_map", True),
    )
