"""The given labels of videos from a release, for training and evaluating heads."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cliploom.schemas.errors import SpecError
from cliploom.schemas.heads import HeadClass
from cliploom.schemas.release import Release
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.tables import read_table


@dataclass(frozen=True)
class RatedPair:
    """A stretch of a video that was rated for a class; ``confirmed`` if the raters saw it."""

    start_s: float
    end_s: float
    label: int
    confirmed: bool


@dataclass(frozen=True)
class Truths:
    """The labels of one source's videos.

    Attributes:
        given: maps uid to the class numbers of the whole video.
        rated: maps uid to rated stretches.
        names: maps class number to name; ``class 12`` for one without a name.
    """

    given: Mapping[str, tuple[int, ...]]
    rated: Mapping[str, tuple[RatedPair, ...]]
    names: Mapping[int, str]


def read_truths(objects: ObjectStore, release: Release, source: str) -> Truths:
    """Return the given and rated labels of a source in a release, without predicted ones.

    Raises:
        SpecError: the release has no labels of the source, or two names share a number.
    """
    version = release.tables.get("labels")
    known = pl.col("origin").is_in(["given", "rated"]) & pl.col("label").is_not_null()
    mine = None if version is None else read_table(objects, "labels", version, known & (pl.col("source") == source))
    if mine is None or mine.is_empty():
        raise SpecError(
            f"Release {release.release} has no labels of source {source!r}; give it some, such as labels: folder, "
            "and run again."
        )
    whole = mine.filter(pl.col("origin") == "given").group_by("uid", maintain_order=True).agg("label")
    rated: dict[str, list[RatedPair]] = {}
    pairs = mine.filter((pl.col("origin") == "rated") & pl.col("score").is_not_null())
    for uid, start_s, end_s, label, score in pairs.select("uid", "start_s", "end_s", "label", "score").iter_rows():
        rated.setdefault(uid, []).append(RatedPair(start_s, end_s, label, score > 0))
    named = mine.select("label", "name").unique().sort("label")
    twice = named.filter(pl.col("label").is_duplicated())
    if twice.height:
        raise SpecError(
            f"sources.{source}: the class {twice['label'][0]} has two names, {twice['name'][0]!r} and "
            f"{twice['name'][1]!r}; give the source a vocabulary, so that numbers stay with their names."
        )
    names = {label: name or f"class {label}" for label, name in named.iter_rows()}
    given = {uid: tuple(sorted(set(labels))) for uid, labels in whole.iter_rows()}
    return Truths(given, {uid: tuple(pairs) for uid, pairs in rated.items()}, names)


def classes_of(truths: Sequence[Truths], vocabulary: Mapping[int, str]) -> tuple[HeadClass, ...]:
    """Return all classes of a vocabulary or of the labels, by number.

    Raises:
        SpecError: a number has two names.
    """
    names = dict(vocabulary)
    for truth in truths:
        for label, name in truth.names.items():
            if names.setdefault(label, name) != name:
                raise SpecError(
                    f"The class {label} is {names[label]!r} in one source and {name!r} in another; give both the same "
                    "vocabulary."
                )
    return tuple(HeadClass(label, names[label]) for label in sorted(names))


def hot_rows(labels: Sequence[Collection[int]], classes: Sequence[HeadClass]) -> NDArray[np.bool_]:
    """Return the class numbers of each video as bool [videos, classes]; unknown numbers are ignored."""
    column = {each.label: place for place, each in enumerate(classes)}
    hot = np.zeros((len(labels), len(classes)), np.bool_)
    for row, numbers in enumerate(labels):
        hot[row, [column[number] for number in numbers if number in column]] = True
    return hot
