"""One session for many threads: batches that gather, memory that ends, devices that vanish."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from cliploom.schemas.errors import DeviceError
from cliploom.transforms.encoders.device_engine import BatchSize, DeviceEngine
from cliploom.transforms.encoders.onnx_session import DeviceLostError, DeviceMemoryError, classified


class Doubling:
    """Doubles its input; what else it does is a test's."""

    def __init__(self, before: Callable[[int], None] = lambda items: None, batch: int = -1) -> None:
        self.input_shapes = ((batch, 3),)
        self.output_shapes = {"y": (batch, 3)}
        self.batches: list[int] = []
        self.threads: set[int] = set()
        self._before = before

    def run(self, inputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        self.threads.add(threading.get_ident())
        self._before(len(inputs[0]))
        self.batches.append(len(inputs[0]))
        return {"y": inputs[0] * 2}


class Memory:
    """Free bytes of a device whose session keeps ``each`` bytes for each item of its largest batch."""

    def __init__(self, total: int, each: int) -> None:
        self.total, self.each, self.largest = total, each, 0

    def free(self) -> int:
        return self.total - self.each * self.largest

    def take(self, items: int) -> None:
        if items * self.each > self.total:
            raise DeviceMemoryError("Failed to allocate memory for requested buffer")
        self.largest = max(self.largest, items)


def engine(session: Any, free: Callable[[], int | None] = lambda: None, **values: Any) -> DeviceEngine:
    return DeviceEngine(session, free, values.pop("processor", Doubling), **values)


def rows(count: int) -> np.ndarray:
    return np.arange(3 * count, dtype=np.float32).reshape(count, 3)


def test_many_threads_share_a_session_and_each_gets_its_own_rows() -> None:
    first = threading.Event()
    session = Doubling(lambda items: first.wait(10) and None)
    device = engine(session)
    given = [rows(5) + number for number in range(12)]
    with ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(device.run, [each]) for each in given]
        first.set()
        for each, answer in zip(given, answers, strict=True):
            np.testing.assert_array_equal(answer.result()["y"], each * 2)
    assert len(session.threads) == 1
    assert sum(session.batches) == 60


def test_requests_that_wait_are_computed_together() -> None:
    busy, go = threading.Event(), threading.Event()

    def hold(items: int) -> None:
        busy.set()
        go.wait(10)

    session = Doubling(hold)
    device = engine(session)
    with ThreadPoolExecutor(9) as pool:
        early = pool.submit(device.run, [rows(1)])
        busy.wait(10)
        later = [pool.submit(device.run, [rows(4)]) for _ in range(8)]
        while device._queue.qsize() < 8:
            threading.Event().wait(0.001)
        go.set()
        assert [len(each.result()["y"]) for each in (early, *later)] == [1, *[4] * 8]
    assert session.batches[0] == 1
    assert max(session.batches) == 16  # the first size of a batch, of several requests


def test_requests_of_other_shapes_are_not_mixed() -> None:
    session = Doubling()
    device = engine(session)
    wide = np.ones((4, 7), np.float32)
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(device.run, [each]) for each in (rows(4), wide) * 10]
        assert [answer.result()["y"].shape for answer in answers] == [(4, 3), (4, 7)] * 10


def test_a_batch_grows_to_what_the_measured_memory_holds() -> None:
    memory = Memory(total=1_000_000, each=10_000)
    session = Doubling(memory.take)
    found = engine(session, memory.free).run([rows(400)])
    np.testing.assert_array_equal(found["y"], rows(400) * 2)
    assert session.batches[0] == 16
    assert max(session.batches) == 70  # the share of the memory that 100 items fill
    assert sum(session.batches) == 400


def test_too_little_memory_halves_the_batch_and_loses_no_row() -> None:
    memory = Memory(total=50_000, each=10_000)
    session = Doubling(memory.take)
    device = engine(session)  # nothing is known of its memory
    np.testing.assert_array_equal(device.run([rows(33)])["y"], rows(33) * 2)
    assert max(session.batches) == 4
    device.run([rows(40)])
    assert max(session.batches) == 4
    assert not device.lost


@pytest.mark.parametrize("batch", [-1, 2])
def test_a_device_too_small_for_one_item_is_given_up(batch: int) -> None:
    session = Doubling(Memory(total=0, each=1).take, batch)
    device = engine(session)
    np.testing.assert_array_equal(device.run([rows(5)])["y"], rows(5) * 2)
    assert "too little memory for" in device.lost


def vanishes_after(batches: int) -> Callable[[int], None]:
    left = [batches]

    def count(items: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise DeviceLostError("CUDA failure 719: unspecified launch failure")

    return count


def test_a_device_that_vanishes_is_replaced_by_the_processor() -> None:
    processor = Doubling(batch=2)
    opened: list[Doubling] = []

    def opening() -> Doubling:
        opened.append(processor)
        return processor

    device = engine(Doubling(vanishes_after(2)), processor=opening, most=4)
    for _ in range(3):
        np.testing.assert_array_equal(device.run([rows(7)])["y"], rows(7) * 2)
    assert device.lost.startswith("CUDA failure 719")
    assert len(opened) == 1
    assert set(processor.batches) == {2}


def test_a_device_that_vanishes_is_a_failure_where_that_is_asked_for() -> None:
    device = engine(Doubling(vanishes_after(1)), on_loss="fail", name="cuda NVIDIA H200")
    device.run([rows(2)])
    for _ in range(2):
        with pytest.raises(DeviceError, match=r"cuda NVIDIA H200 failed: CUDA failure 719: .*on_device_loss: cpu"):
            device.run([rows(2)])


def test_an_error_of_the_graph_belongs_to_its_request_and_the_device_stays() -> None:
    def refuse(items: int) -> None:
        if items == 3:
            raise ValueError("Non-zero status code returned while running Reshape node")

    device = engine(Doubling(refuse))
    with pytest.raises(ValueError, match="Reshape"):
        device.run([rows(3)])
    assert len(device.run([rows(2)])["y"]) == 2
    assert not device.lost


def test_the_thread_ends_with_its_engine() -> None:
    device = engine(Doubling())
    device.run([rows(1)])
    thread = device._thread
    del device
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Available memory of 1024 is smaller than requested bytes of 4096", DeviceMemoryError),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED", DeviceMemoryError),
        ("CUDA failure 2: out of memory ; GPU=0", DeviceMemoryError),
        ("CUDA failure 46: all CUDA-capable devices are busy or unavailable", DeviceLostError),
        ("CUDNN_FE failure 11: CUDNN_BACKEND_API_FAILED", DeviceLostError),
        ("Non-zero status code returned while running Squeeze node", RuntimeError),
    ],
)
def test_errors_of_onnx_runtime_are_told_apart(message: str, kind: type[Exception]) -> None:
    assert type(classified(RuntimeError(message))) is kind


def test_a_half_full_batch_says_nothing_of_memory() -> None:
    size = BatchSize(lambda: 100)
    size.worked(3)
    assert size.items == 16
