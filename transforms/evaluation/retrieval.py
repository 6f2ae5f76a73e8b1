"""Retrieval from text to item and back, over all rows of a feature: exact ranks, and recall of the release's index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.errors import EncodeError, SpecError
from cliploom.schemas.evaluations import RetrievalEvaluation
from cliploom.schemas.release import Release
from cliploom.transforms.evaluation.gallery import FeatureRows, chosen_similarity, find_output, read_feature_rows
from cliploom.transforms.evaluation.index_answers import index_over, index_ranks
from cliploom.transforms.evaluation.results import Evaluated
from cliploom.transforms.evaluation.truths import DescribedThings, described_things, subset
from cliploom.transforms.index.vectors import prepare
from cliploom.transforms.metrics.ranks import Gallery, Ranks, Relevance, exact_ranks
from cliploom.transforms.metrics.retrieval import RankAccumulator, RankedQueries, RetrievalMetrics, hashed_uids
from cliploom.transforms.store.object_store import ObjectStore

_TEXTS_AT_ONCE = 4096
_SLACK_S = 0.4
"""MIL-NCE starts its last window this many seconds before the last possible moment."""
_MICRO = 1e-6


def evaluate_retrieval(
    objects: ObjectStore, release: Release, node: RetrievalEvaluation, folder: Path, spec_name: str = ""
) -> Evaluated:
    """Measure text to item and item to text.

    Args:
        objects: the store.
        release: a published release, or the draft of one with its indexes.
        node: the evaluation with its files in the store.
        folder: the folder for temporary files, which are as large as the feature.
        spec_name: the name of the evaluation, for messages.

    Raises:
        SpecError: there is nothing to measure.
    """
    entry, output = find_output(release, node.feature, node.output, texts=True)
    similarity = chosen_similarity(release, node.feature, output, node.similarity)
    if similarity == "l2":
        raise SpecError(
            f"evaluations.{spec_name}: texts are compared by cosine or dot, and the index over {node.feature}.{output} "
            "measures l2; add similarity: cosine."
        )
    # Windows are averaged without normalising them.
    rows = read_feature_rows(
        objects, release, node.feature, output, folder, unit=similarity == "cosine" and node.unit != "clip"
    )
    found = subset(described_things(objects, release, node, rows, entry.source), node.most, node.seed)
    unit = node.unit or ("moment" if found.timed else "item")
    things = ranked_things(rows, found, unit, node.windows)
    queries = prepare(encode_texts(objects, entry.model, found.texts), similarity)
    vectors = rows.vectors if things.vectors is None else prepare(things.vectors, similarity)
    gallery = Gallery(vectors, things.starts, similarity)
    forward, backward = exact_ranks(queries, gallery, things.relevance)
    by_text = hashed_uids([rows.uids[thing] for thing in found.things.tolist()])
    by_thing = hashed_uids(rows.uids)[things.owner]
    parts = {
        "text to item": metrics_of(forward, by_text, node.seed),
        "item to text": metrics_of(backward, by_thing, node.seed),
    }
    index = index_over(release, node.feature, output, similarity)
    notes = [*found.notes, *things.notes]
    if index is not None and unit != "clip":
        answered = index_ranks(objects, release, index, queries, rows, things.relevance, items=unit == "item")
        whole = metrics_of(answered, by_text, node.seed)
        recalls = {name: figure for name, figure in whole.figures.items() if name.startswith("R@")}
        parts[f"text to item, as index {index} answers"] = RetrievalMetrics(
            whole.queries, whole.videos, whole.candidates, recalls
        )
    settings = {"unit": unit, "similarity": similarity, "windows": node.windows if unit == "clip" else None}
    return Evaluated(node.kind, f"{node.feature}.{output}", parts, settings, tuple(notes))


@dataclass(frozen=True)
class RankedThings:
    """The items, moments or clips to rank, and which of them answers which text.

    Attributes:
        starts: see ``FeatureRows``.
        owner: int64 [things], the item of each thing.
        relevance: the texts, and the things that answer them.
        vectors: float32 [things, dim]; None for the feature's rows themselves.
        notes: what was excluded.
    """

    starts: NDArray[np.int64]
    owner: NDArray[np.int64]
    relevance: Relevance
    vectors: NDArray[np.float32] | None = None
    notes: tuple[str, ...] = ()


def ranked_things(rows: FeatureRows, found: DescribedThings, unit: str, windows: int) -> RankedThings:
    """Build the items, moments or clips that texts are compared with.

    Raises:
        SpecError: moments were requested, but rows or texts have no times.
    """
    numbers = np.arange(len(found.texts), dtype=np.int64)
    if unit == "item":
        owner = np.arange(len(rows.uids), dtype=np.int64)
        return RankedThings(rows.starts, owner, Relevance.of_pairs(numbers, found.things))
    if np.isnan(rows.start_s).all():
        raise SpecError(f"The rows of the feature have no times, so no {unit} can be found; add unit: item.")
    if unit == "clip":
        return _clips(rows, found, windows)
    pairs = [
        (number, row)
        for number, (thing, start_s, end_s) in enumerate(_stretches(rows, found))
        for row in overlapping(rows, thing, start_s, end_s).tolist()
    ]
    if not pairs:
        raise SpecError(
            "No row of the feature overlaps the time of a text; add unit: item, or check start_s and end_s."
        )
    queries, things = (np.array(side, np.int64) for side in zip(*pairs, strict=True))
    missed = len(found.texts) - len(np.unique(queries))
    notes = (f"{missed} of {len(found.texts)} texts are about times without a row",) if missed else ()
    owner = np.repeat(np.arange(len(rows.uids)), np.diff(rows.starts))
    starts = np.arange(len(rows.row_ids) + 1, dtype=np.int64)
    return RankedThings(starts, owner, Relevance.of_pairs(queries, things), notes=notes)


def _stretches(rows: FeatureRows, found: DescribedThings) -> list[tuple[int, float, float]]:
    """Return (thing, start, end) of each text; a text about a whole item gets its first and last time."""
    stretches = []
    for thing, start_s, end_s in zip(found.things.tolist(), found.start_s.tolist(), found.end_s.tolist(), strict=True):
        mine = slice(rows.starts[thing], rows.starts[thing + 1])
        if np.isnan(start_s):
            start_s, end_s = np.nanmin(rows.start_s[mine]), np.nanmax(rows.end_s[mine])
        stretches.append((thing, float(start_s), float(end_s)))
    return stretches


def overlapping(rows: FeatureRows, thing: int, start_s: float, end_s: float) -> NDArray[np.int64]:
    """Return the rows of a thing that overlap [start_s, end_s]; a row without duration counts if it lies within."""
    first, end = int(rows.starts[thing]), int(rows.starts[thing + 1])
    starts, ends = rows.start_s[first:end], rows.end_s[first:end]
    within = (starts < end_s - _MICRO) & (ends > start_s + _MICRO)
    points = (ends <= starts) & (starts >= start_s - _MICRO) & (starts <= end_s + _MICRO)
    instant = (end_s <= start_s) & (starts <= start_s + _MICRO) & (ends > start_s + _MICRO)
    return first + np.flatnonzero(within | points | instant)


def window_rows(rows: FeatureRows, thing: int, start_s: float, end_s: float, windows: int) -> NDArray[np.int64]:
    """Return the rows nearest to MIL-NCE's window starts, ``linspace(start, max(start, end - window - 0.4), n)``."""
    first, end = int(rows.starts[thing]), int(rows.starts[thing + 1])
    starts, ends = rows.start_s[first:end], rows.end_s[first:end]
    length = float(np.nanmedian(ends - starts))
    wanted = np.linspace(start_s, max(start_s, end_s - length - _SLACK_S), windows)
    nearest: NDArray[np.int64] = np.abs(starts[None, :] - wanted[:, None]).argmin(axis=1)
    return first + nearest


def _clips(rows: FeatureRows, found: DescribedThings, windows: int) -> RankedThings:
    stretches = _stretches(rows, found)
    places = {stretch: number for number, stretch in enumerate(dict.fromkeys(stretches))}
    vectors = np.empty((len(places), rows.vectors.shape[1]), np.float32)
    for stretch, number in places.items():
        vectors[number] = rows.vectors[window_rows(rows, *stretch, windows)].mean(axis=0, dtype=np.float64)
    owner = np.array([thing for thing, _, _ in places], np.int64)
    relevance = Relevance.of_pairs(np.arange(len(stretches)), np.array([places[each] for each in stretches], np.int64))
    return RankedThings(np.arange(len(places) + 1, dtype=np.int64), owner, relevance, vectors)


def encode_texts(objects: ObjectStore, model: str, texts: Sequence[str]) -> NDArray[np.float32]:
    """Encode texts with a model's text tower, duplicates once: float32 [texts, dim].

    Raises:
        SpecError: a text cannot be encoded.
    """
    from cliploom.transforms.encoders.registry import load_text_tower
    from cliploom.transforms.work.models import local_model

    tower = load_text_tower(local_model(objects, model))
    distinct = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    listed = list(distinct)
    try:
        blocks = [tower(listed[at : at + _TEXTS_AT_ONCE]) for at in range(0, len(listed), _TEXTS_AT_ONCE)]
    except EncodeError as error:
        raise SpecError(f"A text can't be encoded: {error}") from None
    return np.asarray(np.concatenate(blocks)[[distinct[text] for text in texts]], np.float32)


def metrics_of(ranks: Ranks, groups: NDArray[np.uint64], seed: int) -> RetrievalMetrics:
    """Return the figures of one direction.

    Args:
        ranks: the ranks of the queries that have a correct answer.
        groups: uint64 [queries], the item of every query.
        seed: the seed of the intervals.
    """
    count = len(ranks.queries)
    accumulator = RankAccumulator(seed=seed)
    accumulator.add(
        RankedQueries(
            groups[ranks.queries],
            ranks.ranks,
            ranks.relevant,
            np.full(count, ranks.candidates, np.int64),
            np.empty((count, 0), np.int64),
        )
    )
    return accumulator.result()
