"""Encoder families by kind: built-in ones, and those of installed packages.

Importing this module, looking up a family and checking its options loads neither OpenVINO nor Beam.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, cast

from cliploom.schemas.errors import CliploomError, StoreError, UnknownNameError, nearest
from cliploom.schemas.models import CARD_FILE, ModelCard
from cliploom.schemas.plugins import load_offered, offered_kinds
from cliploom.transforms.encoders.base import Encoder, Family

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GROUP = "cliploom.encoders"

_BUILT_IN: Mapping[str, str] = {
    "efficientnet_lite0": "cliploom.transforms.encoders.lite0:EfficientNetLite0",
    "minilm": "cliploom.transforms.encoders.minilm:MiniLM",
    "word_vectors": "cliploom.transforms.encoders.word_vectors:WordVectors",
    "torch": "cliploom.transforms.encoders.torch_model:TorchModel",
    "pca": "cliploom.transforms.encoders.pca:Projected",
    "clip": "cliploom.transforms.encoders.clip:Clip",
    "onnx": "cliploom.transforms.encoders.onnx:Onnx",
    "frozen_graph": "cliploom.transforms.encoders.frozen_graph:FrozenGraph",
    "keras": "cliploom.transforms.encoders.keras_file:KerasFile",
    "saved_model": "cliploom.transforms.encoders.saved_model:SavedModelFamily",
    "sentence_transformer": "cliploom.transforms.encoders.sentence_transformer:SentenceTransformer",
}


def kinds() -> list[str]:
    """Return all kinds of encoders, sorted."""
    return sorted({*_BUILT_IN, *offered_kinds(GROUP)})


def family(kind: str) -> Family:
    """Return the family of a kind; entry points cannot replace built-in ones.

    Raises:
        SpecError: the kind is unknown; the message has the nearest known one.
        CliploomError: an installed package's family cannot be loaded or is invalid, or two packages offer the kind.
    """
    if kind in _BUILT_IN:
        built_in: type[Family] = resolve_name(_BUILT_IN[kind])
        return built_in()
    found = load_offered(GROUP, kind, "encoder", Family)
    if found is None:
        raise UnknownNameError(f"There is no encoder kind '{kind}'{nearest(kind, kinds())}")
    offered = cast("type[Family]", found)
    return offered()


def read_card(folder: Path) -> ModelCard:
    """Return the card of a prepared folder.

    Raises:
        StoreError: it is missing or damaged.
    """
    try:
        return ModelCard.from_dict(json.loads((folder / CARD_FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise StoreError(
            f"'{folder}' has no {CARD_FILE}, so it is not a prepared model; run again to prepare it."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"The model card '{folder / CARD_FILE}' is damaged: {type(error).__name__}: {error}."
        ) from None


def load(folder: Path, threads: int = 1) -> Encoder:
    """Open a prepared model once per process; all threads share it.

    Args:
        folder: the prepared folder.
        threads: the number of concurrent callers.
    """
    from cliploom.transforms.encoders.runtime import shared_models

    card = read_card(folder)
    key = ("encoder", str(folder.resolve()), card.digest, threads)

    def opened() -> Encoder:
        with not_ending(card.kind, "opened"):
            return family(card.kind).open(folder, card, threads)

    return shared_models().get(key, opened)


@contextmanager
def not_ending(kind: str, doing: str) -> Iterator[None]:
    """Convert an attempt of an encoder's code to exit the program to an error.

    Args:
        kind: the encoder.
        doing: the operation, for the message.
    """
    try:
        yield
    except SystemExit as error:
        raise CliploomError(
            f"The encoder '{kind}' tried to end the program (exit code {error.code!r}) when it was {doing}; let it "
            "raise an error that says what is wrong."
        ) from error


def load_text_tower(folder: Path) -> Callable[[list[str]], NDArray[np.float32]]:
    """Return the function that encodes queries for the outputs that have ``text``.

    Args:
        folder: a prepared folder; the text encoder that it builds on is beside it (``referred_models``).

    Returns:
        A function from sentences to float32 [n, dim].

    Raises:
        CliploomError: the model has no text tower.
    """
    from cliploom.transforms.encoders.projected_text import project_texts
    from cliploom.transforms.encoders.runtime import shared_models

    card = read_card(folder)
    if not card.text_tower:
        raise CliploomError(f"The encoder '{card.kind}' has no text tower and no text_encoder: no text queries.")
    tower_folder = (folder / card.text_tower).resolve().parent
    its = read_card(tower_folder)
    tower = shared_models().get(("text", str(tower_folder)), lambda: family(its.kind).text_tower(tower_folder, its))

    def encode(texts: list[str]) -> NDArray[np.float32]:
        return tower.encode(texts, None, query=True)

    return project_texts(folder, encode)


def referred_models(card: ModelCard) -> tuple[str, ...]:
    """Return the digests of the other model folders that text queries need beside this one."""
    parent, separator, rest = card.text_tower.partition("../")
    return (rest.split("/")[0],) if separator and not parent else ()
