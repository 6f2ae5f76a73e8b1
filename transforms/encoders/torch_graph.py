"""Converts PyTorch modules to OpenVINO graphs by tracing; needs the extra ``[text]``, on the launcher."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import openvino as ov
import torch
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

from cliploom.schemas.errors import CliploomError
from cliploom.transforms.encoders.runtime import last_line


def traced_graph(module: torch.nn.Module, example: Sequence[torch.Tensor], source: str) -> ov.Model:
    """Trace a module and convert it.

    Args:
        module: the module in evaluation mode.
        example: example inputs; the sizes that may vary are those that the module reads from its input's shape.
        source: the name of the model, for the message.

    Raises:
        CliploomError: it cannot be traced or converted.
    """
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # tracing warns that Python values become constants; measuring the agreement shows that none of them
            # matters
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(module, tuple(example), check_trace=False)
        return scripted_graph(traced, example)
    except Exception as error:
        raise CliploomError(f"'{source}' can't be converted to a graph: {last_line(error)}.") from error


def scripted_graph(scripted: Any, example: Sequence[torch.Tensor]) -> ov.Model:
    """Convert a TorchScript module."""
    # the front end directly: openvino.convert_model would send telemetry
    front = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(scripted, example_input=tuple(example))  # must outlive the conversion
    return front.convert(front.load(decoder))
