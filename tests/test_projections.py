"""Features that trained heads make from the rows of others: projected, indexed, asked by words, brought up to date."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from stores import SmallStore
from vector_heads import put_towers, random_tower

from cliploom.schemas.vector_heads import CLIP, DeviseSpec, TowerInput, VectorHeadCard
from cliploom.transforms.encoders import registry
from cliploom.transforms.heads.projection import BATCH, Projection, tower_graph
from cliploom.transforms.heads.towers import Tower
from cliploom.transforms.search.searching import open_store
from cliploom.transforms.upkeep.vacuuming import vacuum_store
from cliploom.transforms.upkeep.verifying import verify_release

NODE = {"kind": "devise", "inputs": [{"feature": "frames", "output": "pooled"}], "text_encoder": "minilm"}
WITH_HEAD = (
    "heads.joint={kind: devise, inputs: [{feature: frames, output: pooled}], text_encoder: minilm}",
    "encoders.worded={kind: head, head: joint}",
    "features.words={source: clips, encoder: worded}",
    "indexes.words={feature: words}",
    "exports.words_h5={kind: hdf5, feature: words}",
)

WITH_NAMES = (
    *WITH_HEAD,
    "sources.things={kind: labels, labels: [coffee, cat, rocket], templates: ['a photo of a {label}']}",
    "heads.named={kind: zero_shot, feature: words, labels: things}",
    "encoders.namer={kind: head, head: named, top: 3}",
    "features.tags={source: clips, encoder: namer}",
)


def put_head(project: SmallStore, seed: int) -> tuple[VectorHeadCard, Tower]:
    """A head from the pooled vectors to the space of MiniLM, not trained at all."""
    tower = random_tower(seed, 1280, 32, 384)
    frames = open_store(str(project.store)).release.features["frames"]
    given = TowerInput("frames", "pooled", "clips", 1280, frames.outputs["pooled"].space, frames.model)
    text = next((project.store / "models").glob("*/text.xml")).parent.name
    card = put_towers(
        project.store,
        project.folder / f"head-{seed}",
        {CLIP: tower},
        {CLIP: given},
        DeviseSpec.model_validate(NODE).model_dump(mode="json"),
        text_model=f"models/{text}",
        space=frames.outputs["semantic"].space,
    )
    return card, tower


def vectors(project: SmallStore, feature: str, output: str, release: int | None = None) -> pl.DataFrame:
    found = open_store(str(project.store), release).table(feature).select("row_id", "uid", "start_s", output)
    return found.collect().sort("row_id")


def test_a_feature_waits_for_its_head_with_its_index(small_store: SmallStore) -> None:
    result = small_store.run(WITH_HEAD)
    assert "words" not in result.release.features
    assert "words" not in result.release.indexes
    assert "words_h5" not in result.release.exports


def test_a_head_makes_a_feature_that_words_and_pictures_ask(small_store: SmallStore) -> None:
    card, tower = put_head(small_store, 1)
    result = small_store.run(WITH_HEAD)
    entry = result.release.features["words"]
    assert result.verdicts["frames"].keys() <= {"unchanged", "failed"}
    assert entry.outputs["embedding"].space == card.space
    assert entry.outputs["embedding"].text
    base, made = vectors(small_store, "frames", "pooled"), vectors(small_store, "words", "embedding")
    assert made.select("row_id", "uid", "start_s").equals(base.select("row_id", "uid", "start_s"))
    wanted = tower.apply(np.array(base["pooled"].to_list(), np.float32))
    np.testing.assert_allclose(np.array(made["embedding"].to_list()), wanted, atol=2e-6)
    assert verify_release(str(small_store.store), None) == []

    store = open_store(str(small_store.store))
    best = store.search("a cup of coffee", index=["words"], top=10)
    assert len(best) >= 4
    sentence = store.search("a cup of coffee", index=["frames"])[0]
    assert sentence.uid == "videos/coffee"
    by_file = store.search(like=str(small_store.media / "videos" / "coffee.mp4"), index=["words"], top=1)
    assert [hit.uid for hit in by_file] == ["videos/coffee"]
    assert by_file[0].score == pytest.approx(1, abs=1e-5)
    by_uid = store.search(like="videos/cat", index=["words"], top=1)
    assert by_uid[0].uid != "videos/cat"

    again = small_store.run(WITH_HEAD)
    assert not again.changed

    put_head(small_store, 2)
    third = small_store.run(WITH_HEAD)
    assert third.release.features["words"].config != entry.config
    assert third.release.features["frames"].version == result.release.features["frames"].version
    assert set(third.verdicts["words"]) <= {"config_changed", "failed"}
    assert not np.allclose(np.array(vectors(small_store, "words", "embedding")["embedding"].to_list()), wanted)

    shutil.copyfile(small_store.media / "page.png", small_store.media / "more.png")
    (small_store.media / "videos" / "rocket.mp4").unlink()
    fourth = small_store.run(WITH_HEAD)
    assert fourth.release.features["words"].rows == fourth.release.features["frames"].rows
    assert vectors(small_store, "words", "embedding")["uid"].to_list() == (
        vectors(small_store, "frames", "pooled")["uid"].to_list()
    )
    vacuum_store(str(small_store.store), 1)
    table = small_store.store / fourth.release.features["words"].table
    next(table.glob("part-*.parquet")).unlink()
    healed = small_store.run(WITH_HEAD)
    assert healed.release.features["words"].rows == fourth.release.features["words"].rows
    assert verify_release(str(small_store.store), None) == []


def test_class_names_are_compared_with_the_vectors_that_a_head_makes(small_store: SmallStore) -> None:
    waiting = small_store.run(WITH_NAMES)
    assert "tags" not in waiting.release.heads
    put_head(small_store, 1)
    result = small_store.run(WITH_NAMES)
    folder = small_store.store / result.release.features["words"].model
    texts = np.asarray(
        registry.load_text_tower(folder)([f"a photo of a {name}" for name in ("coffee", "cat", "rocket")])
    )
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    store = open_store(str(small_store.store))
    rows = vectors(small_store, "words", "embedding")
    labels = store.labels(rows["uid"].unique().to_list())
    for uid in rows["uid"].unique():
        made = np.array(rows.filter(pl.col("uid") == uid)["embedding"].to_list())
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        mean = made.mean(axis=0)
        wanted = np.sort(texts @ (mean / np.linalg.norm(mean)))[::-1]
        found = [label.score for label in labels["clips", uid] if label.origin == "predicted:tags"]
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert not small_store.run(WITH_NAMES).changed
    put_head(small_store, 2)
    again = small_store.run(WITH_NAMES)
    assert set(again.verdicts["tags"]) <= {"config_changed", "failed"}
    (small_store.media / "videos" / "rocket.mp4").unlink()
    small_store.run(WITH_NAMES)
    assert ("clips", "videos/rocket") not in open_store(str(small_store.store)).labels(["videos/rocket"])
    assert verify_release(str(small_store.store), None) == []


@pytest.mark.parametrize("unit", [True, False])
def test_a_graph_computes_what_the_layers_say(tmp_path: Path, *, unit: bool) -> None:
    from cliploom.transforms.encoders.runtime import save_graph

    classes = np.random.default_rng(5).normal(size=(40, 6)).astype(np.float32)
    for tower in (random_tower(3, 7, 9, 5, unit=unit), random_tower(4, 7, 40, unit=unit, classes=classes)):
        save_graph(tower_graph(tower), tmp_path / "model.xml")
        given = np.random.default_rng(1).normal(size=(BATCH + 3, 7)).astype(np.float32)
        found = Projection(tmp_path).apply(given)
        np.testing.assert_allclose(found, tower.apply(given), atol=3e-6)
        # A row's vector does not depend on its neighbours.
        np.testing.assert_array_equal(Projection(tmp_path).apply(given[5:6]), found[5:6])


def test_zero_vectors_stay_zero(tmp_path: Path) -> None:
    from cliploom.transforms.encoders.runtime import save_graph

    layer = (np.eye(4, dtype=np.float32), np.zeros(4, np.float32))
    save_graph(tower_graph(Tower((layer,), unit=True)), tmp_path / "model.xml")
    np.testing.assert_array_equal(Projection(tmp_path).apply(np.zeros((1, 4), np.float32)), np.zeros((1, 4)))
