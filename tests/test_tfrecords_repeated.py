"""Ids shared by two shards of a source are reported, using hashes in the parts' footers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cliploom.pipelines.running.run import RunOptions, run_spec
from cliploom.schemas.errors import StoreError
from cliploom.schemas.records import row_id
from cliploom.schemas.spec_file import parse_document
from cliploom.schemas.tfrecords import Yt8mVideo
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.record_ids import ID_FOOTER, hash_ids, ids_of_rows, joined, pack_ids, unpack_ids
from cliploom.transforms.tfrecords.framing import write_records
from cliploom.transforms.tfrecords.repeated import read_ids, shared_ids
from cliploom.transforms.tfrecords.write import encode_video

IDS = st.dictionaries(st.integers(1, 5), st.sets(st.sampled_from("abcdefgh"), min_size=1), max_size=5)


def shard(path: Path, ids: str) -> None:
    with path.open("wb") as stream:
        write_records(stream, (encode_video(Yt8mVideo(uid, (1,), np.ones(4, np.float32))) for uid in ids))


@pytest.mark.slow
def test_a_run_names_both_shards_until_one_is_repaired(tmp_path: Path) -> None:
    for name, ids in (("a", "xyz"), ("b", "pqxz"), ("c", "r")):
        shard(tmp_path / f"{name}.tfrecord", ids)
    source = {"kind": "tfrecord", "format": "yt8m_video", "glob": "*.tfrecord", "rgb": 4, "audio": 0}
    document = {
        "version": 1,
        "name": "ids",
        "store": "./store",
        "sources": {"yt": source},
        "features": {"yt": {"source": "yt"}},
        "limits": {"max_deleted": "100%"},
    }

    def failures() -> pl.DataFrame:
        release = run_spec(parse_document(document), document, tmp_path, RunOptions(), lambda text: None).release
        return pl.scan_delta(str(tmp_path / "store/failures"), version=release.tables["failures"]).collect()

    (told,) = failures().iter_rows(named=True)
    assert told["type"] == "RepeatedId"
    assert told["partial"]
    assert told["uid"] == "b"
    for what in ("a.tfrecord", "b.tfrecord", "2 ids, such as 'x', 'z',"):
        assert what in told["message"]
    shard(tmp_path / "c.tfrecord", "rr")  # The record that is refused makes c's part a new one; a and b stay.
    assert sorted(failures()["type"]) == ["Damaged", "RepeatedId"]
    shard(tmp_path / "b.tfrecord", "pq")
    assert failures()["type"].to_list() == ["Damaged"]


@given(IDS)
def test_shared_ids_are_those_that_sets_share(ids: dict[int, set[str]]) -> None:
    found = {
        (each.first, each.second): each.count
        for each in shared_ids([{item: hash_ids(sorted(mine))} for item, mine in ids.items()])
    }
    wanted: dict[tuple[int, int], int] = {}
    for uid in "abcdefgh":
        first, *others = [*sorted(item for item in ids if uid in ids[item]), 0]
        for other in others:
            if other:
                wanted[first, other] = wanted.get((first, other), 0) + 1
    assert found == wanted


def test_an_id_that_occurs_twice_in_one_item_is_no_pair() -> None:
    assert shared_ids([{1: hash_ids(["a"])}, {1: hash_ids(["a", "b"])}]) == []


@given(IDS)
def test_ids_come_back_out_of_a_footer(ids: dict[int, set[str]]) -> None:
    hashes = {item: hash_ids(sorted(mine)) for item, mine in ids.items()}
    found = unpack_ids(pack_ids(hashes))
    assert found.keys() == hashes.keys()
    assert all(np.array_equal(found[item], hashes[item]) for item in hashes)


@pytest.mark.parametrize("text", [b"{", b"[]", b'{"1": "="}', b'{"1": 2}', b'{"a": ""}', b'{"1": "AAAA"}'])
def test_other_footers_are_refused(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        unpack_ids(text)


def test_rows_of_several_items_are_distinguished_and_rows_without_id_left_out() -> None:
    numbers = [row_id(item, ordinal) for item, ordinal in ((1, 0), (1, 1), (2, 0), (2, 1))]
    rows = pa.table({"row_id": numbers, "uid": ["a", "a", "b", ""]})
    found = ids_of_rows(rows)
    assert {item: hashes.tolist() for item, hashes in found.items()} == {
        1: hash_ids(["a"]).tolist(),
        2: hash_ids(["b"]).tolist(),
    }
    assert joined([found, found])[1].tolist() == hash_ids(["a", "a"]).tolist()


def test_a_part_without_the_footer_is_read_by_its_rows(tmp_path: Path) -> None:
    rows = pa.table({"row_id": [row_id(7, 0)], "uid": ["a"]})
    pq.write_table(rows, tmp_path / "old.parquet")
    pq.write_table(rows.replace_schema_metadata({ID_FOOTER: pack_ids({7: hash_ids(["b"])})}), tmp_path / "new.parquet")
    objects = ObjectStore(tmp_path)
    assert read_ids(objects, "", "old.parquet")[7].tolist() == hash_ids(["a"]).tolist()
    assert read_ids(objects, "", "new.parquet")[7].tolist() == hash_ids(["b"]).tolist()
    (tmp_path / "new.parquet").write_bytes(b"PAR1")
    for name in ("new.parquet", "none.parquet"):
        with pytest.raises(StoreError, match="missing or damaged"):
            read_ids(objects, "", name)
