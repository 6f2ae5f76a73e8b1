"""Text vectors of class names, and flat hit@k."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.errors import EncodeError
from cliploom.transforms.heads.pooling import unit_rows

DEPTHS = (1, 5, 10)


def synonyms_of(name: str) -> list[str]:
    """Return the synonyms in a class name; WordNet's lists separate them by commas.

    >>> synonyms_of("tabby, tabby cat")
    ['tabby', 'tabby cat']
    """
    return [part for part in (each.strip().replace("_", " ") for each in name.split(",")) if part] or [name]


def class_vectors(
    names: Sequence[str], prompt: str, encode: Callable[[list[str]], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Return the text vectors of classes, float32 [classes, dim]: normalised means of their synonyms' unit vectors.

    Args:
        names: the names of the classes.
        prompt: a template with ``{label}``.
        encode: a function from texts to float32 [n, dim].

    A class without a word that the encoder knows gets a zero vector, which matches nothing.
    """
    texts = [[prompt.replace("{label}", each) for each in synonyms_of(name)] for name in names]
    flat = list(dict.fromkeys(text for each in texts for text in each))
    vectors = dict(zip(flat, unit_rows(_encoded(flat, encode)), strict=True)) if flat else {}
    return np.stack([unit_rows(_known_mean([vectors[text] for text in each])[None])[0] for each in texts])


def _encoded(texts: list[str], encode: Callable[[list[str]], NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the vectors of texts; zeros for texts without a word that the encoder knows."""
    try:
        return encode(texts)
    except EncodeError:
        rows = [_one(text, encode) for text in texts]
    dim = max((len(row) for row in rows if row is not None), default=1)
    return np.stack([np.zeros(dim, np.float32) if row is None else row for row in rows])


def _one(text: str, encode: Callable[[list[str]], NDArray[np.float32]]) -> NDArray[np.float32] | None:
    try:
        return np.asarray(encode([text])[0], np.float32)
    except EncodeError:
        return None


def _known_mean(vectors: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the mean of the nonzero vectors, which ignores out-of-vocabulary words."""
    known = [each for each in vectors if each.any()] or list(vectors)
    return np.asarray(np.mean(known, axis=0), np.float32)


def hit_figures(scores: NDArray[np.float32], labels: NDArray[np.bool_]) -> dict[str, float]:
    """Return flat hit@1, 5 and 10: the share of the rows whose k best classes include one of their labels.

    Args:
        scores: float32 [n, classes].
        labels: bool [n, classes].

    >>> hit_figures(np.float32([[1, 3, 2], [0, 1, 2]]), np.array([[0, 0, 1], [0, 0, 1]], bool))
    {'hit@1': 0.5, 'hit@5': 1.0, 'hit@10': 1.0}
    """
    order = np.argsort(-scores, axis=1, kind="stable")
    hits = np.take_along_axis(labels, order, axis=1)
    return {f"hit@{depth}": round(float(hits[:, :depth].any(axis=1).mean()), 6) for depth in DEPTHS}
