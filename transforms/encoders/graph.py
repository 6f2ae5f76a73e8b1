"""An encoder of pictures or clips based on an OpenVINO graph from uint8 pixels to vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cliploom.schemas.errors import CliploomError, EncodeError
from cliploom.schemas.models import ModelCard
from cliploom.transforms.encoders.base import EncodeReport
from cliploom.transforms.encoders.engine import items_together, open_engine

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cliploom.transforms.encoders.base import Row

GRAPH_FILE = "model.xml"


class GraphEncoder:
    """Runs ``model.xml`` of a prepared folder.

    The graph takes uint8 [batch, H, W, 3] or [batch, T, H, W, 3]. Its batch size is fixed, so that an item is computed
    by the same kernels whatever its neighbours; incomplete batches are padded with black. On a device other than the
    processor a graph takes any number of items.
    """

    def __init__(self, folder: Path, card: ModelCard, threads: int) -> None:
        if card.preprocess is None:
            raise CliploomError(f"The model card in {folder} has no preprocessing; a {card.modality} encoder needs it.")
        self._names = tuple(card.outputs)
        self._graph = open_engine(folder / GRAPH_FILE, self._names, card.precision, threads)
        self._batch, self._padded = items_together(self._graph)
        frame = (card.preprocess.height, card.preprocess.width, 3)
        self._shape: tuple[int, ...] = (card.clip_frames, *frame) if card.modality == "clip" else frame

    def encode(self, batch: Sequence[Any], report: EncodeReport | None = None) -> list[Row | EncodeError]:
        """Encode uint8 pictures or clips; see ``base.Encoder``."""
        results: list[Row | EncodeError | None] = [self._refusal(item) for item in batch]
        usable = [i for i, refused in enumerate(results) if refused is None]
        for begin in range(0, len(usable), self._batch):
            chosen = usable[begin : begin + self._batch]
            found = self._graph.run([self._stacked([batch[i] for i in chosen])])
            for place, i in enumerate(chosen):
                results[i] = finite_row({name: found[name][place] for name in self._names})
        done = [result for result in results if result is not None]
        count(report, done)
        return done

    def _stacked(self, items: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Return the graph's input; a single item is not copied, as copying would block other threads."""
        count = self._batch if self._padded else len(items)
        if count == 1 and items[0].flags.c_contiguous:
            return items[0][np.newaxis]
        pixels = np.zeros((count, *self._shape), np.uint8)
        for place, item in enumerate(items):
            pixels[place] = item
        return pixels

    def _refusal(self, item: Any) -> EncodeError | None:
        if isinstance(item, np.ndarray) and item.dtype == np.uint8 and item.shape == self._shape:
            return None
        found = f"{item.dtype} {list(item.shape)}" if isinstance(item, np.ndarray) else type(item).__name__
        return EncodeError("encode", f"the encoder takes uint8 {list(self._shape)}, not {found}.")


def finite_row(row: Row) -> Row | EncodeError:
    """Return the row with vectors in memory of its own, or an error if a value is not finite."""
    for name, vector in row.items():
        if not np.isfinite(vector).all():
            bad = int(np.flatnonzero(~np.isfinite(vector))[0])
            return EncodeError("encode", f"the encoder's output '{name}' is {vector[bad]} at position {bad}.")
    return {name: np.array(vector, np.float32) for name, vector in row.items()}


def count(report: EncodeReport | None, results: Sequence[Row | EncodeError]) -> None:
    """Add results to a report."""
    if report is not None:
        failed = sum(isinstance(result, EncodeError) for result in results)
        report.failed += failed
        report.done += len(results) - failed
