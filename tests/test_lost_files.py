"""Files that a release names and somebody removed: a run notices by one listing, and makes them again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from stores import SmallStore
from vector_store import VectorStore, vector_project

from cliploom.schemas.errors import StoreError
from cliploom.transforms.search.searching import open_store
from cliploom.transforms.upkeep.verifying import verify_release


def part_of(store: Path, feature: str) -> Path:
    table = open_store(str(store)).features[feature].table
    return sorted((store / table).glob("part-*.parquet"))[0]


@pytest.mark.parametrize("feature", ["frames", "looks"])
def test_a_part_that_is_gone_is_computed_again(small_store: SmallStore, feature: str) -> None:
    before = {name: open_store(str(small_store.store)).table(name).collect() for name in ("frames", "looks")}
    part_of(small_store.store, feature).unlink()
    assert verify_release(str(small_store.store)) != []
    result = small_store.run()
    assert result.changed
    assert set(result.verdicts[feature]) & {"config_changed", "new", "moved"}
    assert verify_release(str(small_store.store)) == []
    for name, rows in before.items():
        assert open_store(str(small_store.store)).table(name).collect().sort("row_id").equals(rows.sort("row_id"))
    assert not small_store.run().changed


def test_a_run_says_what_was_missing(small_store: SmallStore) -> None:
    from cliploom.pipelines.running.run import RunOptions, run_spec
    from cliploom.schemas.spec_file import load_document, parse_document

    gone = part_of(small_store.store, "frames")
    gone.unlink()
    said: list[str] = []
    document = load_document(small_store.spec, ())
    run_spec(parse_document(document), document, small_store.folder, RunOptions(), said.append)
    assert any("missing from the store" in text and gone.name in text for text in said)


@pytest.mark.parametrize("pattern", ["index/*/shard-*", "index/lists/trained-*", "hdf5/*/*"])
def test_index_files_and_exports_that_are_gone_are_made_again(small_store: SmallStore, pattern: str) -> None:
    gone = sorted(path for path in small_store.store.glob(pattern) if path.is_file())
    assert gone
    for path in gone:
        path.unlink()
    result = small_store.run()
    assert result.changed
    assert all(set(verdicts) <= {"unchanged", "failed"} for verdicts in result.verdicts.values())
    assert verify_release(str(small_store.store)) == []
    assert not small_store.run().changed


def items() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {f"v{number:02}": rng.normal(size=(4, 8)).astype(np.float32) for number in range(60)}


@pytest.mark.parametrize("kind", ["flat", "ivf_sq8"])
def test_a_part_is_gone_while_items_change_and_leave(tmp_path: Path, kind: str) -> None:
    project = vector_project(tmp_path, items(), f"kind: {kind}, shards: 2")
    project.run()
    part_of(project.store, "f").unlink()
    project.delete("v01")
    project.write({"v02": np.ones((2, 8), np.float32), "w": np.ones((1, 8), np.float32)})
    project.run()
    assert verify_release(str(project.store)) == []
    assert project.open().features["f"].rows == 58 * 4 + 2 + 1
    assert not project.run().changed


def test_a_part_of_another_size_is_damage(tmp_path: Path) -> None:
    project: VectorStore = vector_project(tmp_path, items(), "kind: flat")
    project.run()
    part = part_of(project.store, "f")
    part.chmod(0o644)
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(StoreError, match=f"{part.name} is damaged"):
        project.run()
    part.unlink()
    assert project.run().changed
    assert verify_release(str(project.store)) == []
