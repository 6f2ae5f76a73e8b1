"""Media files to frames or vectors, and frames to vectors. Decoding and encoding of a file are one step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from cliploom.schemas.errors import EncodeError
from cliploom.schemas.media import MediaLimits, Sampled
from cliploom.schemas.sources import HttpSpec
from cliploom.transforms.beam.batches import BatchRows, EncodeFn, Gather, Origin, item_errors, new_item, ordinal_of
from cliploom.transforms.beam.files import as_media_file, local_file
from cliploom.transforms.beam.model import ModelRef
from cliploom.transforms.beam.rows import (
    FAILURES,
    ROWS,
    Failure,
    Frame,
    MediaFile,
    media_rows,
)
from cliploom.transforms.beam.values import failure_of, frame_row, pixels_of, vector_columns
from cliploom.transforms.media.decode import DecodeReport, Request, decode
from cliploom.transforms.media.probe import probe
from cliploom.transforms.store.part_builder import ItemCount, Timings, lost_rows
from cliploom.transforms.store.parts import FeatureRow
from cliploom.transforms.store.repeats import RepeatFilter
from cliploom.transforms.work.counters import count
from cliploom.transforms.work.models import BATCH_PICTURES

_PICTURE_DIMS, _CLIP_DIMS = 3, 4
_FILES_TOGETHER = 64
"""Files whose pictures share batches: single images fill them, too."""


@dataclass(frozen=True)
class Reading:
    """How files are read.

    Attributes:
        request: which frames, as what pixels.
        limits: files beyond them are failures.
        http: how addresses are fetched.
    """

    request: Request
    limits: MediaLimits
    http: HttpSpec


def read_samples(file: MediaFile, reading: Reading, item: ItemCount, timings: Timings) -> Iterator[Sampled]:
    """Yield the samples of a file, and count in ``item`` what was planned and what was lost.

    Raises:
        ItemError: if the file cannot be read.
    """
    with local_file(file.uri, reading.limits, reading.http) as path:
        facts = probe(path, reading.limits)
        report = DecodeReport()
        try:
            yield from decode(path, facts, [reading.request], None, report)
        finally:
            timings.frames_decoded += report.frames_decoded
            item.planned = report.planned[0] if report.planned else 0
            item.lost = f"{facts.lost} {report.lost}".strip()


class DecodeFiles(beam.PTransform[beam.PCollection[Any], beam.PCollection[Frame]]):  # type: ignore[misc]
    """Media files in; ``Frame`` and ``Failure`` out."""

    def __init__(self, reading: Reading) -> None:
        super().__init__()
        self._reading = reading

    def expand(self, pcoll: beam.PCollection[Any]) -> beam.pvalue.DoOutputsTuple:
        """Read each file where it is."""
        step = beam.ParDo(_DecodeFn(self._reading)).with_output_types(Frame, **{FAILURES: Failure})
        return as_files(pcoll) | "Decode" >> step.with_outputs(FAILURES, main=ROWS)


class EncodeFiles(beam.PTransform[beam.PCollection[Any], beam.PCollection[Any]]):  # type: ignore[misc]
    """Media files in; rows with vectors and ``Failure`` out."""

    def __init__(self, reading: Reading, model: ModelRef) -> None:
        super().__init__()
        self._reading, self._model = reading, model

    def expand(self, pcoll: beam.PCollection[Any]) -> beam.pvalue.DoOutputsTuple:
        """Read and encode each file in one step."""
        step = beam.ParDo(_EncodeFilesFn(self._reading, self._model))
        step = step.with_output_types(media_rows(list(self._model.job.outputs)), **{FAILURES: Failure})
        step = self._model.hinted(step).with_outputs(FAILURES, main=ROWS)
        return as_files(pcoll) | Gather(_FILES_TOGETHER) | "Encode" >> step


class EncodePictures(beam.PTransform[beam.PCollection[Frame], beam.PCollection[Any]]):  # type: ignore[misc]
    """``Frame`` in; rows with vectors and ``Failure`` out.

    No resource hints: a runner that follows them would put decoding and encoding on different machines and send all
    pixels from one to the other.
    """

    def __init__(self, model: ModelRef) -> None:
        super().__init__()
        self._model = model

    def expand(self, pcoll: beam.PCollection[Frame]) -> beam.pvalue.DoOutputsTuple:
        """Encode the frames of a bundle in batches."""
        step = beam.ParDo(_EncodeFramesFn(self._model))
        step = step.with_output_types(media_rows(list(self._model.job.outputs)), **{FAILURES: Failure})
        most = 1 if takes_clips(self._model) else BATCH_PICTURES
        return pcoll | Gather(most) | "Encode" >> step.with_outputs(FAILURES, main=ROWS)


def as_files(pcoll: beam.PCollection[Any]) -> beam.PCollection[MediaFile]:
    """Return the files that the elements name."""
    return pcoll | "Files" >> beam.Map(as_media_file).with_output_types(MediaFile)


class _DecodeFn(beam.DoFn):  # type: ignore[misc]
    def __init__(self, reading: Reading) -> None:
        super().__init__()
        self._reading = reading

    def process(self, file: MediaFile) -> Iterator[Any]:
        """Yield the frames of one file as they are decoded, then its failure, if any."""
        item = new_item(file.uri, file.uid)
        timings = Timings()
        sampling = self._reading.request.sampling
        repeats = RepeatFilter(sampling.repeats, "")
        with item_errors(item):
            for sampled in read_samples(file, self._reading, item, timings):
                if repeats.drops_picture(sampled.pixels):
                    item.repeated += 1
                    continue
                item.rows += 1
                yield frame_row(file, sampled)
        count("items_done", 1)
        count("rows", item.rows)
        count("frames_decoded", timings.frames_decoded)
        error = item.error or lost_rows(item)
        if error is not None:
            failure = failure_of(file.uri, item, error)
            count(f"failed_{failure.type}", 1)
            yield beam.pvalue.TaggedOutput(FAILURES, failure)


class _EncodeFilesFn(EncodeFn):
    def __init__(self, reading: Reading, model: ModelRef) -> None:
        super().__init__(model, vectors_row)
        self._reading = reading

    def read(self, rows: BatchRows, origin: Origin) -> Iterator[Any]:
        """Decode one file."""
        file: MediaFile = origin.value
        item = rows.begin(origin, file.uri, file.uid)
        with item_errors(item):
            for sampled in read_samples(file, self._reading, item, rows.timings):
                yield from rows.add(item, sampled)
        rows.end(item)


class _EncodeFramesFn(EncodeFn):
    def __init__(self, model: ModelRef) -> None:
        super().__init__(model, vectors_row)
        self._dims = _CLIP_DIMS if takes_clips(model) else _PICTURE_DIMS

    def read(self, rows: BatchRows, origin: Origin) -> Iterator[Any]:
        """Take one frame."""
        frame: Frame = origin.value
        item = rows.begin(origin, frame.uri, frame.uid)
        item.planned = 1
        with item_errors(item):
            pixels = pixels_of(frame)
            if pixels.ndim != self._dims:
                takes = "windows of pictures" if self._dims == _CLIP_DIMS else "single pictures"
                raise EncodeError("encode", f"the encoder takes {takes}; this frame has the shape {list(frame.shape)}")
            sampled = Sampled(0, frame.ordinal, frame.start_s, frame.end_s, frame.frame, pixels)
            yield from rows.add(item, sampled)
        rows.end(item)


def takes_clips(model: ModelRef) -> bool:
    """Return whether an encoder takes windows of pictures."""
    return model.job.card is not None and model.job.card.modality == "clip"


def vectors_row(element: MediaFile | Frame, row: FeatureRow) -> beam.Row:
    """Return the emitted row of a frame."""
    return beam.Row(
        uri=element.uri,
        uid=row.uid,
        ordinal=ordinal_of(row),
        start_s=row.start_s,
        end_s=row.end_s,
        frame=row.frame,
        **vector_columns(row.vectors),
    )
