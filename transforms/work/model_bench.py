"""Every precision of an encoder, prepared and measured with the same samples. Run in a process of its own."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cliploom.schemas.devices import graphs_digest
from cliploom.schemas.errors import CliploomError
from cliploom.schemas.models import ModelCard
from cliploom.schemas.precision import QUANTISED, AgreementSpec, Calibration, PrecisionFigures
from cliploom.transforms.encoders.accelerators import find_accelerator
from cliploom.transforms.encoders.base import EncoderOptions, PreparedText
from cliploom.transforms.encoders.device_graphs import open_on_device, prepare_graphs
from cliploom.transforms.encoders.figures import check_figures
from cliploom.transforms.encoders.prepare import prepare_model, prepared_text
from cliploom.transforms.encoders.processor import processor_features, sums_exactly
from cliploom.transforms.encoders.quantised import (
    DrawnSamples,
    compare_models,
    items_a_second,
    prepare_quantised,
    sentences_of_program,
)
from cliploom.transforms.encoders.quantised_options import check_quantisable, original_options
from cliploom.transforms.encoders.registry import family
from cliploom.transforms.work.calibration import FEWEST, DrawingRequest, drawn_samples

_TOGETHER = 64
_DEVICE_S = 1.0
PRECISIONS = ("f32", "bf16", "int8", "int8_weights")


@dataclass(frozen=True)
class BenchRow:
    """One precision of one encoder.

    Attributes:
        rate: items a CPU second, one thread.
        figures: against float32; None for it, and where the precision can't be had.
        megabytes: of the weights.
        note: what else was measured of it.
        why_not: why the precision can't be had, or what the default limits say of it; empty when all is well.
    """

    encoder: str
    precision: str
    rate: float | None
    figures: PrecisionFigures | None
    megabytes: float | None
    why_not: str = ""
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> BenchRow:
        """Read back what ``to_dict`` gave."""
        figures = value["figures"]
        return cls(**(value | {"figures": None if figures is None else PrecisionFigures.from_dict(figures)}))


def bench(name: str, kind: str, options: str, text: dict[str, str] | None, drawing: dict[str, Any]) -> list[Any]:
    """Measure all precisions of an encoder.

    Args:
        name: of the encoder, for messages.
        kind: registry name.
        options: JSON of its options.
        text: kind and options of its text encoder.
        drawing: a ``DrawingRequest``'s values.

    Returns:
        Values of a ``BenchRow`` for each precision.
    """
    given = family(kind).Options.model_validate_json(options)
    request = replace(DrawingRequest.from_dict(drawing), calibrate=family(kind).modality(given) != "text")
    with tempfile.TemporaryDirectory(prefix="cliploom-bench-") as scratch:
        models = Path(scratch)
        prepared = None
        if text is not None:
            inner = family(text["kind"]).Options.model_validate_json(text["options"])
            prepared = prepared_text(*prepare_model(text["kind"], original_options(inner), models))
        folder, card = prepare_model(kind, original_options(given), models, prepared)
        shape: tuple[int, ...] = ()
        if card.preprocess is not None:
            frames = (card.clip_frames,) if card.modality == "clip" else ()
            shape = (*frames, card.preprocess.height, card.preprocess.width, 3)
        with drawn_samples(request, card.preprocess, shape) as (drawn, names):
            if card.preprocess is None and len(drawn.items) < FEWEST:
                sentences = [*drawn.items, *sentences_of_program()]
                drawn = DrawnSamples(sentences, tuple(range(len(sentences))), drawn.inputs)
            rate = items_a_second(kind, folder, card, drawn)
            rows = [BenchRow(name, "f32", round(rate, 1), None, _megabytes(folder))]
            calibration = Calibration(names, overflow_fix=not sums_exactly(processor_features()))
            for precision in PRECISIONS[1:]:
                changed = given.model_copy(update={"precision": precision})
                rows.append(_row(name, kind, changed, models, prepared, drawn, calibration, rate))
            if given.device != "cpu":
                rows.append(_device_row(name, given.device, models, card, drawn))
    return [json.loads(json.dumps(row.to_dict())) for row in rows]


def _device_row(name: str, device: str, models: Path, card: ModelCard, drawn: DrawnSamples) -> BenchRow:
    """Items a second of the device in float32, handed over as a run's one thread does."""
    shown = f"f32 {device}"
    try:
        accelerator = find_accelerator()
        prepare_graphs(str(models), card.digest)
        graphs = models / graphs_digest(card.digest)
        encoder = open_on_device(models / card.digest, graphs, accelerator, "fail")
    except CliploomError as error:
        return BenchRow(name, shown, None, None, None, f"device: {device} is not to be had here: {error}")
    items = list(drawn.items[:_TOGETHER])
    encoder.encode(items)
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < _DEVICE_S:
        encoder.encode(items)
        done += len(items)
    rate = done / (time.perf_counter() - began)
    said = f"items a second of the clock, one thread, on {accelerator.name}; cosine {encoder.processor.agreement}"
    return BenchRow(name, shown, round(rate, 1), None, None, "", said)


def _row(
    name: str,
    kind: str,
    options: EncoderOptions,
    models: Path,
    text: PreparedText | None,
    drawn: DrawnSamples,
    calibration: Calibration,
    rate: float,
) -> BenchRow:
    precision = options.precision
    if refused := check_quantisable(family(kind), options):
        return BenchRow(name, precision, None, None, None, refused)
    try:
        if precision in QUANTISED:
            used = calibration if precision == "int8" else None
            folder, card = prepare_quantised(kind, options, models, text, drawn, used)
        else:
            original = prepare_model(kind, original_options(options), models, text)
            folder, card = prepare_model(kind, options, models, text)
            card = replace(card, figures=compare_models(kind, original, (folder, card), drawn))
        figures, why_not = card.figures, ""
        if precision in QUANTISED:
            try:
                check_figures(name, card, options.agreement or AgreementSpec())
            except CliploomError as error:
                why_not = str(error).partition(" Measured on")[0].removeprefix(f"encoders.{name}: ")
    except CliploomError as error:
        return BenchRow(name, precision, None, None, None, str(error))
    return BenchRow(
        name,
        precision,
        round(rate * figures.faster, 1) if figures is not None else None,
        figures,
        _megabytes(folder),
        why_not,
    )


def _megabytes(folder: Path) -> float:
    return round(sum(path.stat().st_size for path in folder.rglob("*.bin")) / 1e6, 1)
