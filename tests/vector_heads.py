"""Heads that give vectors, put into a store without training: for tests of everything but training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.models import CARD_FILE
from cliploom.schemas.vector_heads import TowerInput, VectorHeadCard
from cliploom.transforms.heads.published import publish_head
from cliploom.transforms.heads.towers import GOLDEN_FILE, Tower, write_towers
from cliploom.transforms.store.object_store import ObjectStore


def random_tower(seed: int, *widths: int, unit: bool = True, classes: NDArray[np.float32] | None = None) -> Tower:
    """A tower with random layers."""
    random = np.random.default_rng(seed)
    layers = [
        (
            (random.normal(size=(a, b)) / np.sqrt(a)).astype(np.float32),
            random.normal(scale=0.1, size=b).astype(np.float32),
        )
        for a, b in pairwise(widths)
    ]
    return Tower(tuple(layers), classes, unit)


def put_towers(
    store: Path,
    folder: Path,
    towers: Mapping[str, Tower],
    inputs: Mapping[str, TowerInput],
    settings: dict[str, Any],
    **facts: Any,
) -> VectorHeadCard:
    """Publish towers as the head that was trained last; the digest is drawn from the first weights."""
    first = next(iter(towers.values()))
    digest = f"{abs(float(first.layers[0][0].sum())):.6f}".replace(".", "").ljust(16, "0")
    card = VectorHeadCard(
        **{
            "name": "joint",
            "kind": settings["kind"],
            "digest": digest,
            "created_at": "2026-01-01T00:00:00+00:00",
            "program": "cliploom test",
            "release": 1,
            "run": "run",
            "inputs": dict(inputs),
            "dim": first.dim,
            "space": f"joint/{digest}",
            "settings": settings,
            "counts": {"train": 8, "validation": 2},
            "items": 0,
            "sketch": (),
            "text_model": "",
            "metrics": {"recall@10": 0.5},
            "key": "recall@10",
            "epochs": (),
            "best": 1,
        }
        | facts
    )
    folder.mkdir(parents=True)
    write_towers(folder, towers)
    random = np.random.default_rng(0)
    golden: dict[str, NDArray[np.float32]] = {}
    for side, tower in towers.items():
        given = random.normal(size=(20, tower.width)).astype(np.float32)
        golden |= {f"{side}.given": given, f"{side}.wanted": tower.apply(given)}
    np.savez(folder / GOLDEN_FILE, **golden)  # type: ignore[arg-type]
    (folder / CARD_FILE).write_text(json.dumps(card.to_dict()))
    publish_head(ObjectStore(str(store)), folder, card.name, digest)
    return card
