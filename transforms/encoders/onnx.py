"""Any ONNX file as an encoder of frames or clips, with an optional text tower, run by OpenVINO."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from cliploom.schemas.errors import CliploomError
from cliploom.schemas.models import ModelCard
from cliploom.transforms.encoders.base import EncoderOptions, PreparedText
from cliploom.transforms.encoders.onnx_options import OnnxOptions, OnnxText
from cliploom.transforms.encoders.pixel_family import PixelFamily
from cliploom.transforms.encoders.weights import beside, sha256_of


class Onnx(PixelFamily):
    """The outputs declared in the spec."""

    kind = "onnx"
    Options: ClassVar[type[EncoderOptions]] = OnnxOptions

    def located(self, options: OnnxOptions, base: Path) -> OnnxOptions:
        """Return the paths of the files from the spec's folder."""
        text = options.text
        if text is not None:
            text = text.model_copy(
                update={"model": beside(base, text.model), "tokenizer": beside(base, text.tokenizer)}
            )
        return options.model_copy(update={"model": beside(base, options.model), "text": text})

    def fingerprint(self, options: OnnxOptions) -> dict[str, str]:
        """Return the hashes of the files, including external weights (``model.onnx.data``, ``model.onnx_data``)."""
        hashes = _hashes("image", options.model)
        if options.text is not None:
            hashes |= _hashes("text", options.text.model)
            hashes["tokenizer"] = sha256_of(Path(options.text.tokenizer).expanduser())
        return hashes

    def foreign_bytes(self, options: OnnxOptions) -> int:
        """Return the bytes of all files, including external weights."""
        models = [options.model] if options.text is None else [options.model, options.text.model]
        return sum(path.stat().st_size for model in models for path in _files(model))

    def prepare(self, options: OnnxOptions, folder: Path, text: PreparedText | None) -> ModelCard:
        """Add the preprocessing to the graph; see ``Family.prepare``."""
        from cliploom.transforms.encoders.agreement import agreement
        from cliploom.transforms.encoders.graph import GRAPH_FILE
        from cliploom.transforms.encoders.onnx_graph import image_graph, read_onnx
        from cliploom.transforms.encoders.onnx_reference import reference
        from cliploom.transforms.encoders.runtime import save_graph

        path = Path(options.model).expanduser()
        graph, dims = image_graph(read_onnx(path), options)
        save_graph(graph, folder / GRAPH_FILE)
        tower = ""
        if options.text is not None and options.text_output is not None:
            tower = _text_tower(options, options.text, options.text_output, folder, dims)
        card = self.pixel_card(options, dims, text_output=options.text_output, text_tower=tower)
        items, expected = reference(path, options)
        return replace(card, agreement=agreement(self.open(folder, card, threads=1), items, expected))


def _hashes(role: str, model: str) -> dict[str, str]:
    name = Path(model).name
    return {f"{role}{found.name.removeprefix(name)}": sha256_of(found) for found in _files(model)}


def _files(model: str) -> list[Path]:
    """Return the file, and those in its folder whose names begin with its name."""
    path = Path(model).expanduser()
    if not path.is_file():
        raise CliploomError(f"There is no ONNX file '{model}'; give its path.")
    return sorted(p for p in path.parent.glob(f"{path.name}*") if p.is_file())


def _text_tower(options: OnnxOptions, text: OnnxText, output: str, folder: Path, dims: dict[str, int]) -> str:
    """Write graph, tokenizer and settings of the text tower; return its name for the card."""
    from cliploom.transforms.encoders.onnx_graph import read_onnx
    from cliploom.transforms.encoders.runtime import save_graph
    from cliploom.transforms.encoders.text import (
        STEP,
        TEXT_GRAPH,
        TOKENIZER,
        TextSettings,
        TextTower,
        check_shared_space,
    )
    from cliploom.transforms.encoders.text_graph import text_graph, text_inputs

    model = read_onnx(Path(text.model).expanduser())
    inputs = text_inputs(model, text.model)
    save_graph(text_graph(model, output, node=text.node, name=text.model), folder / TEXT_GRAPH)
    shutil.copyfile(Path(text.tokenizer).expanduser(), folder / TOKENIZER)
    TextSettings(
        output=output,
        max_tokens=text.max_tokens,
        step=STEP if inputs.masked and inputs.tokens is None else text.max_tokens,
        pad_id=text.pad_id,
        masked=inputs.masked,
        prompt=text.prompt,
        query_prompt=text.prompt,
    ).write(folder)
    check_shared_space(TextTower(folder, options.precision), output, dims)
    return TEXT_GRAPH
