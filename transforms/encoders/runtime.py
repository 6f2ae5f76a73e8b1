"""OpenVINO with reproducible results: compiles once per process, with one inference request per thread.

There are as many streams as worker threads and one inference thread per stream: each calling thread has one core to
itself, and sums are never split over threads, whose number would affect the last bits.
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

# OpenVINO creates its tables of element types on first use, in C++ statics whose initialisation calls Python. Two #
# threads doing this concurrently deadlock, one on the table, one on the interpreter. Hence the lock around imports.
ov.Type.f32.to_dtype()
_ = ov.Tensor(np.zeros(1, np.float32), shared_memory=True).data


class SharedModels:
    """The opened models of a process by key; kept as long as they are referenced."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._building: dict[Hashable, threading.Lock] = {}
        self._held: weakref.WeakValueDictionary[Hashable, Any] = weakref.WeakValueDictionary()

    def get(self, key: Hashable, build: Callable[[], T]) -> T:
        """Return the object of ``key``, built by the first of several concurrent callers; the others wait for it."""
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
    """Return the opened models of this process."""
    return SharedModels()


class CompiledGraph:
    """A graph compiled for ``threads`` concurrent callers, each with its own inference request."""

    def __init__(
        self,
        graph: Path | ov.Model,
        outputs: Sequence[str],
        precision: Precision,
        threads: int = 1,
        *,
        kept: bool = False,
    ) -> None:
        """Compile the graph.

        Args:
            graph: an IR file, or a model in memory.
            outputs: the names of the outputs to return.
            precision: the explicit precision; by default OpenVINO would choose bf16 on processors that support it.
            threads: the number of concurrent callers.
            kept: whether to cache the compiled graph on this machine; for an IR file that never changes.

        Raises:
            PrecisionError: the processor does not support the precision.
            CliploomError: the file is damaged.
        """
        core = ov.Core()
        if not can_compute_in(precision):
            raise PrecisionError("This processor can't compute in bf16; use precision: f32.")
        settings = {
            "NUM_STREAMS": threads,
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            # Otherwise, with 8-bit weights, activations would be quantised as well, on some processors only.
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
            inputs: the inputs in the graph's order, C-contiguous; read in place.

        Returns:
            Arrays by output name, owned by the caller.
        """
        request = getattr(self._local, "request", None)
        if request is None:
            request = self._local.request = self._compiled.create_infer_request()
        request.infer(list(inputs), share_inputs=True)
        return {name: request.get_output_tensor(i).data.copy() for name, i in self._outputs.items()}


def _compiled(core: ov.Core, graph: Path, precision: Precision, settings: dict[str, Any]) -> Any:
    """Return the graph from the cache on this machine, or compile and cache it."""
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
    """Return whether this processor supports a precision; OV_CPU_MAX_ISA=AVX2 hides bf16 from OpenVINO."""
    return precision != "bf16" or "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def save_graph(model: ov.Model, path: Path) -> None:
    """Write IR (``.xml`` with its ``.bin``), weights in float32."""
    ov.save_model(model, path, compress_to_fp16=False)


def named_result(node: Any, name: str) -> Any:
    """Return a graph result named ``name``; ``node`` is a node or one of its outputs."""
    result = op.result(node)
    result.output(0).get_tensor().set_names({name})
    return result


def _place(ports: Sequence[Any], name: str, graph: Path | ov.Model) -> int:
    """Return the number of the output with a name; a result shares its tensor and names with its input."""
    for place, port in enumerate(ports):
        if name in port.get_names():
            return place
    raise CliploomError(f"The graph {graph} has no output '{name}'; prepare the model again.")


def _shape(port: Any) -> tuple[int, ...]:
    """Return the sizes of a port, -1 if they are not fixed."""
    return tuple(-1 if size.is_dynamic else size.get_length() for size in port.partial_shape)


def last_line(error: Exception) -> str:
    """Return the end of an OpenVINO or PyTorch error message, without the full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__
