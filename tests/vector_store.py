"""A project whose features are arrays of the test's own: runs take a second, and every vector is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliploom.pipelines.running.run import RunOptions, RunResult, run_spec
from cliploom.schemas.spec_file import load_document, parse_document
from cliploom.transforms.search.searching import Store, open_store

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class VectorStore:
    """A project folder: ``cliploom.yaml``, ``feats/`` and ``store/``."""

    folder: Path

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def spec(self) -> Path:
        return self.folder / "cliploom.yaml"

    def write(self, vectors: Mapping[str, Vectors]) -> None:
        """Write or replace items: uid -> float32 [rows, dim]."""
        for uid, rows in vectors.items():
            np.save(self.folder / "feats" / f"{uid}.npy", rows)

    def delete(self, *uids: str) -> None:
        for uid in uids:
            (self.folder / "feats" / f"{uid}.npy").unlink()

    def run(self, overrides: Sequence[str] = (), **options: Any) -> RunResult:
        """``cliploom run`` in this process."""
        document = load_document(self.spec, overrides)
        return run_spec(parse_document(document), document, self.folder, RunOptions(**options), lambda text: None)

    def open(self) -> Store:
        return open_store(str(self.store))


def vector_project(
    folder: Path, vectors: Mapping[str, Vectors], index: str, limits: str = "{max_deleted: 100%}"
) -> VectorStore:
    """A project with one feature ``f`` and one index ``f``.

    Args:
        folder: where.
        vectors: uid -> float32 [rows, dim].
        index: its keys but ``feature`` and ``output``, such as ``kind: flat, metric: l2``.
        limits: of the spec.
    """
    (folder / "feats").mkdir(parents=True)
    dim = next(iter(vectors.values())).shape[1]
    (folder / "cliploom.yaml").write_text(
        f"""\
version: 1
name: vectors
store: ./store
sources:
  s: {{kind: precomputed, glob: "feats/*.npy", window: {{fps: 30, window: 32, stride: 16}}, dim: {dim}}}
features:
  f: {{source: s}}
indexes:
  f: {{feature: f, {index}}}
limits: {limits}
""",
        encoding="utf-8",
    )
    project = VectorStore(folder)
    project.write(vectors)
    return project
