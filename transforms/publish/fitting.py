"""Measures how unrelated queries score in an index when it is built, which makes the fits of hits comparable."""

from __future__ import annotations

import functools
import warnings

import numpy as np

from cliploom.schemas.digests import digest_of
from cliploom.schemas.errors import CliploomError, EncodeError
from cliploom.schemas.release import FeatureEntry, FileEntry, FitEntry, IndexEntry
from cliploom.transforms.index.fit import (
    NOISE,
    REVISION,
    FitVectors,
    chosen_nouns,
    noise_strings,
    row_scale,
    text_scales,
    unit,
)
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.releases import file_entry

_BATCH = 128


def measured_fit(
    objects: ObjectStore, entry: IndexEntry, feature: FeatureEntry, ids: np.ndarray, rows: np.ndarray
) -> FitEntry | None:
    """Return the scales of an index; None if scores are not cosines, or without rows.

    Args:
        objects: the store; vectors of words are cached there for the next index or run.
        entry: the index.
        feature: the indexed feature.
        ids: int64 [n], row ids of a seeded sample.
        rows: float32 [n, dim], vectors of the sample.
    """
    if entry.metric != "cosine" or not len(rows):
        return None
    order = np.random.default_rng(0).permutation(len(rows))
    ids, rows = ids[order], rows[order]
    scale = row_scale(ids, rows, entry.rows)
    words = fit_words(objects, feature) if feature.outputs[entry.output].text else None
    if words is None:
        return FitEntry(rows=scale)
    file, vectors = words
    nouns, noise = text_scales(vectors, rows, entry.rows)
    return FitEntry(rows=scale, nouns=nouns, noise=noise, words=file, known=len(vectors.known))


def fit_words(objects: ObjectStore, feature: FeatureEntry) -> tuple[FileEntry, FitVectors] | None:
    """Return the vectors to measure with and their file; None if the text tower cannot be used here."""
    from cliploom.transforms.encoders.conse import class_prompt
    from cliploom.transforms.encoders.lite0 import class_names

    names = class_names()
    path = f"index/words/fit-{digest_of([REVISION, feature.model, names])}.f16"
    count = len(names) + len(chosen_nouns(len(names))) + NOISE
    if objects.size(path) is None:
        probes = [names[number][0] for number in chosen_nouns(len(names))]
        texts = [class_prompt(synonyms) for synonyms in names] + probes + noise_strings()
        try:
            kept = _vectors_of(feature.model)
            if not kept:
                kept.append(encoded_texts(objects, feature.model, texts))
            made = kept[0]
        except (CliploomError, EncodeError):
            return None  # An index works without fits.
        objects.put_new(path, made.astype("<f2").tobytes())
    stored = np.frombuffer(objects.get(path), "<f2").astype(np.float32).reshape(count, -1)
    known, probed = len(names), count - NOISE
    vectors = FitVectors(unit(stored[:known]), unit(stored[known:probed]), unit(stored[probed:]))
    return file_entry(objects, path), vectors


@functools.lru_cache(maxsize=2)
def _vectors_of(model: str) -> list[np.ndarray]:
    """Return a cache file for the vectors of a model; its name determines its content, so stores can share it."""
    return []


def encoded_texts(objects: ObjectStore, model: str, texts: list[str]) -> np.ndarray:
    """Return unit vectors of texts by a model's text tower, float32 [n, dim]."""
    from cliploom.transforms.encoders.registry import load_text_tower
    from cliploom.transforms.work.models import local_model

    tower = load_text_tower(local_model(objects, model))
    with warnings.catch_warnings():
        # The tower is expected not to know strings without meaning, so there is no warning.
        warnings.simplefilter("ignore")
        return unit(np.concatenate([tower(texts[start : start + _BATCH]) for start in range(0, len(texts), _BATCH)]))
