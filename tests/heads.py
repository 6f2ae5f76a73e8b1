"""Heads made by hand, without TensorFlow, for tests of what is done with them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.digests import digest_of
from cliploom.schemas.heads import HeadCard, HeadClass, HeadSpec, InputColumn
from cliploom.transforms.heads.plain import write_plain
from cliploom.transforms.heads.published import publish_head
from cliploom.transforms.store.object_store import ObjectStore


def card_of(
    inputs: Sequence[InputColumn], classes: Sequence[HeadClass], digest: str = "0" * 40, **settings: Any
) -> HeadCard:
    """A card of these inputs and classes, as if trained on release 1."""
    nodes = [{"feature": each.feature, "output": each.output} for each in inputs]
    return HeadCard(
        name="labels",
        digest=digest,
        created_at="2026-01-01T00:00:00+00:00",
        program="test",
        release=1,
        run="test",
        source="yt",
        validation_source="yt",
        inputs=tuple(inputs),
        classes=tuple(classes),
        settings=HeadSpec.model_validate({"inputs": nodes} | settings).model_dump(mode="json"),
        videos={"train": 1, "validation": 1},
        majority=0.5,
        metrics={"hit_at_1": 1.0},
        epochs=(),
        best=0,
    )


def put_head(store: Path, card: HeadCard, kernel: NDArray[np.float32], bias: NDArray[np.float32], folder: Path) -> str:
    """Publish a head as training would; returns its folder in the store."""
    digest = digest_of([kernel.tolist(), bias.tolist()])
    card = HeadCard.from_dict(card.to_dict() | {"digest": digest})
    folder.mkdir(parents=True)
    write_plain(folder, kernel, bias)
    (folder / "card.json").write_text(json.dumps(card.to_dict()), encoding="utf-8")
    return publish_head(ObjectStore(store), folder, card.name, digest)
