"""What a golden store holds, as plain values that are committed beside it and compared with every change.

A golden store is a folder of ``tests/golden``: ``cliploom.yaml`` with all that it reads, the ``store`` that an older
version made of it, and ``expected.json``, what ``observe`` found then. A store of a later version is one more folder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import polars as pl

import cliploom
from cliploom.pipelines.running.run import RunOptions, RunResult, run_spec
from cliploom.schemas.index import IndexRecipe
from cliploom.schemas.release import Release
from cliploom.schemas.spec_file import load_document, parse_document
from cliploom.schemas.tfrecords import Record
from cliploom.transforms.index.verify import shard_ids
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.releases import read_releases
from cliploom.transforms.store.tables import read_table
from cliploom.transforms.tfrecords.framing import read_records

GOLDEN = Path(__file__).parent / "golden"
LATER_KEYS = ("row_id", "fit", "moments")
"""Keys of hits that came after the golden stores."""

DIGITS = 6
"""Significant digits of the numbers that are kept."""


@dataclass(frozen=True)
class Golden:
    """A copy of a golden store, to be changed at will."""

    folder: Path

    @property
    def spec(self) -> Path:
        return self.folder / "cliploom.yaml"

    @property
    def store(self) -> str:
        return str(self.folder / "store")

    @property
    def expected(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "expected.json").read_text())
        return found

    @property
    def newest(self) -> dict[str, Any]:
        """What was expected of the newest release that was committed."""
        releases: dict[str, Any] = self.expected["releases"]
        return releases[max(releases, key=int)]

    def run(self, overrides: Sequence[str] = ()) -> RunResult:
        """``cliploom run`` in this process."""
        document = load_document(self.spec, overrides)
        return run_spec(parse_document(document), document, self.folder, RunOptions(), lambda text: None)


def observe(folder: Path) -> dict[str, Any]:
    """All that readers see of a project's store: every release's tables, indexes and exports, and its searches."""
    objects = ObjectStore(folder / "store")
    numbers = [release.release for release in read_releases(objects).rows]
    return {
        "releases": {str(number): observe_release(folder, number) for number in numbers},
        "searches": observe_searches(folder),
    }


def observe_release(folder: Path, number: int) -> dict[str, Any]:
    """What one release says and holds."""
    objects = ObjectStore(folder / "store")
    release = read_releases(objects).get(number)
    tables = {name: read_table(objects, name, version) for name, version in release.tables.items()}
    items = tables["items"].sort("item_no")
    items = items.select("item_no", "source", "uid", "size", "digest", pl.col("uri").map_elements(_name, pl.String))
    found: dict[str, Any] = {
        "counts": dict(release.counts),
        "items": plain_rows(items),
        "failures": plain_rows(tables["failures"].select("feature", "uid", "type", "message")),
        "features": {},
        "indexes": {name: _index(objects, release, name) for name in sorted(release.indexes)},
        "exports": {name: _export(objects, release, name) for name in sorted(release.exports)},
    }
    for name in ("labels", "narrations"):
        if name in tables:
            table = tables[name].select(pl.exclude("run", "part", "run_id"))
            found[name] = sorted(plain_rows(table), key=lambda row: json.dumps(row, sort_keys=True))
    store = cliploom.open(folder / "store", number)
    for name, entry in release.features.items():
        rows = store.table(name).collect().sort("row_id")
        outputs = {output: [about.dim, about.space, about.text] for output, about in entry.outputs.items()}
        found["features"][name] = {"table": entry.table, "outputs": outputs, "rows": plain_rows(rows)}
    return found


def observe_searches(folder: Path) -> dict[str, Any]:
    """Hits of the newest release, by what was asked."""
    store = cliploom.open(folder / "store")
    eight = [0.5, -0.25, 0.125, 1, 0, -1, 0.75, 0.3]
    photo = folder / "media" / "photos" / "plain.png"
    asked: dict[str, dict[str, Any]] = {
        "text": {"text": "white left dots", "index": ["exact"]},
        "like a uid": {"like": "videos/clip-a", "index": ["exact"], "rank": "bimatch"},
        "like a moment": {"like": "videos/clip-a@0.8s", "index": ["graph"], "top": 3},
        "like a file": {"like": str(photo), "index": ["exact"], "top": 5},
        "a vector": {"vector": eight, "index": ["said"]},
        "a vector in lists": {"vector": eight[:4], "index": ["lists"]},
        "several indexes": {"like": "videos/clip-a", "index": ["exact", "graph"], "rank": "mean"},
    }
    found = {}
    for name, arguments in asked.items():
        hits = [hit.to_dict() for hit in store.search(**arguments)]
        kept = [{key: value for key, value in hit.items() if key not in LATER_KEYS} for hit in hits]
        found[name] = [plain(hit | {"uri": _name(hit["uri"])}) for hit in kept]
    return found


def _index(objects: ObjectStore, release: Release, name: str) -> dict[str, Any]:
    entry = release.indexes[name]
    dim = release.features[entry.feature].outputs[entry.output].dim
    recipe = IndexRecipe(entry.metric, entry.kind, dim, entry.nprobe)  # type: ignore[arg-type]
    ids: list[int] = []
    for shard in entry.shards:
        with objects.local_copy(shard.file.path) as local:
            ids += shard_ids(local, recipe).tolist()
    return {"kind": entry.kind, "metric": entry.metric, "nprobe": entry.nprobe, "ids": sorted(ids)}


def _export(objects: ObjectStore, release: Release, name: str) -> dict[str, Any]:
    """What the files of an export hold, by the kind of file."""
    found: dict[str, Any] = {}
    for file in release.exports[name].files:
        with objects.local_copy(file.path) as local:
            if file.path.endswith(".parquet"):
                rows = pl.read_parquet(local)
                found.setdefault(_kind_of(file.path), []).extend(plain_rows(rows.sort(rows.columns[:3])))
            elif ".tfrecord" in file.path:
                with local.open("rb") as stream:
                    records = [record for record in read_records(stream, file.path) if isinstance(record, Record)]
                found[_kind_of(file.path)] = [record.data.hex() for record in records]
            elif file.path.endswith((".h5", ".hdf5")):
                with h5py.File(local) as opened:
                    found.setdefault(_kind_of(file.path), {}).update(datasets(opened))
    return found


def datasets(file: h5py.File) -> dict[str, Any]:
    """Values and attributes of all datasets, through links too."""
    found: dict[str, Any] = {}

    def visit(group: h5py.Group, prefix: str) -> None:
        for key in sorted(group):
            if not prefix and key == "uids":
                continue  # since 0.2: the names of the others
            value = group[key]
            if isinstance(value, h5py.Group):
                visit(value, f"{prefix}{key}/")
            else:
                attributes = {name: plain(value.attrs[name]) for name in sorted(value.attrs)}
                found[f"{prefix}{key}"] = {"values": plain(value[()]), "attributes": attributes}

    visit(file, "")
    return found


def _kind_of(path: str) -> str:
    """A file's name without the digest in it."""
    stem = path.rpartition("/")[2]
    head, _, rest = stem.partition("-")
    return f"{head}-{rest}" if ".tfrecord" in stem or "-of-" in stem else head + Path(stem).suffix


def _name(uri: str) -> str:
    return uri.rpartition("/")[2]


def plain_rows(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """A frame's rows as plain values."""
    return [{key: plain(value) for key, value in row.items()} for row in frame.to_dicts()]


def plain(value: Any) -> Any:
    """The value as JSON can hold it, numbers with as many digits as are kept."""
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, bytes):
        return value.hex()
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def write_expected(path: Path, found: dict[str, Any]) -> None:
    """Keep what was found."""
    path.write_text(json.dumps(found, sort_keys=True, separators=(",", ":")) + "\n", encoding="utf-8")


def differences(found: Any, expected: Any, place: str = "") -> list[str]:
    """Where two trees of plain values differ; floats may differ by what another processor rounds otherwise.

    >>> differences({"a": [1, 0.5]}, {"a": [1, 0.5000001], "b": None})
    ['b: missing, expected None']
    >>> differences({"a": [1, 0.5]}, {"a": [2, 0.6]})
    ['a.0: 1, expected 2', 'a.1: 0.5, expected 0.6']
    """
    if isinstance(expected, dict) and isinstance(found, dict):
        said = [f"{place}{key}: missing, expected {expected[key]!r}" for key in expected if key not in found]
        said += [f"{place}{key}: {found[key]!r} is new" for key in found if key not in expected]
        common = [key for key in expected if key in found]
        return said + [each for key in common for each in differences(found[key], expected[key], f"{place}{key}.")]
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = enumerate(zip(found, expected, strict=True))
        return [each for number, pair in pairs for each in differences(*pair, f"{place}{number}.")]
    numbers = isinstance(found, float) and isinstance(expected, float | int) and not isinstance(expected, bool)
    if numbers and math.isclose(found, expected, rel_tol=1e-3, abs_tol=2e-3):
        return []
    same = found == expected and isinstance(found, bool) == isinstance(expected, bool)
    return [] if same else [f"{place.removesuffix('.')}: {found!r}, expected {expected!r}"]
