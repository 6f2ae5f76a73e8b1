"""Parts: rows and footers survive a round trip; damage is reported; names follow from recipes."""

from __future__ import annotations

import dataclasses
import weakref
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cliploom.schemas.digests import canonical, digest_bytes, digest_of, digest_part, digest_stream
from cliploom.schemas.errors import StoreError
from cliploom.schemas.records import (
    MAX_ITEM_NO,
    MAX_ORDINAL,
    Content,
    Duplicate,
    Failure,
    PartRecord,
    PartUse,
    Rewrite,
    RowCopy,
    Segment,
    Shard,
    ShardItem,
    row_id,
)
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.parts import (
    FeatureRow,
    PartWriter,
    arrow_to_vectors,
    footer_of,
    iterate_vectors,
    part_path,
    read_record,
    read_rows,
    vectors_to_arrow,
)

CONTENT = Content(item_no=3, uid="a/b", digest="d" * 40, segment=0, segments=1, planned=4, rows=3, first_row=0)
FAILURE = Failure("clips", "frames", "a/b", "/x/a/b.mp4", 3, "d" * 40, "c" * 40, "decode", "Damaged", "1 of 4 lost")
RECORD = PartRecord("frames", "c" * 40, "part-1.parquet", 3, 0, "", (CONTENT,), (FAILURE,))


def write_part(path: Path, rows: int = 3, dims: dict[str, int] | None = None) -> list[FeatureRow]:
    dims = dims or {"pooled": 5, "semantic": 2}
    rng = np.random.default_rng(0)
    made = [
        FeatureRow(
            row_id(3, number),
            "a/b",
            number * 0.5,
            number * 0.5 + 0.5,
            number * 12,
            "d" * 40,
            {name: rng.standard_normal(dim).astype(np.float32) for name, dim in dims.items()},
        )
        for number in range(rows)
    ]
    with PartWriter(path, dims) as writer:
        for row in made:
            writer.write(row)
        writer.finish(RECORD.to_dict() | {"run": "r1"})
    return made


def test_rows_come_back_as_they_went_in(tmp_path: Path) -> None:
    made = write_part(tmp_path / "part")
    table = pa.concat_tables(read_rows(tmp_path / "part"))
    assert table.column_names == ["row_id", "uid", "start_s", "end_s", "frame", "item_digest", "pooled", "semantic"]
    assert table["row_id"].to_pylist() == [row.row_id for row in made]
    assert table["start_s"].to_pylist() == [row.start_s for row in made]
    assert table["frame"].to_pylist() == [row.frame for row in made]
    for name, dim in (("pooled", 5), ("semantic", 2)):
        np.testing.assert_array_equal(arrow_to_vectors(table[name], dim), [row.vectors[name] for row in made])


def test_vectors_are_plain_lists_of_float32_with_their_width_noted(tmp_path: Path) -> None:
    write_part(tmp_path / "part")
    schema = pq.read_schema(tmp_path / "part")
    assert schema.field("pooled").type == pa.list_(pa.field("element", pa.float32()))
    assert b"ARROW:schema" not in (pq.read_metadata(tmp_path / "part").metadata or {})


def test_rows_are_written_in_groups_of_about_eight_megabytes(tmp_path: Path) -> None:
    write_part(tmp_path / "part", rows=300, dims={"wide": 16_000})
    groups = pq.ParquetFile(tmp_path / "part").metadata
    sizes = [groups.row_group(number).total_byte_size for number in range(groups.num_row_groups)]
    assert len(sizes) > 1
    assert max(sizes) < 9 << 20


def test_small_tables_share_a_row_group_and_keep_their_order(tmp_path: Path) -> None:
    write_part(tmp_path / "part", rows=300, dims={"wide": 16_000})
    whole = pq.read_table(tmp_path / "part")
    with PartWriter(tmp_path / "copy", {"wide": 16_000}) as writer:
        for first in (*range(0, 100, 7), *range(105, 300, 65)):
            writer.write_table(whole.slice(first, 7 if first < 105 else 65))
        writer.finish({})
    assert pq.read_table(tmp_path / "copy").equals(whole)
    groups = [pq.ParquetFile(tmp_path / name).metadata for name in ("part", "copy")]
    assert groups[0].num_row_groups == groups[1].num_row_groups == 3


def test_footer_is_the_record_and_its_run(tmp_path: Path) -> None:
    write_part(tmp_path / "part-1.parquet")
    assert footer_of(tmp_path / "part-1.parquet")["run"] == "r1"
    record = read_record(ObjectStore(tmp_path), "", "part-1.parquet")
    assert record == dataclasses.replace(
        RECORD, size=(tmp_path / "part-1.parquet").stat().st_size, digest=digest_part(tmp_path / "part-1.parquet")
    )
    assert record.adopted


def test_record_of_a_part_that_is_not_there_is_none(tmp_path: Path) -> None:
    assert read_record(ObjectStore(tmp_path), "features/x", "part-1.parquet") is None


def test_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    write_part(tmp_path / "one")
    write_part(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_part_without_rows_has_a_footer(tmp_path: Path) -> None:
    write_part(tmp_path / "part-1.parquet", rows=0)
    assert sum(table.num_rows for table in read_rows(tmp_path / "part-1.parquet")) == 0
    record = read_record(ObjectStore(tmp_path), "", "part-1.parquet", hashed=False)
    assert record is not None
    assert record.failures == (FAILURE,)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_part_is_damage(tmp_path: Path, share: float) -> None:
    path = tmp_path / "part-1.parquet"
    write_part(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(StoreError, match=r"part-1.parquet is damaged"):
        footer_of(path)
    with pytest.raises(StoreError, match=r"part-1.parquet is damaged"):
        list(read_rows(path))


def test_foreign_parquet_is_no_part(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(StoreError, match=r"other.parquet is damaged or not a part of a store"):
        footer_of(tmp_path / "other.parquet")


@pytest.mark.parametrize("name", ["../secret", "a/b", "a\\b", ".hidden"])
def test_part_names_cannot_leave_their_folder(name: str) -> None:
    with pytest.raises(StoreError, match="is not the name of a part"):
        part_path("features/frames", name)


def test_vectors_of_another_width_are_damage() -> None:
    with pytest.raises(StoreError, match="of width 3 has 4 values in 2 rows"):
        arrow_to_vectors(vectors_to_arrow(np.zeros((2, 2), np.float32)), 3)


def test_iterating_vectors_reads_all_parts_in_order(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    (tmp_path / "t").mkdir()
    one, two = write_part(tmp_path / "t/one"), write_part(tmp_path / "t/two", rows=2)
    blocks = list(iterate_vectors(objects, "t", ["one", "two"], "semantic", 2))
    assert np.concatenate([ids for ids, _ in blocks]).tolist() == [row.row_id for row in one + two]
    found = np.concatenate([vectors for _, vectors in blocks])
    np.testing.assert_array_equal(found, [row.vectors["semantic"] for row in one + two])


@given(st.integers(0, 40), st.integers(1, 9), st.integers(0, 7))
@settings(max_examples=50, deadline=None)
def test_vectors_survive_arrow_slices(rows: int, dim: int, start: int) -> None:
    vectors: NDArray[np.float32] = np.arange(rows * dim, dtype=np.float32).reshape(rows, dim)
    np.testing.assert_array_equal(arrow_to_vectors(vectors_to_arrow(vectors)[start:], dim), vectors[start:])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_digest_does_not_depend_on_key_order(value: dict[str, object]) -> None:
    assert digest_of(value) == digest_of(dict(reversed(value.items())))


@given(JSON, JSON)
def test_digests_differ_when_the_canonical_text_does(one: object, two: object) -> None:
    assert (digest_of(one) == digest_of(two)) == (canonical(one) == canonical(two))


@given(st.lists(st.binary(max_size=50), max_size=6))
def test_digest_of_a_stream_is_that_of_its_bytes(chunks: list[bytes]) -> None:
    assert digest_stream(chunks) == digest_bytes(b"".join(chunks))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")]])
def test_what_has_no_one_spelling_has_no_digest(value: object) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest_of(value)


@given(st.integers(0, MAX_ITEM_NO), st.integers(0, MAX_ORDINAL))
def test_row_id_holds_both_numbers(item_no: int, ordinal: int) -> None:
    number = row_id(item_no, ordinal)
    assert 0 <= number < 1 << 63
    assert (number >> 24, number & MAX_ORDINAL) == (item_no, ordinal)


@pytest.mark.parametrize(("item_no", "ordinal"), [(-1, 0), (0, -1), (MAX_ITEM_NO + 1, 0), (0, MAX_ORDINAL + 1)])
def test_row_id_refuses_what_does_not_fit(item_no: int, ordinal: int) -> None:
    with pytest.raises(ValueError, match="a row id holds items to"):
        row_id(item_no, ordinal)


ITEM = ShardItem("/a.mp4", "1:2", "d" * 40, "{}", (Duplicate(1, "a"),))
CHANGES = (
    {"digest": "e" * 40},
    {"duplicates": (Duplicate(2, "a"),)},
    {"duplicates": (Duplicate(1, "b"),)},
    {"duplicates": (Duplicate(1, "a"), Duplicate(2, "b"))},
    {"segment": Segment(0.0, 5.0, 0, 2)},
    {"segment": Segment(5.0, 10.0, 1, 2)},
    {"attempt": 1},
)


@pytest.mark.parametrize("change", CHANGES, ids=[str(number) for number in range(len(CHANGES))])
def test_part_has_another_name_when_its_rows_may_differ(change: dict[str, object]) -> None:
    changed = dataclasses.replace(ITEM, **change)  # type: ignore[arg-type]
    assert Shard(("f",), (ITEM,)).part_name("c") != Shard(("f",), (changed,)).part_name("c")


@pytest.mark.parametrize("change", [{"uri": "/moved.mp4"}, {"signature": "3:4"}, {"facts": '{"a":1}'}])
def test_part_keeps_its_name_when_only_the_way_to_the_bytes_differs(change: dict[str, str]) -> None:
    changed = dataclasses.replace(ITEM, **change)  # type: ignore[arg-type]
    assert Shard(("f",), (ITEM,)).part_name("c") == Shard(("f",), (changed,)).part_name("c")


def test_part_name_depends_on_config_and_not_on_other_features() -> None:
    shard = Shard(("f", "g"), (ITEM,))
    assert shard.part_name("c") != shard.part_name("d")
    assert shard.part_name("c") == Shard(("f",), (ITEM,)).part_name("c")


def test_rewrite_has_another_name_for_other_rows() -> None:
    uses = [
        (PartUse("p", (RowCopy(1, 0, Duplicate(1, "a")),)),),
        (PartUse("p", (RowCopy(1, 0, Duplicate(2, "a")),)),),
        (PartUse("p", (RowCopy(1, 0, Duplicate(1, "b")),)),),
        (PartUse("p", (RowCopy(1, 1, Duplicate(1, "a")),)),),
        (PartUse("q", (RowCopy(1, 0, Duplicate(1, "a")),)),),
        (PartUse("p", (RowCopy(1, 0, Duplicate(1, "a")),)), PartUse("q", ())),
    ]
    assert len({Rewrite("f", use).part_name("c") for use in uses}) == len(uses)


def test_what_waits_does_not_hold_the_tables_it_was_taken_from(tmp_path: Path) -> None:
    write_part(tmp_path / "part", rows=300, dims={"wide": 1000})
    whole = pq.read_table(tmp_path / "part")
    place = whole.schema.get_field_index("wide")
    held = []
    with PartWriter(tmp_path / "copy", {"wide": 1000}) as writer:
        for row in range(3):
            vectors = np.full((300, 1000), row, np.float32)
            held.append(weakref.ref(vectors))
            table = whole.set_column(place, whole.schema.field(place), vectors_to_arrow(vectors))
            writer.write_table(table.slice(row, 1))
            assert held[-1]() is not None
            del vectors, table
            writer.detach()
        assert [array() for array in held] == [None] * 3
        writer.finish({})
    copied = pq.read_table(tmp_path / "copy")
    assert copied["row_id"].to_pylist() == whole["row_id"].to_pylist()[:3]
    assert arrow_to_vectors(copied["wide"], 1000)[:, 0].tolist() == [0, 1, 2]
