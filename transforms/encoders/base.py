"""What an encoder is: its options, its family, and the records that pass between them.

A *family* knows one kind of model: how to prepare a folder from weights (once, on the launcher) and how to open that
folder (on every worker). A third party adds one by an entry point of the group ``cliploom.encoders``, named by the
kind, that refers to a class such as this whole one, which gives each picture its mean colour::

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

A family that writes an OpenVINO graph opens it with ``graph.GraphEncoder``: threads, pinned precision and checks come
with it.
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
    """What a spec may say of an encoder, besides ``kind`` and ``text_encoder``; families add fields of their own.

    Attributes:
        precision: what the processor computes in; pinned, never chosen by the runtime. ``int8`` (pictures, clips) is
            quantised with samples of the spec's own media, ``int8_weights`` keeps weights in a quarter of the memory.
        agreement: the least that ``int8`` and ``int8_weights`` must reach against ``f32``, or the run stops.
        device: ``cuda``: an NVIDIA device, which all workers need; ``auto``: where a worker has one; ``cpu``: none.
        on_device_loss: when the device fails in the middle of the work: ``cpu`` goes on with the processor, ``fail``
            stops the run.
        VALUE_FREE: fields that change no vector or that ``Family.fingerprint`` says better; left out of the digest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    VALUE_FREE: ClassVar[frozenset[str]] = frozenset()
    precision: Precision = "f32"
    agreement: AgreementSpec | None = None
    device: Device = "cpu"
    on_device_loss: OnDeviceLoss = "cpu"

    def values(self) -> dict[str, Any]:
        """What of the options the vectors depend on, JSON-able."""
        return self.model_dump(mode="json", exclude={*self.VALUE_FREE, "agreement", *PLACE_OPTIONS})


@dataclass
class EncodeReport:
    """Counts that an encoder adds to as it works; one per thread.

    Attributes:
        done: items encoded.
        failed: items that came back as an ``EncodeError``.
        truncated: sentences longer than the model takes; they are encoded from their beginning.
    """

    done: int = 0
    failed: int = 0
    truncated: int = 0


class Encoder(Protocol):
    """An opened model. Threads may share it."""

    def encode(self, batch: Sequence[Any], report: EncodeReport | None = None) -> list[Row | EncodeError]:
        """Encode items, each by itself: a vector does not depend on its neighbours in the batch.

        Args:
            batch: uint8 [H, W, 3] pictures, uint8 [T, H, W, 3] clips, or sentences, by the card's modality.
            report: added to, when given.

        Returns:
            For each item, in order, float32 [dim] by output name, or the error that this item alone gave.
        """
        ...


class TextQueries(Protocol):
    """An opened text tower. Threads may share it."""

    def encode(
        self, texts: Sequence[str], report: EncodeReport | None = None, *, query: bool = False
    ) -> NDArray[np.float32]:
        """Vectors of sentences, float32 [n, dim]; ``query`` says that they are asked, not stored."""
        ...


@dataclass(frozen=True)
class PreparedText:
    """A prepared text encoder that another encoder builds on.

    Attributes:
        folder: of the prepared model.
        card: that lies in it.
        encode: sentences to float32 [n, dim].
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
        kind: the name that a spec gives.
        REVISION: raised when the same options and weights give other vectors than before. Where a custom encoder
            declares none, the source of its class stands for it.
        TEXT_ENCODER: whether a spec may name a ``text_encoder`` beside it.
        Options: what a spec may say.
    """

    kind: ClassVar[str]
    REVISION: ClassVar[int] = 1
    TEXT_ENCODER: ClassVar[bool] = False
    Options: ClassVar[type[EncoderOptions]] = EncoderOptions

    @abstractmethod
    def modality(self, options: Any) -> Modality:
        """What the encoder takes; known from the options alone."""

    @abstractmethod
    def output_names(self, options: Any, text: bool) -> tuple[str, ...]:
        """Names of the outputs, ``text`` saying whether a text encoder is named; known from the options alone."""

    def located(self, options: Any, base: Path) -> Any:
        """The options with relative file paths made to start from ``base``, the spec's folder; most have none."""
        return options

    @abstractmethod
    def fingerprint(self, options: Any) -> dict[str, str]:
        """File name -> sha256 of all that the vectors depend on besides options, cheap enough for every plan.

        Raises:
            CliploomError: when the weights are not there.
        """

    def wrapped(self, options: Any) -> Family | None:
        """The family of another encoder that this one computes with, such as the one before a projection."""
        return None

    def foreign_bytes(self, options: Any) -> int | None:
        """Bytes of the files that ``prepare`` reads where a spec may name any; None where they are a package's.

        Foreign files are prepared in a process of its own, which ``limits.prepare_time`` and ``prepare_memory`` bound.
        """
        return None

    @abstractmethod
    def prepare(self, options: Any, folder: Path, text: PreparedText | None) -> ModelCard:
        """Write into ``folder`` all that ``open`` needs, and measure agreement with the original.

        Args:
            options: an instance of ``Options``.
            folder: an empty folder.
            text: the prepared text encoder, when the spec names one.

        Returns:
            The card, made with ``card``; its digest is filled in by the caller.
        """

    @abstractmethod
    def open(self, folder: Path, card: ModelCard, threads: int) -> Encoder:
        """Open a prepared folder for ``threads`` concurrent callers; ``registry.load`` shares what this returns."""

    def text_tower(self, folder: Path, card: ModelCard) -> TextQueries:
        """Open what turns queries into vectors, in a folder whose card names a ``text_tower``."""
        from cliploom.transforms.encoders.text import TextTower

        return TextTower(folder, card.precision, kept=True)

    def class_text(self, names: Sequence[str]) -> str:
        """The sentence whose vector stands for a class with these synonyms, when this is a text encoder."""
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
        """The card of a model of this family, for ``prepare`` to complete with the measured agreement and return."""
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
