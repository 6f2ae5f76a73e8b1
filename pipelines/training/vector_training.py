"""What trainings of heads that give vectors share: the card, the golden rows, what is published."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cliploom.pipelines.version import program_version
from cliploom.schemas.digests import SHORT, digest_of
from cliploom.schemas.models import CARD_FILE
from cliploom.schemas.release import Release
from cliploom.schemas.vector_heads import TowerInput, VectorHead, VectorHeadCard
from cliploom.transforms.heads.published import head_folder
from cliploom.transforms.heads.tower_report import write_tower_report
from cliploom.transforms.heads.towers import GOLDEN_FILE, Tower, write_towers
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.tables import contents_of

REVISION = 2
"""Raised when the same data and settings give another head than before; part of a head's digest."""

GOLDEN_ROWS = 64
PREVIOUS = "previous_model"
"""The deciding figure of the model that was in use, on the same validation data."""
LIBRARIES = ("keras", "numpy", "tensorflow")
Golden = dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
"""By side, some rows and what the trained model gives for them."""


@dataclass(frozen=True)
class VectorTraining:
    """Everything decided before anything is learned.

    Attributes:
        made_from: what names the result: the head's node and the data.
        sketch: of the data, see ``sketches``.
        text_model: folder of the prepared text encoder that queries go through, relative to the store.
        space: of the vectors, where it is not one of the head's own.
    """

    name: str
    spec: VectorHead
    release: Release
    inputs: dict[str, TowerInput]
    made_from: dict[str, Any]
    sketch: tuple[int, tuple[int, ...]]
    text_model: str = ""
    space: str = ""

    @property
    def training(self) -> VectorTraining:
        """Itself, as other kinds of preparations have it."""
        return self

    @property
    def digest(self) -> str:
        """Names the result."""
        node = self.spec.model_dump(mode="json", exclude={"retrain"})
        inputs = {side: asdict(each) for side, each in self.inputs.items()}
        return digest_of(
            {"revision": REVISION, "head": node, "inputs": inputs, "text": self.text_model} | self.made_from
        )

    @property
    def model(self) -> str:
        """Where the head will lie in the store."""
        return f"{head_folder(self.name)}/{self.digest}"


def tower_input(release: Release, feature: str, output: str | None) -> TowerInput:
    """What a tower takes of a release, made definite."""
    entry = release.features[feature]
    chosen = output or ("semantic" if "semantic" in entry.outputs else next(iter(entry.outputs)))
    found = entry.outputs[chosen]
    return TowerInput(feature, chosen, entry.source, found.dim, found.space, entry.model)


def items_read(objects: ObjectStore, release: Release, features: Mapping[str, TowerInput]) -> list[tuple[str, ...]]:
    """Feature, uid and digest of all items that have rows of the inputs' features."""
    found: list[tuple[str, ...]] = []
    for side, each in features.items():
        contents = contents_of(objects, release, each.feature, ["uid", "digest", "rows"]).filter(pl.col("rows") > 0)
        found += [(side, uid, digest) for uid, digest in contents.select("uid", "digest").unique().iter_rows()]
    return found


def write_vector_head(
    training: VectorTraining,
    folder: Path,
    towers: Mapping[str, Tower],
    golden: Golden,
    logs: Path,
    facts: Mapping[str, Any],
) -> VectorHeadCard:
    """Write everything that is published into an empty folder, the card last.

    Args:
        training: what was decided before.
        folder: made anew.
        towers: by side.
        golden: see ``Golden``.
        logs: TensorBoard's, to be copied.
        facts: further fields of the card: counts, metrics, key, epochs, best, method, seconds.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_towers(folder, towers)
    arrays: dict[str, NDArray[np.float32]] = {}
    for side, (given, wanted) in golden.items():
        arrays |= {f"{side}.given": given, f"{side}.wanted": wanted}
    np.savez(folder / GOLDEN_FILE, **arrays)  # type: ignore[arg-type]
    items, sketch = training.sketch
    card = VectorHeadCard(
        name=training.name,
        kind=training.spec.kind,
        digest=training.digest,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        program=program_version(),
        release=training.release.release,
        run=training.release.run,
        inputs=training.inputs,
        dim=next(iter(towers.values())).dim,
        space=training.space or f"{training.spec.kind}/{training.digest[:SHORT]}",
        settings=training.spec.model_dump(mode="json"),
        items=items,
        sketch=sketch,
        text_model=training.text_model,
        libraries=installed(LIBRARIES),
        **facts,
    )
    write_tower_report(card, folder)
    shutil.copytree(logs, folder / "logs")
    (folder / CARD_FILE).write_text(json.dumps(card.to_dict(), indent=1) + "\n", encoding="utf-8")
    return card


def installed(names: tuple[str, ...]) -> dict[str, str]:
    """Versions of the packages that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
