"""Pictures of any aspect ratio as patches, the input of SigLIP2 (naflex).

A folder has ``model.xml`` (uint8 [batch, patches, side * side * 3], float32 positions [batch, patches, width] and an
int32 mask [batch, patches] to float32 [batch, dim]) and ``positions.npy`` (float32 [rows, columns, width]), which are
resized to each picture's rows and columns of patches.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.errors import CliploomError, EncodeError
from cliploom.schemas.models import ModelCard
from cliploom.transforms.encoders.base import EncodeReport
from cliploom.transforms.encoders.engine import items_together, open_engine
from cliploom.transforms.encoders.graph import GRAPH_FILE, count, finite_row
from cliploom.transforms.literals import map_array

if TYPE_CHECKING:
    from cliploom.transforms.encoders.base import Row

POSITIONS = "positions.npy"
_SHAPES = 256  # number of distinct shapes whose positions are cached


class PatchEncoder:
    """Runs ``model.xml`` on pictures whose sides are multiples of the patch; see ``base.Encoder``."""

    def __init__(self, folder: Path, card: ModelCard, threads: int) -> None:
        """Open a folder.

        Raises:
            CliploomError: a file is missing or damaged.
        """
        if card.preprocess is None:
            raise CliploomError(f"The model card in {folder} has no preprocessing; an encoder of patches needs it.")
        self._name = next(iter(card.outputs))
        self._graph = open_engine(folder / GRAPH_FILE, [self._name], card.precision, threads)
        self._side = card.preprocess.patch
        self._batch, self._filled = items_together(self._graph)
        self._most = self._graph.input_shapes[0][1]
        grid: NDArray[np.float32] = np.array(map_array(folder / POSITIONS))
        self._positions = functools.lru_cache(_SHAPES)(lambda rows, columns: resized(grid, rows, columns))
        self._width = grid.shape[2]

    def encode(self, batch: Sequence[Any], report: EncodeReport | None = None) -> list[Row | EncodeError]:
        """Encode uint8 pictures."""
        results: list[Row | EncodeError | None] = [self._refusal(item) for item in batch]
        usable = [i for i, refused in enumerate(results) if refused is None]
        for begin in range(0, len(usable), self._batch):
            chosen = usable[begin : begin + self._batch]
            size = self._batch if self._filled else len(chosen)
            patches = np.zeros((size, self._most, self._side * self._side * 3), np.uint8)
            positions = np.zeros((size, self._most, self._width), np.float32)
            mask = np.zeros((size, self._most), np.int32)
            mask[len(chosen) :, 0] = 1  # a row without any patch would give NaN
            for place, i in enumerate(chosen):
                cut = patches_of(batch[i], self._side)
                patches[place, : len(cut)] = cut
                rows, columns = batch[i].shape[0] // self._side, batch[i].shape[1] // self._side
                positions[place, : len(cut)] = self._positions(rows, columns)
                mask[place, : len(cut)] = 1
            found = self._graph.run([patches, positions, mask])[self._name]
            for place, i in enumerate(chosen):
                results[i] = finite_row({self._name: found[place]})
        done = [result for result in results if result is not None]
        count(report, done)
        return done

    def _refusal(self, item: Any) -> EncodeError | None:
        side = self._side
        if isinstance(item, np.ndarray) and item.dtype == np.uint8 and item.ndim == 3 and item.shape[2] == 3:
            rows, columns = item.shape[0] / side, item.shape[1] / side
            if rows % 1 == columns % 1 == 0 and 0 < rows * columns <= self._most:
                return None
        found = f"{item.dtype} {list(item.shape)}" if isinstance(item, np.ndarray) else type(item).__name__
        return EncodeError(
            "encode", f"the encoder takes uint8 pictures of at most {self._most} patches of {side} pixels, not {found}."
        )


def patches_of(picture: NDArray[Any], side: int) -> NDArray[Any]:
    """Return the patches of a picture [H, W, 3], row by row: [patches, side * side * 3].

    >>> patches_of(np.arange(12).reshape(2, 2, 3), 1).tolist()
    [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    """
    rows, columns = picture.shape[0] // side, picture.shape[1] // side
    cut = picture.reshape(rows, side, columns, side, 3).transpose(0, 2, 1, 3, 4)
    return cut.reshape(rows * columns, side * side * 3)


def resized(grid: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    """Return a grid [h, w, width] resized to float32 [rows * columns, width], like torch's antialiased bilinear."""
    across = np.einsum("cw,hwd->hcd", _weights(grid.shape[1], columns), grid)
    both = np.einsum("rh,hcd->rcd", _weights(grid.shape[0], rows), across)
    return np.asarray(both.reshape(rows * columns, -1), np.float32)


def _weights(size: int, wanted: int) -> NDArray[np.float64]:
    """Return the weight of each of ``size`` values in each of ``wanted``, [wanted, size]; rows sum to 1.

    >>> _weights(4, 2).round(3).tolist()
    [[0.429, 0.429, 0.143, 0.0], [0.0, 0.143, 0.429, 0.429]]
    """
    scale = size / wanted
    centres = (np.arange(wanted) + 0.5) * scale
    distances = np.abs(np.arange(size) + 0.5 - centres[:, None]) / max(scale, 1.0)
    weights = np.maximum(0.0, 1.0 - distances)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
