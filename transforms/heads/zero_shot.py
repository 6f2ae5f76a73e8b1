"""Zero-shot classification: class names as vectors in a feature's space, stored like a trained head.

A name's vector is the mean of its templates' unit vectors, scaled to length 1 again. The published Kinetics and
Charades code normalises across classes instead (docs/formats.md section 3), which is deliberately not reproduced.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.digests import digest_of
from cliploom.schemas.heads import HeadCard, HeadClass, InputColumn, ZeroShotSpec
from cliploom.schemas.models import CARD_FILE
from cliploom.transforms.encoders.registry import load_text_tower
from cliploom.transforms.heads.plain import write_plain
from cliploom.transforms.heads.pooling import unit_rows
from cliploom.transforms.heads.published import head_folder, is_published, publish_head, use_head
from cliploom.transforms.heads.report import PAGE_FILE
from cliploom.transforms.narrations.text import label_texts
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.work.models import local_model

REVISION = 1
"""Increase it when the same names give other vectors."""
_TEXTS_AT_ONCE = 4096


def publish_zero_shot(
    objects: ObjectStore,
    name: str,
    node: ZeroShotSpec,
    column: InputColumn,
    model: str,
    labels: Sequence[str],
    templates: Sequence[str],
    program: str = "",
) -> str:
    """Store the vectors of class names, unless the store has them; return their folder.

    Args:
        objects: the store.
        name: the name of the head.
        node: the node of the spec.
        column: the feature's output to compare them with.
        model: the folder of the feature's prepared model, which has the text tower.
        labels: the class names.
        templates: texts with ``{label}``.
        program: the program version, for the card.
    """
    settings = node.model_dump(mode="json")
    digest = digest_of(
        {
            "revision": REVISION,
            "head": settings,
            "model": model,
            "space": column.space,
            "labels": list(labels),
            "templates": list(templates),
        }
    )
    folder = f"{head_folder(name)}/{digest}"
    if is_published(objects, folder):
        use_head(objects, name, digest)
        return folder
    tower = load_text_tower(local_model(objects, model))
    kernel = name_vectors(tower, labels, templates, unit=node.similarity == "cosine").T
    classes = tuple(HeadClass(number, label) for number, label in enumerate(labels))
    card = HeadCard(
        name=name,
        digest=digest,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        program=program,
        release=0,
        run="",
        source="",
        validation_source="",
        inputs=(column,),
        classes=classes,
        settings=settings,
        videos={},
        majority=0.0,
        metrics={},
        epochs=(),
        best=0,
    )
    with tempfile.TemporaryDirectory(prefix="cliploom-zero-shot-") as made:
        write_plain(Path(made), np.ascontiguousarray(kernel), np.zeros(len(classes), np.float32))
        (Path(made) / PAGE_FILE).write_text(_page(card, node, templates), encoding="utf-8")
        (Path(made) / CARD_FILE).write_text(json.dumps(card.to_dict(), indent=1) + "\n", encoding="utf-8")
        return publish_head(objects, Path(made), name, digest)


def name_vectors(
    tower: Callable[[list[str]], NDArray[np.float32]], labels: Sequence[str], templates: Sequence[str], *, unit: bool
) -> NDArray[np.float32]:
    """Encode class names in templates: float32 [labels, dim].

    Args:
        tower: a function from sentences to float32 [n, dim].
        labels: the class names.
        templates: texts with ``{label}``.
        unit: whether to normalise each template's vector and the mean; else plain averages.
    """
    texts = [each.text for each in label_texts(labels, templates)]
    blocks = [tower(texts[at : at + _TEXTS_AT_ONCE]) for at in range(0, len(texts), _TEXTS_AT_ONCE)]
    vectors = np.concatenate(blocks)
    if unit:
        vectors = unit_rows(vectors)
    means = vectors.reshape(len(labels), len(templates), -1).mean(axis=1, dtype=np.float64).astype(np.float32)
    return unit_rows(means) if unit else means


def _page(card: HeadCard, node: ZeroShotSpec, templates: Sequence[str]) -> str:
    names = ", ".join(each.name for each in card.classes[:20]) + (", ..." if len(card.classes) > 20 else "")
    column = card.inputs[0]
    softmax = f", temperature {node.temperature:g}" if node.scores == "softmax" else ""
    return (
        f"# Head {card.name}\n\n"
        f"Zero-shot: {len(card.classes)} class names compared with {column.feature}.{column.output}; nothing was "
        "learned.\n\n"
        f"| | |\n| --- | --- |\n| classes | {names} |\n| templates | {'; '.join(templates)} |\n"
        f"| similarity | {node.similarity}, pooled {node.pool} the comparison |\n"
        f"| scores | {node.scores}{softmax} |\n\n"
        "`cliploom evaluate STORE --kind labels --feature FEATURE` measures it on items with given labels.\n"
    )
