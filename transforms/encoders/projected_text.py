"""A text encoder followed by a learned projection: text queries in the space of a trained head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PROJECTION_FILE = "text_projection.xml"
"""Projection graph in a folder that uses another folder's text tower, float32 [1, width] to [1, dim]."""


def project_texts(
    folder: Path, encode: Callable[[list[str]], NDArray[np.float32]]
) -> Callable[[list[str]], NDArray[np.float32]]:
    """Return the text tower's function, followed by the projection in ``folder`` if it has one."""
    from cliploom.transforms.encoders.runtime import CompiledGraph, shared_models

    path = folder / PROJECTION_FILE
    if not path.exists():
        return encode
    key = ("text projection", str(folder.resolve()))
    graph = shared_models().get(key, lambda: CompiledGraph(path, ["embedding"], "f32"))

    def projected(texts: list[str]) -> NDArray[np.float32]:
        # One at a time, so that a sentence's vector does not depend on its neighbours.
        rows = [graph.run([np.ascontiguousarray(row[None])])["embedding"] for row in encode(texts)]
        return np.concatenate(rows) if rows else np.empty((0, graph.output_shapes["embedding"][1]), np.float32)

    return projected
