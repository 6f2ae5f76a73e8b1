"""The interface of encoders: options, families, and the records that they exchange.

A *family* implements one kind of model: how to prepare a folder from weights (once, on the launcher) and how to open
that folder (on every worker). A package adds one with an entry point of the group ``cliploom.encoders``, named by the
kind, that refers to a class. This complete example returns the mean colour of each picture::

    class MeanColour(Family):
        kind = "mean_colour"

        def modality(self, options):
            return "frame"

        def output_names(self, options, text):
            return ("colour",)

        def fingerprint(self, options):
            return {}

        def prepare(self, options, folder, text):
            outputs = {"colour": Output(dim=3, space="mean_colour")}
            return self.card(options, outputs=outputs, preprocess=Preprocess(32, 32, fit="squash"))

        def open(self, folder, card, threads):
            return ColourEncoder()


    class ColourEncoder:
        def encode(self, batch, report=None):
            return [{"colour": pixels.mean((0, 1), dtype=np.float32)} for pixels in batch]

In the package's ``pyproject.toml``::

    [project.entry-points."cliploom.encoders"]
    mean_colour = "my_package:MeanColour"

A family that writes an OpenVINO graph opens it with ``graph.GraphEncoder``, which handles threads, pinned precision and
checks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict

from cliploom.schemas.devices import Device, OnDeviceLoss
from cliploom.schemas.errors import EncodeError
from cliploom.schemas.media import Preprocess
from cliploom.schemas.models import Modality, ModelCard, Output, Precision
from cliploom.schemas.precision import AgreementSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Row = dict[str, NDArray[np.float32]]


PLACE_OPTIONS = frozenset({"device", "on_device_loss"})
"""Options that say where vectors are computed: a model is the same with and without them."""


class EncoderOptions(BaseModel):
    """The options of an encoder in a spec, besides ``kind`` and ``text_encoder``; families add their own fields.

    Attributes:
        precision: the arithmetic precision, always explicit, never chosen by the runtime. ``int8`` (pictures, clips) is
            quantised with samples of the spec's own media, ``int8_weights`` keeps weights in a quarter of the memory.
        agreement: the minimum figures that ``int8`` and ``int8_weights`` must reach against ``f32``, else the run
            stops.
        device: ``cuda``: an NVIDIA device, which all workers need; ``auto``: where a worker has one; ``cpu``: none.
        on_device_loss: when the device fails in the middle of the work: ``cpu`` goes on with the processor, ``fail``
            stops the run.
        VALUE_FREE: the fields that change no vector or are covered by ``Family.fingerprint``; excluded from the digest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    VALUE_FREE: ClassVar[frozenset[str]] = frozenset()
    precision: Precision = "f32"
    agreement: AgreementSpec | None = None
    device: Device = "cpu"
    on_device_loss: OnDeviceLoss = "cpu"

    def values(self) -> dict[str, Any]:
        """Return the options that the vectors depend on, as JSON values."""
        return self.model_dump(mode="json", exclude={*self.VALUE_FREE, "agreement", *PLACE_OPTIONS})


@dataclass
class EncodeReport:
    """Counters that an encoder increments; one report per thread.

    Attributes:
        done: the number of encoded items.
        failed: the number of items that gave an ``EncodeError``.
        truncated: the number of sentences longer than the model's limit; only their beginning is encoded.
    """

    done: int = 0
    failed: int = 0
    truncated: int = 0


class Encoder(Protocol):
    """An opened model; thread-safe."""

    def encode(self, batch: Sequence[Any], report: EncodeReport | None = None) -> list[Row | EncodeError]:
        """Encode items independently: a vector does not depend on the other items in the batch.

        Args:
            batch: uint8 [H, W, 3] pictures, uint8 [T, H, W, 3] clips, or sentences, by the card's modality.
            report: the report to add to, if given.

        Returns:
            For each item, in order, float32 [dim] by output name, or the error of this item.
        """
        ...


class TextQueries(Protocol):
    """An opened text tower; thread-safe."""

    def encode(
        self, texts: Sequence[str], report: EncodeReport | None = None, *, query: bool = False
    ) -> NDArray[np.float32]:
        """Return the vectors of sentences, float32 [n, dim]; ``query`` says that they are queries, not stored texts."""
        ...


@dataclass(frozen=True)
class PreparedText:
    """A prepared text encoder that another encoder builds on.

    Attributes:
        folder: the folder of the prepared model.
        card: the model card in the folder.
        encode: a function from sentences to float32 [n, dim].
    """

    folder: Path
    card: ModelCard
    encode: Callable[[list[str]], NDArray[np.float32]]

    @property
    def output(self) -> Output:
        """The one output of the text encoder."""
        return next(iter(self.card.outputs.values()))


class Family(ABC):
    """One kind of encoder; stateless.

    Attributes:
        kind: the name of the kind in a spec.
        REVISION: increased when the same options and weights give other vectors. For a custom encoder without one, the
            source code of its class is used instead.
        TEXT_ENCODER: whether a spec may combine it with a ``text_encoder``.
        Options: the class of its options.
    """

    kind: ClassVar[str]
    REVISION: ClassVar[int] = 1
    TEXT_ENCODER: ClassVar[bool] = False
    Options: ClassVar[type[EncoderOptions]] = EncoderOptions

    @abstractmethod
    def modality(self, options: Any) -> Modality:
        """Return the type of input; determined by the options."""

    @abstractmethod
    def output_names(self, options: Any, text: bool) -> tuple[str, ...]:
        """Return the names of the outputs; ``text`` says whether there is a text encoder. Determined by the options."""

    def located(self, options: Any, base: Path) -> Any:
        """Return the options with file paths resolved against ``base``, the spec's folder."""
        return options

    @abstractmethod
    def fingerprint(self, options: Any) -> dict[str, str]:
        """Return file name -> sha256 of everything besides options that the vectors depend on; cheap to compute.

        Raises:
            CliploomError: the weights are missing.
        """

    def wrapped(self, options: Any) -> Family | None:
        """Return the family of another encoder that this one wraps, such as the one before a projection."""
        return None

    def foreign_bytes(self, options: Any) -> int | None:
        """Return the bytes of user-supplied files that ``prepare`` reads; None if they come from a package.

        Such files are prepared in a separate process, limited by ``limits.prepare_time`` and ``prepare_memory``.
        """
        return None

    @abstractmethod
    def prepare(self, options: Any, folder: Path, text: PreparedText | None) -> ModelCard:
        """Write everything that ``open`` needs to ``folder``, and measure the agreement with the original.

        Args:
            options: an instance of ``Options``.
            folder: an empty folder.
            text: the prepared text encoder, if the spec has one.

        Returns:
            The card, created with ``card``; the caller fills in its digest.
        """

    @abstractmethod
    def open(self, folder: Path, card: ModelCard, threads: int) -> Encoder:
        """Open a prepared folder for ``threads`` concurrent callers; ``registry.load`` shares the result."""

    def text_tower(self, folder: Path, card: ModelCard) -> TextQueries:
        """Open the text tower, in a folder whose card has ``text_tower``."""
        from cliploom.transforms.encoders.text import TextTower

        return TextTower(folder, card.precision, kept=True)

    def class_text(self, names: Sequence[str]) -> str:
        """Return the sentence that represents a class with these synonyms, for text encoders."""
        from cliploom.transforms.encoders.conse import class_prompt

        return class_prompt(names)

    def card(
        self,
        options: Any,
        outputs: dict[str, Output],
        *,
        preprocess: Preprocess | None = None,
        clip_frames: int = 0,
        text_tower: str = "",
    ) -> ModelCard:
        """Return the card of a model of this family; ``prepare`` adds the measured agreement."""
        return ModelCard(
            kind=self.kind,
            digest="",
            modality=self.modality(options),
            precision=options.precision,
            outputs=outputs,
            preprocess=preprocess,
            clip_frames=clip_frames,
            text_tower=text_tower,
            sources=self.fingerprint(options),
        )
