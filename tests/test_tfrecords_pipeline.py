"""TFRecords through whole runs: shards in, tables, shards out."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from stores import SmallStore

from cliploom.pipelines.cli.inspecting import inspect
from cliploom.pipelines.running.run import RunOptions, RunResult, run_spec
from cliploom.schemas.errors import SpecError
from cliploom.schemas.sources import MediaSource
from cliploom.schemas.spec_file import load_document, parse_document
from cliploom.schemas.tfrecords import RatedSegment, Record, Yt8mFrames, Yt8mVideo
from cliploom.transforms.media.label_listing import list_media
from cliploom.transforms.store import quantize
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.parts import arrow_to_vectors
from cliploom.transforms.tfrecords.export import chosen_outputs, read_piece, write_piece
from cliploom.transforms.tfrecords.framing import read_records, write_records
from cliploom.transforms.tfrecords.pca import Pca
from cliploom.transforms.tfrecords.write import encode_example, encode_frames, encode_video, shard_of
from cliploom.transforms.upkeep.verifying import verify_release

pytestmark = pytest.mark.slow

RGB, AUDIO = 16, 4
SPEC = """\
version: 1
name: shards
store: ./store
sources:
  yt: {kind: tfrecord, format: yt8m_frame, glob: "in/*.tfrecord*", rgb: 16, audio: 4}
features:
  yt: {source: yt}
limits: {max_failed: 100%, max_deleted: 100%}
"""
EXAMPLE = 'sources.yt={kind: tfrecord, format: example, glob: "in/*", id: key, fields:'


@dataclass(frozen=True)
class Project:
    folder: Path

    def run(self, *overrides: str) -> RunResult:
        document = load_document(self.folder / "spec.yaml", overrides)
        return run_spec(parse_document(document), document, self.folder, RunOptions(), lambda text: None)

    def table(self, result: RunResult, name: str = "yt") -> pl.DataFrame:
        entry = result.release.features[name]
        return pl.scan_delta(str(self.folder / "store" / entry.table), version=entry.version).collect().sort("row_id")

    def small(self, result: RunResult, name: str) -> pl.DataFrame:
        return pl.scan_delta(str(self.folder / "store" / name), version=result.release.tables[name]).collect()

    def exported(self, result: RunResult, name: str = "out") -> dict[str, list[bytes]]:
        """Payloads by file name."""
        found = {}
        for file in result.release.exports[name].files:
            path = self.folder / "store" / file.path
            with path.open("rb") as stream:
                records = [record for record in read_records(stream, path.name) if isinstance(record, Record)]
            found[path.name] = [record.data for record in records]
        return found

    def write(self, name: str, payloads: Sequence[bytes], *, packed: bool = False) -> Path:
        path = self.folder / "in" / name
        with path.open("wb") as stream:
            write_records(stream, payloads, gzip=packed)
        return path


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "in").mkdir()
    (tmp_path / "spec.yaml").write_text(SPEC)
    return Project(tmp_path)


def frames(uid: str, count: int = 5, labels: tuple[int, ...] = (1, 2), **more: Any) -> Yt8mFrames:
    random = np.random.default_rng(list(uid.encode()))
    rgb, audio = (random.integers(0, 256, (count, width), np.uint8) for width in (RGB, AUDIO))
    return Yt8mFrames(uid, labels, rgb, audio, **more)


def video(uid: str) -> Yt8mVideo:
    random = np.random.default_rng(list(uid.encode()))
    rgb, audio = (random.normal(size=width).astype(np.float32) for width in (RGB, AUDIO))
    return Yt8mVideo(uid, (3,), rgb, audio)


@pytest.mark.parametrize("quantized", ["keep", "decode"])
def test_frames_come_out_as_they_went_in(project: Project, quantized: str) -> None:
    payloads = [encode_frames(frames(f"id{number:02}", 1 + number)) for number in range(9)]
    project.write("a.tfrecord", payloads[:5])
    project.write("b.tfrecord.gz", payloads[5:], packed=True)
    result = project.run(
        f"sources.yt.quantized={quantized}",
        "exports.out={kind: tfrecord, format: yt8m_frame, feature: yt, shards: 3}",
    )
    out = project.exported(result)
    assert sorted(data for shard in out.values() for data in shard) == sorted(payloads)
    assert list(out) == [f"out-{number:05}-of-00003.tfrecord" for number in range(3)]
    for number, name in enumerate(out):
        wanted = [f"id{each:02}" for each in range(9) if shard_of(f"id{each:02}", 3) == number]
        assert out[name] == [encode_frames(frames(uid, 1 + int(uid[2:]))) for uid in wanted]


@pytest.mark.parametrize("quantized", ["keep", "decode"])
def test_frame_rows_are_a_second_each_with_the_ids_of_their_records(project: Project, quantized: str) -> None:
    records = [frames("first", 3), frames("second", 2)]
    project.write("a.tfrecord", [encode_frames(record) for record in records])
    table = project.table(project.run(f"sources.yt.quantized={quantized}"))
    assert table["uid"].to_list() == ["first"] * 3 + ["second"] * 2
    assert table["start_s"].to_list() == [0, 1, 2, 0, 1]
    assert table["end_s"].to_list() == [1, 2, 3, 1, 2]
    assert table["row_id"].to_list() == [(1 << 24) + ordinal for ordinal in range(5)]
    codes = np.concatenate([record.rgb for record in records])
    np.testing.assert_array_equal(arrow_to_vectors(table["rgb"].to_arrow(), RGB), quantize.decode(codes))
    assert (table["rgb"].dtype == pl.Binary) == (quantized == "keep")


def test_videos_come_out_as_they_went_in(project: Project) -> None:
    payloads = [encode_video(video(f"id{number}")) for number in range(4)]
    project.write("a.tfrecord", payloads)
    result = project.run(
        "sources.yt.format=yt8m_video",
        "exports.out={kind: tfrecord, format: yt8m_video, feature: yt, gzip: true}",
    )
    assert project.table(result)["end_s"].null_count() == 4
    assert project.exported(result) == {"out-00000-of-00001.tfrecord.gz": payloads}
    packed = next((project.folder / "store").glob("tfrecords/out/*/*.gz"))
    assert gzip.decompress(packed.read_bytes())


def test_labels_get_names_and_unknown_ones_are_failures(project: Project) -> None:
    (project.folder / "classes.csv").write_text("Index,Name\n2,Cat\n1,Dog\n")
    path = project.write("a.tfrecord", [encode_frames(frames("good")), encode_frames(frames("bad", labels=(7,)))])
    result = project.run("sources.yt.vocabulary=classes.csv")
    labels = project.small(result, "labels")
    assert labels.select("source", "uid", "label", "name", "origin").rows() == [
        ("yt", "good", 1, "Dog", "given"),
        ("yt", "good", 2, "Cat", "given"),
    ]
    (failure,) = project.small(result, "failures").iter_rows(named=True)
    offset = 16 + len(encode_frames(frames("good")))
    assert failure["message"] == f"{path} at byte {offset}: label 7 is not in the vocabulary"
    assert failure["partial"]
    assert failure["got"] == 5


def test_rated_segments_are_labels_with_times_and_come_out_again(project: Project) -> None:
    segments = (RatedSegment(0, 5, 7, 1.0), RatedSegment(5, 10, 8, 0.0))
    payload = encode_frames(frames("seg", 12, segments=segments))
    project.write("a.tfrecord", [payload])
    result = project.run(
        "sources.yt.format=yt8m_segment", "exports.out={kind: tfrecord, format: yt8m_frame, feature: yt}"
    )
    rated = project.small(result, "labels").filter(pl.col("origin") == "rated")
    assert rated.select("label", "start_s", "end_s", "score").rows() == [(7, 0, 5, 1), (8, 5, 10, 0)]
    assert project.exported(result)["out-00000-of-00001.tfrecord"] == [payload]


def test_a_damaged_record_is_a_failure_and_the_rest_is_read(project: Project) -> None:
    path = project.write("a.tfrecord", [encode_frames(frames(f"id{number}")) for number in range(3)])
    project.write("b.tfrecord", [encode_frames(frames("other"))])
    data = bytearray(path.read_bytes())
    offset = len(data) // 3
    data[offset + 40] ^= 1
    path.write_bytes(data)
    result = project.run()
    assert project.table(result)["uid"].unique().sort().to_list() == ["id0", "id2", "other"]
    (failure,) = project.small(result, "failures").iter_rows(named=True)
    assert failure["message"].startswith(f"{path} at byte {offset}: wrong CRC")


def test_a_shard_of_another_format_fails_with_the_fix(project: Project) -> None:
    project.write("a.tfrecord", [encode_video(video(f"id{number}")) for number in range(150)])
    failures = project.small(project.run(), "failures")
    assert failures.height == 101
    assert "format yt8m_video" in "".join(failures["message"].to_list())
    assert "50 more records are lost" in "".join(failures["message"].to_list())


def test_what_is_no_shard_fails_in_the_probe(project: Project) -> None:
    project.write("a.tfrecord", [encode_frames(frames("good"))])
    (project.folder / "in" / "text.tfrecord").write_text("not a shard at all")
    failures = project.small(project.run(), "failures")
    assert failures["stage"].to_list() == ["probe"]


def test_a_shard_without_records_is_valid(project: Project) -> None:
    project.write("a.tfrecord", [encode_frames(frames("good", 3))])
    empty = project.write("none.tfrecord", [])
    assert inspect(str(empty), 10, None)["records"] == 0
    project.write("packed.tfrecord.gz", [], packed=True)
    result = project.run("limits.max_failed=0%")
    assert project.small(result, "failures").is_empty()
    assert project.table(result)["uid"].unique().to_list() == ["good"]
    assert verify_release(str(project.folder / "store")) == []
    assert not project.run("limits.max_failed=0%").changed
    project.write("none.tfrecord", [encode_frames(frames("late", 2))])
    assert project.table(project.run("limits.max_failed=0%")).height == 5


def test_an_export_of_more_shards_than_records_comes_in_again(project: Project) -> None:
    payloads = [encode_frames(frames(f"id{number}")) for number in range(8)]
    project.write("a.tfrecord", payloads)
    export = "exports.out={kind: tfrecord, format: yt8m_frame, feature: yt, shards: 20}"
    result = project.run(export)
    out = project.folder / "store" / Path(result.release.exports["out"].files[0].path).parent
    again = project.folder / "again"
    again.mkdir()
    (again / "spec.yaml").write_text(SPEC.replace("in/*.tfrecord*", f"{out}/*.tfrecord").replace("100%", "0%"))
    second = Project(again)
    copied = second.run(export)
    assert copied.verdicts["yt"] == {"new": 20}
    assert second.exported(copied) == project.exported(result)
    assert second.table(copied)["uid"].n_unique() == 8


def test_repeated_labels_of_a_record_are_one_row(project: Project) -> None:
    rated = RatedSegment(0, 5, 4, 1.0)
    twice = frames("twice", 5, (7, 3, 7, 7), segments=(rated, rated, RatedSegment(0, 5, 4, 0.5)))
    project.write("a.tfrecord", [encode_frames(twice), encode_frames(frames("once", 2, (3,)))])
    result = project.run("exports.out={kind: tfrecord, format: yt8m_frame, feature: yt}")
    labels = project.small(result, "labels").sort("uid", "start_s", "label", "score", nulls_last=False)
    told = labels.select("uid", "label", "start_s", "score").rows()
    assert told == [
        ("once", 3, None, None),
        ("twice", 3, None, None),
        ("twice", 7, None, None),
        ("twice", 4, 0.0, 0.5),
        ("twice", 4, 0.0, 1.0),
    ]
    once = frames("twice", 5, (7, 3), segments=(rated, RatedSegment(0, 5, 4, 0.5)))
    assert encode_frames(once) in project.exported(result)["out-00000-of-00001.tfrecord"]


def test_a_negative_label_without_a_vocabulary_is_named_as_such(project: Project) -> None:
    project.write("a.tfrecord", [encode_frames(frames("bad", 2, (-1,))), encode_frames(frames("good"))])
    message = project.small(project.run(), "failures")["message"][0]
    assert "label -1 is negative" in message
    assert "vocabulary" not in message


def test_one_changed_shard_is_read_again_alone(project: Project) -> None:
    for name in "abc":
        project.write(f"{name}.tfrecord", [encode_frames(frames(f"{name}{number}")) for number in range(3)])
    before = project.run()
    assert not project.run().changed
    project.write("b.tfrecord", [encode_frames(frames("new"))])
    after = project.run()
    assert after.verdicts["yt"] == {"content_changed": 1, "unchanged": 2}
    assert after.counters["items_done"] == 1
    kept = project.table(before).filter(~pl.col("uid").str.starts_with("b"))
    assert project.table(after).filter(pl.col("uid") != "new").equals(kept)


def test_copies_and_renamed_shards_keep_the_ids_of_their_records(project: Project) -> None:
    payloads = [encode_frames(frames(f"id{number}")) for number in range(2)]
    project.write("a.tfrecord", payloads)
    project.write("b.tfrecord", payloads)
    result = project.run()
    assert result.release.features["yt"].rows == 20
    (project.folder / "in" / "b.tfrecord").rename(project.folder / "in" / "c.tfrecord")
    after = project.run()
    assert after.counters.get("items_done", 0) == 0
    assert project.table(after)["uid"].to_list() == project.table(result)["uid"].to_list()


def test_examples_are_read_by_their_declared_fields(project: Project) -> None:
    vector, codes = np.arange(3, dtype=np.float32), np.arange(4, dtype=np.uint8)
    values = {"key": b"one", "v": vector, "q": codes, "n": np.array([-7]), "tags": np.array([4, 2])}
    project.write("a.tfrecord", [encode_example(values), encode_example({"key": b"two", "v": vector})])
    result = project.run(
        'sources.yt={kind: tfrecord, format: example, glob: "in/*", id: key, labels: tags, quantized: keep, '
        "fields: {v: {width: 3}, n: {width: 1, type: int64}, q: {width: 4, type: uint8}}}"
    )
    table = project.table(result)
    assert table.select("uid", "v", "n", "q").rows() == [("one", [0.0, 1.0, 2.0], [-7.0], bytes(codes))]
    assert project.small(result, "labels").select("uid", "label").rows() == [("one", 4), ("one", 2)]
    assert "has no n" in project.small(result, "failures")["message"][0]


def test_texts_of_examples_stand_beside_the_vectors_and_stay_there(project: Project) -> None:
    vector = np.arange(3, dtype=np.float32)

    def record(key: str, channel: Any) -> bytes:
        return encode_example({"key": key, "v": vector, "channel": channel, "place": "Zürich"})

    source = 'sources.yt={kind: tfrecord, format: example, glob: "in/*", id: key, '
    source += "fields: {v: {width: 3}, channel: {type: text}, place: {type: text}}}"
    project.write("a.tfrecord", [record("one", "news"), record("two", b"\xff"), record("three", "")])
    project.write("b.tfrecord", [record("four", "sport")])
    overrides = (source, "features.yt.outputs=[v, channel]", "indexes.near={feature: yt, kind: flat}")
    result = project.run(*overrides)
    table = project.table(result)
    assert table.select("uid", "channel").rows() == [("one", "news"), ("three", ""), ("four", "sport")]
    assert "place" not in table.columns
    assert "channel: b'\\xff' is not UTF-8" in project.small(result, "failures")["message"][0]
    entry = result.release.features["yt"]
    assert (list(entry.outputs), entry.texts) == (["v"], ["channel"])
    assert verify_release(str(project.folder / "store")) == []
    assert inspect(str(project.folder / "store"))["features"]["yt"]["texts"] == ["channel"]
    (project.folder / "in" / "b.tfrecord").rename(project.folder / "in" / "c.tfrecord")
    after = project.run(*overrides)
    assert after.counters.get("items_done", 0) == 0
    assert project.table(after)["channel"].to_list() == ["news", "", "sport"]


def test_features_can_be_indexed_and_keep_only_wanted_outputs(project: Project) -> None:
    project.write("a.tfrecord", [encode_frames(frames(f"id{number}")) for number in range(3)])
    result = project.run(
        "sources.yt.quantized=keep", "features.yt.outputs=[rgb]", "indexes.near={feature: yt, kind: flat}"
    )
    assert "audio" not in project.table(result).columns
    assert result.release.indexes["near"].rows == 15


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sources.yt.format=yt8m"], "sources.yt.format: unknown 'yt8m'"),
        (["sources.yt.fields={v: {width: 1}}"], "'fields' is for format example"),
        (["sources.yt.format=example"], "needs 'fields'"),
        ([f"{EXAMPLE} {{v: {{}}}}}}"], "type float32 needs the number of values"),
        ([f"{EXAMPLE} {{v: {{type: text, width: 2}}}}}}"], "a text has no width"),
        ([f"{EXAMPLE} {{v: {{type: text}}}}}}"], "'fields' are all texts"),
        ([f"{EXAMPLE} {{labels: {{width: 1}}}}}}"], "names 'labels', which is a column of every feature's table"),
        ([f"{EXAMPLE} {{v: {{width: 1}}, t: {{type: text}}}}}}", "features.yt.outputs=[t]"], "keep a vector, too"),
        (
            [f"{EXAMPLE} {{v: {{width: 1}}, t: {{type: text}}}}}}", "indexes.t={feature: yt, output: t}"],
            "no output 't'",
        ),
        (["features.yt.encoder=lite0", "encoders.lite0={kind: efficientnet_lite0}"], "leave 'encoder' out"),
        (["features.yt.outputs=[video]"], "has no output 'video'"),
        (["sources.yt.vocabulary=none.csv"], "there is no file"),
        (["exports.h5={kind: hdf5, feature: yt}"], "use kind tfrecord"),
        (["exports.out={kind: tfrecord, format: yt8m_frame, feature: yt, audio: sound}"], "no output 'sound'"),
    ],
)
def test_wrong_specs_are_reported_with_the_fix(project: Project, overrides: list[str], message: str) -> None:
    project.write("a.tfrecord", [encode_frames(frames("good"))])
    with pytest.raises(SpecError, match=message):
        project.run(*overrides)


def test_an_export_needs_to_know_which_output_is_rgb() -> None:
    from cliploom.schemas.exports import TfrecordExport

    export = TfrecordExport(kind="tfrecord", feature="f", format="yt8m_frame")
    with pytest.raises(SpecError, match="rgb is missing"):
        chosen_outputs("out", export, ["pooled", "semantic"])


def test_pieces_written_in_small_blocks_give_every_record_back(tmp_path: Path) -> None:
    records = [(f"id{number}", bytes([number]) * number) for number in range(40)]
    write_piece(tmp_path / "piece", iter(records), 4, block_bytes=100)
    found = [record for shard in range(4) for record in read_piece(tmp_path / "piece", shard)]
    assert sorted(found) == sorted(records)
    assert [shard_of(uid, 4) for uid, _ in found] == sorted(shard_of(uid, 4) for uid, _ in found)


def test_own_media_are_exported_in_the_data_sets_format_with_their_labels(small_store: SmallStore) -> None:
    result = small_store.run(
        (
            "sources.clips.labels=folder",
            "exports={out: {kind: tfrecord, format: yt8m_frame, feature: frames, rgb: pooled}}",
            "indexes={}",
        )
    )
    project = Project(small_store.folder)
    labels = project.small(result, "labels")
    assert labels.filter(pl.col("uid") == "videos/cat").select("label", "name").rows() == [(1, "videos")]
    assert result.verdicts["frames"].keys() == {"unchanged", "failed"}
    rows = project.table(result, "frames").sort("uid", "start_s")
    wanted = [
        encode_frames(Yt8mFrames(uid, (1 if "/" in uid else 0,), quantize.encode(np.array(group["pooled"].to_list()))))
        for (uid,), group in rows.group_by(["uid"], maintain_order=True)
        if isinstance(uid, str)
    ]
    assert project.exported(result)["out-00000-of-00001.tfrecord"] == wanted


def test_features_are_projected_on_principal_components_before_they_go_out(project: Project) -> None:
    random = np.random.default_rng(3)
    pca = Pca(*(random.random(shape).astype(np.float32) for shape in ((RGB,), (RGB, 5), (5,))))
    np.savez(project.folder / "pca.npz", mean=pca.mean, eigenvectors=pca.vectors.T, eigenvalues=pca.values)
    record = frames("good")
    project.write("a.tfrecord", [encode_frames(record)])
    result = project.run(
        "exports.out={kind: tfrecord, format: yt8m_frame, feature: yt, pca: {path: pca.npz, rows: true}}"
    )
    wanted = replace(record, rgb=quantize.encode(pca.apply(quantize.decode(record.rgb))))
    assert project.exported(result)["out-00000-of-00001.tfrecord"] == [encode_frames(wanted)]
    assert not project.run(
        "exports.out={kind: tfrecord, format: yt8m_frame, feature: yt, pca: {path: pca.npz, rows: true}}"
    ).changed
    with pytest.raises(SpecError, match="there is no file or folder"):
        project.run("exports.out={kind: tfrecord, format: yt8m_frame, feature: yt, pca: {path: none.npz}}")


@pytest.fixture
def media(tmp_path: Path) -> Path:
    for name in ("cats/a.gif", "dogs/b.gif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"GIF")
    return tmp_path


def labels_in(folder: Path, **options: Any) -> list[Any]:
    source = MediaSource.model_validate({"kind": "media"} | options)
    return [json.loads(text)["labels"] for text in list_media("clips", source, folder)["metadata"].to_list()]


def test_labels_from_folders_are_numbered_by_name(media: Path) -> None:
    assert labels_in(media, glob=["**/*.gif"], labels="folder") == [[[0, "cats"]], [[1, "dogs"]]]


def test_labels_from_a_csv_by_uid_or_path(media: Path) -> None:
    (media / "uids.csv").write_text("uid,labels\ncats/a,tabby; sleepy\ncats/a,sleepy\n")
    (media / "paths.csv").write_text("path,labels\ndogs/b.gif,poodle\n")
    both = [[[1, "tabby"], [0, "sleepy"]], []]
    assert labels_in(media, glob=["**/*.gif"], labels={"csv": "uids.csv"}) == both
    assert labels_in(media, glob=["**/*.gif"], labels={"csv": "paths.csv"}) == [[], [[0, "poodle"]]]


def test_labels_from_a_column_get_the_vocabularys_numbers(media: Path) -> None:
    (media / "list.csv").write_text("uri,kind\ncats/a.gif,cat\ndogs/b.gif,dog\n")
    (media / "classes.csv").write_text("Index,Name\n5,cat\n3,dog\n")
    found = labels_in(media, table="list.csv", labels={"column": "kind"}, vocabulary="classes.csv")
    assert found == [[[5, "cat"]], [[3, "dog"]]]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"column": "kin"}, "no column 'kin'; did you mean 'kind'"),
        ({"csv": "none.csv"}, "there is no table"),
        ({"csv": "classes.csv"}, "needs the columns uid"),
        ({"column": "uri2"}, "no column 'uri2'"),
        ("folder", "the vocabulary has no class 'cats'"),
    ],
)
def test_wrong_labels_are_reported(media: Path, labels: Any, message: str) -> None:
    (media / "list.csv").write_text("uri,kind\ncats/a.gif,cat\n")
    (media / "classes.csv").write_text("Index,Name\n5,cat\n")
    with pytest.raises(SpecError, match=message):
        labels_in(media, table="list.csv", labels=labels, vocabulary="classes.csv")


def test_the_pieces_are_gone_when_the_shards_are_there(project: Project) -> None:
    project.write("a.tfrecord", [encode_frames(frames("good"))])
    project.run("exports.out={kind: tfrecord, format: yt8m_frame, feature: yt}")
    names = [entry.path for entry in ObjectStore(project.folder / "store").list("tfrecords")]
    assert [name.rsplit("/", 1)[-1] for name in names] == ["out-00000-of-00001.tfrecord"]
