"""PyTorch models as encoders of pictures or clips: exported programs, TorchScript, torchvision and timm models."""

from __future__ import annotations

import importlib.util
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from cliploom.schemas.digests import SHORT, digest_of
from cliploom.schemas.errors import CliploomError, MissingExtraError
from cliploom.schemas.models import Modality, ModelCard, Output
from cliploom.transforms.encoders.base import Encoder, EncoderOptions, Family, PreparedText
from cliploom.transforms.encoders.onnx_options import OnnxInput, OnnxOutput
from cliploom.transforms.encoders.weights import beside, bytes_of, sha256_of

LIBRARIES = ("torchvision", "timm")
GOLDEN = "golden.npz"


class TorchOutput(OnnxOutput):
    """One output of the model.

    Attributes:
        node: ``output`` for the result of the model; a number or key if it returns several; for a model by name also
            the path of an inner module, such as ``features``.
    """

    node: str = "output"


class TorchOptions(EncoderOptions):
    """Options of ``torch``.

    Attributes:
        model: a ``.pt2`` of ``torch.export`` or a TorchScript file, or ``torchvision:NAME`` or ``timm:NAME``.
        weights: the weights of a model by name: its state dict, ``.pth`` or ``.safetensors``; only tensors are read.
        trusted: a ``.pt2`` or TorchScript file is a program; set it to ``true`` if you trust its origin.
        input: the input of the model.
        outputs: the outputs to keep, by the name to give them.
        batch: the number of items computed together; incomplete batches are padded.
    """

    VALUE_FREE: ClassVar[frozenset[str]] = frozenset({"weights", "trusted", "batch"})
    model: str
    weights: str | None = None
    trusted: bool = False
    input: OnnxInput
    outputs: Annotated[dict[str, TorchOutput], Field(min_length=1)]
    batch: Annotated[int, Field(ge=1, le=256)] = 1

    @model_validator(mode="after")
    def _weights_belong_to_names(self) -> TorchOptions:
        if self.named is not None and self.weights is None:
            raise ValueError(f"{self.model!r} needs weights, the file of its state dict; nothing is downloaded")
        if self.named is None and self.weights is not None:
            raise ValueError(f"the file {self.model!r} has its own weights; remove weights")
        return self

    @property
    def named(self) -> tuple[str, str] | None:
        """The library and name of the model; None for a file."""
        library, _, name = self.model.partition(":")
        return (library, name) if library in LIBRARIES and name else None

    def values(self) -> dict[str, Any]:
        """Return the values without the path of a file, which is in the fingerprint."""
        values = super().values()
        return values if self.named is not None else {key: value for key, value in values.items() if key != "model"}


class TorchModel(Family):
    """The outputs declared in the spec."""

    kind = "torch"
    Options: ClassVar[type[EncoderOptions]] = TorchOptions

    def modality(self, options: TorchOptions) -> Modality:
        """Return clips if the layout has a time axis, else frames."""
        return "clip" if options.input.frames else "frame"

    def output_names(self, options: TorchOptions, text: bool) -> tuple[str, ...]:
        """Return the outputs declared in the spec."""
        return tuple(options.outputs)

    def located(self, options: TorchOptions, base: Path) -> TorchOptions:
        """Return the paths of the files from the spec's folder."""
        if options.weights is not None:
            return options.model_copy(update={"weights": beside(base, options.weights)})
        return options if options.named else options.model_copy(update={"model": beside(base, options.model)})

    def fingerprint(self, options: TorchOptions) -> dict[str, str]:
        """Return the hash of the file with the weights."""
        name = options.weights or options.model
        path = Path(name).expanduser()
        if not path.is_file():
            raise CliploomError(f"There is no PyTorch file '{name}'; give its path, or torchvision:NAME with weights.")
        return {"model": sha256_of(path)}

    def foreign_bytes(self, options: TorchOptions) -> int:
        """Return the bytes of the file with the weights."""
        return bytes_of(Path(options.weights or options.model).expanduser())

    def prepare(self, options: TorchOptions, folder: Path, text: PreparedText | None) -> ModelCard:
        """Convert the model in a separate process; see ``Family.prepare``.

        Raises:
            MissingExtraError: PyTorch is not installed.
        """
        from cliploom.transforms.encoders.isolated import run_isolated

        if importlib.util.find_spec("torch") is None:
            raise MissingExtraError("text", f"Preparing the encoder '{self.kind}'")
        made = run_isolated(
            "cliploom.transforms.encoders.torch_convert:convert",
            f"Converting '{options.model}'",
            options=options.model_dump(mode="json"),
            program=self._program(options),
            folder=str(folder),
        )
        space = f"{self.kind}/{digest_of(self.fingerprint(options) | {'name': str(options.named)})[:SHORT]}"
        card = self.card(
            options,
            {name: Output(dim=made["dims"][name], space=f"{space}/{name}") for name in options.outputs},
            preprocess=options.input.preprocess,
            clip_frames=options.input.frames or 0,
        )
        return replace(card, agreement=_agreement(folder, self.open(folder, card, threads=1)))

    def open(self, folder: Path, card: ModelCard, threads: int) -> Encoder:
        """Compile the graph."""
        from cliploom.transforms.encoders.graph import GraphEncoder

        return GraphEncoder(folder, card, threads)

    def _program(self, options: TorchOptions) -> str:
        """Return ``pt2`` or ``torchscript``; empty for a model by name.

        Raises:
            CliploomError: a library is missing, or a file is not a program or not trusted.
        """
        if options.named is not None:
            library = options.named[0]
            if importlib.util.find_spec(library) is None:
                raise CliploomError(f"The model '{options.model}' needs the package {library}: pip install {library}.")
            return ""
        kind = program_kind(Path(options.model).expanduser())
        if not options.trusted:
            raise CliploomError(
                f"'{options.model}' is a program that converting it runs; if you know where it comes from, add "
                "trusted: true to the encoder."
            )
        return kind


def program_kind(path: Path) -> Literal["pt2", "torchscript"]:
    """Identify the kind of program in a file, without running or unpickling anything.

    Raises:
        CliploomError: it is none, or a ``.pt2`` with pickled objects or compiled code inside.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] for name in archive.namelist()]
            if "constants.pkl" in names and any(name.startswith("code/") for name in names):
                return "torchscript"
            if any(name.startswith("models/") for name in names):
                _check_exported(archive, path)
                return "pt2"
    except (zipfile.BadZipFile, ValueError, KeyError) as error:
        raise CliploomError(f"'{path}' is not a PyTorch program: {error}; export it with torch.export.save.") from None
    raise CliploomError(
        f"'{path}' holds weights without a program; name the model, such as model: torchvision:vgg16_bn with weights: "
        f"{path.name}, or export it with torch.export.save."
    )


def _check_exported(archive: zipfile.ZipFile, path: Path) -> None:
    """Reject archives in which ``torch.export.load`` would unpickle more than tensors, or load machine code.

    torch 2.15 calls ``pickle`` for entries marked ``use_pickle``, for opaque constants and for weights of older
    formats, and opens libraries of AOTInductor. The example inputs are checked later, when torch is loaded.
    """
    for name in archive.namelist():
        inner = name.partition("/")[2]
        if inner.startswith("data/aotinductor/"):
            raise CliploomError(f"'{path}' holds compiled code ({inner}); export it with torch.export.save.")
        if inner.startswith(("data/weights/", "data/constants/")):
            if inner.endswith("_config.json"):
                entries = json.loads(archive.read(name)).get("config", {}).values()
                pickled = any(entry.get("use_pickle") for entry in entries)
            else:
                pickled = not inner.rpartition("/")[2].startswith(("weight_", "tensor_"))
            if pickled:
                raise CliploomError(
                    f"'{path}' holds pickled objects ({inner}), which could run anything; export it again from a "
                    "model of plain tensors."
                )


def _agreement(folder: Path, encoder: Encoder) -> dict[str, float]:
    """Return the smallest cosine by output against PyTorch's golden vectors, and delete their file."""
    import numpy as np

    from cliploom.transforms.encoders.agreement import agreement

    with np.load(folder / GOLDEN, allow_pickle=False) as golden:
        expected = {name.removeprefix("output/"): golden[name] for name in golden.files if name != "items"}
        measured = agreement(encoder, list(golden["items"]), expected)
    (folder / GOLDEN).unlink()
    return measured
