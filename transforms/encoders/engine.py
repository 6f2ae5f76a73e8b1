"""The one thing that encoders ask of a runtime: run a prepared graph. OpenVINO does, or what a device brings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cliploom.schemas.models import Precision

ANY_SIZE = -1
MOST_TOGETHER = 64
"""Items that an encoder hands at once to a graph that takes any number."""


class Engine(Protocol):
    """A graph that is ready to run. Threads may share it.

    Attributes:
        input_shapes: sizes of the inputs, ``ANY_SIZE`` where they are open.
        output_shapes: sizes of the outputs by name.
    """

    input_shapes: tuple[tuple[int, ...], ...]
    output_shapes: dict[str, tuple[int, ...]]

    def run(self, inputs: Sequence[NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Run the graph on C-contiguous inputs in the graph's order; gives arrays by output name."""
        ...


OpenEngine = Callable[[Path, Sequence[str]], Engine]
"""From an IR file and the names of outputs to an engine."""

_OPENING: ContextVar[OpenEngine | None] = ContextVar("cliploom_open_engine", default=None)


@contextmanager
def opening_with(open_one: OpenEngine) -> Iterator[None]:
    """Have ``open_engine`` call ``open_one`` in this thread: a family opens its folder as ever, on another device."""
    token = _OPENING.set(open_one)
    try:
        yield
    finally:
        _OPENING.reset(token)


def open_engine(
    graph: Path, outputs: Sequence[str], precision: Precision, threads: int = 1, *, kept: bool = False
) -> Engine:
    """Open a graph of a prepared folder; see ``runtime.CompiledGraph`` for the arguments."""
    open_one = _OPENING.get()
    if open_one is not None:
        return open_one(graph, outputs)
    from cliploom.transforms.encoders.runtime import CompiledGraph

    return CompiledGraph(graph, outputs, precision, threads, kept=kept)


def items_together(engine: Engine) -> tuple[int, bool]:
    """How many items an encoder hands over at once, and whether fewer have to be filled up."""
    size = engine.input_shapes[0][0]
    return (MOST_TOGETHER, False) if size == ANY_SIZE else (size, True)
