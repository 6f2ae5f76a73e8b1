"""TensorFlow SavedModels as encoders of pictures or clips, with a text signature; TensorFlow is not needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from cliploom.schemas.errors import CliploomError
from cliploom.schemas.models import ModelCard
from cliploom.transforms.encoders.base import EncoderOptions, PreparedText
from cliploom.transforms.encoders.onnx_options import PixelOptions
from cliploom.transforms.encoders.pixel_family import PixelFamily
from cliploom.transforms.encoders.saved_model_options import SavedModelOptions, SavedModelText
from cliploom.transforms.encoders.weights import beside, sha256_of

if TYPE_CHECKING:
    from cliploom.transforms.encoders.golden import Expected
    from cliploom.transforms.encoders.saved_model_signatures import SavedModel, Signature


class SavedModelFamily(PixelFamily):
    """A SavedModel's folder or `.tar.gz` (TensorFlow 2, or TF1 Hub), converted once by OpenVINO."""

    kind = "saved_model"
    Options: ClassVar[type[EncoderOptions]] = SavedModelOptions

    def located(self, options: SavedModelOptions, base: Path) -> SavedModelOptions:
        """Return the options with paths resolved; a vocabulary may be a name in the model's assets."""
        text = options.text
        if text is not None and text.vocabulary is not None and Path(beside(base, text.vocabulary)).exists():
            text = text.model_copy(update={"vocabulary": beside(base, text.vocabulary)})
        golden = None if options.golden is None else beside(base, options.golden)
        return options.model_copy(update={"model": beside(base, options.model), "text": text, "golden": golden})

    def fingerprint(self, options: SavedModelOptions) -> dict[str, str]:
        """Return the hashes of graph, variables and assets, and of a separate vocabulary."""
        from cliploom.transforms.encoders.saved_model_files import model_hashes

        hashes = model_hashes(options.model)
        if options.text is not None and options.text.vocabulary is not None:
            name = options.text.vocabulary
            within = hashes.get(f"assets/{name.removeprefix('assets/')}")
            hashes["vocabulary"] = within or sha256_of(Path(name).expanduser())
        return hashes

    def prepare(self, options: SavedModelOptions, folder: Path, text: PreparedText | None) -> ModelCard:
        """Convert the signatures; see ``Family.prepare``."""
        from cliploom.transforms.encoders.agreement import agrees
        from cliploom.transforms.encoders.measuring import measured
        from cliploom.transforms.encoders.saved_model_files import model_folder
        from cliploom.transforms.encoders.saved_model_signatures import SavedModel
        from cliploom.transforms.encoders.tensorflow_graph import unconvertible
        from cliploom.transforms.encoders.tensorflow_protos import touches_files

        with model_folder(options.model) as source:
            saved = SavedModel(source, options.model, options.tags)
            signature = saved.signature(options.signature)
            dims = write_pixels(saved, signature, options, folder)
            tower = ""
            if options.text is not None and options.text_output is not None:
                tower = _write_text(saved, options.text, options.text_output, options, folder, dims)
            card = self.pixel_card(options, dims, text_output=options.text_output, text_tower=tower)
            untrusted = touches_files(saved.graph.graph_def)
            expected = None if untrusted else _expected(saved, signature, options, folder)
            encoder = self.open(folder, card, threads=1)
            card = measured(encoder, folder, card, expected, options.golden, untrusted)
            if (changes := saved.changed_variables(signature)) and not agrees(card):
                raise unconvertible(
                    f"it changes its variables as it runs: {', '.join(changes)}", saved.model, signature
                )
            return card


def _expected(saved: SavedModel, signature: Signature, options: SavedModelOptions, folder: Path) -> Expected | None:
    """Return TensorFlow's results for golden items and sentences; None if it is not installed."""
    from cliploom.transforms.encoders.measuring import golden_sentences
    from cliploom.transforms.encoders.tensorflow_reference import has_tensorflow, tensorflow_expected

    if not has_tensorflow():
        return None
    text = None
    if options.text is not None:
        asked = saved.signature(options.text.signature, "text.signature")
        text = {
            "signature": asked.name,
            "key": asked.inputs[0].key,
            "output": _text_node(asked, options.text, options.model),
            "prompt": options.text.prompt,
            "sentences": golden_sentences(folder),
        }
    return tensorflow_expected(
        "saved_model_vectors",
        options,
        text=text,
        folder=str(saved.folder.resolve()),
        tags=list(saved.tags),
        signature=signature.name,
        key=_input_key(signature, options),
    )


def _input_key(signature: Signature, options: PixelOptions) -> str:
    """Return the signature's one input, or the one that the spec names.

    Raises:
        CliploomError: there are several, or it takes strings.
    """
    from cliploom.transforms.encoders.saved_model_signatures import STRING

    keys = [tensor for tensor in signature.inputs if options.input.node in (None, tensor.key)]
    if len(signature.inputs) != 1 or len(keys) != 1 or keys[0].type == STRING:
        raise CliploomError(
            f"The signature {signature} of '{options.model}' must take pixels alone; name another by signature, or "
            "correct input.node."
        )
    return keys[0].key


def write_pixels(saved: SavedModel, signature: Signature, options: PixelOptions, folder: Path) -> dict[str, int]:
    """Write the graph of pictures or clips; return the length of the vectors by output name.

    Args:
        saved: the SavedModel.
        signature: the signature that takes pictures or clips.
        options: the options of the encoder.
        folder: the folder to write to.

    Raises:
        CliploomError: input or outputs differ from the spec, or the graph cannot be converted.
    """
    from cliploom.transforms.encoders.graph import GRAPH_FILE
    from cliploom.transforms.encoders.onnx_graph import image_graph
    from cliploom.transforms.encoders.runtime import save_graph
    from cliploom.transforms.encoders.tensorflow_graph import convert_signature

    _input_key(signature, options)
    nodes = list(dict.fromkeys(output.node for output in options.outputs.values()))
    signature.check_outputs(nodes, options.model)
    graph, dims = image_graph(convert_signature(saved, signature, nodes), options)
    save_graph(graph, folder / GRAPH_FILE)
    return dims


def _text_node(signature: Signature, text: SavedModelText, model: str) -> str:
    """Return the key of the text signature's output."""
    if text.node is not None:
        signature.check_outputs([text.node], model)
        return text.node
    if len(signature.outputs) != 1:
        listed = ", ".join(map(str, signature.outputs))
        raise CliploomError(f"The text signature of '{model}' has several outputs; name one by text.node: {listed}.")
    return signature.outputs[0].key


def _write_text(
    saved: SavedModel,
    text: SavedModelText,
    output: str,
    options: SavedModelOptions,
    folder: Path,
    dims: dict[str, int],
) -> str:
    """Write graph, words and settings of the text tower; return its name for the card."""
    from cliploom.transforms.encoders.runtime import save_graph
    from cliploom.transforms.encoders.saved_model_text import TextGraph
    from cliploom.transforms.encoders.saved_model_words import word_tokens
    from cliploom.transforms.encoders.tensorflow_graph import convert_signature
    from cliploom.transforms.encoders.text import TEXT_GRAPH, TextSettings, TextTower, check_shared_space

    signature = saved.signature(text.signature, "text.signature")
    node = _text_node(signature, text, options.model)
    graph = TextGraph(convert_signature(saved, signature, [node], partially=True), saved.graph.graph_def, options.model)
    words = word_tokens(saved, graph.rules(), text, graph.rows)
    words.write(folder)
    save_graph(graph.cut(words.rules.tokens, output), folder / TEXT_GRAPH)
    TextSettings(
        output=output,
        max_tokens=words.rules.tokens,
        step=words.rules.tokens,
        pad_id=words.rules.pad_id,
        masked=False,
        prompt=text.prompt,
        query_prompt=text.prompt,
    ).write(folder)
    check_shared_space(TextTower(folder, options.precision), output, dims)
    return TEXT_GRAPH
