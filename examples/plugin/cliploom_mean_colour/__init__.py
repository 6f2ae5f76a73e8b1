"""An encoder for cliploom: the mean colour of each cell of a grid over the picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from cliploom.encoders import Encoder, EncodeReport, EncoderOptions, Family, ModelCard, Output, Preprocess

PIXELS = 16


class Options(EncoderOptions):
    """What a spec may say: ``{kind: mean_colour, grid: 2}``.

    Attributes:
        grid: cells per side; the vector has 3 numbers for each of the grid x grid cells.
    """

    grid: int = Field(1, ge=1, le=8)


class MeanColour(Family):
    """Gives each picture the mean colours of a grid, 0 to 1, red before green before blue."""

    kind = "mean_colour"
    Options = Options
    # Raise it when the same options give other vectors; the next run then computes features that use it again.
    REVISION = 1

    def modality(self, options: Any) -> str:
        """Return that rows are single pictures."""
        return "frame"

    def output_names(self, options: Any, text: Any) -> tuple[str, ...]:
        """Return the names of the outputs."""
        return ("colour",)

    def fingerprint(self, options: Any) -> dict[str, str]:
        """Return digests of the weights by name; options and REVISION are part of the config digest anyway."""
        return {}

    def prepare(self, options: Any, folder: Path, text: Any) -> ModelCard:
        """Describe the prepared model; a family with weights writes them into ``folder``."""
        outputs = {"colour": Output(dim=3 * options.grid**2, space=f"mean_colour-{options.grid}")}
        size = PIXELS * options.grid
        return self.card(options, outputs=outputs, preprocess=Preprocess(size, size, fit="squash"))

    def open(self, folder: Path, card: ModelCard, threads: int) -> Encoder:
        """Return what workers call."""
        return GridEncoder(card.preprocess.width // PIXELS)


class GridEncoder:
    """Computes the vectors."""

    def __init__(self, grid: int) -> None:
        self._grid = grid

    def encode(self, batch: Sequence[np.ndarray], report: EncodeReport | None = None) -> list[dict[str, np.ndarray]]:
        """Return one dict per picture.

        Args:
            batch: uint8 [height, width, 3] pictures as ``Preprocess`` asks for them.
            report: counts for the run's report; not used here.
        """
        grid = self._grid
        found = []
        for pixels in batch:
            cells = pixels.reshape(grid, PIXELS, grid, PIXELS, 3).mean(axis=(1, 3), dtype=np.float64) / 255
            found.append({"colour": cells.astype(np.float32).ravel()})
        return found
