"""TensorFlow's SavedModel and GraphDef messages, parsed without TensorFlow.

Only the fields in use are described; protobuf keeps the others as unknown fields, so that a message that is read,
modified and written again loses nothing. They are described in proto2's syntax, which also preserves explicit zeros.
The descriptor pool is private: TensorFlow's own descriptors are not affected. Source:
tensorflow/core/protobuf/{saved_model,meta_graph}.proto and tensorflow/core/framework/*.proto.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from cliploom.schemas.errors import CliploomError

# protobuf's own limit for one message
MOST_BYTES = (1 << 31) - 1
_UNTRUSTED = {
    *("ReadFile", "WriteFile", "MatchingFiles", "WholeFileReaderV2", "ReaderReadV2", "Save", "SaveSlices"),
    *("PyFunc", "PyFuncStateless", "EagerPyFunc", "NumericPyFunc", "Print", "PrintV2", "DebugIdentityV2", "Rpc"),
    *("WriteSummary", "CreateSummaryFileWriter", "WriteRawProtoSummary", "DataServiceDatasetV4", "SaveDatasetV2"),
}
_PACKAGE = "cliploom_tensorflow"
# message -> field -> (number, type); * repeated, @ map from string
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "SavedModel": {"meta_graphs": (2, "*MetaGraphDef")},
    "MetaGraphDef": {
        "meta_info_def": (1, "MetaInfoDef"),
        "graph_def": (2, "GraphDef"),
        "signature_def": (5, "@SignatureDef"),
        "asset_file_def": (6, "*AssetFileDef"),
    },
    "MetaInfoDef": {"tags": (4, "*string")},
    "SignatureDef": {"inputs": (1, "@TensorInfo"), "outputs": (2, "@TensorInfo"), "method_name": (3, "string")},
    "TensorInfo": {"name": (1, "string"), "dtype": (2, "int32"), "tensor_shape": (3, "TensorShapeProto")},
    "TensorShapeProto": {"dim": (2, "*Dim"), "unknown_rank": (3, "bool")},
    "Dim": {"size": (1, "int64")},
    "AssetFileDef": {"tensor_info": (1, "TensorInfo"), "filename": (2, "string")},
    "GraphDef": {"node": (1, "*NodeDef"), "library": (2, "FunctionDefLibrary")},
    "FunctionDefLibrary": {"function": (1, "*FunctionDef")},
    "FunctionDef": {"signature": (1, "OpDef"), "node_def": (3, "*NodeDef")},
    "OpDef": {"name": (1, "string")},
    "NodeDef": {"name": (1, "string"), "op": (2, "string"), "input": (3, "*string"), "attr": (5, "@AttrValue")},
    "AttrValue": {
        "list": (1, "ListValue"),
        "s": (2, "bytes"),
        "i": (3, "int64"),
        "b": (5, "bool"),
        "type": (6, "int32"),
        "shape": (7, "TensorShapeProto"),
        "tensor": (8, "TensorProto"),
        "func": (10, "NameAttrList"),
    },
    "ListValue": {"func": (9, "*NameAttrList")},
    "NameAttrList": {"name": (1, "string")},
    "TensorProto": {
        "dtype": (1, "int32"),
        "tensor_content": (4, "bytes"),
        "string_val": (8, "*bytes"),
        "int64_val": (10, "*int64"),
    },
}


@functools.cache
def message_class(name: str) -> Any:
    """Return the class of a message, such as ``SavedModel``."""
    pool = descriptor_pool.DescriptorPool()
    file = descriptor_pb2.FileDescriptorProto(name=f"{_PACKAGE}.proto", package=_PACKAGE, syntax="proto2")
    for message, fields in _MESSAGES.items():
        described = file.message_type.add(name=message)
        for field, (number, kind) in fields.items():
            _add_field(described, field, number, kind)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))


def _add_field(message: Any, name: str, number: int, kind: str) -> None:
    constants = descriptor_pb2.FieldDescriptorProto
    label = constants.LABEL_OPTIONAL if kind[0] not in "*@" else constants.LABEL_REPEATED
    plain = kind.lstrip("*@")
    field = message.field.add(name=name, number=number, label=label)
    if kind.startswith("@"):
        entry = "".join(part.title() for part in name.split("_")) + "Entry"
        nested = message.nested_type.add(name=entry)
        nested.options.map_entry = True
        _add_field(nested, "key", 1, "string")
        _add_field(nested, "value", 2, plain)
        plain = f"{message.name}.{entry}"
    if plain in ("string", "bytes", "int32", "int64", "bool"):
        field.type = getattr(constants, f"TYPE_{plain.upper()}")
    else:
        field.type = constants.TYPE_MESSAGE
        field.type_name = f".{_PACKAGE}.{plain}"


def read_message(name: str, path: Path) -> Any:
    """Read a file that consists of one message.

    Raises:
        CliploomError: the file cannot be read, is too large, or is not such a message.
    """
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise CliploomError(f"'{path}' has {size:,} bytes; a {name} file has at most {MOST_BYTES:,}.")
        return message_class(name).FromString(path.read_bytes())
    except OSError as error:
        raise CliploomError(f"The model file '{path}' can't be read: {error.strerror}.") from None
    except DecodeError:
        raise CliploomError(
            f"'{path}' is not a TensorFlow {name} (or it is damaged); download or export it again."
        ) from None


def nodes_by_name(graph: Any) -> dict[str, list[Any]]:
    """Return all nodes of a GraphDef and of its functions by name; functions may repeat a name."""
    found: dict[str, list[Any]] = {}
    for node in (*graph.node, *(node for function in graph.library.function for node in function.node_def)):
        found.setdefault(node.name, []).append(node)
    return found


def touches_files(graph: Any) -> list[str]:
    """Return the operations of a GraphDef that access files or call Python: such graphs are never run here.

    Operations that save and restore the model's own variables are excluded: each SavedModel has them.
    """
    return sorted({node.op for each in nodes_by_name(graph).values() for node in each} & _UNTRUSTED)


def operations_of(graph: Any, tensors: Iterable[str]) -> set[str]:
    """Return the types of all operations that tensors depend on, including those in called functions.

    Args:
        graph: a GraphDef.
        tensors: the names of tensors, such as ``StatefulPartitionedCall:0``.
    """
    nodes = {node.name: node for node in graph.node}
    functions = {function.signature.name: function for function in graph.library.function}
    waiting = [nodes[name] for name in {tensor.split(":")[0] for tensor in tensors} if name in nodes]
    seen, called, found = {node.name for node in waiting}, set(), set()
    while waiting:
        node = waiting.pop()
        found.add(node.op)
        for reference in node.input:
            name = reference.lstrip("^").split(":")[0]
            # node names in a function are local to it; its whole body is included below
            if name in nodes and name not in seen and node is nodes.get(node.name):
                seen.add(name)
                waiting.append(nodes[name])
        for attribute in node.attr.values():
            for name in (attribute.func.name, *(each.name for each in attribute.list.func)):
                if name in functions and name not in called:
                    called.add(name)
                    waiting.extend(functions[name].node_def)
    return found
