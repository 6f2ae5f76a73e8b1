"""Prepared models on a worker: fetched once to the machine, opened once a process, called on samples."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.errors import DeviceError, EncodeError, StoreError
from cliploom.schemas.jobs import FeatureJob, RunJob
from cliploom.schemas.models import CARD_FILE, ModelCard
from cliploom.schemas.precision import QUANTISED
from cliploom.schemas.records import Processor
from cliploom.schemas.release import FileEntry
from cliploom.transforms.encoders.accelerators import find_accelerator
from cliploom.transforms.encoders.base import Encoder, EncodeReport
from cliploom.transforms.encoders.drift import measure_drift
from cliploom.transforms.encoders.processor import processor_features
from cliploom.transforms.encoders.registry import load, read_card, referred_models
from cliploom.transforms.store.encoded import as_results, is_row
from cliploom.transforms.store.local_folder import private_folder
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.releases import folder_entries

if TYPE_CHECKING:
    from cliploom.transforms.encoders.base import Row
    from cliploom.transforms.encoders.device_graphs import DeviceEncoder

BATCH_PICTURES = 16
BATCH_SENTENCES = 4_096
MOST_KNOWN_SENTENCES = 32_768
MODELS = "models"
_PROCESS_BYTES, _THREAD_BYTES = 1 << 30, 256 << 20


def local_model(objects: ObjectStore, model: str) -> Path:
    """The folder of a prepared model on this machine, with the models that it refers to beside it.

    Args:
        objects: the store.
        model: ``models/<digest>``.

    Raises:
        StoreError: when the store does not have it.
    """
    if objects.root is not None:
        folder = objects.root / model
    else:
        cache = model_cache()
        folder = _fetch(objects, model, cache)
        for digest in referred_models(read_card(folder)):
            _fetch(objects, f"{MODELS}/{digest}", cache)
    if not (folder / CARD_FILE).exists():
        raise StoreError(f"{objects.uri_of(model)} is not there; `cliploom run` prepares it again.")
    return folder


def model_cache() -> Path:
    """The folder of this machine that keeps prepared models of buckets, by digest."""
    return private_folder("models")


def _fetch(objects: ObjectStore, model: str, cache: Path) -> Path:
    folder = cache / PurePosixPath(model).name
    if (folder / CARD_FILE).exists():
        return folder
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetching-") as name:
        for entry in objects.list(model):
            target = Path(name) / "model" / entry.path.removeprefix(f"{model}/")
            if not target.resolve().is_relative_to(Path(name).resolve()):
                raise StoreError(f"{entry.path!r} would leave the model's folder; the store is damaged.")
            target.parent.mkdir(parents=True, exist_ok=True)
            objects.download(entry.path, target)
        try:
            (Path(name) / "model").rename(folder)
        except OSError:
            if not (folder / CARD_FILE).exists():
                raise
    return folder


def upload_model(objects: ObjectStore, folder: Path) -> None:
    """Copy a prepared folder into a bucket, its card last; one that is there whole already stays."""
    if objects.size(f"{MODELS}/{folder.name}/{CARD_FILE}") is not None:
        return
    files = sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.name == CARD_FILE)
    for path in files:
        objects.put_new(f"{MODELS}/{folder.name}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def model_files(objects: ObjectStore, model: str) -> list[FileEntry]:
    """All files of a prepared model and of the models that it refers to, with their digests; none for no model."""
    if not model:
        return []
    folders = [model, *(f"{MODELS}/{digest}" for digest in referred_models(read_card(local_model(objects, model))))]
    return folder_entries(objects, *folders)


def memory_of(objects: ObjectStore, job: RunJob) -> int:
    """About how many bytes a worker process needs: itself with its libraries and clips, and its models.

    OpenVINO holds a model's weights as they were read and as they were compiled.
    """
    models = {each.model for each in job.features.values() if each.model}
    models |= {each.device.graphs for each in job.features.values() if each.device is not None}
    weights = sum(entry.size for model in models for entry in objects.list(model))
    return _PROCESS_BYTES + job.threads * _THREAD_BYTES + 2 * weights


@dataclass(frozen=True)
class SampleEncoder:
    """An encoder bound to a feature: takes the samples that the decoder gives.

    Attributes:
        batch: samples handed to ``encode`` at once.
        averaged: a picture encoder is asked for windows, and each window's vectors are averaged.
        processor: that this process computes on.
    """

    encoder: Encoder
    batch: int
    averaged: bool
    processor: Processor | None = None

    def encode(self, samples: Sequence[NDArray[np.uint8] | str]) -> Sequence[Row | EncodeError]:
        """One row of vectors, or one error, for each sample.

        Args:
            samples: uint8 [H, W, 3], or [T, H, W, 3] for windows.
        """
        if not self.averaged:
            return self.encoder.encode(samples)
        return [_averaged(as_results(self.encoder.encode(list(window)), len(window))) for window in samples]


def _averaged(rows: list[Any]) -> Any:
    """The mean of a window's vectors, or the first row that is none: an error, or what ``checked_vectors`` refuses."""
    for row in rows:
        if not is_row(row):
            return row
    return {name: np.mean([row[name] for row in rows], axis=0) for name in rows[0]}


class SentenceEncoder:
    """A text encoder bound to one shard of a feature: equal sentences are encoded once.

    Attributes:
        encoder: that it calls.
        batch: sentences handed to ``encode`` at once; many, since the encoder sorts them by length.
        report: what the encoder counted, of distinct sentences.
        processor: that this process computes on.
    """

    batch = BATCH_SENTENCES

    def __init__(self, encoder: Encoder, processor: Processor | None = None) -> None:
        self.report = EncodeReport()
        self.processor = processor
        self.encoder = encoder
        self._known: dict[str, Row] = {}

    def know(self, rows: Mapping[str, Row]) -> None:
        """Take vectors of sentences that were encoded before."""
        self._known.update(rows)

    def encode(self, samples: Sequence[NDArray[np.uint8] | str]) -> Sequence[Row | EncodeError]:
        """One row of vectors, or one error, for each sentence."""
        new = [text for text in dict.fromkeys(map(str, samples)) if text not in self._known]
        rows = as_results(self.encoder.encode(new, self.report), len(new)) if new else []
        found: dict[str, Row | EncodeError] = dict(zip(new, rows, strict=True))
        results = [self._known[text] if text in self._known else found[text] for text in map(str, samples)]
        room = MOST_KNOWN_SENTENCES - len(self._known)
        good = ((text, row) for text, row in found.items() if is_row(row))
        self._known.update(islice(good, max(0, room)))
        return results


def load_encoder(objects: ObjectStore, job: FeatureJob, threads: int) -> SampleEncoder | SentenceEncoder:
    """The encoder of a feature, opened once a process and shared by its threads."""
    folder = local_model(objects, job.model)
    device = _on_device(objects, job, folder)
    encoder = load(folder, threads) if device is None else device
    processor = None if device is not None else _processor(folder, job.card, encoder)
    if job.card is not None and job.card.modality == "text":
        return SentenceEncoder(encoder, processor)
    windowed = job.sampling is not None and job.sampling.windowed
    batch = BATCH_PICTURES if not windowed else 1
    averaged = windowed and job.card is not None and job.card.modality == "frame"
    return SampleEncoder(encoder, batch, averaged, processor)


def _on_device(objects: ObjectStore, job: FeatureJob, folder: Path) -> DeviceEncoder | None:
    """The encoder on this machine's device; None where the feature is computed on the processor.

    Raises:
        DeviceError: when the feature requires a device and there is none, or it gives other vectors.
    """
    wanted = job.device
    if wanted is None or (not wanted.required and wanted.graphs in _REFUSED):
        return None
    # Loads OpenVINO and ONNX Runtime, which a night without work does not need.
    from cliploom.transforms.encoders.device_graphs import open_on_device
    from cliploom.transforms.encoders.runtime import shared_models

    try:
        accelerator = find_accelerator()
        graphs = local_graphs(objects, wanted.graphs)
        key = ("device", str(folder.resolve()), str(graphs), accelerator.name, accelerator.provider, wanted.on_loss)
        return shared_models().get(key, lambda: open_on_device(folder, graphs, accelerator, wanted.on_loss))
    except DeviceError as error:
        if wanted.required:
            raise DeviceError(
                f"{job.name}: this worker can't compute with device: cuda: {str(error).rstrip('.')}. Use device: auto "
                "(workers without one use their processor) or device: cpu."
            ) from None
        _LOG.warning("%s is computed on the processor: %s", job.name, error)
        _REFUSED.add(wanted.graphs)  # said once, and not tried for each shard
        return None


def local_graphs(objects: ObjectStore, graphs: str) -> Path:
    """The folder of a model's ONNX graphs on this machine.

    Raises:
        StoreError: when the store does not have it.
    """
    folder = objects.root / graphs if objects.root is not None else _fetch(objects, graphs, model_cache())
    if not (folder / CARD_FILE).exists():
        raise StoreError(f"{objects.uri_of(graphs)} is not there; `cliploom run` prepares it again.")
    return folder


_LOG = logging.getLogger(__name__)
_REFUSED: set[str] = set()
_PROCESSORS: dict[tuple[Path, str], Processor] = {}
_MEASURING = threading.Lock()


def _processor(folder: Path, card: ModelCard | None, encoder: Encoder) -> Processor:
    """This processor; for a quantised model with what it makes of the model, measured once a process."""
    features = processor_features()
    if card is None or card.precision not in QUANTISED:
        return Processor(features)
    with _MEASURING:
        found = _PROCESSORS.get((folder, card.digest))
        if found is None:
            drift = measure_drift(folder, card, encoder)
            found = Processor(features, None if drift is None else round(drift, 7))
            _PROCESSORS[folder, card.digest] = found
    return found


def processors(encoder: object) -> tuple[Processor, ...]:
    """What the rows of an encoder of this module are computed on; nothing is known of others."""
    if isinstance(encoder, SampleEncoder | SentenceEncoder):
        if encoder.processor is not None:
            return (encoder.processor,)
        from cliploom.transforms.encoders.device_graphs import DeviceEncoder

        return (encoder.encoder.processor,) if isinstance(encoder.encoder, DeviceEncoder) else ()
    return ()
