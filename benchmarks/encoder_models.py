"""Models of the size and operations of published ones, with random weights, written as they are published.

Random weights compute no faster or slower than trained ones. Each function runs in a process of its own: TensorFlow and
PyTorch in one abort.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZE = 224
CLIP_FRAMES = 32
OPTIONS: dict[str, dict[str, Any]] = {
    "bit": {
        "kind": "saved_model",
        "model": "bit",
        "input": {"layout": "nhwc", "width": SIZE, "height": SIZE, "fit": "squash", "filter": "bilinear"},
        "outputs": {"picture": {"node": "output_1"}},
    },
    "s3d": {
        "kind": "saved_model",
        "model": "s3d",
        "signature": "video",
        "input": {
            **{"layout": "nthwc", "frames": CLIP_FRAMES, "width": SIZE, "height": SIZE},
            **{"fit": "square", "filter": "bilinear"},
        },
        "outputs": {"clip": {"node": "video_embedding"}},
        "text": {"signature": "text"},
    },
    "clip": {"kind": "clip", "model": "clip"},
    "vgg16": {
        "kind": "torch",
        "model": "vgg16.pt2",
        "trusted": True,
        "input": {
            **{"layout": "nchw", "width": SIZE, "height": SIZE, "fit": "squash", "filter": "bilinear"},
            **{"offset": [123.675, 116.28, 103.53], "scale": [58.395, 57.12, 57.375]},
        },
        "outputs": {"conv": {"pool": "flatten"}},
    },
}
"""What a spec says of each, with the file or folder that its function writes."""
NEEDS = {"bit": "tensorflow", "s3d": "tensorflow", "clip": "transformers", "vgg16": "torch"}
"""The package that each is written and compared with."""


def options_of(name: str, folder: Path) -> dict[str, Any]:
    """Return the options of an encoder, its files in ``folder``; with ``kind``."""
    return OPTIONS[name] | {"model": str(folder / OPTIONS[name]["model"])}


def _weights(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the weights that keep the size of what they are multiplied with."""
    fan = int(np.prod(shape[:-1])) or 1
    return (rng.standard_normal(shape, np.float32) * (2 / fan) ** 0.5).astype(np.float32)


def write_bit(folder: Path) -> None:
    """BiT R50x1 (23.5 M parameters): standardised weights, group normalisation before activation, any size."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    rng = np.random.default_rng(0)

    class Bit(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.kept: list[Any] = []
            self.made: dict[str, Any] = {}

        def variable(self, name: str, value: NDArray[np.float32]) -> Any:
            if name not in self.made:
                with tf.init_scope():
                    self.made[name] = tf.Variable(value, name=name)
                self.kept.append(self.made[name])
            return self.made[name]

        def conv(self, x: Any, name: str, size: int, out: int, stride: int = 1) -> Any:
            kernel = self.variable(name, _weights((size, size, x.shape[-1], out), rng))
            mean, variance = tf.nn.moments(kernel, [0, 1, 2], keepdims=True)
            kernel = (kernel - mean) / tf.sqrt(variance + 1e-10)
            pad = size // 2
            x = tf.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]]) if pad else x
            return tf.nn.conv2d(x, kernel, stride, "VALID")

        def norm(self, x: Any, name: str) -> Any:
            channels, shape = x.shape[-1], tf.shape(x)
            parts = tf.reshape(x, [shape[0], shape[1], shape[2], 32, channels // 32])
            mean, variance = tf.nn.moments(parts, [1, 2, 4], keepdims=True)
            parts = tf.reshape((parts - mean) * tf.math.rsqrt(variance + 1e-5), shape)
            gamma = self.variable(f"{name}/gamma", 1 + 0.1 * rng.standard_normal(channels, np.float32))
            return tf.nn.relu(parts * gamma + self.variable(f"{name}/beta", np.zeros(channels, np.float32)))

        @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32, name="input_1")])
        def serve(self, input_1: Any) -> dict[str, Any]:
            x = self.conv(input_1 * 2 - 1, "root", 7, 64, 2)
            x = tf.nn.max_pool2d(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), 3, 2, "VALID")
            for stage, blocks in enumerate((3, 4, 6, 3)):
                for block in range(blocks):
                    name, narrow = f"block{stage}/unit{block}", 64 << stage
                    stride = 2 if stage and not block else 1
                    y = self.norm(x, f"{name}/a")
                    short = x if block else self.conv(y, f"{name}/project", 1, 4 * narrow, stride)
                    y = self.conv(y, f"{name}/1", 1, narrow)
                    y = self.conv(self.norm(y, f"{name}/b"), f"{name}/2", 3, narrow, stride)
                    x = short + self.conv(self.norm(y, f"{name}/c"), f"{name}/3", 1, 4 * narrow)
            return {"output_1": tf.reduce_mean(self.norm(x, "last"), [1, 2])}

    module = Bit()
    tf.saved_model.save(module, str(folder / "bit"), signatures={"serving_default": module.serve})


_INCEPTION = (
    # pooled before, then for each block: 1x1, 1x1 -> 3x3x3 twice, pool -> 1x1
    ((1, 3, 3), ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64))),
    (
        (3, 3, 3),
        (
            *((192, 96, 208, 16, 48, 64), (160, 112, 224, 24, 64, 64), (128, 128, 256, 24, 64, 64)),
            *((112, 144, 288, 32, 64, 64), (256, 160, 320, 32, 128, 128)),
        ),
    ),
    ((2, 2, 2), ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128))),
)


def write_s3d(folder: Path, words: int = 66_250) -> None:
    """S3D with gates as MIL-NCE's, a TF1-Hub module: signatures ``video`` and ``text`` with an asset of words."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    v1 = tf.compat.v1
    vocabulary = folder / "words.txt"
    vocabulary.write_text("".join(f"word{number}\n" for number in range(words)), encoding="utf-8")

    def variable(name: str, *shape: int) -> Any:
        # Initialized by operations: arrays would lie in the graph a second time.
        fan = int(np.prod(shape[:-1])) or 1
        start = v1.random_normal_initializer(stddev=(2 / fan) ** 0.5, seed=len(name))
        return v1.get_variable(name, list(map(int, shape)), initializer=start, use_resource=True)

    def conv(x: Any, name: str, size: tuple[int, int, int], out: int, stride: tuple[int, int, int] = (1, 1, 1)) -> Any:
        x = tf.nn.conv3d(x, variable(f"{name}/w", *size, x.shape[-1], out), [1, *stride, 1], "SAME")
        mean, spread = variable(f"{name}/mean", out), tf.abs(variable(f"{name}/var", out)) + 0.5
        return tf.nn.relu(tf.nn.batch_normalization(x, mean, spread, None, None, 1e-3))

    def separable(x: Any, name: str, out: int) -> Any:
        return conv(conv(x, f"{name}/space", (1, 3, 3), out), f"{name}/time", (3, 1, 1), out)

    def pool(x: Any, size: tuple[int, int, int], stride: tuple[int, int, int]) -> Any:
        return tf.nn.max_pool3d(x, [1, *size, 1], [1, *stride, 1], "SAME")

    def gated(x: Any, name: str) -> Any:
        weights = tf.tensordot(tf.reduce_mean(x, [1, 2, 3], keepdims=True), variable(name, x.shape[-1], x.shape[-1]), 1)
        return x * tf.sigmoid(weights)

    def video(images: Any) -> Any:
        x = conv(images, "stem/space", (1, 7, 7), 64, (1, 2, 2))
        x = conv(x, "stem/time", (7, 1, 1), 64, (2, 1, 1))
        x = conv(pool(x, (1, 3, 3), (1, 2, 2)), "2b", (1, 1, 1), 64)
        x = gated(separable(x, "2c", 192), "gate2")
        for stage, (strides, blocks) in enumerate(_INCEPTION):
            x = pool(x, (1, 3, 3) if strides[0] == 1 else strides, (1, 2, 2) if strides[0] == 1 else (2, 2, 2))
            for block, (a, b0, b1, c0, c1, d) in enumerate(blocks):
                name = f"mixed{stage}{block}"
                branches = [
                    conv(x, f"{name}/0", (1, 1, 1), a),
                    separable(conv(x, f"{name}/1a", (1, 1, 1), b0), f"{name}/1b", b1),
                    separable(conv(x, f"{name}/2a", (1, 1, 1), c0), f"{name}/2b", c1),
                    conv(pool(x, (3, 3, 3), (1, 1, 1)), f"{name}/3", (1, 1, 1), d),
                ]
                x = tf.concat([gated(each, f"{name}/gate{n}") for n, each in enumerate(branches)], -1)
        return tf.matmul(tf.reduce_mean(x, [1, 2, 3]), variable("video/out", x.shape[-1], 512))

    def text(sentences: Any) -> Any:
        index = tf.lookup.TextFileIndex
        initializer = tf.lookup.TextFileInitializer(
            str(vocabulary), tf.string, index.WHOLE_LINE, tf.int64, index.LINE_NUMBER
        )
        table = tf.lookup.StaticHashTable(initializer, -1)
        clean = tf.strings.regex_replace(tf.strings.lower(sentences), r"[^\w\s']+", "")
        split = v1.string_split(clean)
        ids = tf.SparseTensor(split.indices, table.lookup(split.values) + 1, split.dense_shape)
        dense = tf.sparse.to_dense(ids)[:, :16]
        dense = tf.pad(dense, [[0, 0], [0, 16 - tf.shape(dense)[1]]])
        vectors = tf.nn.embedding_lookup(variable("words", words + 1, 300), dense)
        hidden = tf.nn.relu(tf.tensordot(vectors, variable("text/hidden", 300, 2048), 1))
        return tf.matmul(tf.reduce_max(hidden, 1), variable("text/out", 2048, 512))

    info = v1.saved_model.build_tensor_info

    def signature(given: dict[str, Any], found: dict[str, Any]) -> Any:
        return v1.saved_model.build_signature_def(
            {key: info(value) for key, value in given.items()}, {key: info(value) for key, value in found.items()}
        )

    builder = v1.saved_model.Builder(str(folder / "s3d"))
    with tf.Graph().as_default(), v1.Session() as session, v1.variable_scope("module"):
        images = v1.placeholder(tf.float32, [None, None, None, None, 3], name="images")
        sentences = v1.placeholder(tf.string, [None], name="words")
        signatures = {
            "video": signature({"images": images}, {"video_embedding": video(images)}),
            "text": signature({"words": sentences}, {"text_embedding": text(sentences)}),
        }
        assets = v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS)
        session.run(v1.global_variables_initializer())
        builder.add_meta_graph_and_variables(session, [], signatures, assets, main_op=v1.tables_initializer())
    builder.save()


def write_clip(folder: Path) -> None:
    """CLIP ViT-B/32 (151 M parameters) as a folder of transformers, with a vocabulary of letters."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    torch.manual_seed(0)
    letters = [chr(number) for number in range(ord("!"), ord("~") + 1)]
    vocabulary = {token: number for number, token in enumerate([*letters, *(f"{each}</w>" for each in letters)])}
    vocabulary |= {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    CLIPModel(CLIPConfig()).save_pretrained(folder / "clip")
    CLIPImageProcessor().save_pretrained(folder / "clip")
    CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77).save_pretrained(folder / "clip")


def vgg16() -> Any:
    """The convolutions of VGG16 with batch normalisation (14.7 M parameters), in evaluation mode: 512 x 7 x 7."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    layers: list[nn.Module] = []
    width = 3
    for out in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        if out:
            layers += [nn.Conv2d(width, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
            width = out
        else:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers).eval()


def write_vgg16(folder: Path) -> None:
    """VGG16-bn as an exported program."""
    import torch

    torch.export.save(torch.export.export(vgg16(), (torch.zeros(1, 3, SIZE, SIZE),)), folder / "vgg16.pt2")


WRITERS: dict[str, Callable[[Path], None]] = {
    "bit": write_bit,
    "s3d": write_s3d,
    "clip": write_clip,
    "vgg16": write_vgg16,
}


if __name__ == "__main__":
    WRITERS[sys.argv[1]](Path(sys.argv[2]))
