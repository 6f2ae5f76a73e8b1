"""Compares a quantised model's vectors with float32's, and rejects models that differ too much."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.errors import CliploomError
from cliploom.schemas.models import ModelCard
from cliploom.schemas.precision import AgreementSpec, OutputFigures, PrecisionFigures

NEIGHBOURS = 10
_QUERIES_AT_ONCE = 256


def output_figures(
    before: NDArray[np.float32], after: NDArray[np.float32], held_back: Sequence[int], *, scores: bool
) -> OutputFigures:
    """Compare the vectors of one output.

    Args:
        before: the float32 vectors of all samples, [n, dim].
        after: the vectors of the quantised model, [n, dim].
        held_back: the positions of the samples to measure on.
        scores: whether the vectors are one score per class.
    """
    a, b = (values.astype(np.float64) for values in (before, after))
    chosen = np.asarray(held_back, np.int64)
    cosines = row_cosines(a[chosen], b[chosen])
    top1 = float((a[chosen].argmax(axis=1) == b[chosen].argmax(axis=1)).mean()) if scores else None
    return OutputFigures(
        mean=_rounded(cosines.mean()),
        p5=_rounded(np.percentile(cosines, 5)),
        least=_rounded(cosines.min()),
        recall=None if len(a) <= NEIGHBOURS else _rounded(neighbour_recall(a, b, chosen)),
        top1=None if top1 is None else _rounded(top1),
    )


def _rounded(value: float) -> float:
    return round(float(value), 5)


def row_cosines(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return cosines of the rows of two arrays [n, dim]; two zero rows agree, values that are not finite never do.

    >>> row_cosines(np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [0.6, 1.0]
    """
    norms = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    zero = ~a.any(axis=1) & ~b.any(axis=1)
    cosines = np.where(zero, 1.0, (a * b).sum(axis=1) / np.where(norms == 0, 1.0, norms))
    return np.asarray(np.nan_to_num(cosines, nan=-1.0))


def neighbour_recall(
    a: NDArray[np.float64], b: NDArray[np.float64], queries: NDArray[np.int64], k: int = NEIGHBOURS
) -> float:
    """Return the share of the ``k`` nearest rows by cosine in ``a`` that are among the ``k`` nearest in ``b``.

    A row itself is excluded. Rows of ``a`` that tie with the k-th one count as correct: equal pictures have no order.

    Args:
        a: the true vectors, [n, dim].
        b: the vectors of the same n samples, [n, dim]; queries and stored rows are both from ``b``.
        queries: the positions of the query rows.
        k: the number of neighbours, less than n.
    """
    a, b = (values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-30) for values in (a, b))
    found = 0.0
    for begin in range(0, len(queries), _QUERIES_AT_ONCE):
        chosen = queries[begin : begin + _QUERIES_AT_ONCE]
        rows = np.arange(len(chosen))
        wanted, given = a[chosen] @ a.T, np.nan_to_num(b[chosen] @ b.T, nan=-2.0)
        wanted[rows, chosen] = given[rows, chosen] = -np.inf
        least = np.partition(wanted, -k, axis=1)[:, -k]
        nearest = np.argpartition(-given, k - 1, axis=1)[:, :k]
        found += float((np.take_along_axis(wanted, nearest, axis=1) >= least[:, None] - 1e-7).sum())
    return found / (k * len(queries))


def check_figures(name: str, card: ModelCard, agreement: AgreementSpec, outputs: Collection[str] | None = None) -> None:
    """Reject a quantised model that agrees too little with float32, or is not faster.

    Args:
        name: the name of the encoder in the spec, or its kind, for the message.
        card: the card of the model; one without figures is accepted.
        agreement: the limits in the spec.
        outputs: the outputs in use; all by default. Outputs of scores (one per class) are not checked.

    Raises:
        CliploomError: the limits are not met; the message has all figures and the fix.
    """
    figures = card.figures
    if figures is None:
        return
    limits = agreement.limits(card.precision)
    used = {
        output: found
        for output, found in figures.outputs.items()
        if found.top1 is None and (outputs is None or output in outputs)
    }
    missed = [
        f"{output}: {key} {value:.3f}, below {limits[key]:g}"
        for output, found in used.items()
        for key, value in (("p5", found.p5), ("recall", found.recall))
        if value is not None and value < limits[key]
    ]
    if figures.faster < limits["faster"]:
        missed.append(f"faster {figures.faster:.2f}, below {limits['faster']:g}, on {figures.processor}")
    if missed:
        instead = _instead(card, figures, limits)
        raise CliploomError(
            f"encoders.{name}: {card.precision} does not agree with f32: {'; '.join(missed)}. Measured on "
            f"{figures.held_back} held-back samples: {figures_text(figures)}. Use {instead}, or accept these figures "
            f"below encoders.{name}: {accepting(used, figures, limits)}."
        )


def _instead(card: ModelCard, figures: PrecisionFigures, limits: Mapping[str, float]) -> str:
    if card.precision == "int8_weights" or figures.faster < limits["faster"]:
        return "precision: f32"
    return "precision: f32, or precision: int8_weights (smaller, seldom faster)"


def accepting(used: Mapping[str, OutputFigures], figures: PrecisionFigures, limits: Mapping[str, float]) -> str:
    """Return a line of YAML with limits that these figures meet, rounded down."""
    values = {
        "p5": min((found.p5 for found in used.values()), default=1.0),
        "recall": min((found.recall for found in used.values() if found.recall is not None), default=1.0),
        "faster": figures.faster,
    }
    given = {key: max(0.0, np.floor(value * 100) / 100) for key, value in values.items() if value < limits[key]}
    return f"agreement: {{{', '.join(f'{key}: {value:g}' for key, value in given.items())}}}"


def figures_text(figures: PrecisionFigures) -> str:
    """Return the figures in one line."""
    said = []
    for output, found in figures.outputs.items():
        parts = [f"cosine mean {found.mean:.4f}, p5 {found.p5:.4f}, min {found.least:.4f}"]
        parts += [f"recall@{NEIGHBOURS} {found.recall:.3f}"] if found.recall is not None else []
        parts += [f"same top-1 {found.top1:.3f}"] if found.top1 is not None else []
        said.append(f"{output} {', '.join(parts)}")
    return f"{'; '.join(said)}; {figures.faster:.2f} times as fast as f32"
