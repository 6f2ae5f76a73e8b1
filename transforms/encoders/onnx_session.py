"""A graph under ONNX Runtime on a device, with errors that say whether the device has too little memory or is lost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.errors import DeviceError
from cliploom.transforms.encoders.accelerators import Accelerator
from cliploom.transforms.encoders.engine import ANY_SIZE
from cliploom.transforms.encoders.ir_to_onnx import RESULT

_SILENT = 4
_WRONG = ["Pad_Fusion"]  # takes zeros before a MaxPool for padding that the maximum ignores (ONNX Runtime 1.31)
_OUT_OF_MEMORY = (
    "out of memory",
    "failed to allocate memory",
    "bad allocation",
    "bad_alloc",
    "alloc_failed",
    "available memory of",
    "memoryallocation",
)
_DEVICE = ("cuda", "cudnn", "cublas", "cufft", "gpu", "device")


class DeviceMemoryError(Exception):
    """The device has too little memory for this batch."""


class DeviceLostError(Exception):
    """The device can't be used any more."""


class OnnxSession:
    """An ONNX file on a device, for one calling thread.

    Attributes:
        input_shapes: in the graph's order, ``ANY_SIZE`` where sizes are open.
        output_shapes: by name.
    """

    def __init__(self, path: Path, outputs: Sequence[str], accelerator: Accelerator) -> None:
        """Open the file.

        Raises:
            DeviceError: when the device does not take it.
        """
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = _SILENT
        settings.intra_op_num_threads = 1
        settings.use_deterministic_compute = True
        try:
            session = onnxruntime.InferenceSession(
                str(path),
                settings,
                providers=[(accelerator.provider, accelerator.settings)],
                disabled_optimizers=_WRONG,
            )
            session.disable_fallback()
        except Exception as error:
            raise DeviceError(f"the graph can't be opened on {accelerator.name}: {one_line(error)}") from error
        if session.get_providers()[0] != accelerator.provider:
            # ONNX Runtime has given up the device by itself, for want of a library mostly.
            raise DeviceError(
                f"ONNX Runtime can't load {accelerator.provider}; are CUDA and cuDNN of the versions that it was built "
                "for installed (pip install 'onnxruntime-gpu[cuda,cudnn]')?"
            )
        self._session = session
        self._inputs = [port.name for port in session.get_inputs()]
        self._names = list(outputs)
        self._results = [RESULT + name for name in outputs]
        self.input_shapes = tuple(_sizes(port.shape) for port in session.get_inputs())
        self.output_shapes = {port.name.removeprefix(RESULT): _sizes(port.shape) for port in session.get_outputs()}

    def run(self, inputs: Sequence[NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Run the graph.

        Raises:
            DeviceMemoryError: when this many items are too many.
            DeviceLostError: when the device does not answer as it should.
        """
        try:
            found = self._session.run(self._results, dict(zip(self._inputs, inputs, strict=True)))
        except Exception as error:
            raise classified(error) from error
        return dict(zip(self._names, found, strict=True))


def classified(error: Exception) -> Exception:
    """What an error of ONNX Runtime means; the error itself when it says nothing of memory or a device.

    >>> type(classified(RuntimeError("CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED"))).__name__
    'DeviceMemoryError'
    >>> type(classified(RuntimeError("CUDA failure 719: unspecified launch failure"))).__name__
    'DeviceLostError'
    """
    text = str(error).lower()
    if any(sign in text for sign in _OUT_OF_MEMORY):
        return DeviceMemoryError(one_line(error))
    if any(sign in text for sign in _DEVICE):
        return DeviceLostError(one_line(error))
    return error


def one_line(error: Exception, most: int = 300) -> str:
    """An error in one line, cut where it is long."""
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= most else f"{text[:most]}..."


def _sizes(shape: Sequence[Any]) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else ANY_SIZE for size in shape)


def feeds_alike(inputs: Sequence[NDArray[Any]]) -> tuple[Any, ...]:
    """What two requests must have in common to be computed together: all but the number of items."""
    return tuple((array.dtype.str, array.shape[1:]) for array in inputs)
