"""ONNX graphs of a prepared model: written once on the launcher, measured against OpenVINO, opened on devices.

They lie in a folder of their own beside the model's, so that a model is the same with and without them::

    models/<digest>/  card.json  model.onnx  encoder/model.onnx  text.onnx  check.npz

named as the IR files of the model are. ``check.npz`` has OpenVINO's vectors of fixed inputs: the conversion is measured
with them on the launcher's processor, and each worker measures its device with them before it computes a row.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.devices import GraphsCard, OnDeviceLoss, graphs_digest
from cliploom.schemas.digests import SHORT
from cliploom.schemas.errors import CliploomError, DeviceError, EncodeError, MissingExtraError, StoreError
from cliploom.schemas.models import CARD_FILE, ModelCard
from cliploom.schemas.records import Processor
from cliploom.transforms.encoders.accelerators import Accelerator
from cliploom.transforms.encoders.agreement import LEAST, smallest_cosine
from cliploom.transforms.encoders.base import Encoder, EncodeReport
from cliploom.transforms.encoders.device_engine import DeviceEngine
from cliploom.transforms.encoders.drift import CHECK_FILE, check_inputs
from cliploom.transforms.encoders.engine import Engine, opening_with
from cliploom.transforms.encoders.onnx_session import one_line
from cliploom.transforms.encoders.prepare import PREPARING, publish_folder
from cliploom.transforms.encoders.processor import processor_features
from cliploom.transforms.encoders.registry import family, not_ending, read_card
from cliploom.transforms.literals import load_arrays

_PROCESSOR = "CPUExecutionProvider"
_SIZES = (1, 3)  # of batches that a graph is tried with


def require_runtime() -> None:
    """Check that graphs can be written and measured.

    Raises:
        MissingExtraError: when a package is missing.
    """
    for package in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError("cuda", "Preparing an encoder with device: cuda or auto")


def prepare_graphs(models: str, digest: str) -> dict[str, Any]:
    """Write the graphs of a prepared model, or find them written. Run this in a separate process.

    Args:
        models: local folder that holds model folders.
        digest: of the model.

    Returns:
        The values of a ``GraphsCard``.

    Raises:
        CliploomError: when the model has no graph, or an operation without a translation, or agrees too little.
    """
    folder, final = Path(models) / digest, Path(models) / graphs_digest(digest)
    if (final / CARD_FILE).exists():
        return read_graphs_card(final).to_dict()
    card = read_card(folder)
    scratch = Path(tempfile.mkdtemp(prefix=f"{PREPARING}{final.name[:SHORT]}-{os.getpid()}-", dir=models))
    try:
        made = _write_all(folder, scratch, card)
        (scratch / CARD_FILE).write_text(json.dumps(made.to_dict(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
        scratch.chmod(0o755)
        publish_folder(scratch, final)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return made.to_dict()


def _write_all(folder: Path, scratch: Path, card: ModelCard) -> GraphsCard:
    import onnxruntime

    from cliploom.transforms.encoders.ir_to_onnx import write_onnx

    named = [path for path in folder.rglob("*.xml") if path.name in _computed_names(card)]
    if not named:
        raise CliploomError(f"The encoder kind '{card.kind}' has no graph for a device; leave device out.")
    wanted = vectors_of(card, family(card.kind).open(folder, card, 1))
    np.savez(scratch / CHECK_FILE, **wanted)  # type: ignore[arg-type]
    local = Accelerator(_PROCESSOR, 0, "the processor", lambda: None)
    refusal = ""
    for any_batch in (True, False):
        graphs: dict[str, int] = {}
        try:
            for path in named:
                name = path.relative_to(folder).with_suffix(".onnx")
                (scratch / name).parent.mkdir(parents=True, exist_ok=True)
                write_onnx(path, scratch / name, any_batch=any_batch)
            opener = _Opener(folder, scratch, card, local, "fail")
            with opening_with(opener):
                encoder = family(card.kind).open(folder, card, 1)
            for file, engine in opener.engines.items():
                graphs[file] = max(0, engine.input_shapes[0][0])
            found = _measured(card, encoder, wanted, sizes=_SIZES if any_batch else (1,))
        except (MissingExtraError, OSError, MemoryError):
            raise
        except Exception as error:  # ONNX Runtime's errors have no kind in common
            refusal = one_line(error)
            continue
        least = min(found.values())
        if least >= LEAST["f32"]:
            return GraphsCard(card.digest, graphs, found, f"onnxruntime {onnxruntime.__version__}")
        refusal = f"its vectors have a cosine of {least:.6f} to OpenVINO's, below {LEAST['f32']}"
    raise CliploomError(
        f"The encoder kind '{card.kind}' has no ONNX graph that gives the same vectors: {refusal}; leave device out."
    )


def _computed_names(card: ModelCard) -> tuple[str, ...]:
    """Names of the IR files that rows are computed with; text towers of pictures only answer queries."""
    return ("text.xml",) if card.modality == "text" else ("model.xml",)


def vectors_of(card: ModelCard, encoder: Encoder, together: int | None = None) -> dict[str, NDArray[np.float32]]:
    """Vectors of the fixed inputs.

    Args:
        card: of the model.
        encoder: opened.
        together: inputs that are handed over at once; all by default.

    Returns:
        float32 [n, dim] by output name.

    Raises:
        EncodeError: when one can't be encoded.
    """
    inputs = list(check_inputs(card))
    size = together or len(inputs)
    rows = [row for begin in range(0, len(inputs), size) for row in encoder.encode(inputs[begin : begin + size])]
    for row in rows:
        if isinstance(row, EncodeError):
            raise row
    return {name: np.stack([row[name] for row in rows if isinstance(row, dict)]) for name in card.outputs}


def _measured(
    card: ModelCard, encoder: Encoder, wanted: Mapping[str, NDArray[np.float32]], sizes: Sequence[int]
) -> dict[str, float]:
    """Smallest cosine by output, over batches of several sizes."""
    found: dict[str, float] = {}
    for size in sizes:
        vectors = vectors_of(card, encoder, size)
        for name, expected in wanted.items():
            found[name] = min(found.get(name, 1.0), smallest_cosine(vectors[name], expected))
    return {name: round(value, 9) for name, value in found.items()}


def read_graphs_card(folder: Path) -> GraphsCard:
    """The card of a folder of graphs.

    Raises:
        StoreError: when it is missing or damaged.
    """
    try:
        return GraphsCard.from_dict(json.loads((folder / CARD_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise StoreError(
            f"The graphs in '{folder}' can't be read ({type(error).__name__}); remove the folder and run again."
        ) from None


class _Opener:
    """Opens the ONNX graph for each IR file that an encoder asks for; see ``engine.opening_with``."""

    def __init__(
        self, model: Path, graphs: Path, card: ModelCard, accelerator: Accelerator, on_loss: OnDeviceLoss
    ) -> None:
        self.engines: dict[str, DeviceEngine] = {}
        self._model = model.resolve()
        self._graphs = graphs
        self._card = card
        self._accelerator = accelerator
        self._on_loss = on_loss

    def __call__(self, graph: Path, outputs: Sequence[str]) -> Engine:
        """Open the graph on the device."""
        from cliploom.transforms.encoders.onnx_session import OnnxSession

        name = graph.resolve().relative_to(self._model).with_suffix(".onnx")
        if not (self._graphs / name).exists():
            raise DeviceError(f"'{self._graphs}' has no {name}; remove the folder and run again")
        engine = DeviceEngine(
            OnnxSession(self._graphs / name, outputs, self._accelerator),
            self._accelerator.free_bytes,
            _on_processor(graph, tuple(outputs), self._card),
            self._on_loss,
            self._accelerator.name,
        )
        self.engines[str(name)] = engine
        return engine


def _on_processor(graph: Path, outputs: Sequence[str], card: ModelCard) -> Callable[[], Engine]:
    def opened() -> Engine:
        from cliploom.transforms.encoders.runtime import CompiledGraph

        return CompiledGraph(graph, outputs, card.precision, len(os.sched_getaffinity(0)))

    return opened


class DeviceEncoder:
    """An encoder whose graphs run on a device, or on the processor once the device is lost."""

    def __init__(self, encoder: Encoder, engines: Sequence[DeviceEngine], on_device: Processor) -> None:
        self._encoder = encoder
        self._engines = list(engines)
        self._on_device = on_device

    @property
    def processor(self) -> Processor:
        """What vectors are computed on now."""
        lost = any(engine.lost for engine in self._engines)
        return Processor(processor_features()) if lost else self._on_device

    def encode(self, batch: Sequence[Any], report: EncodeReport | None = None) -> list[Any]:
        """See ``base.Encoder``."""
        return self._encoder.encode(batch, report)


def open_on_device(folder: Path, graphs: Path, accelerator: Accelerator, on_loss: OnDeviceLoss) -> DeviceEncoder:
    """Open a prepared model on a device, and measure what the device makes of it.

    Args:
        folder: of the model.
        graphs: of its ONNX graphs.
        accelerator: the device.
        on_loss: what to do when it fails later.

    Raises:
        DeviceError: when it can't be opened, or its vectors differ from those of the launcher's processor.
    """
    card = read_card(folder)
    opener = _Opener(folder, graphs, card, accelerator, "fail")
    with opening_with(opener), not_ending(card.kind, "opened"):
        encoder = family(card.kind).open(folder, card, 1)
    if not opener.engines:
        raise DeviceError(f"the encoder kind '{card.kind}' computes by itself; leave device out")
    try:
        found = _measured(card, encoder, load_arrays(graphs / CHECK_FILE), sizes=(len(check_inputs(card)),))
    except EncodeError as error:
        raise DeviceError(f"{accelerator.name} can't encode the fixed inputs: {error}") from error
    least = min(found.values())
    if least < LEAST["f32"]:
        raise DeviceError(
            f"{accelerator.name} gives vectors with a cosine of {least:.6f} to those of the processor, below "
            f"{LEAST['f32']}, so its rows would not belong into one table with others; use device: cpu"
        )
    for engine in opener.engines.values():
        engine.set_on_loss(on_loss)
    return DeviceEncoder(encoder, list(opener.engines.values()), Processor(accelerator.name, round(least, 7)))
