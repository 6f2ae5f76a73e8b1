"""Ids and codes of FAISS's inverted lists, and the thread that it builds in."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from cliploom.transforms.index.build import train
from cliploom.transforms.index.inverted_lists import list_codes, list_ids
from cliploom.transforms.index.threads import one_thread

DIM, ROWS = 8, 900


def test_codes_decode_to_the_rows_of_their_list() -> None:
    vectors = np.random.default_rng(0).normal(size=(ROWS, DIM)).astype(np.float32)
    index = train(vectors, ROWS, "l2", seed=0)
    index.add_with_ids(vectors, np.arange(ROWS))
    ids = [row for some in list_ids(index) for row in some.tolist()]
    filled = [number for number in range(index.nlist) if index.invlists.list_size(number)]
    decoded = np.concatenate([index.sa_decode(list_codes(index, number)) for number in filled])
    assert sorted(ids) == list(range(ROWS))
    assert np.abs(decoded - vectors[ids]).max() < 0.05
    some = np.array([2, 0])
    assert (list_codes(index, filled[0], some) == list_codes(index, filled[0])[some]).all()


def test_the_number_of_threads_comes_back_also_after_an_error() -> None:
    before, inside = faiss.omp_get_max_threads(), []

    def work() -> None:
        with one_thread():
            inside.append(faiss.omp_get_max_threads())
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        work()
    assert (inside, faiss.omp_get_max_threads()) == ([1], before)
