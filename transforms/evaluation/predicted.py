"""Evaluates predicted labels of items against the given ones, from a release's table ``labels``."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import polars as pl

from cliploom.schemas.errors import SpecError, nearest
from cliploom.schemas.evaluations import LabelsEvaluation
from cliploom.schemas.heads import PREDICTED, HeadCard
from cliploom.schemas.release import Release
from cliploom.transforms.evaluation.results import Evaluated
from cliploom.transforms.heads.dataset import VALIDATION, split_of_video
from cliploom.transforms.heads.plain import read_head
from cliploom.transforms.metrics.average_precision import AveragePrecisionAccumulator
from cliploom.transforms.metrics.retrieval import RankAccumulator, RankedQueries, RetrievalMetrics, hashed_uids
from cliploom.transforms.narrations.uids import read_uid_list
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.tables import read_table

KS = (1, 2, 5, 10, 20)


def evaluate_labels(objects: ObjectStore, release: Release, node: LabelsEvaluation) -> Evaluated:
    """Measure top-k accuracy and mean average precision.

    Classes are identified by name. An item with several given labels is correct if any of them is among the first k
    (flat hit@k).

    Args:
        objects: the store.
        release: a published release, or the draft of one.
        node: the evaluation with its files in the store.

    Raises:
        SpecError: there is no such feature of predicted labels, or no item with a given label to measure on.
    """
    if node.feature not in release.heads:
        raise SpecError(
            f"Release {release.release} has no predicted labels {node.feature!r}{nearest(node.feature, release.heads)}"
        )
    entry = release.heads[node.feature]
    head = read_head(objects, entry.model)
    mine = (pl.col("source") == entry.source) & pl.col("start_s").is_null()
    origins = pl.col("origin").is_in(["given", PREDICTED + node.feature])
    rows = read_table(objects, "labels", release.tables["labels"], mine & origins)
    rows = rows.with_columns(pl.coalesce("name", pl.col("label").cast(pl.String)).alias("name"))
    given = rows.filter(pl.col("origin") == "given")
    notes = []
    uids = set(given["uid"].unique().to_list())
    if not node.everything:
        fresh = {uid for uid in uids if not learned_from(head.card, entry.source, uid)}
        if len(fresh) < len(uids):
            notes.append(f"{len(uids) - len(fresh)} of {len(uids)} items are left out: the head learned from them")
        uids = fresh
    if node.only is not None:
        uids &= read_uid_list(io.BytesIO(objects.get(node.only)))
    predicted = rows.filter((pl.col("origin") != "given") & pl.col("uid").is_in(list(uids)))
    predicted = predicted.sort("uid", "score", "label", descending=[False, True, False])
    best = {uid: (names, scores) for uid, names, scores in _lists(predicted, "score")}
    truth: dict[str, list[str]] = dict(_lists(given.filter(pl.col("uid").is_in(list(best)))))
    if not truth:
        raise SpecError(
            f"No item of {entry.source!r} has a given label and labels predicted by {node.feature!r}"
            f"{'' if node.everything else ' that the head has not learned from; add everything: true'}."
        )
    classes = sorted({each.name for each in head.card.classes} | {name for names in truth.values() for name in names})
    column = {name: number for number, name in enumerate(classes)}
    depth = max(len(names) for names, _ in best.values())
    keys = hashed_uids(list(truth))
    precision = AveragePrecisionAccumulator(len(classes), node.seed)
    ranks = np.full(len(truth), float(len(classes)))
    for number, (uid, names) in enumerate(truth.items()):
        listed, scores = best[uid]
        right = set(names)
        ranks[number] = next((place for place, name in enumerate(listed, 1) if name in right), len(classes))
        given_row, scored = np.zeros((1, len(classes)), np.bool_), np.full((1, len(classes)), -np.inf, np.float32)
        given_row[0, [column[name] for name in right]] = True
        scored[0, [column[name] for name in listed]] = scores
        precision.add(keys[number : number + 1], scored, given_row)
    if depth < len(classes):
        notes.append(f"classes beyond the first {depth} predicted ones count as ranked last")
    unknown = sum(name not in {each.name for each in head.card.classes} for names in truth.values() for name in names)
    if unknown:
        notes.append(f"{unknown} given labels name a class that the head does not know; they count as missed")
    accumulator = RankAccumulator([k for k in KS if k <= depth], seed=node.seed)
    accumulator.add(
        RankedQueries(
            keys,
            ranks,
            np.array([len(set(names)) for names in truth.values()], np.int64),
            np.full(len(truth), len(classes), np.int64),
            np.zeros([len(truth), 0], np.int64),
        )
    )
    found = accumulator.result()
    mean, _, _ = precision.result()
    figures = {f"acc@{name[2:]}": each for name, each in found.figures.items() if name.startswith("R@")} | {"mAP": mean}
    parts = {"labels": RetrievalMetrics(found.queries, found.videos, found.candidates, figures)}
    return Evaluated(node.kind, node.feature, parts, {"head": entry.head}, tuple(notes))


def learned_from(card: HeadCard, source: str, uid: str) -> bool:
    """Return whether a head was trained on an item, which excludes the item from evaluation."""
    if card.source != source:
        return False
    held_out = card.spec.held_out
    return not held_out or split_of_video(uid, held_out, card.spec.seed) != VALIDATION


def _lists(rows: pl.DataFrame, *columns: str) -> list[tuple[Any, ...]]:
    grouped = rows.group_by("uid", maintain_order=True).agg("name", *columns)
    return list(grouped.sort("uid").iter_rows())
