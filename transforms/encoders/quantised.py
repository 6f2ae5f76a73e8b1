"""Prepares a quantised model: prepares the float32 model, quantises its graphs, and compares both."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.digests import SHORT
from cliploom.schemas.errors import CliploomError, EncodeError
from cliploom.schemas.models import CARD_FILE, ModelCard
from cliploom.schemas.precision import Calibration, OutputFigures, PrecisionFigures
from cliploom.transforms.encoders.base import EncoderOptions, Family, PreparedText
from cliploom.transforms.encoders.drift import write_check
from cliploom.transforms.encoders.figures import output_figures
from cliploom.transforms.encoders.prepare import PREPARING, model_digest, prepare_model, publish_folder
from cliploom.transforms.encoders.processor import processor_features
from cliploom.transforms.encoders.quantised_options import original_options
from cliploom.transforms.encoders.registry import family, read_card

if TYPE_CHECKING:
    from cliploom.transforms.encoders.quantise import QuantiseSettings

TEXT_TOWER = "text tower"
CALIBRATION_FILE = "calibration.json"
_INNER = "encoder"  # folder of the wrapped encoder of a projected one
_ROUNDS = 3
_ROUND_S = 0.3
_MOST_TIMED = 64

Vectors = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class DrawnSamples:
    """Samples to calibrate and measure a model with.

    Attributes:
        items: uint8 pictures [H, W, 3], clips [T, H, W, 3], or sentences.
        held_back: the positions of samples to measure with; the others are for calibration.
        inputs: the number of files or text items that they come from; 0 for built-in sentences.
    """

    items: Sequence[Any]
    held_back: tuple[int, ...]
    inputs: int

    @property
    def calibrating(self) -> list[int]:
        """The positions of the samples for calibration."""
        held = set(self.held_back)
        return [place for place in range(len(self.items)) if place not in held]


def sentences_of_program() -> list[str]:
    """Return sentences to measure a text encoder with if the spec has none: names of a thousand classes."""
    from cliploom.transforms.encoders.lite0 import class_names

    return [f"a photo of a {names[0]}." for names in class_names()][::2]


def prepare_quantised(
    kind: str,
    options: EncoderOptions,
    models: Path,
    text: PreparedText | None,
    drawn: DrawnSamples,
    calibration: Calibration | None,
    settings: QuantiseSettings | None = None,
    code: Mapping[str, str] | None = None,
    original: tuple[Path, ModelCard] | None = None,
) -> tuple[Path, ModelCard]:
    """Prepare a model of precision ``int8`` or ``int8_weights``, and measure its agreement with float32.

    The figures are not checked here: the limits are not a property of the model.

    Args:
        kind: the kind of the encoder.
        options: the options, with that precision.
        models: the local folder of model folders.
        text: the text encoder named in the spec.
        drawn: the samples; those of ``calibration`` if there is one.
        calibration: the calibration samples; None for ``int8_weights``.
        settings: quantiser settings that override those of the calibration and the graph; for tests.
        code: see ``model_digest``.
        original: folder and card of the float32 model; prepared by default.

    Returns:
        The folder ``models/<digest>`` and its card.

    Raises:
        MissingExtraError: NNCF is not installed.
        CliploomError: the encoder has no graph that can be quantised, or no sample can be encoded.
    """
    chosen = family(kind)
    digest = model_digest(
        chosen,
        options,
        text.card.digest if text else "",
        code,
        calibration=calibration.digest if calibration is not None else "",
    )
    final = models / digest
    if (final / CARD_FILE).exists():
        return final, read_card(final)
    source, before = original or prepare_model(kind, original_options(options), models, text)
    folder = Path(tempfile.mkdtemp(prefix=f"{PREPARING}{digest[:SHORT]}-{os.getpid()}-", dir=models))
    try:
        shutil.copytree(source, folder, dirs_exist_ok=True)
        (folder / CARD_FILE).unlink()
        used = _quantise_folder(folder, before, options, drawn, calibration, settings)
        card = replace(
            before,
            digest=digest,
            precision=options.precision,
            outputs={
                name: replace(output, space=f"{output.space}@{options.precision}")
                for name, output in before.outputs.items()
            },
            calibration=calibration.digest if calibration is not None else "",
        )
        card = replace(card, figures=_measure(chosen, source, before, folder, card, drawn, used))
        if before.preprocess is None or before.preprocess.fit != "patches":
            write_check(folder, card, chosen.open(folder, card, 1))
        if calibration is not None:
            (folder / CALIBRATION_FILE).write_text(json.dumps(calibration.to_dict()) + "\n", encoding="utf-8")
        (folder / CARD_FILE).write_text(json.dumps(card.to_dict(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
        folder.chmod(0o755)
        publish_folder(folder, final)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return final, read_card(final)


def _quantise_folder(
    folder: Path,
    card: ModelCard,
    options: EncoderOptions,
    drawn: DrawnSamples,
    calibration: Calibration | None,
    settings: QuantiseSettings | None,
) -> dict[str, str]:
    """Quantise the graphs of a prepared folder in place; return the settings, for the card."""
    import openvino as ov

    from cliploom.transforms.encoders.graph import GRAPH_FILE
    from cliploom.transforms.encoders.quantise import QuantiseSettings, compress, is_transformer, quantise, require_nncf
    from cliploom.transforms.encoders.runtime import save_graph
    from cliploom.transforms.encoders.text import TEXT_GRAPH

    nncf = require_nncf()
    said = {"nncf": str(nncf.__version__)}
    names = [GRAPH_FILE] if options.precision == "int8" else [GRAPH_FILE, TEXT_GRAPH]
    graphs = [path for base in (folder, folder / _INNER) for path in (base / name for name in names) if path.exists()]
    if not graphs:
        raise CliploomError(f"The encoder kind '{card.kind}' has no graph to quantise; use precision: f32.")
    for path in graphs:
        graph = ov.Core().read_model(path)
        if options.precision == "int8_weights":
            made = compress(graph)
        else:
            if len(graph.inputs) != 1:
                raise CliploomError(
                    f"The encoder kind '{card.kind}' takes pictures of any aspect here, which int8 is not made for; "
                    "use precision: int8_weights."
                )
            transformer = is_transformer(graph)
            set_as = settings or QuantiseSettings(
                overflow_fix=calibration is not None and calibration.overflow_fix,
                transformer=transformer,
                symmetric=not transformer,
                layer_by_layer=not transformer and card.modality == "frame",
            )
            said |= {
                "overflow_fix": str(set_as.overflow_fix).lower(),
                "transformer": str(set_as.transformer).lower(),
                "weights": "per channel" if set_as.per_channel else "per tensor",
                "activations": "symmetric" if set_as.symmetric else "mixed",
                "bias_correction": "layer by layer" if set_as.layer_by_layer else "fast",
            }
            places = drawn.calibrating
            size = int(graph.inputs[0].get_shape()[0])
            groups = [places[begin : begin + size] for begin in range(0, len(places), size)]
            made = quantise(graph, groups, _batches(drawn.items, size), set_as)
        scratch = path.with_suffix(".new.xml")
        save_graph(made, scratch)
        del graph, made
        scratch.with_suffix(".bin").replace(path.with_suffix(".bin"))
        scratch.replace(path)
    inner = folder / _INNER / CARD_FILE
    if inner.exists():
        value = json.loads(inner.read_text(encoding="utf-8")) | {"precision": options.precision}
        inner.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return said


def _batches(items: Sequence[Any], size: int) -> Callable[[list[int]], NDArray[np.uint8]]:
    """Return a function from sample positions to a full batch; an incomplete one is padded with its last sample."""

    def batch(places: list[int]) -> NDArray[np.uint8]:
        filled = [*places, *places[-1:] * (size - len(places))]
        return np.stack([np.asarray(items[place]) for place in filled])

    return batch


def _measure(
    kind: Family,
    original: Path,
    before: ModelCard,
    folder: Path,
    after: ModelCard,
    drawn: DrawnSamples,
    settings: dict[str, str],
) -> PrecisionFigures:
    encode = [_encoder(kind, original, before), _encoder(kind, folder, after)]
    usable, vectors = _encoded(encode, drawn.items)
    places = {place: number for number, place in enumerate(usable)}
    held = [places[place] for place in drawn.held_back if place in places]
    if not held:
        raise CliploomError(f"The encoder kind '{before.kind}' could encode none of the samples to measure it with.")
    outputs = {
        name: output_figures(vectors[0][name], vectors[1][name], held, scores=bool(output.labels))
        for name, output in before.outputs.items()
    }
    own_tower = bool(before.text_tower) and "/" not in before.text_tower
    if before.modality != "text" and after.precision == "int8_weights" and own_tower:
        outputs[TEXT_TOWER] = _tower_figures(kind, original, before, folder, after)
    timed = [drawn.items[place] for place in usable[:_MOST_TIMED]]
    sizes = [sum(path.stat().st_size for path in place.rglob("*.bin")) for place in (original, folder)]
    return PrecisionFigures(
        outputs=outputs,
        faster=round(_speed_ratio(encode, timed), 3),
        calibrated=len(drawn.calibrating) if after.calibration else 0,
        held_back=len(held),
        items=drawn.inputs,
        settings=settings,
        processor=processor_features(),
        bytes_before=sizes[0],
        bytes_after=sizes[1],
    )


def compare_models(
    kind: str, original: tuple[Path, ModelCard], other: tuple[Path, ModelCard], drawn: DrawnSamples
) -> PrecisionFigures:
    """Compare two prepared models of one kind (folder and card) on samples; see ``PrecisionFigures``."""
    return _measure(family(kind), *original, *other, drawn, {})


def items_a_second(kind: str, folder: Path, card: ModelCard, drawn: DrawnSamples) -> float:
    """Return how many samples a model encodes per second of CPU time, one by one in one thread."""
    encode = _encoder(family(kind), folder, card)
    chosen = list(drawn.items[:_MOST_TIMED])
    encode(chosen[:1])
    return 1 / min(_seconds_each(encode, chosen) for _ in range(_ROUNDS))


def _encoder(kind: Family, folder: Path, card: ModelCard) -> Callable[[Sequence[Any]], list[Any]]:
    """Return a function from samples to rows of vectors or errors, without caching."""
    if card.modality != "text":
        encoder = kind.open(folder, card, 1)
        return lambda items: list(encoder.encode(items))
    tower, name = kind.text_tower(folder, card), next(iter(card.outputs))
    return lambda items: [{name: vector} for vector in tower.encode(items)]


def _encoded(encode: Sequence[Callable[..., list[Any]]], items: Sequence[Any]) -> tuple[list[int], list[Vectors]]:
    """Return the positions of the samples that both models can encode, and both models' float32 [n, dim] by output."""
    rows: list[list[Any]] = [[], []]
    usable = []
    for place, item in enumerate(items):
        both = [one([item])[0] for one in encode]
        if not any(isinstance(row, EncodeError) for row in both):
            usable.append(place)
            for kept, row in zip(rows, both, strict=True):
                kept.append(row)
    names = rows[0][0] if usable else {}
    return usable, [{name: np.stack([row[name] for row in kept]) for name in names} for kept in rows]


def _tower_figures(kind: Family, original: Path, before: ModelCard, folder: Path, after: ModelCard) -> OutputFigures:
    sentences = sentences_of_program()
    vectors = [
        kind.text_tower(place, card).encode(sentences, query=True)
        for place, card in ((original, before), (folder, after))
    ]
    return output_figures(vectors[0], vectors[1], range(len(sentences)), scores=False)


def _speed_ratio(encode: Sequence[Callable[..., list[Any]]], items: Sequence[Any]) -> float:
    """Return the ratio of both CPU times, measured alternately; the best of several rounds of each."""
    best = [float("inf")] * 2
    for _ in range(_ROUNDS):
        for number, one in enumerate(encode):
            best[number] = min(best[number], _seconds_each(one, items))
    return best[0] / best[1]


def _seconds_each(encode: Callable[..., list[Any]], items: Sequence[Any]) -> float:
    """Return CPU seconds per item, for as many items as take ``_ROUND_S``."""
    done, began = 0, time.process_time()
    while done == 0 or (time.process_time() - began < _ROUND_S and done < len(items)):
        encode([items[done]])
        done += 1
    return (time.process_time() - began) / done
