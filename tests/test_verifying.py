"""Verify: whatever byte, file or log entry of a release is damaged, it is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from deltalake import DeltaTable
from stores import SmallStore

from cliploom.schemas.errors import StoreError
from cliploom.schemas.release import FileEntry
from cliploom.transforms.search.searching import open_store
from cliploom.transforms.store.delta_log import LogError, replay
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.tables import table_files
from cliploom.transforms.upkeep.verifying import part_problems, verify_release

KINDS = {
    "part": "features/frames/*/part-*.parquet",
    "items": "items/rows-*.parquet",
    "contents": "contents/rows-*.parquet",
    "parts": "parts/rows-*.parquet",
    "failures": "failures/rows-*.parquet",
    "releases": "releases/rows-*.parquet",
    "flat index": "index/frames/shard-*.faiss",
    "hnsw index": "index/graph/shard-*.faiss",
    "ivf index": "index/lists/shard-*.faiss",
    "centroids": "index/lists/trained-*.faiss",
    "hdf5 part": "hdf5/frames_h5/part-*.h5",
    "hdf5 master": "hdf5/frames_h5/master-*.h5",
    "hdf5 single": "hdf5/looks_h5/single-*.h5",
    "card": "models/*/card.json",
    "graph": "models/*/model.xml",
    "weights": "models/*/model.bin",
    "tokenizer": "models/*/tokenizer.json",
}
LOGS = {
    "feature log": "features/frames/*/_delta_log/*1.json",
    "first feature log": "features/frames/*/_delta_log/*0.json",
    "items log": "items/_delta_log/*1.json",
    "parts log": "parts/_delta_log/*1.json",
    "releases log": "releases/_delta_log/*1.json",
    "first releases log": "releases/_delta_log/*0.json",
}


@pytest.fixture(scope="module")
def damaged(built_store: SmallStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the store, for tests that put back what they damage."""
    folder = tmp_path_factory.mktemp("damaged") / "store"
    shutil.copytree(built_store.store, folder)
    return folder


@pytest.fixture
def restored(damaged: Path) -> Iterator[Callable[[str], Path]]:
    """Gives a file of the store by pattern, to be damaged; puts it back afterwards."""
    kept: dict[Path, bytes] = {}

    def take(pattern: str) -> Path:
        path = sorted(damaged.glob(pattern))[0]
        kept[path] = path.read_bytes()
        return path

    yield take
    for path, data in kept.items():
        path.write_bytes(data)


def named(store: Path) -> list[str]:
    return [problem.path for problem in verify_release(str(store))]


def flip(path: Path, share: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(share * (len(data) - 1))] ^= 0x10
    path.write_bytes(data)


def test_a_store_as_it_was_made_verifies(built_store: SmallStore) -> None:
    assert verify_release(str(built_store.store)) == []


@pytest.mark.parametrize(("kind", "share"), [(kind, place / (len(KINDS) - 1)) for place, kind in enumerate(KINDS)])
def test_a_flipped_bit_anywhere_is_named(
    damaged: Path, restored: Callable[[str], Path], kind: str, share: float
) -> None:
    path = restored(KINDS[kind])
    flip(path, share)
    assert str(path.relative_to(damaged)) in named(damaged)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_a_flipped_bit_at_any_place_is_named(damaged: Path, restored: Callable[[str], Path], share: float) -> None:
    paths = [restored(KINDS[kind]) for kind in KINDS if kind not in ("releases", "parts", "contents")]
    for path in paths:
        flip(path, share)
    assert {str(path.relative_to(damaged)) for path in paths} <= set(named(damaged))


@pytest.mark.parametrize("kind", ["part", "releases", "hnsw index", "hdf5 master", *LOGS])
def test_a_truncated_file_is_named(damaged: Path, restored: Callable[[str], Path], kind: str) -> None:
    path = restored((KINDS | LOGS)[kind])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert str(path.relative_to(damaged)) in named(damaged)


@pytest.mark.parametrize("kind", [*KINDS, *LOGS])
def test_a_missing_file_is_named(damaged: Path, restored: Callable[[str], Path], kind: str) -> None:
    path = restored((KINDS | LOGS)[kind])
    path.unlink()
    assert str(path.relative_to(damaged)) in named(damaged)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("features/frames/*/part-*.parquet", "features/looks/*/part-*.parquet"),
        ("items/rows-*.parquet", "contents/rows-*.parquet"),
        ("index/frames/shard-*.faiss", "index/lists/shard-*.faiss"),
        ("hdf5/frames_h5/part-*.h5", "hdf5/looks_h5/part-*.h5"),
        ("models/*/model.xml", "models/*/text.xml"),
        ("items/_delta_log/*1.json", "contents/_delta_log/*1.json"),
        ("items/_delta_log/*0.json", "items/_delta_log/*1.json"),
        ("features/frames/*/_delta_log/*1.json", "features/looks/*/_delta_log/*1.json"),
    ],
)
def test_swapped_files_are_both_named(damaged: Path, restored: Callable[[str], Path], one: str, other: str) -> None:
    first, second = restored(one), restored(other)
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    found = named(damaged)
    assert str(first.relative_to(damaged)) in found
    # Entries of one log are read in order: the first one that can't stand is named.
    assert str(second.relative_to(damaged)) in found or first.parent == second.parent


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("feature log", b'{"add"'),
        ("feature log", b'"path":"part-'),
        ("feature log", b'"size":'),
        ("items log", b'"path":"rows-'),
        ("releases log", b"numRecords"),
        ("releases log", b'"path":"rows-'),
        ("first feature log", b'{"metaData"'),
        ("first feature log", b'{"protocol"'),
        ("first feature log", b"row_id"),
    ],
)
def test_a_log_entry_that_would_mislead_a_reader_is_named(
    damaged: Path, restored: Callable[[str], Path], kind: str, word: bytes
) -> None:
    path = restored(LOGS[kind])
    sound = path.read_bytes()
    # The byte after what ends in a colon or dash, else the last letter.
    at = sound.rindex(word) + len(word) - (0 if word.endswith((b":", b"-")) else 2)
    path.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
    table = str(path.parent.parent.relative_to(damaged))
    assert any(problem.startswith(table) for problem in named(damaged))


def test_the_newest_entry_of_the_releases_log_can_not_vanish_unnoticed(small_store: SmallStore) -> None:
    (small_store.media / "page.png").unlink()
    small_store.run()
    entry = small_store.store / "releases/_delta_log/00000000000000000002.json"
    entry.unlink()
    (problem,) = verify_release(str(small_store.store))
    assert problem.path == str(entry.relative_to(small_store.store))
    assert "has published release 2" in problem.problem


def test_old_releases_verify_by_themselves(small_store: SmallStore) -> None:
    (small_store.media / "page.png").unlink()
    small_store.run()
    old = open_store(str(small_store.store), 1).release
    new = open_store(str(small_store.store), 2).release
    gone = {shard.file.path for shard in new.indexes["frames"].shards} - {
        shard.file.path for shard in old.indexes["frames"].shards
    }
    (small_store.store / gone.pop()).unlink()
    assert verify_release(str(small_store.store), 1) == []
    assert len(verify_release(str(small_store.store), 2)) == 1


def test_an_index_of_other_rows_is_named_though_its_digest_is_right(small_store: SmallStore) -> None:
    from cliploom.transforms.store.releases import append_release, read_releases

    objects = ObjectStore(small_store.store)
    releases = read_releases(objects)
    release = releases.get(None)
    (small_store.media / "page.png").unlink()
    other = small_store.run().release
    shard = release.indexes["frames"].shards[0].model_copy(update={"file": other.indexes["frames"].shards[0].file})
    index = release.indexes["frames"].model_copy(update={"shards": [shard]})
    wrong = release.model_copy(update={"release": 3, "indexes": {"frames": index}})
    append_release(objects, wrong, releases.version + 1)
    problems = verify_release(str(small_store.store), 3)
    assert {problem.path for problem in problems} == {shard.file.path}
    assert "rows that are not the 12 of its parts" in problems[0].problem
    assert "don't find themselves" in problems[1].problem


def test_an_export_of_other_values_is_named_though_its_digest_is_right(small_store: SmallStore) -> None:
    import h5py

    from cliploom.transforms.store.releases import append_release, read_releases

    objects = ObjectStore(small_store.store)
    releases = read_releases(objects)
    release = releases.get(None)
    export = release.exports["looks_h5"]
    path = small_store.store / export.files[0].path
    with h5py.File(path, "r+") as file:
        file["page"][0, 0] += 1
    changed = FileEntry(
        path=export.files[0].path, size=path.stat().st_size, digest=objects.digest(export.files[0].path)
    )
    wrong = export.model_copy(update={"files": [changed, *export.files[1:]]})
    append_release(objects, release.model_copy(update={"release": 2, "exports": {"looks_h5": wrong}}), releases.version)
    (problem,) = verify_release(str(small_store.store), 2)
    assert problem.path == changed.path
    assert problem.problem == "'pooled' of 'page' is not what the feature's table holds"


def test_rows_that_are_not_what_the_tables_say_are_reported(built_store: SmallStore) -> None:
    import pyarrow.parquet as pq

    from cliploom.transforms.store.parts import footer_of

    path = sorted((built_store.store / "features" / "frames").glob("*/part-*.parquet"))[0]
    table, footer = pq.read_table(path), footer_of(path)
    contents = pl.DataFrame(footer["contents"])
    dims = {"pooled": 1280, "semantic": 384}

    def told(**changes: object) -> list[str]:
        arguments = {"table": table, "footer": footer, "rows": table.num_rows, "contents": contents, "dims": dims}
        return list(part_problems(**(arguments | changes)))  # type: ignore[arg-type]

    assert told() == []
    assert "were published" in told(rows=99)[0]
    assert "not 7 long" in told(dims={"pooled": 7})[0]
    assert "lacks the columns other" in told(dims={"other": 7})[0]
    assert "contents table" in told(contents=contents.with_columns(uid=pl.lit("x")))[0]
    assert "but the contents table lists 0" in told(contents=contents.clear())[0]
    other = {**footer, "contents": [content | {"uid": "x"} for content in footer["contents"]]}
    assert "are not those of item 'x'" in told(footer=other, contents=pl.DataFrame(other["contents"]))[0]


def test_without_a_store_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="There is no store"):
        verify_release(str(tmp_path / "none"))
    with pytest.raises(StoreError, match="is not a store"):
        verify_release(str(tmp_path))


def test_a_replayed_log_is_what_delta_reads_at_every_version(small_store: SmallStore) -> None:
    (small_store.media / "page.png").unlink()
    small_store.run()
    (small_store.media / "both.gif").unlink()
    small_store.run()
    objects = ObjectStore(small_store.store)
    tables = ["items", "releases", *(entry.table for entry in open_store(str(small_store.store)).features.values())]
    for table in tables:
        head = int(DeltaTable(str(small_store.store / table)).version())
        assert head == 3
        for version in range(head + 1):
            assert [file.name for file in replay(objects, table, version)] == table_files(objects, table, version)
        DeltaTable(str(small_store.store / table), version=2).create_checkpoint()
        before = replay(objects, table, 3)
        for number in (0, 1):
            (small_store.store / table / f"_delta_log/{number:020d}.json").unlink()
        assert replay(objects, table, 3) == before
        with pytest.raises(LogError, match="is missing"):
            replay(objects, table, 1)
        checkpoint = small_store.store / table / f"_delta_log/{2:020d}.checkpoint.parquet"
        checkpoint.write_bytes(np.random.default_rng(0).bytes(500))
        with pytest.raises(LogError, match=r"checkpoint\.parquet is damaged"):
            replay(objects, table, 3)


def test_a_log_of_releases_that_is_gone_is_reported_by_the_run_that_published(small_store: SmallStore) -> None:
    shutil.rmtree(small_store.store / "releases")
    (problem,) = verify_release(str(small_store.store))
    assert problem.path == f"releases/_delta_log/{0:020d}.json"
    assert problem.problem.endswith("has published release 1")
