"""A trained tower as a prepared model: an OpenVINO graph for workers without TensorFlow, and its text tower.

The folder ``models/<digest>/`` has ``model.xml`` (float32 [64, width] to [64, dim]), the card and, if texts have a
tower of their own, ``text_projection.xml``, applied after the text encoder that ``card.text_tower`` names. The batch
size is fixed and padded with zeros, so that a row's vector does not depend on its neighbours.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as op

from cliploom.schemas.digests import SHORT, digest_of
from cliploom.schemas.errors import CliploomError
from cliploom.schemas.heads import HEAD
from cliploom.schemas.models import CARD_FILE, ModelCard, Output
from cliploom.schemas.vector_heads import DEVISE, EMBEDDING, TEXT, VectorHeadCard
from cliploom.transforms.encoders.agreement import smallest_cosine
from cliploom.transforms.encoders.prepare import PREPARING, publish_folder
from cliploom.transforms.encoders.projected_text import PROJECTION_FILE
from cliploom.transforms.encoders.registry import read_card
from cliploom.transforms.encoders.runtime import CompiledGraph, named_result, save_graph, shared_models
from cliploom.transforms.heads.towers import CONSE_TOP, GOLDEN_FILE, Tower, read_towers
from cliploom.transforms.literals import load_arrays
from cliploom.transforms.store.object_store import ObjectStore

REVISION = 1
"""Increase it when the same trained head gives other vectors."""

GRAPH_FILE = "model.xml"
BATCH = 64
LEAST = 0.99999
_SMALLEST = 1e-12


def tower_graph(tower: Tower, batch: int = BATCH) -> ov.Model:
    """Return an OpenVINO graph of a tower: float32 [batch, width] in, ``embedding`` [batch, dim] out."""
    given = op.parameter([batch, tower.width], np.float32)
    node = given.output(0)
    for place, (kernel, bias) in enumerate(tower.layers):
        node = op.add(op.matmul(node, op.constant(kernel), False, False), op.constant(bias))
        if place + 1 < len(tower.layers):
            node = op.relu(node)
    if tower.classes is not None:
        count = min(CONSE_TOP, len(tower.classes))
        top = op.topk(node, op.constant(np.int64(count)), 1, "max", "value")
        weights = op.softmax(top.output(0), 1)
        chosen = op.gather(op.constant(tower.classes), top.output(1), op.constant(np.int64(0)))
        weighted = op.multiply(op.unsqueeze(weights, op.constant(np.int64(2))), chosen)
        node = op.reduce_sum(weighted, op.constant(np.int64(1)), keep_dims=False)
    if tower.unit:
        squares = op.reduce_sum(op.multiply(node, node), op.constant(np.int64(1)), keep_dims=True)
        node = op.divide(node, op.maximum(op.sqrt(squares), op.constant(np.float32(_SMALLEST))))
    return ov.Model([named_result(node, EMBEDDING)], [given], "tower")


def projection_digest(card: VectorHeadCard, side: str) -> str:
    """Return the name of the prepared folder of one side of a trained head."""
    return digest_of({"kind": HEAD, "revision": REVISION, "head": card.digest, "name": card.name, "side": side})


def prepare_projection(objects: ObjectStore, model: str, side: str, models: Path) -> ModelCard:
    """Prepare one side of a trained head, unless it is prepared already.

    Args:
        objects: the store that has the head.
        model: the folder of the trained head, relative to the store.
        side: ``clip`` or ``text``.
        models: the local folder of prepared models, including the text encoder.

    Raises:
        StoreError: the head is damaged.
        CliploomError: the graph's results differ too much from those of training.
    """
    card, towers = read_towers(objects, model)
    digest = projection_digest(card, side)
    final = models / digest
    if (final / CARD_FILE).exists():
        return read_card(final)
    models.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{PREPARING}{digest[:SHORT]}-{os.getpid()}-", dir=models))
    try:
        save_graph(tower_graph(towers[side]), folder / GRAPH_FILE)
        text = ""
        if card.text_model:
            below = card.text_model.rpartition("/")[2]
            text = f"../{below}/{read_card(models / below).text_tower}"
            if card.kind != DEVISE:
                save_graph(tower_graph(towers[TEXT], 1), folder / PROJECTION_FILE)
        prepared = ModelCard(
            kind=HEAD,
            digest=digest,
            modality="vector",
            precision="f32",
            outputs={EMBEDDING: Output(dim=card.dim, space=card.space, text=bool(text))},
            text_tower=text,
            sources={"head": card.digest},
            agreement={EMBEDDING: _agreement(objects, model, side, folder)},
        )
        text_card = json.dumps(prepared.to_dict(), indent=1, sort_keys=True) + "\n"
        (folder / CARD_FILE).write_text(text_card, encoding="utf-8")
        folder.chmod(0o755)
        publish_folder(folder, final)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return read_card(final)


def _agreement(objects: ObjectStore, model: str, side: str, folder: Path) -> float:
    """Return the smallest cosine between the graph's vectors and the trained model's for the same rows."""
    with objects.local_copy(f"{model}/{GOLDEN_FILE}") as local:
        golden = load_arrays(local)
    given, wanted = golden[f"{side}.given"], golden[f"{side}.wanted"]
    least = smallest_cosine(Projection(folder).apply(given), wanted)
    if least < LEAST:
        raise CliploomError(
            f"The head in {objects.uri_of(model)} returns vectors with cosine {least:.7f} to those of its training, "
            f"below {LEAST}; its weights are damaged, train it again."
        )
    return least


class Projection:
    """An opened tower; thread-safe."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        self._graph = CompiledGraph(folder / GRAPH_FILE, [EMBEDDING], "f32", threads)
        self._width = self._graph.input_shapes[0][1]

    def apply(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Project float32 [n, width] to [n, dim]."""
        found = [np.empty((0, self._graph.output_shapes[EMBEDDING][1]), np.float32)]
        for begin in range(0, len(vectors), BATCH):
            some = vectors[begin : begin + BATCH]
            block = np.zeros((BATCH, self._width), np.float32)
            block[: len(some)] = some
            found.append(self._graph.run([block])[EMBEDDING][: len(some)])
        return np.concatenate(found)


def open_projection(folder: Path, threads: int = 1) -> Projection:
    """Open a prepared tower, once per process."""
    key = ("projection", str(folder.resolve()), threads)
    return shared_models().get(key, lambda: Projection(folder, threads))
