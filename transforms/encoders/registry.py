"""Encoder families by kind: the built-in ones, and those that installed packages offer.

Importing this module, asking for a family and checking its options loads neither OpenVINO nor Beam.
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
    """All kinds that a spec may name, sorted."""
    return sorted({*_BUILT_IN, *offered_kinds(GROUP)})


def family(kind: str) -> Family:
    """The family of a kind; a built-in one can't be replaced by an entry point.

    Raises:
        SpecError: for an unknown kind, with the nearest known one.
        CliploomError: when an installed package's family can't be loaded or is none, or two packages offer the kind.
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
    """The card of a prepared folder.

    Raises:
        StoreError: when it is missing or damaged.
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
    """Open a prepared model, once a process: all threads that ask for the same one share it.

    Args:
        folder: a prepared folder.
        threads: how many will call it at a time.
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
    """Make an error of code that ends the program, which would end a run without a word.

    Args:
        kind: the encoder.
        doing: what is done with it, for the message.
    """
    try:
        yield
    except SystemExit as error:
        raise CliploomError(
            f"The encoder '{kind}' tried to end the program (exit code {error.code!r}) when it was {doing}; let it "
            "raise an error that says what is wrong."
        ) from error


def load_text_tower(folder: Path) -> Callable[[list[str]], NDArray[np.float32]]:
    """What turns queries into vectors of the spaces whose outputs have ``text``.

    Args:
        folder: a prepared folder; the text encoder that it builds on stands beside it (``referred_models``).

    Returns:
        A function from sentences to float32 [n, dim].

    Raises:
        CliploomError: when the model has no text tower.
    """
    from cliploom.transforms.encoders.projected_text import project_texts
    from cliploom.transforms.encoders.runtime import shared_models

    card = read_card(folder)
    if not card.text_tower:
        raise CliploomError(f"The encoder '{card.kind}' has no text tower and no text_encoder, so text can't ask it.")
    tower_folder = (folder / card.text_tower).resolve().parent
    its = read_card(tower_folder)
    tower = shared_models().get(("text", str(tower_folder)), lambda: family(its.kind).text_tower(tower_folder, its))

    def encode(texts: list[str]) -> NDArray[np.float32]:
        return tower.encode(texts, None, query=True)

    return project_texts(folder, encode)


def referred_models(card: ModelCard) -> tuple[str, ...]:
    """Digests of the other model folders that must stand beside this one for text queries."""
    parent, separator, rest = card.text_tower.partition("../")
    return (rest.split("/")[0],) if separator and not parent else ()
