"""Converts a text graph to the form that ``text.TextTower`` runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import openvino as ov
from openvino import opset13 as op

from cliploom.schemas.errors import CliploomError
from cliploom.transforms.encoders.runtime import named_result


@dataclass(frozen=True)
class TextInputs:
    """The positions of a text graph's inputs.

    Attributes:
        ids: the position of the token ids.
        mask: that of the attention mask, or None.
        types: that of the token types, or None; always 0 here.
        tokens: the length of a sentence, if the graph fixes it.
    """

    ids: int
    mask: int | None
    types: int | None
    tokens: int | None

    @property
    def masked(self) -> bool:
        """Whether there is a mask."""
        return self.mask is not None


def text_inputs(model: ov.Model, name: str) -> TextInputs:
    """Identify the inputs of a text graph by their names.

    Raises:
        CliploomError: they are not ids, mask and types.
    """
    found: dict[str, int] = {}
    for number, port in enumerate(model.inputs):
        label = port.get_any_name().lower() if port.get_names() else ""
        role = "types" if "type" in label else "mask" if "mask" in label else "ids"
        if role in found or not port.get_element_type().is_integral() or port.partial_shape.rank != 2:
            names = ", ".join(f"'{p.get_any_name()}' {p.partial_shape}" for p in model.inputs)
            raise CliploomError(
                f"The text model '{name}' has the inputs {names}; it must take token ids [n, tokens] and at most an "
                "attention mask and token types beside them."
            )
        found[role] = number
    tokens = model.inputs[found["ids"]].partial_shape[1]
    return TextInputs(
        found["ids"], found.get("mask"), found.get("types"), None if tokens.is_dynamic else tokens.get_length()
    )


def text_graph(model: ov.Model, output: str, *, node: str | None = None, name: str = "model") -> ov.Model:
    """Make a graph take int32 ids (and mask) and return one float32 output.

    Args:
        model: the model; modified in place.
        output: the name to give to the output.
        node: the name of the model's output to keep; by default its first.
        name: the name of the model, for messages.

    Returns:
        A graph from int32 [batch, tokens] inputs, ids first, to float32 ``output``.

    Raises:
        CliploomError: the inputs are not text, or ``node`` is unknown.
    """
    roles = text_inputs(model, name)
    old = model.get_parameters()
    ids = op.parameter(old[roles.ids].partial_shape, np.int32, name="ids")
    inputs = [ids]
    _rewire(old[roles.ids], ids)
    if roles.mask is not None:
        mask = op.parameter(old[roles.mask].partial_shape, np.int32, name="mask")
        inputs.append(mask)
        _rewire(old[roles.mask], mask)
    if roles.types is not None:
        _rewire(old[roles.types], op.multiply(ids, np.int32(0)))
    port = output_port(model, node, name)
    return ov.Model([named_result(op.convert(port, "f32"), output)], inputs, "text")


def output_port(model: ov.Model, node: str | None, name: str) -> ov.Output:
    """Return the source of a result of the model: the one named ``node``, or the first.

    Raises:
        CliploomError: there is none with that name; the message lists the names.
    """
    names = [next(iter(port.get_names()), "") for port in model.outputs]
    if node is None:
        return model.get_results()[0].input_value(0)
    for result, port in zip(model.get_results(), model.outputs, strict=True):
        if node in port.get_names():
            return result.input_value(0)
    raise CliploomError(f"'{name}' has no output '{node}'; it has {', '.join(map(repr, names))}.")


def _rewire(old: ov.Node, new: ov.Node) -> None:
    """Replace all uses of a parameter by ``new``, converted to the element type that each expects."""
    source = op.convert(new, old.get_element_type().get_type_name())
    for target in old.output(0).get_target_inputs():
        target.replace_source_output(source.output(0))
