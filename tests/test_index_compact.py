"""Indexes of kind ivf_rabitq: compact codes behind an inverted file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from cliploom.schemas.errors import StoreError
from cliploom.schemas.index import IndexRecipe
from cliploom.schemas.spec import IndexSpec
from cliploom.transforms.index.build import build_shard, train, write_index
from cliploom.transforms.index.compact import compact_codes
from cliploom.transforms.index.opened import open_shard
from cliploom.transforms.index.search import search
from cliploom.transforms.publish.indexing import index_recipe

DIM, ROWS = 96, 6000
NONE = np.empty(0, np.int64)
IDS = np.random.default_rng(1).permutation(ROWS).astype(np.int64) * 7
RECIPE = IndexRecipe("cosine", "ivf_rabitq", DIM, 20)


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, DIM))
    return (centres[rng.integers(0, 40, ROWS)] + 0.6 * rng.normal(size=(ROWS, DIM))).astype(np.float32)


@pytest.fixture(scope="module")
def trained(vectors: NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "trained.faiss"
    write_index(train(vectors, ROWS, "cosine", seed=0), path)
    return path


@pytest.fixture(scope="module")
def shard(vectors: NDArray[np.float32], trained: Path) -> Path:
    """Shared: only read it."""
    out = trained.with_name("shard.faiss")
    build_shard(RECIPE, trained, None, NONE, [(IDS, vectors)], out)
    return out


def test_candidates_of_a_bit_a_number_hold_the_nearest_rows(vectors: NDArray[np.float32], shard: Path) -> None:
    queries = vectors[:100] + np.float32(0.1) * np.random.default_rng(2).normal(size=(100, DIM)).astype(np.float32)
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(queries, axis=1)[:, np.newaxis]
    cosines = queries @ vectors.T / lengths
    found = search([open_shard(shard, RECIPE)], queries, 10)
    shares = []
    for row, hits in zip(cosines, found, strict=True):
        assert len(hits) == 10
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        score_of = dict(zip(IDS.tolist(), row.tolist(), strict=True))
        assert all(hit.score == pytest.approx(score_of[hit.row_id], abs=0.02) for hit in hits)
        shares.append(len({hit.row_id for hit in hits} & set(IDS[np.argsort(-row)[:10]].tolist())) / 10)
    assert np.mean(shares) >= 0.95


def test_codes_take_an_eighth_of_the_bytes_and_sixteen_a_row(shard: Path) -> None:
    opened = open_shard(shard, RECIPE)
    assert opened.compact is not None
    assert opened.compact.index.code_size + 8 <= DIM / 8 + 16
    assert opened.compact.index.ntotal == opened.rows == ROWS


def test_faiss_reads_the_inverted_file_as_it_is(shard: Path, vectors: NDArray[np.float32]) -> None:
    plain = faiss.read_index(str(shard))
    assert isinstance(plain, faiss.IndexIVFScalarQuantizer)
    unit = vectors[:5] / np.linalg.norm(vectors[:5], axis=1, keepdims=True)
    assert plain.search(unit, 1)[1][:, 0].tolist() == IDS[:5].tolist()


def test_fewer_rows_than_wanted_give_all(trained: Path, vectors: NDArray[np.float32], tmp_path: Path) -> None:
    build_shard(RECIPE, trained, None, NONE, [(IDS[:3], vectors[:3])], tmp_path / "few")
    (hits,) = search([open_shard(tmp_path / "few", replace(RECIPE, nprobe=1))], vectors[:1], 10)
    assert {hit.row_id for hit in hits} == set(IDS[:3].tolist())
    build_shard(RECIPE, None, tmp_path / "few", IDS[:3], [], tmp_path / "none")
    assert search([open_shard(tmp_path / "none", RECIPE)], vectors[:1], 10) == [[]]


def test_codes_follow_a_night_that_removes_and_adds_rows(
    trained: Path, vectors: NDArray[np.float32], shard: Path, tmp_path: Path
) -> None:
    new = (np.array([5, 12], np.int64), vectors[:2])
    build_shard(RECIPE, trained, shard, IDS[:2], [new], tmp_path / "next")
    hits = search([open_shard(tmp_path / "next", RECIPE)], vectors[:2], 1)
    assert [row[0].row_id for row in hits] == [5, 12]
    lists = faiss.read_index(str(tmp_path / "next"))
    anew = compact_codes(lists).search(vectors[:9], 5, 20)
    held = open_shard(tmp_path / "next", RECIPE).compact
    assert held is not None
    assert (held.search(vectors[:9], 5, 20) == anew).all()


@pytest.mark.parametrize("damage", ["none", "cut", "flipped", "place", "of other rows"])
def test_damaged_codes_are_named(damage: str, shard: Path, vectors: NDArray[np.float32], tmp_path: Path) -> None:
    data = bytearray(shard.read_bytes())
    place = int.from_bytes(data[-8:], "little")
    if damage == "none":
        data = data[:place]
    elif damage == "cut":
        data = data[: place + 100] + data[-16:]
    elif damage == "flipped":
        data[place : place + 4] = b"IxFI"
    elif damage == "place":
        data[-8:] = (len(data) + 5).to_bytes(8, "little")
    else:
        build_shard(RECIPE, shard.with_name("trained.faiss"), None, NONE, [(IDS[:9], vectors[:9])], tmp_path / "other")
        other = (tmp_path / "other").read_bytes()
        behind = other[int.from_bytes(other[-8:], "little") : -16]
        data = data[:place] + behind + data[-16:]
    (tmp_path / "bad").write_bytes(data)
    with pytest.raises(StoreError, match=r"bad (has no|are damaged|are not of|is damaged)|index file .*bad"):
        open_shard(tmp_path / "bad", RECIPE)


def test_a_declared_memory_is_part_of_the_declaration_only_when_given() -> None:
    plain = IndexSpec(feature="f", output="o")
    assert index_recipe(plain, "o", "c") == index_recipe(plain.model_copy(update={"memory": None}), "o", "c")
    assert index_recipe(plain, "o", "c") != index_recipe(plain.model_copy(update={"memory": 10**9}), "o", "c")
