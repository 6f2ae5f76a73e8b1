"""Signatures of a SavedModel: selects a meta graph by its tags, and a signature with its input and outputs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cliploom.schemas.errors import CliploomError, nearest
from cliploom.transforms.encoders.saved_model_files import GRAPH
from cliploom.transforms.encoders.tensorflow_protos import operations_of, read_message

STRING = 7  # DT_STRING
_INTERNAL = "__saved_model_init_op"
_CHANGES = ("Assign", "ScatterUpdate", "ResourceScatter")
USUAL = ("serving_default", "default")
_TYPES = {1: "float32", 2: "float64", 3: "int32", 4: "uint8", STRING: "string", 9: "int64", 10: "bool", 19: "float16"}


@dataclass(frozen=True)
class Tensor:
    """An input or an output of a signature.

    Attributes:
        key: the name in the signature.
        type: the number of the TensorFlow type.
        shape: the shape for messages, such as ``[?, 512]``.
    """

    key: str
    type: int
    shape: str

    @property
    def type_name(self) -> str:
        """The name of its type."""
        return _TYPES.get(self.type, "of another type")

    def __str__(self) -> str:
        return f"{self.key} {self.type_name} {self.shape}"


@dataclass(frozen=True)
class Signature:
    """One signature.

    Attributes:
        name: the key in the SavedModel.
        inputs, outputs: the tensors, in the order of their keys.
    """

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def __str__(self) -> str:
        return f"'{self.name}' ({', '.join(map(str, self.inputs))} -> {', '.join(map(str, self.outputs))})"

    def check_outputs(self, keys: Sequence[str], model: str) -> None:
        """Raise an error if one of ``keys`` is not an output.

        Raises:
            CliploomError: it is not an output; the message lists the outputs with their shapes.
        """
        for key in keys:
            if key not in (output.key for output in self.outputs):
                raise CliploomError(
                    f"'{model}' has no output '{key}' in its signature '{self.name}'; it has "
                    f"{', '.join(map(str, self.outputs))}."
                )


class SavedModel:
    """The description of a SavedModel, with one selected meta graph."""

    def __init__(self, folder: Path, model: str, tags: Sequence[str] | None = None) -> None:
        """Read ``saved_model.pb``.

        Args:
            folder: the folder of the model.
            model: the name in the spec, for messages.
            tags: the tags of the meta graph; by default the only one, else ``serve``, else the one without tags.

        Raises:
            CliploomError: it cannot be read, or no meta graph has these tags.
        """
        self.folder, self.model = folder, model
        self._message = read_message("SavedModel", folder / GRAPH)
        graphs = {tuple(sorted(each.meta_info_def.tags)): each for each in self._message.meta_graphs}
        wanted = [tuple(sorted(tags))] if tags is not None else list(graphs) if len(graphs) == 1 else [("serve",), ()]
        chosen = next((each for each in wanted if each in graphs), None)
        if chosen is None:
            known = " or ".join(f"tags: [{', '.join(each)}]" for each in graphs) or "none, it is empty"
            raise CliploomError(f"'{model}' has no graph with {_tags_text(tags)}; choose one that it has: {known}.")
        self.tags = chosen
        self.graph = graphs[chosen]

    @property
    def signatures(self) -> tuple[Signature, ...]:
        """All signatures by name."""
        return tuple(
            Signature(name, _tensors(each.inputs), _tensors(each.outputs))
            for name, each in sorted(self.graph.signature_def.items())
            if name != _INTERNAL
        )

    def signature(self, name: str | None, key: str = "signature") -> Signature:
        """Return the signature with a name, or the only (or usual) one.

        Args:
            name: the name in the spec, or None.
            key: the key in the spec, for the message.

        Raises:
            CliploomError: there is no such signature; the message lists the signatures with their inputs and outputs.
        """
        found = {each.name: each for each in self.signatures}
        if name is None:
            name = next(iter(found)) if len(found) == 1 else next((each for each in USUAL if each in found), None)
        if name in found:
            return found[name]
        if not found:
            raise CliploomError(
                f"'{self.model}' has no signature (it is meant for training on); save it with one, as "
                "tf.saved_model.save(model, folder, signatures=...) does."
            )
        listed = "; ".join(map(str, found.values()))
        if name is None:
            raise CliploomError(f"'{self.model}' has several signatures; name one by {key}: {listed}.")
        near = nearest(name, list(found))
        hint = f"{near} It" if near.startswith("; did") else "; it"
        raise CliploomError(f"'{self.model}' has no signature '{name}' ({key}){hint} has {listed}.")

    def changed_variables(self, signature: Signature) -> list[str]:
        """Return the operations by which a signature changes variables; a converted one keeps the stored values."""
        tensors = [info.name for info in self.graph.signature_def[signature.name].outputs.values()]
        return sorted(kind for kind in operations_of(self.graph.graph_def, tensors) if kind.startswith(_CHANGES))

    def write_alone(self, signature: str, folder: Path) -> None:
        """Write a SavedModel with only the selected graph and one signature; its other files are links.

        So a reader cannot select another meta graph, or confuse outputs of the same name in two signatures.
        """
        copy = type(self._message).FromString(self._message.SerializeToString())
        del copy.meta_graphs[:]
        kept = copy.meta_graphs.add()
        kept.CopyFrom(self.graph)
        for name in list(kept.signature_def):
            if name not in (signature, _INTERNAL):
                del kept.signature_def[name]
        (folder / GRAPH).write_bytes(copy.SerializeToString())
        for name in ("variables", "assets"):
            if (self.folder / name).is_dir():
                os.symlink((self.folder / name).resolve(), folder / name)


def _tensors(infos: Any) -> tuple[Tensor, ...]:
    return tuple(Tensor(key, info.dtype, shape_text(info.tensor_shape)) for key, info in sorted(infos.items()))


def shape_text(shape: Any) -> str:
    """Return a TensorShapeProto as text for messages."""
    if shape.unknown_rank:
        return "of any shape"
    return f"[{', '.join('?' if dim.size < 0 else str(dim.size) for dim in shape.dim)}]"


def _tags_text(tags: Sequence[str] | None) -> str:
    return "the usual tags (serve, or none)" if tags is None else f"tags [{', '.join(tags)}]"
