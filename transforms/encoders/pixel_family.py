"""Common code of the families for files that take pictures or clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cliploom.schemas.digests import SHORT, digest_of
from cliploom.schemas.models import Modality, ModelCard, Output
from cliploom.transforms.encoders.base import Encoder, Family
from cliploom.transforms.encoders.onnx_options import PixelOptions
from cliploom.transforms.encoders.weights import bytes_of


class PixelFamily(Family):
    """A family whose outputs are declared in the spec and computed by one graph of pixels."""

    def modality(self, options: PixelOptions) -> Modality:
        """Return clips if the layout has a time axis, else frames."""
        return "clip" if options.input.frames else "frame"

    def output_names(self, options: PixelOptions, text: bool) -> tuple[str, ...]:
        """Return the outputs declared in the spec."""
        return tuple(options.outputs)

    def foreign_bytes(self, options: Any) -> int | None:
        """Return the bytes of the file or folder in the spec."""
        return bytes_of(Path(options.model).expanduser())

    def open(self, folder: Path, card: ModelCard, threads: int) -> Encoder:
        """Compile the graph."""
        from cliploom.transforms.encoders.graph import GraphEncoder

        return GraphEncoder(folder, card, threads)

    def pixel_card(
        self, options: PixelOptions, dims: dict[str, int], *, text_output: str | None = None, text_tower: str = ""
    ) -> ModelCard:
        """Return the card, each output in a space of its own.

        Args:
            options: the options of the encoder.
            dims: the length of the vectors by output name.
            text_output: the output whose space a text tower shares.
            text_tower: the file of that tower's graph.
        """
        space = f"{self.kind}/{digest_of(self.fingerprint(options))[:SHORT]}"
        outputs = {
            name: Output(dim=dims[name], space=f"{space}/{name}", text=name == text_output) for name in options.outputs
        }
        return self.card(
            options,
            outputs,
            preprocess=options.input.preprocess,
            clip_frames=options.input.frames or 0,
            text_tower=text_tower,
        )
