"""Converts TensorFlow models to OpenVINO graphs with OpenVINO's front end: TensorFlow is not loaded."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import openvino as ov
from openvino.frontend import FrontEndManager

from cliploom.schemas.errors import CliploomError
from cliploom.transforms.encoders.runtime import last_line
from cliploom.transforms.encoders.saved_model_signatures import SavedModel, Signature

_UNTRANSLATED = re.compile(r"No (?:conversion rule|translator) found for operation(?:s|\(s\))?: ([\w, ]+)")
VARIABLES = "variables/variables.index"
_FRAMEWORK_NODE = "FrameworkNode"


def convert_signature(
    saved: SavedModel, signature: Signature, outputs: Sequence[str], *, partially: bool = False
) -> ov.Model:
    """Convert one signature.

    Args:
        saved: the SavedModel.
        signature: one of its signatures.
        outputs: the keys of the outputs to keep.
        partially: whether to leave operations that cannot be converted in the graph.

    Returns:
        A graph with the inputs of the signature that these outputs need.

    Raises:
        CliploomError: an operation cannot be converted; the message names it and the alternatives.
    """
    front = FrontEndManager().load_by_framework("tf")
    with tempfile.TemporaryDirectory(prefix="cliploom-") as name:
        saved.write_alone(signature.name, Path(name))
        try:
            model = front.load(name)
            model.override_all_outputs([model.get_place_by_tensor_name(key) for key in outputs])
            graph = front.convert_partially(model) if partially else front.convert(model)
        except Exception as error:
            if not (saved.folder / VARIABLES).exists():
                raise CliploomError(f"'{saved.model}': {VARIABLES} is missing; download or export it again.") from error
            raise unconvertible(_reason(error), saved.model, signature) from error
    if not partially and (left := left_over(graph)):
        raise unconvertible(", ".join(left), saved.model, signature)
    return graph


def convert_frozen(
    path: Path, model: str, node: str, outputs: Sequence[str], shape: Sequence[int], kind: ov.Type
) -> ov.Model:
    """Convert the part of a frozen graph between an inner input and some outputs.

    Args:
        path: the path of the ``.pb`` file.
        model: the name in the spec.
        node: the tensor to feed, such as ``DecodeJpeg:0``.
        outputs: the tensors to keep, such as ``pool_3:0``.
        shape: the shape of the tensor to feed.
        kind: the element type of the tensor to feed.

    Raises:
        CliploomError: an operation cannot be converted; the message names it and the alternatives.
    """
    front = FrontEndManager().load_by_framework("tf")
    try:
        loaded = front.load(str(path))
        place = loaded.get_place_by_tensor_name(node)
        loaded.extract_subgraph([place], [loaded.get_place_by_tensor_name(key) for key in outputs])
        loaded.set_partial_shape(place, ov.PartialShape(list(shape)))
        loaded.set_element_type(place, kind)
        graph = front.convert(loaded)
    except Exception as error:
        raise unconvertible(_reason(error), model) from error
    if left := left_over(graph):
        raise unconvertible(", ".join(left), model)
    return graph


def left_over(graph: ov.Model) -> list[str]:
    """Return the types of the operations that the front end did not convert, sorted."""
    return sorted({node.get_friendly_name() for node in graph.get_ops() if _FRAMEWORK_NODE in node.get_type_name()})


def unconvertible(reason: str, model: str, signature: Signature | None = None) -> CliploomError:
    """Return a sentence that says why a model cannot be converted, and the alternatives."""
    part = "" if signature is None else f"the signature '{signature.name}' of "
    return CliploomError(
        f"OpenVINO can't convert {part}'{model}' ({reason}); export it as ONNX (python -m tf2onnx.convert "
        "--saved-model FOLDER --output model.onnx) and use kind: onnx, or save the Keras model as .keras and use kind: "
        "keras."
    )


def _reason(error: Exception) -> str:
    """Return the operations that the front end names, or else the end of its message."""
    found = _UNTRANSLATED.search(str(error))
    return found.group(1).strip() if found else last_line(error)
