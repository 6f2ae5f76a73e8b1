"""``cliploom predict``: predicts the labels of one file, which need not be in the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cliploom.schemas.errors import SpecError
from cliploom.schemas.heads import InputColumn
from cliploom.schemas.release import Release
from cliploom.schemas.secrets import masked
from cliploom.transforms.heads.plain import Label, PlainHead, read_head
from cliploom.transforms.heads.pooling import unit_rows
from cliploom.transforms.heads.published import trained_model
from cliploom.transforms.heads.towers import is_vector_head, read_vector_card
from cliploom.transforms.search.query import file_vectors, query_file, sampling_of
from cliploom.transforms.search.searching import open_store
from cliploom.transforms.store.object_store import ObjectStore, existing_store
from cliploom.transforms.store.releases import read_releases

TOP = 10
SURE = 0.5
ScoreKind = Literal["probability", "similarity"]


@dataclass(frozen=True)
class Prediction:
    """The predictions of a head for one file.

    Attributes:
        labels: the labels, best first.
        scores: the meaning of the scores: ``probability`` of each label, or ``similarity`` of texts to the file.
    """

    labels: tuple[Label, ...]
    scores: ScoreKind


def predict_any(store: str, name: str, video: str, on_stage: Callable[[str], None]) -> Prediction:
    """Return the ten best labels or texts for a file by a head of any kind; otherwise like ``predict_file``.

    A head of kind ``two_tower`` or ``devise`` returns the texts nearest to the file, see ``nearest_texts``.
    """
    objects = existing_store(store)
    model = trained_model(objects, name)
    if is_vector_head(objects, model):
        from cliploom.pipelines.training.predict_texts import nearest_texts

        _refuse_links(video)
        card = read_vector_card(objects, model)
        return Prediction(tuple(nearest_texts(open_store(store), card, video, TOP, on_stage)), "similarity")
    return Prediction(tuple(predict_file(store, name, video, on_stage)), score_kind(objects, name))


def score_kind(objects: ObjectStore, name: str) -> ScoreKind:
    """Return the meaning of the scores of a trained head."""
    model = trained_model(objects, name)
    if is_vector_head(objects, model):
        return "similarity"
    node = read_head(objects, model).card.zero_shot
    return "similarity" if node is not None and node.scores == "similarity" else "probability"


def predict_file(store: str, name: str, video: str, on_stage: Callable[[str], None]) -> list[Label]:
    """Return the ten most probable labels of a file, best first.

    Args:
        store: a folder or URI.
        name: the name of the head; the most recent training is used.
        video: the path of a file, or an object in a bucket.
        on_stage: a callback that receives progress messages.

    Raises:
        SpecError: there is no such file or head, or the file cannot be decoded.
        StoreError: the store does not exist or is damaged.
    """
    _refuse_links(video)
    objects = existing_store(store)
    release = read_releases(objects).get(None)
    on_stage(f"reading head {name}")
    head = read_head(objects, trained_model(objects, name))
    inputs = file_inputs(head, release)
    with query_file(video) as path:
        if path is None:
            raise SpecError(f"There is no file {video!r}; give a video, a GIF or an image.")
        means = []
        for each in inputs:
            on_stage(f"decoding {video} as feature {each.feature} does")
            entry = release.features[each.feature]
            rows = file_vectors(objects, entry, each.output, path, None, video, "labelled")
            means.append((unit_rows(rows) if head.unit_rows else rows).mean(axis=0, dtype=np.float64))
    on_stage(f"{len(head.card.classes)} classes")
    vector = np.concatenate(means).astype(np.float32)
    return head.top(head.probabilities(vector[None]), TOP)[0]


def _refuse_links(video: str) -> None:
    if video.startswith(("http://", "https://")):
        raise SpecError(f"{masked(video)!r} is on the web, and predict does not download files; download it first.")


def file_inputs(head: PlainHead, release: Release) -> list[InputColumn]:
    """Return the inputs computable from a file: those of the training, or of a feature that applies the head.

    Raises:
        SpecError: none of them is computed from media that the release samples.
    """
    card = head.card
    candidates = [[(each.feature, each.output) for each in card.inputs]]
    candidates += [entry.inputs for entry in release.heads.values() if entry.head == card.name]
    for candidate in candidates:
        entries = [release.features.get(feature) for feature, _ in candidate]
        outputs = [
            entry.outputs.get(output) if entry else None for entry, (_, output) in zip(entries, candidate, strict=True)
        ]
        widths = [found.dim if found else None for found in outputs]
        sampled = [entry is not None and sampling_of(entry) is not None for entry in entries]
        if all(sampled) and widths == [each.dim for each in card.inputs]:
            return [
                InputColumn(feature, output, each.name, each.dim, each.space)
                for (feature, output), each in zip(candidate, card.inputs, strict=True)
            ]
    named = ", ".join(f"{feature}.{output}" for feature, output in candidates[0])
    raise SpecError(
        f"Head {card.name!r} reads {named}, which release {release.release} does not make of media files; apply the "
        "head to a feature that does (an encoder of kind head with 'inputs') and run again."
    )


def prediction_text(labels: Sequence[Label], scores: str = "probability") -> str:
    """Return the labels as text.

    >>> print(prediction_text([Label(3, "cat", 0.9), Label(1, "dog", 0.1234)]))
    cat: 90.00% *
    dog: 12.34%
    >>> print(prediction_text([Label(0, "a cat sleeps", 0.27)], "similarity"))
    a cat sleeps: 0.270
    """
    if scores == "similarity":
        return "\n".join(f"{each.name}: {each.score:.3f}" for each in labels)
    return "\n".join(f"{each.name}: {each.score:.2%}{' *' if each.score > SURE else ''}" for each in labels)
