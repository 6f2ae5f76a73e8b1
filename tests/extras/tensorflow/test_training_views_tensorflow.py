"""Pairs as a ``tf.data.Dataset``."""

from __future__ import annotations

import numpy as np
import pytest
from pairs_store import DIM, write_pairs_store

from cliploom.transforms.readers.pair_reading import Pairs
from cliploom.transforms.readers.training_views import tf_dataset


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_pairs_store(tmp_path_factory.mktemp("pairs"))


def test_batches_in_order_are_the_pairs(store: str) -> None:
    pairs = Pairs(store, "hdf5", "train")
    dataset = tf_dataset(pairs, 4, shuffle=False)
    features, embeddings = zip(*dataset.as_numpy_iterator(), strict=True)
    assert [len(batch) for batch in features] == [4, 4, 2]
    expected = pairs.batch(range(10))
    np.testing.assert_array_equal(np.concatenate(features), expected[0])
    np.testing.assert_array_equal(np.concatenate(embeddings), expected[1])


def test_shapes_are_known_before_anything_is_read(store: str) -> None:
    features, embeddings = tf_dataset(Pairs(store, "parquet", "train"), 4).element_spec
    assert features.shape.as_list() == [None, 3, DIM]
    assert embeddings.shape.as_list() == [None, 384]


def test_each_pass_shuffles_all_pairs_again_by_its_seed(store: str) -> None:
    pairs = Pairs(store, "hdf5", "train")

    def passes(seed: int) -> list[list[float]]:
        dataset = tf_dataset(pairs, 3, seed=seed)
        return [[float(row[0]) for batch, _ in dataset.as_numpy_iterator() for row in batch] for _ in range(2)]

    first, second = passes(1)
    assert sorted(first) == sorted(second) == sorted(float(pairs[i][0][0]) for i in range(10))
    assert first != second
    assert passes(1) == [first, second]
