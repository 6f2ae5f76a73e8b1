"""Predictions of a head of kind two_tower or devise: the sentences or label names nearest to a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cliploom.schemas.errors import SpecError
from cliploom.schemas.release import FeatureEntry
from cliploom.schemas.tables import LABELS
from cliploom.schemas.vector_heads import CLIP, EMBEDDING, VectorHeadCard
from cliploom.transforms.encoders.registry import load_text_tower
from cliploom.transforms.heads.plain import Label
from cliploom.transforms.heads.pooling import unit_rows
from cliploom.transforms.heads.projection import open_projection
from cliploom.transforms.heads.published import head_folder
from cliploom.transforms.search.query import file_vectors, query_file, sampling_of
from cliploom.transforms.search.query_model import Query
from cliploom.transforms.search.searching import Store
from cliploom.transforms.work.models import local_model

_ASKED = 100
_MOST_NAMES = 10_000
"""Maximum number of label names to encode for one file."""


def nearest_texts(
    store: Store, card: VectorHeadCard, video: str, count: int, on_stage: Callable[[str], None]
) -> list[Label]:
    """Return the texts most similar to a file in the space of a head that returns vectors, best first.

    The texts are the rows of an index in that space whose source is not media; without such an index, the names of the
    labels of the release's items.

    Args:
        store: the open release, in which a feature applies the head to media.
        card: the card of the head.
        video: the path of a file, or an object in a bucket.
        count: the number of texts.
        on_stage: a callback that receives progress messages.

    Returns:
        Labels with the texts as names, numbered from 0, and similarities as scores.

    Raises:
        SpecError: no feature applies the head to media, or there are no texts to compare with.
    """
    entry = _clip_feature(store, card)
    name, output, _ = entry.recipe["input"]
    on_stage(f"decoding {video} as feature {name} does")
    with query_file(video) as path:
        if path is None:
            raise SpecError(f"There is no file {video!r}; give a video, a GIF or an image.")
        rows = file_vectors(store.objects, store.release.features[name], output, path, None, video, "labelled")
    projected = open_projection(local_model(store.objects, entry.model)).apply(rows)
    vector = unit_rows(projected).mean(axis=0, dtype=np.float64).astype(np.float32)
    indexes = list(_text_indexes(store, entry))
    if indexes:
        on_stage(f"comparing with index {indexes[0]}")
        return _from_index(store, indexes[0], vector, count)
    names = _label_names(store)
    if not names:
        raise SpecError(
            f"Release {store.release.release} has neither an index over texts in the space of head {card.name!r} nor "
            "labels to compare with; give a feature over narrations the encoder "
            f"{{kind: head, head: {card.name}}}, and an index."
        )
    on_stage(f"{len(names)} label names")
    texts = unit_rows(load_text_tower(local_model(store.objects, entry.model))(names))
    scores = texts @ unit_rows(vector[None])[0]
    order = np.argsort(-scores, kind="stable")[:count]
    return [Label(place, names[i], float(scores[i])) for place, i in enumerate(order.tolist())]


def _clip_feature(store: Store, card: VectorHeadCard) -> FeatureEntry:
    """Return the feature of the release that applies the head to sampled media."""
    folder = f"{head_folder(card.name)}/"
    for entry in store.release.features.values():
        if str(entry.recipe.get("head", "")).startswith(folder) and entry.recipe.get("side") == CLIP:
            base = store.release.features.get(entry.recipe["input"][0])
            if base is not None and sampling_of(base) is not None:
                return entry
    raise SpecError(
        f"No feature of release {store.release.release} applies head {card.name!r} to media; give one the encoder "
        f"{{kind: head, head: {card.name}}} and run again."
    )


def _text_indexes(store: Store, entry: FeatureEntry) -> Iterator[str]:
    """Yield the indexes of the head's space over rows that are texts."""
    space = entry.outputs[EMBEDDING].space
    for name, index in sorted(store.release.indexes.items()):
        feature = store.release.features[index.feature]
        read = feature.recipe.get("input", [index.feature])[0] if "head" in feature.recipe else index.feature
        is_text = sampling_of(store.release.features[read]) is None
        if feature.outputs[index.output].space == space and is_text:
            yield name


def _from_index(store: Store, index: str, vector: NDArray[np.float32], count: int) -> list[Label]:
    query = Query(store.query_parts(vector=vector), index=(index,), top=_ASKED)
    best: dict[str, float] = {}
    for hit in store.ask(query).hits:
        if hit.text:
            best.setdefault(hit.text, hit.score)
    return [Label(place, text, score) for place, (text, score) in enumerate(list(best.items())[:count])]


def _label_names(store: Store) -> list[str]:
    """Return the names of the given labels of items, without predictions."""
    if "labels" not in store.release.tables:
        return []
    rows = store.table_rows("labels", LABELS).filter(pl.col("origin") == "given").select("name")
    return store.collected(rows.drop_nulls().unique().sort("name").head(_MOST_NAMES))["name"].to_list()
