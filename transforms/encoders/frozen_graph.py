"""Frozen GraphDefs of TensorFlow 1 as encoders of pictures; TensorFlow is not needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from cliploom.schemas.errors import CliploomError, nearest
from cliploom.schemas.models import ModelCard
from cliploom.transforms.encoders.base import EncoderOptions, PreparedText
from cliploom.transforms.encoders.pixel_family import PixelFamily
from cliploom.transforms.encoders.saved_model_options import FrozenGraphOptions
from cliploom.transforms.encoders.weights import beside, sha256_of


class FrozenGraph(PixelFamily):
    """A `.pb` file, from an input tensor to output tensors, converted once by OpenVINO; one item at a time."""

    kind = "frozen_graph"
    Options: ClassVar[type[EncoderOptions]] = FrozenGraphOptions

    def located(self, options: FrozenGraphOptions, base: Path) -> FrozenGraphOptions:
        """Return the paths of the files from the spec's folder."""
        golden = None if options.golden is None else beside(base, options.golden)
        return options.model_copy(update={"model": beside(base, options.model), "golden": golden})

    def fingerprint(self, options: FrozenGraphOptions) -> dict[str, str]:
        """Return the hash of the file."""
        path = Path(options.model).expanduser()
        if not path.is_file():
            raise CliploomError(f"There is no frozen graph '{options.model}'; give the path of its .pb file.")
        return {"graph": sha256_of(path)}

    def prepare(self, options: FrozenGraphOptions, folder: Path, text: PreparedText | None) -> ModelCard:
        """Convert the part between input and outputs; see ``Family.prepare``."""
        from cliploom.transforms.encoders.graph import GRAPH_FILE
        from cliploom.transforms.encoders.measuring import measured
        from cliploom.transforms.encoders.onnx_graph import image_graph
        from cliploom.transforms.encoders.runtime import save_graph
        from cliploom.transforms.encoders.tensorflow_graph import convert_frozen
        from cliploom.transforms.encoders.tensorflow_protos import read_message, touches_files
        from cliploom.transforms.encoders.tensorflow_reference import has_tensorflow, tensorflow_expected

        path, given = Path(options.model).expanduser(), options.input
        graph_def = read_message("GraphDef", path)
        nodes = {node.name: node for node in graph_def.node}
        untrusted = touches_files(graph_def)
        fed = _tensor(given.node or "", nodes, options.model)
        located = options.model_copy(
            update={
                "input": given.model_copy(update={"node": fed}),
                "outputs": {
                    name: output.model_copy(update={"node": _tensor(output.node, nodes, options.model)})
                    for name, output in options.outputs.items()
                },
            }
        )
        sizes = {"n": 1, "t": given.frames or 0, "h": given.height, "w": given.width, "c": 3}
        graph = convert_frozen(
            path,
            options.model,
            fed,
            list(dict.fromkeys(output.node for output in located.outputs.values())),
            [sizes[axis] for axis in given.layout],
            _element_type(nodes[fed.split(":")[0]]),
        )
        made, dims = image_graph(graph, located)
        save_graph(made, folder / GRAPH_FILE)
        card = self.pixel_card(options, dims)
        expected = None
        if has_tensorflow() and not untrusted:
            expected = tensorflow_expected(
                "frozen_vectors", located, path=str(path.resolve()), node=fed, batched="n" in given.layout
            )
        return measured(self.open(folder, card, threads=1), folder, card, expected, options.golden, untrusted)


def _tensor(name: str, nodes: dict[str, Any], model: str) -> str:
    """Return the full name of a tensor, ``node:0``.

    Raises:
        CliploomError: the graph has no such node; the message has the nearest one.
    """
    node, _, place = name.partition(":")
    if node not in nodes or not (place or "0").isdigit():
        raise CliploomError(f"'{model}' has no tensor '{name}'{nearest(node, nodes)}")
    return f"{node}:{place or 0}"


def _element_type(node: Any) -> Any:
    """Return the element type of a node's output: integers for picture decoders, else the node's type, or float."""
    import openvino as ov

    types = {1: ov.Type.f32, 2: ov.Type.f64, 3: ov.Type.i32, 4: ov.Type.u8, 9: ov.Type.i64, 19: ov.Type.f16}
    if node.op.startswith("Decode"):
        return ov.Type.u8
    for key in ("dtype", "DstT", "T"):
        if key in node.attr:
            return types.get(node.attr[key].type, ov.Type.f32)
    return ov.Type.f32
