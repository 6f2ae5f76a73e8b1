"""Probe results are adopted from earlier tries, but no failure outlives the run that met it."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from media_factory import write_video

from cliploom.schemas.digests import digest_file
from cliploom.schemas.jobs import RunJob
from cliploom.schemas.media import MediaLimits
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.paths import TO_PROBE
from cliploom.transforms.work.probing import Asked, _ProbeFn, probe_item, recognize


def probe(objects: ObjectStore, run: str) -> list[tuple[str, str | None]]:
    batch = _ProbeFn(RunJob(objects.uri, run, {}, MediaLimits()))
    (name,) = batch.process(("listing.parquet", 0))
    rows = pq.read_table(io.BytesIO(objects.get(name))).to_pylist()
    return [(row["uid"], row["type"]) for row in rows]


def asked(path: Path) -> Asked:
    status = path.stat()
    return Asked("clips", "a", str(path), f"{status.st_size}:{status.st_mtime_ns}", "media")


def test_a_failure_is_probed_again_by_the_next_run_and_by_no_other_try_of_its_own(tmp_path: Path) -> None:
    objects = ObjectStore(str(tmp_path / "store"))
    paths = [write_video(tmp_path / f"{name}.mp4", 5) for name in "ab"]
    signatures = [f"{path.stat().st_size}:{path.stat().st_mtime_ns}" for path in paths]
    rows = [("clips", path.stem, str(path), sign, "media", 0) for path, sign in zip(paths, signatures, strict=True)]
    listing = pa.Table.from_pylist([dict(zip(TO_PROBE, row, strict=True)) for row in rows])
    buffer = io.BytesIO()
    pq.write_table(listing, buffer)
    objects.put("listing.parquet", buffer.getvalue())
    away = paths[1].rename(tmp_path / "away")
    assert probe(objects, "first") == [("a", None), ("b", "Unreadable")]
    away.rename(paths[1])
    assert probe(objects, "first") == [("a", None), ("b", "Unreadable")]
    paths[0].unlink()
    assert probe(objects, "second") == [("a", None), ("b", None)]


def test_a_file_with_an_undecodable_name_is_a_failure_that_tables_take(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"bad\xff.mp4")
    path.write_bytes(b"no video")
    result = probe_item(asked(path), MediaLimits())
    assert result.digest is None
    assert pa.Table.from_pylist([{"message": result.message}])["message"][0].as_py() == result.message


def test_a_known_input_that_can_not_be_read_is_a_failure(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 5)
    item = asked(path)
    known = {digest_file(path): "{}"}
    same = recognize(item, "{}", known)
    assert same is not None
    assert (same.digest, same.facts) == (digest_file(path), "{}")
    assert recognize(item, "{}", {"other": "{}"}) is None
    path.unlink()
    gone = recognize(item, "{}", known)
    assert gone is not None
    assert (gone.digest, gone.type) == (None, "Unreadable")
