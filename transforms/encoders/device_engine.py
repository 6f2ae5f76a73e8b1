"""One session for all threads of a process: requests wait in a bounded queue, and are computed together.

Threads decode and put what is to be encoded into the queue. A thread of the engine takes what is waiting there, as
much as fits into a batch, and runs it on the device. While the device works, the next requests gather; so batches grow
by themselves when decoding is fast, and nothing waits when it is slow.
"""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.devices import OnDeviceLoss
from cliploom.schemas.errors import DeviceError
from cliploom.transforms.encoders.engine import ANY_SIZE, Engine
from cliploom.transforms.encoders.onnx_session import DeviceLostError, DeviceMemoryError, feeds_alike

MOST_ITEMS = 512
FIRST_ITEMS = 16
WAITING = 64
SHARE = 0.7
"""Of the free memory that a batch may take; the rest is for other processes and for what no measurement shows."""

Vectors = dict[str, NDArray[np.float32]]


class Session(Protocol):
    """What computes one batch, in one thread; see ``onnx_session.OnnxSession``."""

    input_shapes: tuple[tuple[int, ...], ...]
    output_shapes: dict[str, tuple[int, ...]]

    def run(self, inputs: Sequence[NDArray[Any]]) -> Vectors:
        """Run the graph."""
        ...


class BatchSize:
    """How many items are computed together: a few at first, then as many as the measured memory holds.

    >>> size = BatchSize(free=lambda: None)
    >>> size.worked(16), size.items
    (None, 32)
    >>> size.halve(32), size.items
    (True, 16)
    """

    def __init__(self, free: Callable[[], int | None], most: int = MOST_ITEMS) -> None:
        """Begin small.

        Args:
            free: gives the device's free memory in bytes, None where that is not known; asked at once.
            most: more are never computed together.
        """
        self._free = free
        self._before = free()
        self._most = most
        self._largest = 0  # that has worked
        self.items = min(FIRST_ITEMS, most)

    def worked(self, items: int) -> None:
        """Note that ``items`` were computed together."""
        if items <= self._largest or items < self.items:
            return
        self._largest = items
        after = self._free()
        if self._before is not None and after is not None and after < self._before:
            # What the runtime has taken it keeps for the next batch, so this is what so many items need.
            fits = int(SHARE * self._before * items / (self._before - after))
            self.items = max(1, min(self._most, fits))
        else:
            self.items = min(self._most, 2 * items)

    def halve(self, items: int) -> bool:
        """Go on with half of what was too much, for good; false when that was one item."""
        if items <= 1:
            return False
        self.items = self._most = items // 2
        return True


class _Request:
    def __init__(self, inputs: Sequence[NDArray[Any]]) -> None:
        self.inputs = inputs
        self.items = len(inputs[0])
        self.alike = feeds_alike(inputs)
        self.answer: Future[Vectors] = Future()


class DeviceEngine:
    """An ``Engine`` whose callers share one session."""

    def __init__(
        self,
        session: Session,
        free: Callable[[], int | None],
        processor: Callable[[], Engine],
        on_loss: OnDeviceLoss = "cpu",
        name: str = "the device",
        most: int = MOST_ITEMS,
    ) -> None:
        """Start the thread.

        Args:
            session: the graph on the device.
            free: gives the device's free memory.
            processor: opens the same graph on the processor, for when the device is lost.
            on_loss: whether that is done.
            name: of the device, for messages.
            most: items that are never exceeded in a batch.
        """
        self.input_shapes = session.input_shapes
        self.output_shapes = session.output_shapes
        self.lost = ""
        self._open_processor = processor
        self._processor: Engine | None = None
        self._on_loss = on_loss
        self._name = name
        self._lock = threading.Lock()
        self._queue: queue.Queue[_Request | None] = queue.Queue(WAITING)
        fixed = session.input_shapes[0][0]
        size = BatchSize(free, most if fixed == ANY_SIZE else fixed)
        work = _Work(session, size, None if fixed == ANY_SIZE else fixed, self._queue)
        thread = threading.Thread(target=work.serve, name="cliploom-device", daemon=True)
        thread.start()
        self._thread = thread
        weakref.finalize(self, self._queue.put, None)

    def set_on_loss(self, on_loss: OnDeviceLoss) -> None:
        """Say what to do when the device is lost from now on."""
        self._on_loss = on_loss

    def run(self, inputs: Sequence[NDArray[Any]]) -> Vectors:
        """Compute, together with what other threads ask for; see ``Engine.run``.

        Raises:
            DeviceError: when the device is lost and ``on_loss`` is ``fail``.
        """
        if not self.lost:
            request = _Request(inputs)
            self._queue.put(request)
            try:
                return request.answer.result()
            except DeviceLostError as error:
                self.lost = str(error)
        if self._on_loss == "fail":
            raise DeviceError(
                f"{self._name} failed: {self.lost}. on_device_loss: cpu goes on with the processor; or run again: "
                "finished parts are reused."
            )
        with self._lock:
            if self._processor is None:
                self._processor = self._open_processor()
            engine = self._processor
        return in_batches(engine, inputs)


class _Work:
    """What the engine's thread does; it holds no engine, so that an engine nobody holds goes."""

    def __init__(
        self, session: Session, size: BatchSize, fixed: int | None, waiting: queue.Queue[_Request | None]
    ) -> None:
        self._session = session
        self._size = size
        self._fixed = fixed
        self._queue = waiting

    def serve(self) -> None:
        """Answer requests until the engine is gone."""
        left: _Request | None = None
        while True:
            first = left or self._queue.get()
            if first is None:
                return
            requests, left, ended = self._gather(first)
            self._answer(requests)
            if ended:
                return

    def _gather(self, first: _Request) -> tuple[list[_Request], _Request | None, bool]:
        """Requests to be computed together, one that is not and comes next, and whether the engine is gone."""
        requests, items = [first], first.items
        while items < self._size.items and self._fixed is None:
            try:
                following = self._queue.get_nowait()
            except queue.Empty:
                break
            if following is None:
                return requests, None, True
            if following.alike != first.alike:
                return requests, following, False
            requests.append(following)
            items += following.items
        return requests, None, False

    def _answer(self, requests: list[_Request]) -> None:
        try:
            given = [request.inputs for request in requests]
            joined = given[0] if len(given) == 1 else [np.concatenate(each) for each in zip(*given, strict=True)]
            found = self._compute(joined)
        except BaseException as error:  # whatever it is belongs to those who wait
            for request in requests:
                request.answer.set_exception(error)
            return
        begin = 0
        for request in requests:
            request.answer.set_result({name: rows[begin : begin + request.items] for name, rows in found.items()})
            begin += request.items

    def _compute(self, inputs: Sequence[NDArray[Any]]) -> Vectors:
        """Any number of items, in as many runs as they need."""
        pieces: list[Vectors] = []
        begin, total = 0, len(inputs[0])
        while begin < total:
            items = min(self._size.items, total - begin)
            cut = [np.ascontiguousarray(array[begin : begin + items]) for array in inputs]
            if self._fixed is not None:
                cut = [filled_up(array, self._fixed) for array in cut]
            try:
                found = self._session.run(cut)
            except DeviceMemoryError as error:
                if self._fixed is not None or not self._size.halve(items):
                    raise DeviceLostError(f"too little memory for {len(cut[0])} at once: {error}") from error
                continue
            self._size.worked(items)
            pieces.append({name: rows[:items] for name, rows in found.items()})
            begin += items
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def filled_up(array: NDArray[Any], size: int) -> NDArray[Any]:
    """An array whose last row is repeated until there are ``size``."""
    return array if len(array) == size else np.concatenate([array, np.repeat(array[-1:], size - len(array), axis=0)])


def in_batches(engine: Engine, inputs: Sequence[NDArray[Any]]) -> Vectors:
    """Run an engine of a fixed batch on any number of items."""
    size, total = engine.input_shapes[0][0], len(inputs[0])
    if size in (ANY_SIZE, total):
        return engine.run(inputs)
    pieces = []
    for begin in range(0, total, size):
        cut = [filled_up(array[begin : begin + size], size) for array in inputs]
        kept = min(size, total - begin)
        pieces.append({name: rows[:kept] for name, rows in engine.run(cut).items()})
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
