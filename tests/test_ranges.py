"""Where items' rows lie in parts, also when a segment was lost."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cliploom.schemas.records import row_id
from cliploom.transforms.narrations.pairs import time_to_index
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.parts import FeatureRow, PartWriter
from cliploom.transforms.store.ranges import rows_by_item
from cliploom.transforms.store.rates import rows_per_second

PLACES = {"item_no": 1, "uid": "u", "digest": "d", "part": "part-1.parquet"}


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    """A store whose table ``t`` has one part: the second ten of twenty rows of the item ``u``."""
    folder = tmp_path / "store" / "t"
    folder.mkdir(parents=True)
    with PartWriter(folder / "part-1.parquet", {"v": 1}) as writer:
        for number in range(10, 20):
            vector = {"v": np.zeros(1, np.float32)}
            writer.write(FeatureRow(row_id(1, number), "u", float(number), number + 1.0, number, "d", vector))
        writer.finish({})
    return ObjectStore(str(tmp_path / "store"))


@pytest.mark.parametrize("planned", [10, 0])
def test_a_lost_segment_counts_though_it_has_no_row(objects: ObjectStore, planned: int) -> None:
    segments = [
        PLACES | {"segment": 0, "first_row": 0, "rows": 0, "planned": planned},
        PLACES | {"segment": 1, "first_row": 0, "rows": 10, "planned": 10},
    ]
    (item,) = rows_by_item(objects, "t", pl.DataFrame(segments))
    assert (item.planned, item.rows, item.places) == (20, 10, (("part-1.parquet", 0, 10),))


def test_items_without_rows_are_left_out_and_old_bytes_are_an_item_of_their_own(objects: ObjectStore) -> None:
    contents = [
        PLACES | {"segment": 0, "first_row": 0, "rows": 10, "planned": 10},
        PLACES | {"digest": "new", "segment": 0, "first_row": 0, "rows": 0, "planned": 7},
    ]
    assert [(i.digest, i.planned) for i in rows_by_item(objects, "t", pl.DataFrame(contents))] == [("d", 10)]


@pytest.mark.parametrize("step", ["300ms", "900ms", "3s", "9s", "700ms", "1001ms"])
def test_a_row_answers_to_the_time_at_which_it_starts(step: str) -> None:
    rate = rows_per_second({"sample": {"every": step}})
    exact = Fraction(int(step.removesuffix("ms")), 1000) if step.endswith("ms") else Fraction(step.removesuffix("s"))
    for number in range(5000):
        start_s = round(float(number * exact), 6)
        assert time_to_index(start_s, start_s, rate, 5000) == (number, number + 1)
