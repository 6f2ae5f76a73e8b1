"""Prepared encoders for Beam: ``RunInference(EncoderHandler(folder))``, or ``run_inference`` in a worker's loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apache_beam.ml.inference.base import ModelHandler

from cliploom.transforms.encoders import registry
from cliploom.transforms.encoders.base import Encoder
from cliploom.transforms.store.encoded import as_results

if TYPE_CHECKING:
    from cliploom.schemas.errors import EncodeError
    from cliploom.transforms.encoders.base import Row


class EncoderHandler(ModelHandler):  # type: ignore[misc]
    """Loads a prepared folder once per process and encodes batches.

    A prediction is a row (float32 [dim] by output name) or the ``EncodeError`` of that item; one item never fails its
    batch. ``inference_args`` may have an ``EncodeReport`` under ``report``.
    """

    def __init__(self, folder: Path, threads: int = 1, max_batch_size: int = 32) -> None:
        """Store the settings; ``load_model`` opens the model.

        Args:
            folder: the prepared folder on the worker's disk.
            threads: the number of worker threads per process.
            max_batch_size: the maximum batch size for RunInference.
        """
        super().__init__(max_batch_size=max_batch_size)
        self._folder = folder
        self._threads = threads

    def load_model(self) -> Encoder:
        """Open the folder, or share what another thread opened."""
        return registry.load(self._folder, self._threads)

    def run_inference(
        self, batch: Sequence[Any], model: Encoder, inference_args: Mapping[str, Any] | None = None
    ) -> list[Row | EncodeError]:
        """Encode a batch, in order."""
        return as_results(model.encode(batch, (inference_args or {}).get("report")), len(batch))

    def get_num_bytes(self, batch: Sequence[Any]) -> int:
        """Return the number of bytes of pixels or characters."""
        return sum(item.nbytes if hasattr(item, "nbytes") else len(item) for item in batch)

    def get_metrics_namespace(self) -> str:
        """Return the namespace of RunInference's counters."""
        return "cliploom_encoder"
