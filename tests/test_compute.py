"""The work of a shard: batches over items, twins, failures of encoders and files, rows that packing does not change."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_factory import write_image, write_noise, write_video
from numpy.typing import NDArray

from cliploom.schemas.digests import digest_file
from cliploom.schemas.errors import EncodeError
from cliploom.schemas.jobs import FeatureJob
from cliploom.schemas.media import MediaLimits, Preprocess
from cliploom.schemas.models import ModelCard, Output
from cliploom.schemas.records import Duplicate, PartRecord, Segment, Shard, ShardItem
from cliploom.schemas.sampling import Every
from cliploom.transforms.media.probe import probe
from cliploom.transforms.store.encoded import checked_vectors
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.part_builder import PartBuilder, Timings, encode_each
from cliploom.transforms.store.parts import arrow_to_vectors, read_rows
from cliploom.transforms.work.compute import compute_item, compute_parts
from cliploom.transforms.work.models import SampleEncoder, SentenceEncoder

CARD = ModelCard("mean", "m" * 40, "frame", "f32", {"v": Output(3, "mean")}, Preprocess(16, 16, fit="squash"))
JOB = FeatureJob(
    "frames",
    "clips",
    "media",
    '{"kind":"media","glob":["x"]}',
    "c" * 40,
    "t",
    "models/m",
    CARD,
    {"v": 3},
    Every(every="200ms"),
)  # type: ignore[arg-type]


@dataclass
class MeanColour:
    """Mean colour of a picture; refuses bright ones as it is told to.

    Attributes:
        sizes: of the batches that it was asked for.
    """

    batch: int = 4
    bright: str = ""
    sizes: list[int] = field(default_factory=list)

    def encode(self, samples: Sequence[NDArray[np.uint8]]) -> list[dict[str, NDArray[np.float32]] | EncodeError]:
        self.sizes.append(len(samples))
        rows: list[dict[str, NDArray[np.float32]] | EncodeError] = []
        for pixels in samples:
            vector = pixels.mean(axis=(0, 1)).astype(np.float32)
            if vector[0] > 200 and self.bright == "raise":
                raise RuntimeError("too bright")
            if vector[0] > 200 and self.bright == "memory":
                raise MemoryError
            if vector[0] > 200 and self.bright == "nan":
                vector[1] = np.nan
            rows.append({"v": vector})
        return rows


def item(path: Path, number: int, *duplicates: Duplicate, segment: Segment | None = None) -> ShardItem:
    import json

    try:
        facts = json.dumps(probe(path, MediaLimits()).to_dict())
    except Exception:  # a damaged file, which the probe refuses, may still stand in an old plan
        facts = json.dumps(probe(path.parent / "a.mp4", MediaLimits()).to_dict())
    stat = path.stat()
    whose = duplicates or (Duplicate(number, path.stem),)
    return ShardItem(
        str(path), f"{stat.st_size}:{stat.st_mtime_ns}", digest_file(path), facts, whose, segment or Segment()
    )


def compute(
    folder: Path, items: Sequence[ShardItem], encoder: MeanColour, job: FeatureJob = JOB
) -> tuple[PartRecord, pa.Table]:
    """The part of one shard and its rows."""
    objects = ObjectStore(folder)

    def open_part(job: FeatureJob, part: str) -> AbstractContextManager[Path]:
        return objects.create_file(part)

    def each_item(one: ShardItem, builders: Sequence[PartBuilder]) -> None:
        compute_item(one, builders, timings)

    timings = Timings()
    shard = Shard(("frames",), tuple(items))
    [record] = compute_parts(
        shard, [job], {"frames": encoder}, open_part, each_item, lambda one, rows: None, "r", timings
    )
    return record, pa.concat_tables(read_rows(folder / record.part))


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    write_video(folder / "a.mp4", 25)
    write_video(folder / "b.mp4", 25)
    write_video(folder / "bright.mp4", 25, draw=lambda index, width, height: np.full((height, width, 3), 240, np.uint8))
    write_image(folder / "c.png")
    write_noise(folder / "noise.mp4")
    return folder


def test_rows_of_an_item_are_together_in_order(media: Path, tmp_path: Path) -> None:
    record, rows = compute(tmp_path, [item(media / "a.mp4", 1), item(media / "c.png", 2)], MeanColour())
    assert rows["row_id"].to_pylist() == [(1 << 24) + n for n in range(5)] + [2 << 24]
    assert rows["uid"].to_pylist() == ["a"] * 5 + ["c"]
    assert rows["start_s"].to_pylist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 0])
    assert [(c.item_no, c.planned, c.rows, c.first_row) for c in record.contents] == [(1, 5, 5, 0), (2, 1, 1, 5)]
    assert record.failures == ()
    assert record.size == (tmp_path / record.part).stat().st_size


def test_batches_reach_over_items(media: Path, tmp_path: Path) -> None:
    encoder = MeanColour(batch=4)
    compute(tmp_path, [item(media / "a.mp4", 1), item(media / "b.mp4", 2), item(media / "c.png", 3)], encoder)
    assert encoder.sizes == [4, 4, 3]


@pytest.mark.parametrize("rule", [{"vectors": 0.999}, {"pictures": 0.98}])
def test_what_is_dropped_as_a_repeat_depends_on_the_item_alone(
    media: Path, tmp_path: Path, rule: dict[str, float]
) -> None:
    scenes = (0, 0, 60, 60, 0, 120, 120, 120)

    def draw(index: int, width: int, height: int) -> NDArray[np.uint8]:
        return np.full((height, width, 3), (scenes[index // 5 % 8] + 20, 90, 60), np.uint8)

    film = write_video(tmp_path / "scenes.mp4", 40, draw=draw)
    job = replace(JOB, sampling=Every(every="200ms", distinct=rule))  # type: ignore[arg-type]
    twins = item(film, 7, Duplicate(7, "scenes"), Duplicate(8, "copy"))
    found = []
    for number, (items, batch) in enumerate(
        [([twins], 1), ([twins], 16), ([item(media / "a.mp4", 1), twins, item(media / "b.mp4", 2)], 3)]
    ):
        record, rows = compute(tmp_path / str(number), items, MeanColour(batch=batch), job)
        mine = rows.filter(pc.is_in(rows["uid"], pa.array(["scenes", "copy"])))
        found.append(mine.to_pylist())
        ordinals = [row_id & 0xFFFFFF for row_id in mine["row_id"].to_pylist()]
        assert ordinals == [0, 2, 4, 5] * 2
        assert mine["start_s"].to_pylist() == pytest.approx([0.2 * ordinal for ordinal in ordinals])
        assert record.failures == ()
        assert [(c.planned, c.rows) for c in record.contents if c.uid in ("scenes", "copy")] == [(8, 4), (8, 4)]
    assert found[0] == found[1] == found[2]


def test_repeats_are_not_mistaken_for_losses(media: Path, tmp_path: Path) -> None:
    job = replace(JOB, sampling=Every(every="200ms", distinct={"vectors": 0.1}))  # type: ignore[arg-type]
    record, rows = compute(
        tmp_path, [item(media / "bright.mp4", 2), item(media / "c.png", 3)], MeanColour(bright="raise"), job
    )
    assert rows["uid"].to_pylist() == ["c"]
    assert [(failure.type, failure.partial) for failure in record.failures] == [("Encode", False)]


def test_twins_get_rows_of_their_own(media: Path, tmp_path: Path) -> None:
    record, rows = compute(tmp_path, [item(media / "a.mp4", 1, Duplicate(1, "a"), Duplicate(9, "copy"))], MeanColour())
    assert rows["uid"].to_pylist() == ["a"] * 5 + ["copy"] * 5
    assert rows["row_id"].to_pylist()[5:] == [(9 << 24) + n for n in range(5)]
    vectors = arrow_to_vectors(rows["v"], 3)
    np.testing.assert_array_equal(vectors[:5], vectors[5:])
    assert [content.first_row for content in record.contents] == [0, 5]


@pytest.mark.parametrize("how", ["raise", "memory", "nan"])
def test_only_the_item_that_an_encoder_fails_on_is_lost(media: Path, tmp_path: Path, how: str) -> None:
    items = [item(media / "a.mp4", 1), item(media / "bright.mp4", 2), item(media / "b.mp4", 3)]
    record, rows = compute(tmp_path, items, MeanColour(bright=how))
    assert sorted(set(rows["uid"].to_pylist())) == ["a", "b"]
    assert [(content.uid, content.rows) for content in record.contents] == [("a", 5), ("bright", 0), ("b", 5)]
    [failure] = record.failures
    assert (failure.uid, failure.stage, failure.type) == ("bright", "encode", "Encode")
    assert failure.transient is (how == "memory")
    assert {"raise": "RuntimeError: too bright", "memory": "out of memory", "nan": "not finite"}[how] in failure.message
    assert (failure.expected, failure.got, failure.partial) == (5, 0, False)


def test_file_that_changed_since_the_plan_is_a_failure_that_may_pass(media: Path, tmp_path: Path) -> None:
    path = write_video(tmp_path / "x.mp4", 25)
    listed = item(path, 1)
    path.write_bytes(b"other")
    record, rows = compute(tmp_path / "store", [listed, item(media / "c.png", 2)], MeanColour())
    assert rows["uid"].to_pylist() == ["c"]
    assert record.failures[0].transient
    assert "changed while the run was reading it" in record.failures[0].message


def test_file_that_is_no_media_is_a_failure(media: Path, tmp_path: Path) -> None:
    record, rows = compute(tmp_path, [item(media / "noise.mp4", 1), item(media / "c.png", 2)], MeanColour())
    assert rows["uid"].to_pylist() == ["c"]
    assert [(failure.uid, failure.partial) for failure in record.failures] == [("noise", False)]


@given(st.permutations([0, 1, 2, 3]), st.integers(1, 3), st.integers(1, 9))
@settings(max_examples=8, deadline=None)
def test_rows_do_not_depend_on_packing(media: Path, order: list[int], cut: int, batch: int) -> None:
    import tempfile

    names = ["a.mp4", "b.mp4", "bright.mp4", "c.png"]
    items = [item(media / names[number], number + 1) for number in order]

    def rows_of(groups: Sequence[Sequence[ShardItem]], size: int) -> pa.Table:
        with tempfile.TemporaryDirectory() as folder:
            parts = [compute(Path(folder), group, MeanColour(batch=size))[1] for group in groups if group]
        return pa.concat_tables(parts).sort_by("row_id").combine_chunks()

    assert rows_of([items], 4).equals(rows_of([items[:cut], items[cut:]], batch))


def test_a_batch_that_fails_is_tried_one_by_one() -> None:
    encoder = MeanColour(bright="raise")
    dark, bright = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    results = encode_each(encoder, [dark, bright, dark], JOB)
    assert [isinstance(result, EncodeError) for result in results] == [False, True, False]
    assert encoder.sizes == [3, 1, 1, 1]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({}, "output 'v' should be [3], not nothing"),
        ({"v": np.zeros(2, np.float32)}, "should be [3], not shape (2,)"),
        ({"v": np.array([0, np.inf, 0], np.float32)}, "output 'v' is not finite"),
        ({"v": np.array([0, np.nan, 0])}, "output 'v' is not finite"),
        ({"v": np.array([0, 1e300, 0])}, "output 'v' is beyond the range of float32"),
        ({"v": np.array([0, 1e300, 0], np.longdouble)}, "output 'v' is beyond the range of float32"),
        ({"v": np.zeros(3, np.int64)}, "should be float32, not int64"),
        ({"v": np.zeros(3, np.complex64)}, "should be float32, not complex64"),
        ({"v": np.array(["a", "b", "c"])}, "should be float32, not <U1"),
        ({"v": np.array([None] * 3)}, "should be float32, not object"),
        ({"v": [0.0, 0.0, 0.0]}, "should be a numpy array of float32 [3], not a list"),
        ({"v": "abc"}, "not a str"),
        (None, "encoder mean: it returned None for an item instead of a dict with 'v'"),
        ("abc", "it returned a str for an item"),
        (np.zeros(3, np.float32), "it returned a ndarray for an item"),
    ],
)
def test_what_an_encoder_gives_is_checked(row: object, said: str) -> None:
    result = checked_vectors(row, JOB.outputs, "mean")
    assert isinstance(result, EncodeError)
    assert said in str(result)


@dataclass
class Broken:
    """Answers as it is told to whenever a bright picture is in the batch."""

    answer: Callable[[list[Any]], Any]
    batch: int = 4

    def encode(self, samples: Sequence[NDArray[np.uint8]]) -> Any:
        rows: list[Any] = [{"v": pixels.mean(axis=(0, 1)).astype(np.float32)} for pixels in samples]
        return self.answer(rows) if any(row["v"][0] > 200 for row in rows) else rows


def end(code: object) -> Any:
    sys.exit(code)  # type: ignore[arg-type]


ANSWERS: dict[str, tuple[Callable[[list[Any]], Any], str]] = {
    "none": (lambda rows: None, "it returned None instead of a list of 1 result"),
    "no row": (lambda rows: [], "it returned 0 results for 1 item"),
    "too few": (lambda rows: rows[:-1], "it returned 0 results for 1 item"),
    "too many": (lambda rows: rows + rows, "it returned more than 1 result for 1 item"),
    "endless": (lambda rows: itertools.repeat(rows[0]), "it returned more than 1 result for 1 item"),
    "number": (lambda rows: 7, "it returned a int instead of"),
    "text": (lambda rows: "x", "it returned a str instead of"),
    "one dict": (lambda rows: rows[0], "it returned a dict instead of"),
    "array": (lambda rows: np.zeros((len(rows), 3), np.float32), "it returned a ndarray for an item"),
    "rows of none": (lambda rows: [None] * len(rows), "it returned None for an item"),
    "texts": (lambda rows: ["x"] * len(rows), "it returned a str for an item"),
    "vectors of texts": (lambda rows: [{"v": "abc"}] * len(rows), "not a str"),
    "whole numbers": (lambda rows: [{"v": np.ones(3, int)}] * len(rows), "should be float32, not int64"),
    "overflow": (lambda rows: [{"v": np.full(3, 1e39)}] * len(rows), "beyond the range of float32"),
    "exit": (lambda rows: end(3), "it tried to end the program (exit code 3)"),
    "exit without a word": (lambda rows: end(None), "it tried to end the program (exit code None)"),
    "generator exit": (lambda rows: (_ for _ in ()).throw(GeneratorExit), "GeneratorExit"),
    "generator": (lambda rows: (end("bye") for _ in rows), "exit code 'bye'"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_item_whose_encoder_answers_wrong_fails_alone_and_says_so(name: str, media: Path, tmp_path: Path) -> None:
    answer, said = ANSWERS[name]
    items = [item(media / "a.mp4", 1), item(media / "bright.mp4", 2), item(media / "b.mp4", 3)]
    record, rows = compute(tmp_path, items, Broken(answer))  # type: ignore[arg-type]
    assert [(content.uid, content.rows) for content in record.contents] == [("a", 5), ("bright", 0), ("b", 5)]
    assert rows["uid"].to_pylist() == ["a"] * 5 + ["b"] * 5
    [failure] = record.failures
    assert (failure.uid, failure.stage, failure.type, failure.transient) == ("bright", "encode", "Encode", False)
    assert failure.message.startswith("encoder mean: ")
    assert said in failure.message


@pytest.mark.parametrize("name", ANSWERS)
def test_windows_and_sentences_are_checked_as_well(name: str) -> None:
    answer, _ = ANSWERS[name]
    bright = np.full((2, 2, 2, 3), 255, np.uint8)
    encoder = SampleEncoder(Broken(answer), 1, averaged=True)
    dark, failed = encode_each(encoder, [np.zeros_like(bright), bright], JOB)
    assert not isinstance(dark, EncodeError)
    assert isinstance(failed, EncodeError)
    assert str(failed).startswith("encoder mean: ")

    class Sentences:
        def encode(self, batch: Sequence[str], report: object = None) -> Any:
            rows: list[Any] = [{"v": np.full(3, 1, np.float32)} for _ in batch]
            return answer(rows) if "bad" in batch else rows

    texts = SentenceEncoder(Sentences())
    for _ in range(2):
        good, failed, again = encode_each(texts, ["good", "bad", "good"], JOB)
        assert not isinstance(good, EncodeError)
        assert not isinstance(again, EncodeError)
        assert isinstance(failed, EncodeError)


def test_vectors_of_wider_floats_are_stored_as_float32() -> None:
    found = checked_vectors({"v": np.array([0.1, 1, 2]), "more": 1}, JOB.outputs, "mean")
    assert not isinstance(found, EncodeError)
    assert (list(found), found["v"].dtype) == (["v"], np.float32)
