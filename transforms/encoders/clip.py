"""CLIP, SigLIP and SigLIP2 models as published: pictures and sentences in one space, converted once."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cliploom.schemas.digests import SHORT, digest_of
from cliploom.schemas.errors import CliploomError, MissingExtraError
from cliploom.schemas.media import Preprocess
from cliploom.schemas.models import Modality, ModelCard, Output
from cliploom.transforms.encoders.base import Encoder, EncoderOptions, Family, PreparedText
from cliploom.transforms.encoders.clip_folder import ClipFolder, find_clip
from cliploom.transforms.encoders.weights import beside, sha256_of

OUTPUT = {"image": "image", "text": "embedding"}
GOLDEN = "golden.npz"


class ClipOptions(EncoderOptions):
    """Options of ``clip``.

    Attributes:
        model: a folder of transformers, sentence-transformers or open_clip, an open_clip checkpoint with its
            configuration in the same folder, or a name on the Hugging Face hub; the prefixes ``hf-hub:`` (a name) and
            ``local-dir:`` (a folder) mean open_clip.
        revision: the commit or tag of a model on the hub; without one, the vectors follow the hub's newest version.
        tower: ``image`` encodes pictures, searchable with sentences; ``text`` encodes stored sentences.
        prompt: a text put before each sentence, such as ``"a photo of "``.
        batch: the number of pictures computed together; incomplete batches are padded.
    """

    VALUE_FREE: ClassVar[frozenset[str]] = frozenset({"model", "revision", "batch"})
    model: str
    revision: str | None = None
    tower: Literal["image", "text"] = "image"
    prompt: str = ""
    batch: Annotated[int, Field(ge=1, le=256)] = 1


class Clip(Family):
    """The output ``image`` of pictures or ``embedding`` of sentences: unit vectors of one space."""

    kind = "clip"
    Options: ClassVar[type[EncoderOptions]] = ClipOptions

    def modality(self, options: ClipOptions) -> Modality:
        """Return pictures, or sentences with ``tower: text``."""
        return "frame" if options.tower == "image" else "text"

    def output_names(self, options: ClipOptions, text: bool) -> tuple[str, ...]:
        """Return the one output of the tower."""
        return (OUTPUT[options.tower],)

    def located(self, options: ClipOptions, base: Path) -> ClipOptions:
        """Return the path resolved against the spec's folder; names on the hub are unchanged."""
        scheme, separator, rest = options.model.partition(":")
        if scheme == "local-dir":
            return options.model_copy(update={"model": f"{scheme}{separator}{beside(base, rest)}"})
        local = beside(base, options.model)
        return options.model_copy(update={"model": local}) if Path(local).exists() else options

    def fingerprint(self, options: ClipOptions) -> dict[str, str]:
        """Return the hashes of configuration, tokenizer and weights."""
        found = find_clip(options.model, options.revision)
        return {name: sha256_of(_file(found, name)) for name in found.files}

    def foreign_bytes(self, options: ClipOptions) -> int:
        """Return the bytes of configuration, tokenizer and weights."""
        found = find_clip(options.model, options.revision)
        return sum(_file(found, name).stat().st_size for name in found.files)

    def prepare(self, options: ClipOptions, folder: Path, text: PreparedText | None) -> ModelCard:
        """Convert both towers in a separate process; see ``Family.prepare``.

        Raises:
            MissingExtraError: transformers is not installed, or open_clip for one of its models.
        """
        from cliploom.transforms.encoders.isolated import run_isolated
        from cliploom.transforms.encoders.text import TEXT_GRAPH

        found = find_clip(options.model, options.revision)
        module = _converter(found)
        made = run_isolated(
            f"{module}:convert",
            f"Converting '{options.model}'",
            source=str(found.folder),
            weights=str(found.weights or ""),
            folder=str(folder),
            tower=options.tower,
            output=OUTPUT[options.tower],
            prompt=options.prompt,
            batch=options.batch,
        )
        space = f"{self.kind}/{digest_of(self.fingerprint(options))[:SHORT]}"
        card = self.card(
            options,
            {OUTPUT[options.tower]: Output(dim=made["dim"], space=space, text=True)},
            preprocess=Preprocess.from_dict(made["preprocess"]) if options.tower == "image" else None,
            text_tower=TEXT_GRAPH,
        )
        measured = _agreement(folder, card, lambda: self.open(folder, card, threads=1))
        (folder / GOLDEN).unlink()
        return replace(card, agreement=measured)

    def open(self, folder: Path, card: ModelCard, threads: int) -> Encoder:
        """Compile the graph of the tower."""
        from cliploom.transforms.encoders.graph import GraphEncoder
        from cliploom.transforms.encoders.patches import PatchEncoder
        from cliploom.transforms.encoders.text import TextEncoder

        if card.modality == "text":
            return TextEncoder(folder, card, threads)
        of_patches = card.preprocess is not None and card.preprocess.fit == "patches"
        return PatchEncoder(folder, card, threads) if of_patches else GraphEncoder(folder, card, threads)


def _converter(found: ClipFolder) -> str:
    if found.family != "open_clip":
        if importlib.util.find_spec("transformers") is None:
            raise MissingExtraError("text", "Preparing the encoder 'clip'")
        return "cliploom.transforms.encoders.clip_convert"
    if importlib.util.find_spec("open_clip") is None:
        raise CliploomError("Preparing an open_clip model needs the package open_clip: pip install open_clip_torch.")
    return "cliploom.transforms.encoders.open_clip_convert"


def _file(found: ClipFolder, name: str) -> Path:
    return found.weights if found.weights is not None and found.weights.name == name else found.folder / name


def _agreement(folder: Path, card: ModelCard, open_encoder: Callable[[], Encoder]) -> dict[str, float]:
    """Return the smallest cosine of each tower, opened one after the other, against the original's golden vectors."""
    import numpy as np

    from cliploom.transforms.encoders.agreement import GOLDEN_SENTENCES, agreement, smallest_cosine
    from cliploom.transforms.encoders.text import TextTower

    with np.load(folder / GOLDEN, allow_pickle=False) as golden:
        sentences = smallest_cosine(TextTower(folder, card.precision).encode(GOLDEN_SENTENCES), golden["text"])
        if card.modality == "text":
            return {OUTPUT["text"]: sentences}
        pictures = [golden[f"picture_{number}"] for number in range(len(golden["image"]))]
        measured = agreement(open_encoder(), pictures, {OUTPUT["image"]: golden["image"]})
    return measured | {"text": sentences}
