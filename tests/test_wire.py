"""Elements between stages arrive as they were sent, also while Beam flushes all the time."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apache_beam as beam
import pytest

from cliploom.pipelines.launching import runner
from cliploom.pipelines.launching.runner import run_graph
from cliploom.schemas.errors import SpecError, StoreError
from cliploom.schemas.records import Duplicate, Segment, Shard, ShardItem
from cliploom.schemas.spec import Target
from cliploom.transforms.wire import EncodedDoFn, Spread, decode_element, encode_element

SHARDS, ITEMS = 120, 6


@contextmanager
def busy_threads(count: int = 16) -> Iterator[None]:
    """Threads that never wait, so that any other one may be stopped anywhere."""
    over = threading.Event()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(2e-4)

    def spin() -> None:
        while not over.is_set():
            pass

    threads = [threading.Thread(target=spin, daemon=True) for _ in range(count)]
    try:
        for thread in threads:
            thread.start()
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)


def shard_of(number: int) -> Shard:
    items = tuple(
        ShardItem(f"/media/{number}-{item}", "x" * (number % 300), str(item), "{}", (Duplicate(item, "u"),), Segment())
        for item in range(ITEMS)
    )
    return Shard(("frames",), items)


class WriteNames(beam.DoFn):  # type: ignore[misc]
    """A shard in, its number as a line of a file out of the graph."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def process(self, shard: Shard) -> None:
        with self._path.open("a") as file:
            file.write(f"{shard.items[0].uri} {len(shard.items)}\n")


def send_shards(pipeline: beam.Pipeline, path: Path) -> None:
    _ = (
        pipeline
        | beam.Create(list(range(SHARDS)))
        | "SpreadNumbers" >> Spread()
        | beam.Map(lambda number: encode_element(shard_of(number))).with_output_types(bytes)
        | "SpreadShards" >> beam.Reshuffle()
        | beam.ParDo(EncodedDoFn(WriteNames(path)))
    )


def sent_names() -> list[str]:
    return sorted(f"/media/{number}-0 {ITEMS}" for number in range(SHARDS))


def test_what_arrives_is_whole_even_if_beam_flushes_every_millisecond(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "FLUSH_PERIOD_MS", 1)
    with busy_threads():
        run_graph(lambda pipeline: send_shards(pipeline, tmp_path / "names"), Target(workers=2))
    names = (tmp_path / "names").read_text().splitlines()
    # A timed flush also drops whole elements, which nothing here can help; the stages that gather notice it.
    assert len(names) == len(set(names))
    assert set(names) <= set(sent_names())


def test_all_elements_arrive_on_a_busy_machine(tmp_path: Path) -> None:
    with busy_threads():
        run_graph(lambda pipeline: send_shards(pipeline, tmp_path / "names"), Target(workers=2))
    assert sorted((tmp_path / "names").read_text().splitlines()) == sent_names()


def test_the_local_runner_does_not_flush_on_a_timer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from apache_beam.runners.portability.fn_api_runner import worker_handlers
    from apache_beam.runners.worker import data_plane

    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("a stream that is flushed on a timer")

    monkeypatch.setattr(worker_handlers, "DATA_BUFFER_TIME_LIMIT_MS", 1)
    monkeypatch.setattr(data_plane, "TimeBasedBufferingClosableOutputStream", refuse)
    run_graph(lambda pipeline: send_shards(pipeline, tmp_path / "names"), Target(workers=2))
    assert len((tmp_path / "names").read_text().splitlines()) == SHARDS


@pytest.mark.parametrize("name", ["local", "FlinkRunner"])
def test_a_timed_flush_is_refused(name: str) -> None:
    target = Target.model_validate({"runner": name, "experiments": ["data_buffer_time_limit_ms=1000"]})
    with pytest.raises(SpecError, match=r"--experiments=data_buffer_time_limit_ms=1000 makes workers flush on a timer"):
        run_graph(lambda pipeline: None, target)


def test_damaged_bytes_are_no_element() -> None:
    sent = encode_element(shard_of(7))
    assert decode_element(sent) == shard_of(7)
    for damaged in (b"", sent[:3], sent[:-1], sent[1:], sent[:9] + bytes([sent[9] ^ 1]) + sent[10:]):
        with pytest.raises(StoreError, match=f"An element of {len(damaged)} bytes was damaged between two stages"):
            decode_element(damaged)
