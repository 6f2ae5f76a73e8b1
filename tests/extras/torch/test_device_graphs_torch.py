"""ONNX graphs of models that PyTorch made: CLIP and SigLIP, programs, and networks of timm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import test_encoders_clip as clips
import test_encoders_torch as programs
import timm
import torch

from cliploom.schemas.errors import CliploomError
from cliploom.transforms.encoders.device_graphs import prepare_graphs
from cliploom.transforms.encoders.prepare import prepare_model
from cliploom.transforms.encoders.registry import family


def graphs_of(kind: str, values: dict[str, Any], models: Path) -> dict[str, int]:
    """Names of the graphs, and how many items each computes together; agreement is checked."""
    _, card = prepare_model(kind, family(kind).Options.model_validate(values), models)
    made = prepare_graphs(str(models), card.digest)
    assert set(made["agreement"]) == set(card.outputs)
    assert min(made["agreement"].values()) >= 0.9999
    return made["graphs"]


@pytest.mark.parametrize(
    ("name", "tower", "graphs"),
    [
        ("clip", "image", {"model.onnx": 0}),
        ("siglip", "image", {"model.onnx": 1}),
        ("siglip2", "image", {"model.onnx": 1}),
        ("clip", "text", {"text.onnx": 0}),
        ("siglip", "text", {"text.onnx": 0}),
    ],
)
def test_towers_of_clip(tmp_path: Path, name: str, tower: str, graphs: dict[str, int]) -> None:
    clips.tiny(name, tmp_path / name)
    assert graphs_of("clip", {"model": str(tmp_path / name), "tower": tower}, tmp_path / "models") == graphs


def test_an_exported_program(tmp_path: Path) -> None:
    path = programs.exported(tmp_path / "model.pt2")
    values = {"model": str(path), "trusted": True, "input": programs.INPUT, "outputs": {"v": {}}, "batch": 2}
    assert graphs_of("torch", values, tmp_path / "models") == {"model.onnx": 0}


def test_a_branch_in_torchscript_is_refused_by_name(tmp_path: Path) -> None:
    torch.jit.script(programs.Clips().eval()).save(tmp_path / "clips.pt")
    values = {"model": str(tmp_path / "clips.pt"), "trusted": True, "input": programs.CLIP, "outputs": {"vector": {}}}
    with pytest.raises(CliploomError, match="there is no translation to ONNX of If; leave device out"):
        graphs_of("torch", values, tmp_path / "models")


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext", "test_efficientnet"])
def test_small_networks_of_timm(tmp_path: Path, name: str) -> None:
    torch.manual_seed(3)
    torch.save(timm.create_model(name).state_dict(), tmp_path / "w.pth")
    size = timm.get_pretrained_cfg(name).input_size[1]
    values = {
        "model": f"timm:{name}",
        "weights": str(tmp_path / "w.pth"),
        "input": {"layout": "nchw", "width": size, "height": size},
        "outputs": {"v": {}},
    }
    assert graphs_of("torch", values, tmp_path / "models") == {"model.onnx": 0}
