"""Reading exports of pairs: both formats, memory-mapped, with the facts of each pair."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pairs_store import write_pairs_store

from cliploom.transforms.readers.pair_reading import Pairs
from cliploom.transforms.store.parquet_pages import UnmappablePageError, map_column
from cliploom.transforms.store.parts import vectors_to_arrow


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_pairs_store(tmp_path_factory.mktemp("pairs"))


@pytest.mark.parametrize("export", ["hdf5", "parquet"])
def test_a_pair_says_what_it_is_about(store: str, export: str) -> None:
    pairs = Pairs(store, export)
    for number in range(len(pairs)):
        pair = pairs[number]
        features, embedding = pair
        assert (features.shape, embedding.shape) == (pairs.feature_shape, (384,))
        assert pair.uid in ("v0", "v1")
        assert pair.text == f"someone does thing {int(pair.start_s) // 4} of {pair.uid}"
        assert pair.row == number
        assert 0 <= pair.first < pair.end <= 40
        assert pair.facts == pairs.facts(number - len(pairs))
    with pytest.raises(IndexError):
        pairs[len(pairs)]
    with pytest.raises(AttributeError, match="no attribute 'txt'"):
        _ = pairs[0].txt
    assert pairs.all_facts()["uid"].to_pylist() == [pair.uid for pair in map(pairs.facts, range(len(pairs)))]


@pytest.mark.parametrize("export", ["hdf5", "parquet"])
def test_batches_are_the_single_pairs_in_any_order(store: str, export: str) -> None:
    pairs = Pairs(store, export, facts=True)
    order = [7, 0, -1, 3, 7]
    features, embeddings = pairs.batch(order)
    for place, example in enumerate(pairs.__getitems__(order)):
        single = pairs[order[place]]
        np.testing.assert_array_equal(example[0], single[0])
        np.testing.assert_array_equal(features[place], single[0])
        np.testing.assert_array_equal(embeddings[place], single[1])
        assert example[2] == single[2]
        assert set(example[2]) == {"uid", "text", "start_s", "row", "first", "end"}


def test_a_pickled_pair_is_its_arrays(store: str) -> None:
    pair = Pairs(store, "parquet")[0]
    assert [each.tolist() for each in pickle.loads(pickle.dumps(pair))] == [each.tolist() for each in pair]


def write_vectors(path: Path, vectors: np.ndarray, **options: object) -> None:
    table = pa.table({"name": [f"row {n}" for n in range(len(vectors))], "vector": vectors_to_arrow(vectors)})
    settings = {"compression": "none", "use_dictionary": False, "store_schema": False} | options
    pq.write_table(table, path, **settings)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("rows_in_group", [1000, 70])
def test_rows_are_mapped_across_pages_and_row_groups(tmp_path: Path, version: str, rows_in_group: int) -> None:
    vectors = np.random.default_rng(0).normal(size=(300, 37)).astype(np.float32)
    path = tmp_path / "vectors.parquet"
    # Pages much smaller than a row group, so that rows may lie across them.
    write_vectors(
        path,
        vectors,
        data_page_version=version,
        data_page_size=1000,
        write_batch_size=10,
        row_group_size=rows_in_group,
    )
    column = map_column(path, np.memmap(path, np.uint8, "r"), "vector", 37)
    assert len(column) == 300
    assert len(column.offsets) > 10
    order = np.random.default_rng(1).permutation(300)
    np.testing.assert_array_equal(column.rows(order), vectors[order])
    np.testing.assert_array_equal(column.row(299), vectors[299])


@pytest.mark.parametrize("options", [{"compression": "zstd"}, {"use_dictionary": True}])
def test_columns_that_do_not_lie_as_they_are_can_not_be_mapped(tmp_path: Path, options: dict[str, object]) -> None:
    path = tmp_path / "vectors.parquet"
    write_vectors(path, np.ones((10, 4), np.float32), **options)
    with pytest.raises(UnmappablePageError):
        map_column(path, np.memmap(path, np.uint8, "r"), "vector", 4)


def test_a_column_of_another_width_can_not_be_mapped(tmp_path: Path) -> None:
    path = tmp_path / "vectors.parquet"
    write_vectors(path, np.ones((10, 4), np.float32))
    with pytest.raises(UnmappablePageError, match="40 numbers in 10 rows"):
        map_column(path, np.memmap(path, np.uint8, "r"), "vector", 5)


def test_a_compressed_copy_of_an_export_is_read_by_row_groups(store: str, tmp_path: Path) -> None:
    expected = Pairs(store, "parquet").batch(range(10))
    file = next((Path(store) / "pairs" / "parquet").glob("train-*.parquet"))
    plain = file.read_bytes()
    try:
        pq.write_table(pq.read_table(file), file, compression="zstd")
        for ours, theirs in zip(Pairs(store, "parquet").batch(range(10)), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    finally:
        file.write_bytes(plain)
