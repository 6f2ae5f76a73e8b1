"""``cliploom.beam``: transforms in pipelines of Beam users, on Beam's local runner."""

from __future__ import annotations

import os
import typing
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import polars as pl
import pytest
from apache_beam.io import fileio
from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata
from apache_beam.io.localfilesystem import LocalFileSystem
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from apache_beam.transforms.window import FixedWindows, GlobalWindow, TimestampedValue
from apache_beam.utils.timestamp import Timestamp
from stores import SmallStore, still
from web_server import Page, web_server

import cliploom
from cliploom.beam import DecodeFrames, EncodeFrames, EncodeMedia, EncodeTexts, Failure, MediaFile, pixels_of
from cliploom.errors import CliploomError, SpecError, StoreError
from cliploom.pipelines.beam.arguments import model_ref, place_of, prepared_job, reading_of, text_spec
from cliploom.pipelines.demo.corpus import CAT
from cliploom.schemas.errors import TooLargeError, UnreadableError
from cliploom.schemas.media import MediaLimits
from cliploom.schemas.sources import HttpSpec
from cliploom.transforms.beam import batches
from cliploom.transforms.beam.files import local_file
from cliploom.transforms.beam.media import _EncodeFilesFn
from cliploom.transforms.beam.model import ModelRef
from cliploom.transforms.encoders.minilm import MiniLM
from cliploom.transforms.inputs.spool import spool_folder

_MIN_RAM = common_urns.resource_hints.MIN_RAM_BYTES.urn
LITE0 = {"kind": "efficientnet_lite0"}
SIZE = {"width": 224, "height": 224, "crop": 0.875}


SEEN: dict[str, list[Any]] = {}
"""Elements by name: Beam pickles what it is given, but leaves what a module has in its place."""


def keep(name: str, found: Any) -> None:
    SEEN[name] = list(found)


def collected(name: str) -> Callable[[Any], None]:
    """A matcher for ``assert_that`` that keeps the elements, for asserts outside the pipeline."""
    SEEN.pop(name, None)
    return partial(keep, name)


def pipeline(*options: str) -> TestPipeline:
    return TestPipeline(runner="FnApiRunner", options=PipelineOptions(list(options)))


def run(elements: list[Any], transform: beam.PTransform, *options: str) -> tuple[list[Any], list[Failure]]:
    """The rows and failures that a transform makes, as they are after a shuffle."""
    with pipeline(*options) as p:
        good, bad = p | beam.Create(elements) | transform
        assert_that(good | "SpreadRows" >> beam.Reshuffle(), collected("rows"), label="rows")
        assert_that(bad | "SpreadFailures" >> beam.Reshuffle(), collected("failures"), label="failures")
    return SEEN["rows"], SEEN["failures"]


def test_rows_and_failures_are_those_of_a_store(built_store: SmallStore) -> None:
    files = [
        MediaFile(str(path), path.relative_to(built_store.media).with_suffix("").as_posix())
        for path in sorted(built_store.media.rglob("*.*"))
    ]
    encoder = {"kind": "efficientnet_lite0", "text_encoder": {"kind": "minilm"}}
    rows, failures = run(files, EncodeMedia({"every": "1s"}, encoder, models=str(built_store.store)))
    store = cliploom.open(built_store.store)
    table = store.table("frames").select("uid", "start_s", "end_s", "frame", "pooled", "semantic").collect()
    found = pl.DataFrame(
        [{name: getattr(row, name) for name in table.columns} for row in rows], schema=dict(table.schema)
    )
    assert found.sort("uid", "start_s").equals(table.sort("uid", "start_s"))
    fields = ["uid", "uri", "stage", "type", "message", "transient", "partial", "expected", "got"]
    wanted = store.table("failures").filter(pl.col("feature") == "").select(fields).collect().to_dicts()
    assert [failure._asdict() for failure in failures] == wanted
    assert [failure.type for failure in failures] == ["NoVideo"]


def test_two_steps_give_the_vectors_of_one(built_store: SmallStore) -> None:
    path = str(built_store.media / "both.gif")
    with pipeline() as p:
        files = p | beam.Create([path, str(built_store.media / "missing.gif")])
        frames, failures = files | DecodeFrames({"every": "500ms"}, SIZE)
        rows, none = frames | EncodeFrames(LITE0, outputs=["pooled"])
        spread = frames | "SpreadFrames" >> beam.Reshuffle()
        assert_that(spread | beam.Map(lambda frame: (frame.ordinal, pixels_of(frame).shape)), collected("shapes"))
        assert_that(rows, collected("vectors"), label="rows")
        assert_that(none, lambda found: _equal(found, []), label="none")
        assert_that(failures | beam.Map(lambda row: (row.type, row.transient)), _is([("Unreadable", True)]), label="f")
    assert sorted(SEEN["shapes"]) == [(n, (224, 224, 3)) for n in range(4)]
    fused, _ = run([path], EncodeMedia({"every": "500ms"}, LITE0, outputs=["pooled"]))
    assert [row.pooled for row in sorted(SEEN["vectors"], key=lambda row: row.ordinal)] == [row.pooled for row in fused]


def _equal(found: Any, wanted: Any) -> None:
    assert list(found) == wanted


def _is(wanted: list[Any]) -> Callable[[Any], None]:
    return lambda found: _equal(found, wanted)


def test_frames_of_another_shape_are_failures(built_store: SmallStore) -> None:
    with pipeline() as p:
        files = p | beam.Create([str(built_store.media / "both.gif")])
        frames, _ = files | DecodeFrames({"first": {"frames": 2}}, SIZE)
        rows, failures = frames | EncodeFrames(LITE0)
        assert_that(rows, _is([]))
        assert_that(failures | beam.Map(lambda row: (row.stage, row.type)), _is([("encode", "Encode")]), label="f")


def test_rows_keep_timestamps_and_windows_while_elements_share_batches(tmp_path: Path) -> None:
    paths = [str(still(CAT, tmp_path / f"{number}.png")) for number in range(5)]
    with pipeline() as p:
        timed = p | beam.Create(list(enumerate(paths))) | beam.Map(lambda pair: TimestampedValue(pair[1], pair[0] * 10))
        rows, _ = (
            timed
            | beam.WindowInto(FixedWindows(20))
            | beam.Map(str).with_output_types(str)
            | EncodeMedia({"uniform": 1}, LITE0, outputs=["pooled"])
        )
        moments = rows | beam.Map(
            lambda row, time=beam.DoFn.TimestampParam, window=beam.DoFn.WindowParam: (
                os.path.basename(row.uri),
                int(time),
                int(window.start),
            )
        )
        assert_that(moments, collected("moments"))
    assert sorted(SEEN["moments"]) == [(f"{n}.png", n * 10, n * 10 // 20 * 20) for n in range(5)]


def test_parquet_of_rows_that_end_a_bundle_is_whole(tmp_path: Path) -> None:
    still(CAT, tmp_path / "cat.png")
    with pipeline() as p:
        rows, failures = p | fileio.MatchFiles(str(tmp_path / "*.png")) | EncodeMedia({"uniform": 1}, LITE0)
        _ = rows | beam.io.WriteToParquet(str(tmp_path / "rows"), file_name_suffix=".parquet")
        _ = failures | "WriteFailures" >> beam.io.WriteToParquet(str(tmp_path / "lost"), file_name_suffix=".parquet")
    table = pl.read_parquet(tmp_path / "rows-*.parquet")
    assert table.select("ordinal", "frame").rows() == [(0, 0)]
    assert table.schema["pooled"] == pl.List(pl.Float32)
    assert len(table["pooled"][0]) == 1280
    assert pl.read_parquet(tmp_path / "lost-*.parquet").columns == list(Failure._fields)


class Sentence(NamedTuple):
    id: int
    sentence: typing.Optional[str]  # noqa: UP045 - Beam's schemas take it so


def test_rows_of_texts_keep_their_fields_and_texts_that_are_none_are_failures() -> None:
    sentences = [Sentence(1, "a cat"), Sentence(2, None), Sentence(3, "a cat"), Sentence(4, "")]
    rows, failures = run(sentences, EncodeTexts("minilm", column="sentence", uid="id"))
    assert [(row.id, row.sentence, len(row.embedding)) for row in sorted(rows, key=lambda row: row.id)] == [
        (1, "a cat", 384),
        (3, "a cat", 384),
        (4, "", 384),
    ]
    assert [(row.uid, row.stage, row.type, row.expected, row.got) for row in failures] == [
        ("2", "encode", "Encode", 1, 0)
    ]
    (strings, _) = run(["a cat"], EncodeTexts({"kind": "minilm"}, column="words"))
    assert strings[0].words == "a cat"
    assert strings[0].embedding == next(row.embedding for row in rows if row.id == 1)


def test_counters_are_those_of_a_run(built_store: SmallStore) -> None:
    p = pipeline()
    _ = (
        p
        | beam.Create([str(path) for path in sorted(built_store.media.glob("*.*"))])
        | EncodeMedia({"every": "1s"}, LITE0)
    )
    result = p.run()
    result.wait_until_finish()
    found = {each.key.metric.name: each.committed for each in result.metrics().query()["counters"]}
    assert {name: found[name] for name in ("items_done", "rows", "failed_NoVideo")} == {
        "items_done": 4,
        "rows": 4,
        "failed_NoVideo": 1,
    }
    assert found["frames_decoded"] >= 2


def test_threads_of_a_process_share_one_model(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    original = MiniLM.open

    def noted(self: MiniLM, folder: Path, card: Any, threads: int) -> Any:
        opened.append(threads)
        return original(self, folder, card, threads)

    monkeypatch.setattr(MiniLM, "open", noted)
    options = ["--direct_num_workers=2", "--direct_running_mode=multi_threading"]
    rows, _ = run([f"sentence {number}" for number in range(64)], EncodeTexts("minilm"), *options)
    assert len(rows) == 64
    assert opened == [2]


def test_an_attempt_that_was_cut_leaves_nothing_to_the_next(tmp_path: Path) -> None:
    paths = [still(CAT, tmp_path / f"{number}.png") for number in range(3)]
    spec = EncodeMedia({"uniform": 1}, LITE0, outputs=["pooled"])._spec
    place = place_of(None)
    job = prepared_job(spec, place)
    assert job.card is not None
    assert job.card.preprocess is not None
    encode = _EncodeFilesFn(reading_of(spec, job.card.preprocess), ModelRef(job, place))
    encode.setup()
    gather = batches._GatherFn(2)

    def attempt(cut: int | None) -> Iterator[Any]:
        gather.start_bundle()
        for number, path in enumerate(paths):
            for batch in gather.process(MediaFile(str(path), path.name), Timestamp(0), GlobalWindow()):
                yield from (value.value for value in encode.process(batch))
            if number == cut:
                return
        for gathered in gather.finish_bundle():
            yield from (value.value for value in encode.process(gathered.value))

    assert list(attempt(0)) == []
    assert len([next(attempt(None))]) == 1  # given up in the middle of a batch
    assert [row.uid for row in attempt(None)] == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize(
    ("elements", "transform", "said"),
    [
        ([1, 2], lambda: EncodeMedia({"every": "1s"}, LITE0), "media files are given as paths"),
        ([b"a.mp4"], lambda: DecodeFrames({"every": "1s"}, SIZE), "media files are given as paths"),
        (["a.mp4"], lambda: EncodeFrames(LITE0), "takes frames, such as those of DecodeFrames"),
        ([1], lambda: EncodeTexts("minilm"), "takes strings, or rows with a field 'text'"),
        ([Sentence(1, "x")], lambda: EncodeTexts("minilm"), "the rows have no field 'text', only id, sentence"),
        (["x"], lambda: EncodeTexts("minilm", uid="id"), "there is no column 'id'"),
    ],
)
def test_a_wrong_composition_fails_while_the_pipeline_is_built(
    elements: list[Any], transform: Callable[[], beam.PTransform], said: str
) -> None:
    p = pipeline()
    made = p | beam.Create(elements)
    with pytest.raises(TypeError, match=said):
        _ = made | transform()


@pytest.mark.parametrize(
    ("transform", "said"),
    [
        (lambda: EncodeMedia({"evry": "1s"}, LITE0), "sample: .*a sampling is exactly one of every"),
        (lambda: EncodeMedia({"every": "1s"}, "minilm"), "encodes text, but the source holds media"),
        (lambda: EncodeMedia({"every": "1s"}, "efficientnet_lite"), "did you mean 'efficientnet_lite0'"),
        (lambda: EncodeMedia({"every": "1s"}, {**LITE0, "batchh": 2}), "encoder.batchh: unknown key; did you mean"),
        (lambda: EncodeMedia({"every": "1s"}, LITE0, outputs=["poold"]), "did you mean 'pooled'"),
        (lambda: EncodeMedia({"every": "1s"}, LITE0, source={"glob": "*"}), "source.glob: unknown key"),
        (lambda: EncodeMedia({"every": "1s"}, LITE0, limits={"max_pixel": 1}), "limits.max_pixel: unknown key"),
        (lambda: EncodeMedia({"every": "1s"}, {**LITE0, "precision": "int8"}), "use f32 or bf16 here"),
        (lambda: EncodeMedia({"every": "1s"}, {"kind": "head", "head": "h"}), "a head is part of a store"),
        (lambda: EncodeMedia({"every": "1s"}, 7), "neither a kind"),  # type: ignore[arg-type]
        (lambda: EncodeTexts("efficientnet_lite0"), "source 'input' holds texts"),
        (lambda: DecodeFrames({"every": "1s"}, {"width": 224}), "preprocess.height is missing"),
        (lambda: DecodeFrames({"every": "1s"}, {**SIZE, "hight": 1}), "preprocess.hight: unknown key"),
        (lambda: DecodeFrames({"every": "1s"}, {"width": 0, "height": 1}), "give sides from 1 to"),
        (lambda: DecodeFrames({"every": "1s", "distinct": 0.9}, SIZE), "frames have no vectors"),
        (lambda: EncodeTexts(error_handling={"to": "x"}), "should be {'output': NAME}"),
    ],
)
def test_wrong_arguments_are_named_at_once(transform: Callable[[], beam.PTransform], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        transform()


def test_elements_of_unknown_type_are_looked_at_one_by_one() -> None:
    p = pipeline()
    unknown = p | beam.Create([7]) | beam.Map(lambda value: value).with_output_types(beam.typehints.Any)
    _ = unknown | DecodeFrames({"every": "1s"}, SIZE)
    with pytest.raises(Exception, match=r"media files are given as paths.*, not int: 7"):
        p.run()


def test_a_model_that_a_worker_cannot_read_is_named_with_the_argument(tmp_path: Path) -> None:
    job = prepared_job(text_spec("minilm"), place_of(None))
    with pytest.raises(StoreError, match="is not on this worker; give the transform `models`"):
        ModelRef(job, str(tmp_path)).open()


def test_memory_is_asked_for_only_where_the_runner_chooses_machines() -> None:
    class DataflowRunner(beam.runners.DirectRunner):
        pass

    def asked(runner: beam.runners.PipelineRunner) -> list[int]:
        p = pipeline()
        p.runner = runner
        _ = p | beam.Create(["a"]) | EncodeTexts("minilm")
        environments = p.to_runner_api().components.environments.values()
        hints = (dict(environment.resource_hints) for environment in environments)
        return [int(found[_MIN_RAM]) for found in hints if _MIN_RAM in found]

    assert asked(beam.runners.DirectRunner()) == []
    (least,) = asked(DataflowRunner())
    assert 1 << 30 < least < 2 << 30


class Shelf(LocalFileSystem):
    """A file system of its own scheme over local files, as a user may register."""

    @classmethod
    def scheme(cls) -> str:
        return "shelf"

    def metadata(self, path: str) -> FileMetadata:
        local = path.removeprefix("shelf://")
        if not os.path.exists(local):
            raise BeamIOError("no such book", {path: OSError("no such book")})
        return FileMetadata(path, os.path.getsize(local))

    def open(self, path: str, mime_type: str = "", compression_type: str = CompressionTypes.AUTO) -> Any:
        assert compression_type == CompressionTypes.UNCOMPRESSED
        return Path(path.removeprefix("shelf://")).open("rb")


def test_files_of_any_file_system_that_beam_knows_are_copied_for_a_moment(tmp_path: Path) -> None:
    path = still(CAT, tmp_path / "odd [name] *.png")
    before = set(spool_folder().iterdir())
    with local_file(f"shelf://{path}", MediaLimits(), HttpSpec()) as local:
        assert local != path
        assert local.read_bytes() == path.read_bytes()
    assert set(spool_folder().iterdir()) <= before
    with (
        pytest.raises(UnreadableError, match="no such book"),
        local_file(f"shelf://{tmp_path}/gone.png", MediaLimits(), HttpSpec()),
    ):
        pass
    with (
        pytest.raises(TooLargeError, match="more than 10 "),
        local_file(f"shelf://{path}", MediaLimits(max_bytes=10), HttpSpec()),
    ):
        pass
    with (
        pytest.raises(CliploomError, match=r"nowhere://x/a\.png"),
        local_file("nowhere://x/a.png", MediaLimits(), HttpSpec()),
    ):
        pass


def test_files_on_the_web_are_fetched_and_those_that_are_not_there_are_failures(tmp_path: Path) -> None:
    body = still(CAT, tmp_path / "cat.png").read_bytes()
    with web_server() as server:
        server.pages["/cat.png"] = Page(body, etag="a")
        here, gone = server.url("/cat.png"), server.url("/gone.png?token=secret")
        rows, failures = run([here, gone], EncodeMedia({"uniform": 1}, LITE0, outputs=["pooled"]))
    assert [row.uri for row in rows] == [here]
    assert [(row.uri, row.type) for row in failures] == [(gone, "Unreadable")]
    assert "secret" not in failures[0].message


def test_a_name_that_is_not_unicode_is_read(tmp_path: Path) -> None:
    path = still(CAT, tmp_path / "cat.png").rename(tmp_path / os.fsdecode(b"caf\xe9.png"))
    (row,), failures = run([FileMetadata(str(path), 1)], EncodeMedia({"uniform": 1}, LITE0, outputs=["pooled"]))
    assert row.uri == row.uid == f"file://{tmp_path}/caf%E9.png"
    assert not failures


def test_vectors_are_float32_after_a_shuffle(tmp_path: Path) -> None:
    path = still(CAT, tmp_path / "cat.png")
    (row,), _ = run([str(path)], EncodeMedia({"uniform": 1}, LITE0, outputs=["pooled"]))
    assert np.array_equal(np.float32(row.pooled), np.float64(row.pooled))


def test_threads_of_the_local_runner_are_those_of_the_model() -> None:
    job = prepared_job(text_spec("minilm"), place_of(None))
    p = pipeline("--direct_num_workers=3", "--direct_running_mode=multi_threading")
    assert model_ref(job, place_of(None), p, None).threads == 3
    assert model_ref(job, place_of(None), p, 5).threads == 5
    assert model_ref(job, place_of(None), pipeline(), None).threads == 1
