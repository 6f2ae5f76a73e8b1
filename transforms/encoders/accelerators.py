"""The device that ONNX Runtime may compute on in this process: an NVIDIA one, or what the environment names."""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cliploom.schemas.errors import DeviceError

CUDA = "CUDAExecutionProvider"
PROVIDER_VARIABLE = "CLIPLOOM_ONNX_PROVIDER"
"""Names another provider of ONNX Runtime to take for the device, ``CPUExecutionProvider`` to try all without one."""
_SETTINGS: dict[str, dict[str, Any]] = {
    # Memory grows by what is needed, so that it can be measured. Convolutions are chosen by rule, not by timing: a
    # choice by timing takes seconds for each new size of a batch and differs from run to run. TF32 has 10 bits.
    CUDA: {
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "0",
    }
}


@dataclass(frozen=True)
class Accelerator:
    """A device.

    Attributes:
        provider: of ONNX Runtime.
        number: of the device among those that this process sees.
        name: with the runtime, as parts say it.
        free_bytes: gives the device's free memory, None where that is not known.
    """

    provider: str
    number: int
    name: str
    free_bytes: Callable[[], int | None]

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the provider."""
        found = dict(_SETTINGS.get(self.provider, {}))
        return found | {"device_id": str(self.number)} if self.provider == CUDA else found


def find_accelerator() -> Accelerator:
    """The device of this process; of several the one with the most free memory.

    Raises:
        DeviceError: when there is none, with what is missing.
    """
    wanted = os.environ.get(PROVIDER_VARIABLE) or CUDA
    if importlib.util.find_spec("onnxruntime") is None:
        raise DeviceError("ONNX Runtime is not installed: pip install 'cliploom[cuda]'")
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # the order of NVIDIA's management library
    import onnxruntime

    known = onnxruntime.get_available_providers()
    if wanted not in known:
        extra = (
            "; pip uninstall onnxruntime, then pip install 'cliploom[cuda]'"
            if wanted == CUDA
            else f"; {PROVIDER_VARIABLE} may be one of {', '.join(known)}"
        )
        raise DeviceError(f"the ONNX Runtime that is installed has no {wanted}{extra}")
    runtime = f"onnxruntime {onnxruntime.__version__}"
    if wanted != CUDA:
        name = wanted.removesuffix("ExecutionProvider").lower()
        return Accelerator(wanted, 0, f"{name} {platform.machine()} {runtime}", lambda: None)
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        raise DeviceError("CUDA_VISIBLE_DEVICES hides all NVIDIA devices; unset it")
    devices = _nvidia_devices()
    if devices is None:
        return Accelerator(CUDA, 0, f"cuda {runtime}", lambda: None)
    if not devices:
        raise DeviceError("this machine has no NVIDIA device, or its driver is not loaded (nvidia-smi lists devices)")
    number = max(range(len(devices)), key=lambda each: devices[each][1]() or 0)
    kind, free = devices[number]
    return Accelerator(CUDA, number, f"cuda {kind} {runtime}", free)


def missing_accelerator() -> str:
    """Why this machine has no device; empty when it has one."""
    try:
        find_accelerator()
    except DeviceError as error:
        return str(error)
    return ""


def _nvidia_devices() -> list[tuple[str, Callable[[], int | None]]] | None:
    """Name and free memory of each device that this process sees; None without NVIDIA's library."""
    if importlib.util.find_spec("pynvml") is None:
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError:
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    named = [each.strip() for each in visible.split(",")] if visible else [str(number) for number in range(count)]
    found: list[tuple[str, Callable[[], int | None]]] = []
    for each in named:
        try:
            handle = (
                pynvml.nvmlDeviceGetHandleByIndex(int(each))
                if each.isdigit()
                else pynvml.nvmlDeviceGetHandleByUUID(each)
            )
            kind = pynvml.nvmlDeviceGetName(handle)
        except pynvml.NVMLError:
            break  # CUDA, too, sees only the names before the first unknown one
        found.append((kind if isinstance(kind, str) else kind.decode(), functools.partial(_free_bytes, pynvml, handle)))
    return found


def _free_bytes(pynvml: Any, handle: Any) -> int | None:
    try:
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle).free)
    except pynvml.NVMLError:
        return None
