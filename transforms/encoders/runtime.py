"""OpenVINO, set so that results can be repeated and threads don't fight: compile once a process, a request a thread.

As many streams as worker threads and one inference thread a stream: each calling thread has a core's worth of model to
itself, and a sum is never split over threads, whose number would then show in the last bits.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as op

from cliploom.schemas.errors import CliploomError, PrecisionError
from cliploom.schemas.models import Precision
from cliploom.transforms.encoders.mapped_files import drop_resident_pages

T = TypeVar("T")

# OpenVINO makes its tables of element types on first use, in C++ statics whose making calls Python. Two threads that
# get there together wait for each other for ever, one for the table, one for the interpreter. Imports take turns.
ov.Type.f32.to_dtype()
_ = ov.Tensor(np.zeros(1, np.float32), shared_memory=True).data


class SharedModels:
    """Opened models of one process by key; kept only as long as somebody holds them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._building: dict[Hashable, threading.Lock] = {}
        self._held: weakref.WeakValueDictionary[Hashable, Any] = weakref.WeakValueDictionary()

    def get(self, key: Hashable, build: Callable[[], T]) -> T:
        """The object of ``key``, built by the first of many concurrent callers; the others wait for it."""
        with self._lock:
            building = self._building.setdefault(key, threading.Lock())
        with building:
            found: T | None = self._held.get(key)
            if found is None:
                found = build()
                self._held[key] = found
            return found


@functools.cache
def shared_models() -> SharedModels:
    """The opened models of this process."""
    return SharedModels()


class CompiledGraph:
    """A graph compiled for ``threads`` concurrent callers, each with an infer request of its own."""

    def __init__(
        self,
        graph: Path | ov.Model,
        outputs: Sequence[str],
        precision: Precision,
        threads: int = 1,
        *,
        kept: bool = False,
    ) -> None:
        """Compile.

        Args:
            graph: an IR file, or a model in memory.
            outputs: names of those to return.
            precision: pinned; OpenVINO would choose bf16 by itself where the processor has it.
            threads: concurrent callers to be ready for.
            kept: keep the compiled form on this machine for the next process; for an IR file that never changes.

        Raises:
            PrecisionError: when the processor can't compute in that precision.
            CliploomError: when the file is damaged.
        """
        core = ov.Core()
        if not can_compute_in(precision):
            raise PrecisionError("This processor can't compute in bf16; use precision: f32.")
        settings = {
            "NUM_STREAMS": threads,
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            # Else 8-bit weights would have activations quantised as well, on some processors only.
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        }
        try:
            if isinstance(graph, Path) and kept:
                self._compiled = _compiled(core, graph, precision, settings)
            else:
                model = core.read_model(graph) if isinstance(graph, Path) else graph
                self._compiled = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise CliploomError(f"The graph {graph} can't be opened: {last_line(error)}.") from error
        if isinstance(graph, Path):
            drop_resident_pages(graph.with_suffix(".bin"))
        ports = self._compiled.outputs
        self._outputs = {name: _place(ports, name, graph) for name in outputs}
        self.input_shapes = tuple(_shape(port) for port in self._compiled.inputs)
        self.output_shapes = {name: _shape(ports[place]) for name, place in self._outputs.items()}
        self._local = threading.local()

    def run(self, inputs: Sequence[NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Run the graph in the calling thread.

        Args:
            inputs: in the graph's order; read in place, so C-contiguous.

        Returns:
            Arrays by output name, the caller's own.
        """
        request = getattr(self._local, "request", None)
        if request is None:
            request = self._local.request = self._compiled.create_infer_request()
        request.infer(list(inputs), share_inputs=True)
        return {name: request.get_output_tensor(i).data.copy() for name, i in self._outputs.items()}


def _compiled(core: ov.Core, graph: Path, precision: Precision, settings: dict[str, Any]) -> Any:
    """The graph as it was compiled before on this machine, or compiled now and kept."""
    from cliploom.transforms.encoders.compile_cache import compile_cache, forget_compiled

    abilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    processor = f"{core.get_property('CPU', 'FULL_DEVICE_NAME')} {sorted(abilities)}"
    try:
        with compile_cache(graph, precision, processor) as cache:
            return core.compile_model(str(graph), "CPU", settings | cache)
    except RuntimeError:
        forget_compiled(graph, precision, processor)
        return core.compile_model(core.read_model(graph), "CPU", settings)


def can_compute_in(precision: Precision) -> bool:
    """Return whether this processor computes in a precision; OV_CPU_MAX_ISA=AVX2 hides bf16 from OpenVINO."""
    return precision != "bf16" or "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def save_graph(model: ov.Model, path: Path) -> None:
    """Write IR (``.xml`` with its ``.bin``), weights in float32."""
    ov.save_model(model, path, compress_to_fp16=False)


def named_result(node: Any, name: str) -> Any:
    """A graph result that runs return under ``name``; ``node`` is a node or one of its outputs."""
    result = op.result(node)
    result.output(0).get_tensor().set_names({name})
    return result


def _place(ports: Sequence[Any], name: str, graph: Path | ov.Model) -> int:
    """Number of the output of that name; a result shares its tensor, and so all names, with what feeds it."""
    for place, port in enumerate(ports):
        if name in port.get_names():
            return place
    raise CliploomError(f"The graph {graph} has no output '{name}'; prepare the model again.")


def _shape(port: Any) -> tuple[int, ...]:
    """Sizes of a port, -1 where they are not fixed."""
    return tuple(-1 if size.is_dynamic else size.get_length() for size in port.partial_shape)


def last_line(error: Exception) -> str:
    """What an OpenVINO or PyTorch error says at its end, without the full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__
