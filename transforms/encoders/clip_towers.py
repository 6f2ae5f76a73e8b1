"""Writes both towers of an image-text model as graphs; needs the extra ``[text]``, on the launcher."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from openvino import opset13 as op
from tokenizers import Tokenizer

from cliploom.schemas.errors import CliploomError
from cliploom.schemas.media import Preprocess
from cliploom.transforms.encoders.agreement import GOLDEN_SENTENCES, golden_pictures
from cliploom.transforms.encoders.clip import GOLDEN, OUTPUT
from cliploom.transforms.encoders.graph import GRAPH_FILE
from cliploom.transforms.encoders.onnx_graph import image_graph
from cliploom.transforms.encoders.onnx_options import OnnxInput, OnnxOptions, OnnxOutput
from cliploom.transforms.encoders.patches import POSITIONS
from cliploom.transforms.encoders.runtime import named_result, save_graph
from cliploom.transforms.encoders.text import TEXT_GRAPH, TOKENIZER, TextSettings
from cliploom.transforms.encoders.text_graph import text_graph
from cliploom.transforms.encoders.torch_graph import traced_graph
from cliploom.transforms.media.scale import geometry

_ASPECTS = ((640, 480), (480, 640), (1920, 800), (500, 500))


class Unit(torch.nn.Module):  # type: ignore[misc]
    """A tower with its output scaled to length 1."""

    def __init__(self, tower: Callable[..., torch.Tensor], model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model  # registered as a submodule, so that tracing finds its weights
        self._tower = tower

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return unit vectors, [n, dim]."""
        vectors = self._tower(*inputs)
        return vectors / vectors.norm(p=2, dim=-1, keepdim=True)


@dataclass(frozen=True)
class Patches:
    """An image tower for patches.

    Attributes:
        tower: a module from float patches [n, patches, side * side * 3], positions [n, patches, width] and an int64
            mask [n, patches] to [n, dim].
        positions: float32 [rows, columns, width], to be resized for each picture.
    """

    tower: torch.nn.Module
    positions: NDArray[np.float32]

    def graph(self, source: str, want: Preprocess, batch: int) -> ov.Model:
        """Return the graph for ``patches.PatchEncoder``."""
        most = (want.width // want.patch) * (want.height // want.patch)
        size = want.patch * want.patch * 3
        mask = torch.ones((batch, most), dtype=torch.int64)
        mask[:, most - 1 :] = 0  # a mask of ones would be removed by tracing
        example = [torch.zeros((batch, most, size)), torch.zeros((batch, most, self.positions.shape[2])), mask]
        model = traced_graph(self.tower, example, source)
        model.reshape({port: ov.PartialShape(list(one.shape)) for port, one in zip(model.inputs, example, strict=True)})
        old = model.get_parameters()
        pixels = op.parameter([batch, most, size], np.uint8, name="patches")
        places = op.parameter(list(example[1].shape), np.float32, name="positions")
        there = op.parameter([batch, most], np.int32, name="mask")
        values = op.subtract(op.convert(pixels, "f32"), np.tile(np.array(want.offset, np.float32), size // 3))
        values = op.divide(values, np.tile(np.array(want.scale, np.float32), size // 3))
        for parameter, new in zip(old, (values, places, there), strict=True):
            given = op.convert(new, parameter.get_element_type().get_type_name())
            for target in parameter.output(0).get_target_inputs():
                target.replace_source_output(given.output(0))
        result = named_result(op.convert(model.get_results()[0].input_value(0), "f32"), OUTPUT["image"])
        return ov.Model([result], [pixels, places, there], "patches")


@dataclass(frozen=True)
class Towers:
    """An image-text model as run by its own library.

    The towers are opened one after the other: the model, one tower's graph and its temporary data are in memory at the
    same time, never both towers'.

    Attributes:
        open_text: returns the text tower, int64 ids [n, tokens] to [n, dim]; called once, first.
        open_image: returns the image tower, normalised float [n, 3, H, W] to [n, dim], and its variant for patches of
            pictures of any aspect ratio, if there is one; called once, when the text tower is no longer needed.
        preprocess: the picture preprocessing.
        tokenizer: the tokenizer.
        settings: the text settings: lengths and padding.
        tokenize: the library's own tokenization of sentences to padded ids, int64 [n, tokens].
    """

    open_text: Callable[[], torch.nn.Module]
    open_image: Callable[[], tuple[torch.nn.Module, Patches | None]]
    preprocess: Preprocess
    tokenizer: Tokenizer
    settings: TextSettings
    tokenize: Callable[[list[str]], torch.Tensor]

    def write(self, source: str, folder: Path, tower: str, batch: int) -> dict[str, Any]:
        """Write the graphs, the tokenizer, its settings and golden vectors.

        Args:
            source: the name of the model, for messages.
            folder: the folder to write to.
            tower: ``text`` writes only the text tower.
            batch: the number of pictures computed together.

        Returns:
            ``dim`` and ``preprocess``.
        """
        self.tokenizer.save(str(folder / TOKENIZER))
        self.settings.write(folder)
        golden = self._write_text(source, folder)
        if tower == "image":
            gc.collect()  # modules contain reference cycles; their memory is needed for the other tower
            golden |= self._write_image(source, folder, batch)
            if golden["image"].shape[1] != golden["text"].shape[1]:
                raise CliploomError(
                    f"The image tower of '{source}' gives vectors of {golden['image'].shape[1]} numbers and the text "
                    f"tower of {golden['text'].shape[1]}; they share no space."
                )
        np.savez(folder / GOLDEN, allow_pickle=False, **golden)
        return {"dim": golden["text"].shape[1], "preprocess": self.preprocess.to_dict()}

    def _write_text(self, source: str, folder: Path) -> dict[str, NDArray[Any]]:
        text = self.open_text()
        with torch.no_grad():
            ids = self.tokenize([self.settings.prompt + sentence for sentence in GOLDEN_SENTENCES])
            golden = text(ids).numpy()
        graph = traced_graph(text, [ids[:2]], source)
        graph.inputs[0].get_tensor().set_names({"input_ids"})
        save_graph(text_graph(graph, self.settings.output, name=source), folder / TEXT_GRAPH)
        return {"text": golden}

    def _write_image(self, source: str, folder: Path, batch: int) -> dict[str, NDArray[Any]]:
        want = self.preprocess
        pictures = list(golden_pictures(want.height, want.width))
        if want.fit == "patches":
            pictures = [
                picture[: place.height, : place.width]
                for picture, place in zip(
                    golden_pictures(2 * want.height, 2 * want.width),
                    (geometry(width, height, want) for width, height in _ASPECTS),
                    strict=True,
                )
            ]
        image, patches = self.open_image()
        with torch.no_grad():
            golden = torch.cat([image(self._pixels(picture)) for picture in pictures]).numpy()
        if patches is not None:
            graph = patches.graph(source, want, batch)
            np.save(folder / POSITIONS, patches.positions)
        else:
            graph = self._pictures_graph(image, source, batch)
        save_graph(graph, folder / GRAPH_FILE)
        return {"image": golden} | {f"picture_{number}": picture for number, picture in enumerate(pictures)}

    def _pixels(self, picture: NDArray[np.uint8]) -> torch.Tensor:
        """Return normalised pixels, [1, 3, H, W]."""
        values = (picture - np.array(self.preprocess.offset)) / np.array(self.preprocess.scale)
        return torch.from_numpy(values.astype(np.float32).transpose(2, 0, 1)[None].copy())

    def _pictures_graph(self, image: torch.nn.Module, source: str, batch: int) -> ov.Model:
        want = self.preprocess
        graph = traced_graph(image, [torch.zeros((batch, 3, want.height, want.width))], source)
        graph.inputs[0].get_tensor().set_names({"pixel_values"})
        graph.outputs[0].get_tensor().set_names({"vectors"})
        options = OnnxOptions(
            model=source,
            input=OnnxInput(layout="nchw", width=want.width, height=want.height, offset=want.offset, scale=want.scale),
            outputs={OUTPUT["image"]: OnnxOutput(node="vectors")},
            batch=batch,
        )
        return image_graph(graph, options)[0]
