"""Keras files as encoders of pictures or clips: exported once in a separate process, then used as a SavedModel."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import ClassVar

from cliploom.schemas.errors import CliploomError, MissingExtraError
from cliploom.schemas.models import ModelCard
from cliploom.transforms.encoders.base import EncoderOptions, PreparedText
from cliploom.transforms.encoders.pixel_family import PixelFamily
from cliploom.transforms.encoders.saved_model_options import KerasOptions
from cliploom.transforms.encoders.weights import beside, sha256_of

_ENDINGS = (".keras", ".h5", ".hdf5")


class KerasFile(PixelFamily):
    """A `.keras` or `.h5` file; preparing it needs `cliploom[tensorflow]`. Files with code are rejected."""

    kind = "keras"
    Options: ClassVar[type[EncoderOptions]] = KerasOptions

    def located(self, options: KerasOptions, base: Path) -> KerasOptions:
        """Return the path of the file from the spec's folder."""
        return options.model_copy(update={"model": beside(base, options.model)})

    def fingerprint(self, options: KerasOptions) -> dict[str, str]:
        """Return the hash of the file."""
        path = Path(options.model).expanduser()
        if not path.is_file():
            hint = "; a folder is a SavedModel, use kind: saved_model" if path.is_dir() else "; give its path"
            raise CliploomError(f"There is no Keras file '{options.model}'{hint}.")
        if path.suffix not in _ENDINGS:
            raise CliploomError(f"'{options.model}' does not end in .keras or .h5, and is not a Keras file; rename it.")
        return {"model": sha256_of(path)}

    def prepare(self, options: KerasOptions, folder: Path, text: PreparedText | None) -> ModelCard:
        """Export and convert the model; see ``Family.prepare``.

        Raises:
            MissingExtraError: TensorFlow is not installed.
        """
        from cliploom.transforms.encoders.measuring import measured
        from cliploom.transforms.encoders.saved_model import write_pixels
        from cliploom.transforms.encoders.saved_model_signatures import SavedModel
        from cliploom.transforms.encoders.tensorflow_reference import has_tensorflow, tensorflow_expected

        if not has_tensorflow():
            raise MissingExtraError("tensorflow", f"Preparing the encoder '{self.kind}'")
        with tempfile.TemporaryDirectory(prefix="cliploom-") as scratch:
            path = str(Path(options.model).expanduser().resolve())
            expected = tensorflow_expected("export_keras", options, path=path, folder=scratch)
            saved = SavedModel(Path(scratch), options.model)
            dims = write_pixels(saved, saved.signature(None), options, folder)
        card = self.pixel_card(options, dims)
        return measured(self.open(folder, card, threads=1), folder, card, expected)
