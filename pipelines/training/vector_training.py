"""Shared by trainings of heads that return vectors: the card, the golden rows, publishing."""

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
"""Increase it when the same data and settings give another head; part of a head's digest."""

GOLDEN_ROWS = 64
PREVIOUS = "previous_model"
"""The deciding figure of the previous model, on the same validation data."""
LIBRARIES = ("keras", "numpy", "tensorflow")
Golden = dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
"""By side, some rows and the trained model's results for them."""


@dataclass(frozen=True)
class VectorTraining:
    """All decisions made before the training.

    Attributes:
        made_from: the values that name the result: the head's node and the data.
        sketch: the sketch of the data, see ``sketches``.
        text_model: the folder of the prepared text encoder for queries, relative to the store.
        space: the space of the vectors, if it is not the head's own.
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
        """This object; a common attribute of all kinds of preparations."""
        return self

    @property
    def digest(self) -> str:
        """The digest that names the result."""
        node = self.spec.model_dump(mode="json", exclude={"retrain"})
        inputs = {side: asdict(each) for side, each in self.inputs.items()}
        return digest_of(
            {"revision": REVISION, "head": node, "inputs": inputs, "text": self.text_model} | self.made_from
        )

    @property
    def model(self) -> str:
        """The folder of the head in the store."""
        return f"{head_folder(self.name)}/{self.digest}"


def tower_input(release: Release, feature: str, output: str | None) -> TowerInput:
    """Return the input of a tower in a release, with all defaults resolved."""
    entry = release.features[feature]
    chosen = output or ("semantic" if "semantic" in entry.outputs else next(iter(entry.outputs)))
    found = entry.outputs[chosen]
    return TowerInput(feature, chosen, entry.source, found.dim, found.space, entry.model)


def items_read(objects: ObjectStore, release: Release, features: Mapping[str, TowerInput]) -> list[tuple[str, ...]]:
    """Return feature, uid and digest of all items that have rows of the inputs' features."""
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
    """Write everything to publish into an empty folder, the card last.

    Args:
        training: the preparation.
        folder: the folder; created empty.
        towers: the towers by side.
        golden: see ``Golden``.
        logs: the folder of TensorBoard's logs, which are copied.
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
    """Return the versions of the packages that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
