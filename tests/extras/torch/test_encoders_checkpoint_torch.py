"""What torch.save writes, read without torch."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from cliploom.transforms.encoders.checkpoint import CheckpointError, load_checkpoint


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(12).reshape(3, 4),
        torch.randn(2, 1, 5),
        torch.randn(4, 6).t(),
        torch.randn(10)[3:7],
        torch.randn(3, 4).half(),
        torch.randn(3, 4).bfloat16(),
        torch.tensor([True, False]),
        torch.zeros(0, 4),
        torch.tensor(3.5),
        torch.nn.Parameter(torch.randn(2, 2)),
    ],
    ids=lambda tensor: f"{tensor.dtype}{list(tensor.shape)}",
)
def test_a_saved_tensor_comes_back(tmp_path: Path, tensor: torch.Tensor, zipped: bool) -> None:
    path = tmp_path / "t.pt"
    torch.save(tensor, path, _use_new_zipfile_serialization=zipped)
    wanted = tensor.detach().float().numpy() if tensor.dtype == torch.bfloat16 else tensor.detach().numpy()
    np.testing.assert_array_equal(load_checkpoint(path), wanted)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_tensor_that_repeats_its_storage_is_refused(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "t.pt"
    torch.save(torch.ones(3, 1).expand(3, 4), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"repeats the 3 elements of its storage .* save tensor.contiguous\(\)"):
        load_checkpoint(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_saved_state_dict_comes_back(tmp_path: Path, zipped: bool) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    path = tmp_path / "m.pth"
    torch.save(
        {"model": module.state_dict(), "epoch": 3, "names": ["a", "b"]}, path, _use_new_zipfile_serialization=zipped
    )
    found = load_checkpoint(path)
    assert (found["epoch"], found["names"]) == (3, ["a", "b"])
    for name, tensor in module.state_dict().items():
        np.testing.assert_array_equal(found["model"][name], tensor.numpy())


def test_a_whole_saved_module_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear, which is not a tensor"):
        load_checkpoint(tmp_path / "m.pth")


class Hostile:
    def __reduce__(self) -> tuple:
        return os.system, ("exit 1",)


def test_a_hostile_object_beside_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2), "x": Hostile()}, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="it was not run"):
        load_checkpoint(tmp_path / "m.pth")
