"""Converts PyTorch models; needs the extra ``[text]``, runs in a separate process."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cliploom.schemas.errors import CliploomError, nearest
from cliploom.transforms.encoders.agreement import golden_pictures
from cliploom.transforms.encoders.golden import pooled
from cliploom.transforms.encoders.graph import GRAPH_FILE
from cliploom.transforms.encoders.onnx_graph import image_graph
from cliploom.transforms.encoders.onnx_options import OnnxOptions, OnnxOutput
from cliploom.transforms.encoders.runtime import last_line, save_graph
from cliploom.transforms.encoders.torch_graph import traced_graph
from cliploom.transforms.encoders.torch_model import GOLDEN, TorchOptions

_WHOLE = "output"


def convert(options: dict[str, Any], program: str, folder: str) -> dict[str, Any]:
    """Write the graph of a model and golden vectors.

    Args:
        options: the options of ``TorchOptions``, as JSON.
        program: ``pt2`` or ``torchscript``; empty for a model by name.
        folder: the folder to write to.

    Returns:
        ``dims`` by output name.

    Raises:
        CliploomError: the model cannot be loaded or converted, or has no such output.
    """
    chosen = TorchOptions.model_validate(options)
    path = Path(chosen.model).expanduser()
    try:
        if program == "torchscript":
            model = torch.jit.load(path, map_location="cpu").eval()
        elif program == "pt2":
            model = _exported(path)
        else:
            model = _named(chosen)
    except CliploomError:
        raise
    except Exception as error:
        raise CliploomError(f"PyTorch can't load '{chosen.model}': {last_line(error)}.") from error
    picked = _Picked(model, [output.node for output in chosen.outputs.values()], chosen.model, program == "")
    golden, items = _golden(picked, chosen)
    shape = (chosen.batch, *(_sizes(chosen)[axis] for axis in chosen.input.layout[1:]))
    graph = traced_graph(picked, [torch.zeros(shape)], chosen.model)
    graph.inputs[0].get_tensor().set_names({"pixels"})
    for number, port in enumerate(graph.outputs):
        port.get_tensor().set_names({f"out_{number}"})
    declared = OnnxOptions(
        model=chosen.model,
        input=chosen.input,
        outputs={
            name: OnnxOutput(node=f"out_{number}", pool=output.pool, channel_axis=output.channel_axis)
            for number, (name, output) in enumerate(chosen.outputs.items())
        },
        batch=chosen.batch,
    )
    graph, dims = image_graph(graph, declared)
    save_graph(graph, Path(folder) / GRAPH_FILE)
    np.savez(Path(folder) / GOLDEN, items=items, **{f"output/{name}": value for name, value in golden.items()})
    return {"dims": dims}


def _sizes(options: TorchOptions) -> dict[str, int]:
    given = options.input
    return {"h": given.height, "w": given.width, "c": 3, "t": given.frames or 1}


def _golden(picked: _Picked, options: TorchOptions) -> tuple[dict[str, Any], Any]:
    """Return PyTorch's results for the golden pictures, each as a batch of one."""
    given = options.input
    items = golden_pictures(given.height, given.width, given.frames)
    values = ((items - np.array(given.offset)) / np.array(given.scale)).astype(np.float32)
    channels_last = "nthwc" if given.frames else "nhwc"
    values = values.transpose([channels_last.index(axis) for axis in given.layout])
    found: dict[str, list[Any]] = {name: [] for name in options.outputs}
    for one in values:
        batch = np.ascontiguousarray(np.broadcast_to(one, (options.batch, *one.shape)))
        try:
            with torch.no_grad():
                outputs = picked(torch.from_numpy(batch))
        except CliploomError:
            raise
        except Exception as error:
            raise CliploomError(
                f"'{options.model}' does not take {list(batch.shape)} ({given.layout}): {last_line(error)}."
            ) from error
        for (name, output), value in zip(options.outputs.items(), outputs, strict=True):
            found[name].append(pooled(value[0].numpy().astype(np.float32), output))
    return {name: np.stack(rows) for name, rows in found.items()}, items


class _Picked(torch.nn.Module):  # type: ignore[misc]
    """A model that returns the requested outputs, in order."""

    def __init__(self, model: torch.nn.Module, nodes: list[str], source: str, inside: bool) -> None:
        super().__init__()
        self.model = model
        self._nodes = nodes
        self._source = source
        self._caught: dict[str, torch.Tensor] = {}
        modules = dict(model.named_modules()) if inside else {}
        for node in nodes:
            if node in modules:
                modules[node].register_forward_hook(self._catching(node))
        self._modules_inside = list(modules)

    def _catching(self, node: str) -> Any:
        def catch(_module: Any, _inputs: Any, value: torch.Tensor) -> None:
            self._caught[node] = value

        return catch

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the requested outputs."""
        self._caught.clear()
        given = self.model(pixels)
        return tuple(self._pick(given, node) for node in self._nodes)

    def _pick(self, given: Any, node: str) -> torch.Tensor:
        found: Any = None
        if node in self._caught:
            found = self._caught[node]
        elif node == _WHOLE and not isinstance(given, dict):
            found = given[0] if isinstance(given, tuple | list) else given
        elif isinstance(given, dict):
            found = next(iter(given.values())) if node == _WHOLE else given.get(node)
        elif isinstance(given, tuple | list) and node.isdigit() and int(node) < len(given):
            found = given[int(node)]
        if isinstance(found, torch.Tensor):
            return found
        several = given if isinstance(given, dict) else range(len(given)) if isinstance(given, tuple | list) else ()
        known = [_WHOLE, *map(str, several), *filter(None, self._modules_inside)]
        raise CliploomError(f"'{self._source}' has no output '{node}'{nearest(node, known)}")


def _exported(path: Path) -> torch.nn.Module:
    """Return a program of ``torch.export``; ``torch_model.program_kind`` has checked the archive before."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if "/data/sample_inputs/" in name:
                try:
                    torch.load(io.BytesIO(archive.read(name)), weights_only=True)
                except Exception as error:
                    raise CliploomError(
                        f"The example inputs in '{path}' are pickled objects, which could run any code; export it "
                        "with tensors as examples."
                    ) from error
    program = torch.export.load(path)
    return program.module()


def _named(options: TorchOptions) -> torch.nn.Module:
    """Return a model of a library, with weights from a file of tensors."""
    library, name = options.named or ("", "")
    weights = Path(options.weights or "").expanduser()
    if weights.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(weights)
    else:
        # weights_only: only tensors are unpickled
        state = torch.load(weights, map_location="cpu", weights_only=True)
    state = state.get("state_dict", state)
    if library == "torchvision":
        import torchvision

        if name not in torchvision.models.list_models():
            raise CliploomError(f"torchvision has no model '{name}'{nearest(name, torchvision.models.list_models())}")
        model = torchvision.models.get_model(name, weights=None)
    else:
        import timm

        if not timm.is_model(name):
            raise CliploomError(f"timm has no model '{name}'{nearest(name, timm.list_models())}")
        model = timm.create_model(name, pretrained=False)
    model.load_state_dict(state)
    found: torch.nn.Module = model.eval()
    return found
