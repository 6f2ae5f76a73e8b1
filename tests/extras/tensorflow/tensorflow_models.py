"""TensorFlow models of the signatures, layouts and operations of published ones, small and with random weights.

``python tests/extras/tensorflow/tensorflow_models.py`` writes the archives in ``tests/saved_models`` again, which tests
without TensorFlow read. Its weights are random but seeded; the golden vectors beside them are TensorFlow's.
"""

from __future__ import annotations

import os
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

v1 = tf.compat.v1
ARCHIVES = Path(__file__).resolve().parents[2] / "saved_models"
WORDS = [
    *("a", "the", "man", "woman", "person", "playing", "guitar", "waterfall", "car", "drifting", "dog", "runs", "on"),
    *("in", "water", "with", "his", "her", "don't", "opens", "door", "cup", "coffee", "table", "café", "zürich", "fps"),
    "25",
]
SENTENCES = (
    "playing guitar",
    "a waterfall",
    "Car drifting!",
    "",
    "unheard words",
    "The man's dog, don't",
    "café ZÜRICH",
)


def weights(seed: int, *shape: int) -> NDArray[np.float32]:
    """Weights that keep the size of what they are multiplied with."""
    fan = int(np.prod(shape[:-1])) or 1
    return (np.random.default_rng(seed).normal(size=shape) * (2 / fan) ** 0.5).astype(np.float32)


def write_s3d(
    folder: Path, words: Sequence[str] = WORDS, *, dim: int = 16, channels: int = 12, tokens: int = 16
) -> Path:
    """A TF1-Hub module as S3D MIL-NCE is published: signatures ``video`` and ``text``, no tags, and a graph ``train``.

    Its video tower has separable convolutions, an inception block and feature gating. The text tower lower-cases,
    removes what is neither a letter, a blank nor an apostrophe, splits at blanks, looks words up in a file of the
    assets, cuts or fills up to 16 and takes the maximum over words.
    """
    vocabulary = folder.with_name(f"{folder.name}-words.txt")
    vocabulary.write_text("\n".join(words) + "\n", encoding="utf-8")
    builder = v1.saved_model.Builder(str(folder))
    for tags, factor in (([], 1.0), (["train"], 2.0)):
        with tf.Graph().as_default(), v1.Session() as session, v1.variable_scope("module"):
            images = v1.placeholder(tf.float32, [None, None, None, None, 3], name="images")
            mixed = tf.reduce_mean(_inception_3d(images, channels), [1, 2, 3])
            video = tf.matmul(mixed, _variable("video/weights", 40, mixed.shape[-1], dim)) * factor
            sentences = v1.placeholder(tf.string, [None], name="words")
            text = _words_1(sentences, str(vocabulary), len(words) + 1, tokens, dim)
            signatures = {
                "video": _signature({"images": images}, {"video_embedding": video, "mixed_5c": mixed}),
                "text": _signature({"words": sentences}, {"text_embedding": text}),
            }
            assets = v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS)
            if tags:
                builder.add_meta_graph(tags, signatures, assets, main_op=v1.tables_initializer())
            else:
                session.run(v1.global_variables_initializer())
                builder.add_meta_graph_and_variables(session, tags, signatures, assets, main_op=v1.tables_initializer())
    builder.save()
    return folder


def _variable(name: str, seed: int, *shape: int) -> Any:
    return v1.get_variable(name, initializer=weights(seed, *map(int, shape)), use_resource=True)


def _signature(inputs: dict[str, Any], outputs: dict[str, Any]) -> Any:
    info = v1.saved_model.build_tensor_info
    return v1.saved_model.build_signature_def(
        {key: info(value) for key, value in inputs.items()}, {key: info(value) for key, value in outputs.items()}, "hub"
    )


def _inception_3d(images: Any, channels: int) -> Any:
    def conv(x: Any, name: str, seed: int, size: tuple[int, int, int], out: int, stride: int = 1) -> Any:
        kernel = _variable(f"{name}/w", seed, *size, x.shape[-1], out)
        strides = [1, stride if size[0] > 1 else 1, stride if size[1] > 1 else 1, stride if size[1] > 1 else 1, 1]
        mean, spread = _variable(f"{name}/m", seed + 100, out), tf.abs(_variable(f"{name}/v", seed + 101, out)) + 0.5
        x = tf.nn.conv3d(x, kernel, strides, "SAME")
        return tf.nn.relu(tf.nn.batch_normalization(x, mean, spread, None, None, 1e-3))

    x = conv(images, "stem_space", 1, (1, 3, 3), channels, 2)
    x = conv(x, "stem_time", 2, (3, 1, 1), channels, 2)
    x = tf.nn.max_pool3d(x, [1, 1, 3, 3, 1], [1, 1, 2, 2, 1], "SAME")
    branches = [
        conv(x, "b0", 3, (1, 1, 1), channels),
        conv(conv(x, "b1_space", 4, (1, 3, 3), channels), "b1_time", 5, (3, 1, 1), channels),
        conv(tf.nn.max_pool3d(x, [1, 3, 3, 3, 1], [1, 1, 1, 1, 1], "SAME"), "b2", 6, (1, 1, 1), channels),
    ]
    gated = []
    for number, branch in enumerate(branches):
        squeezed = tf.reduce_mean(branch, [1, 2, 3], keepdims=True)
        gate = tf.tensordot(squeezed, _variable(f"gate{number}", 20 + number, channels, channels), 1)
        gated.append(branch * tf.sigmoid(gate))
    return tf.concat(gated, -1)


def _words_1(sentences: Any, vocabulary: str, rows: int, tokens: int, dim: int) -> Any:
    initializer = tf.lookup.TextFileInitializer(
        vocabulary, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
    )
    table = tf.lookup.StaticHashTable(initializer, -1)
    clean = tf.strings.regex_replace(tf.strings.lower(sentences), r"[^\w\s']+", "")
    split = v1.string_split(clean)
    ids = tf.SparseTensor(split.indices, table.lookup(split.values) + 1, split.dense_shape)
    dense = tf.sparse.to_dense(ids)[:, :tokens]
    dense = tf.pad(dense, [[0, 0], [0, tokens - tf.shape(dense)[1]]])
    vectors = tf.nn.embedding_lookup(_variable("words", 30, rows, 8), dense)
    hidden = tf.nn.relu(tf.tensordot(vectors, _variable("text/hidden", 31, 8, 24), 1))
    return tf.matmul(tf.reduce_max(hidden, 1), _variable("text/weights", 32, 24, dim))


class TwoTowers(tf.Module):  # type: ignore[misc]
    """A TensorFlow 2 module with both signatures; ``rules`` says how its sentences become numbers."""

    def __init__(self, vocabulary: Path, words: int, rules: str = "ragged") -> None:
        super().__init__()
        self.asset = tf.saved_model.Asset(str(vocabulary))
        index = tf.lookup.TextFileIndex
        initializer = tf.lookup.TextFileInitializer(
            self.asset, tf.string, index.WHOLE_LINE, tf.int64, index.LINE_NUMBER
        )
        self.table = tf.lookup.StaticHashTable(initializer, -1)
        self.rules = rules
        self.kernel = tf.Variable(weights(1, 3, 3, 3, 6))
        self.vectors = tf.Variable(weights(2, words + 2, 5))
        self.out = tf.Variable(weights(3, 5, 6))

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32, name="image")])
    def image(self, image: Any) -> dict[str, Any]:
        """Convolution and mean."""
        x = tf.nn.relu(tf.nn.conv2d(image, self.kernel, 2, "SAME"))
        return {"embedding": tf.reduce_mean(x, [1, 2]), "map": x}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="sentence")])
    def text(self, sentence: Any) -> dict[str, Any]:
        """Rules, then the mean of word vectors."""
        ids = {"ragged": self.ragged, "dropped": self.dropped, "separators": self.separators}[self.rules](sentence)
        vectors = tf.nn.embedding_lookup(self.vectors, ids)
        return {"embedding": tf.matmul(tf.reduce_mean(tf.nn.relu(vectors), 1), self.out)}

    def ragged(self, sentence: Any) -> Any:
        """Unicode's lower case, any white space, 12 words."""
        clean = tf.strings.regex_replace(tf.strings.lower(sentence, encoding="utf-8"), r"[^\pL\s']", "")
        return (self.table.lookup(tf.strings.split(clean)) + 1)[:, :12].to_tensor(shape=[None, 12])

    def dropped(self, sentence: Any) -> Any:
        """Unknown words are left out; filled up with 1, numbers start at 2."""
        ids = self.table.lookup(tf.strings.split(tf.strings.strip(tf.strings.lower(sentence))))
        ids = tf.ragged.boolean_mask(ids, ids >= 0)
        return ids.to_tensor(default_value=-1, shape=[None, 9]) + 2

    def separators(self, sentence: Any) -> Any:
        """Pattern before lower case, first match only, split at single blanks."""
        clean = tf.strings.regex_replace(sentence, r"(\w)[!?]+", r"\1", replace_global=False)
        words = tf.strings.split(tf.strings.lower(clean), sep=" ")
        return (self.table.lookup(words) + 1).to_tensor(shape=[None, 7])


def write_two_towers(folder: Path, words: Sequence[str] = WORDS, rules: str = "ragged") -> Path:
    """A TensorFlow 2 SavedModel with signatures ``image`` and ``text``, whose outputs share a name."""
    vocabulary = folder.with_name(f"{folder.name}-words.txt")
    vocabulary.write_text("\n".join(words), encoding="utf-8")
    module = TwoTowers(vocabulary, len(words), rules)
    tf.saved_model.save(module, str(folder), signatures={"image": module.image, "text": module.text})
    return folder


class Bit(tf.Module):  # type: ignore[misc]
    """A network as BiT is: standardised weights, group normalisation before activation, residual blocks, any size."""

    def __init__(self, channels: int = 16, blocks: int = 2) -> None:
        super().__init__()
        self.root = tf.Variable(weights(1, 7, 7, 3, channels))
        self.kernels = [
            [
                tf.Variable(weights(10 * n + 2, 1, 1, channels, channels)),
                tf.Variable(weights(10 * n + 3, 3, 3, channels, channels)),
            ]
            for n in range(blocks)
        ]
        self.scales = [tf.Variable(1 + 0.1 * weights(50 + n, channels)) for n in range(2 * blocks + 1)]

    def standard(self, kernel: Any) -> Any:
        """Zero mean and unit variance for each output channel."""
        mean, variance = tf.nn.moments(kernel, [0, 1, 2], keepdims=True)
        return (kernel - mean) / tf.sqrt(variance + 1e-10)

    def group_norm(self, x: Any, number: int, groups: int = 4) -> Any:
        """Group normalisation and ReLU."""
        shape = tf.shape(x)
        parts = tf.reshape(x, [shape[0], shape[1], shape[2], groups, x.shape[-1] // groups])
        mean, variance = tf.nn.moments(parts, [1, 2, 4], keepdims=True)
        parts = (parts - mean) * tf.math.rsqrt(variance + 1e-5)
        return tf.nn.relu(tf.reshape(parts, shape) * self.scales[number])

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32, name="input_1")])
    def serve(self, input_1: Any) -> dict[str, Any]:
        """The signature of the published module."""
        x = tf.pad(input_1 * 2 - 1, [[0, 0], [3, 3], [3, 3], [0, 0]])
        x = tf.nn.conv2d(x, self.standard(self.root), 2, "VALID")
        x = tf.nn.max_pool2d(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), 3, 2, "VALID")
        for number, (narrow, wide) in enumerate(self.kernels):
            y = tf.nn.conv2d(self.group_norm(x, 2 * number), self.standard(narrow), 1, "VALID")
            x = x + tf.nn.conv2d(self.group_norm(y, 2 * number + 1), self.standard(wide), 1, "SAME")
        return {"output_1": tf.reduce_mean(self.group_norm(x, len(self.scales) - 1), [1, 2])}


def write_bit(folder: Path) -> Path:
    """A BiT-like SavedModel."""
    module = Bit()
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
    return folder


def write_frozen(path: Path, features: int = 28) -> Path:
    """A frozen graph as Inception-v3 of 2015: DecodeJpeg, ResizeBilinear, Sub, Mul, a block, pool_3; batch 1.

    Args:
        path: to write.
        features: numbers that it gives; the published graph 2,048.
    """
    with tf.Graph().as_default() as graph:
        jpeg = v1.placeholder_with_default(b"", [], name="DecodeJpeg/contents")
        cast = tf.cast(v1.image.decode_jpeg(jpeg, channels=3, name="DecodeJpeg"), tf.float32, name="Cast")
        sized = v1.image.resize_bilinear(tf.expand_dims(cast, 0, name="ExpandDims"), [35, 35], name="ResizeBilinear")
        x = tf.multiply(tf.subtract(sized, 128.0, name="Sub"), 1 / 128, name="Mul")
        x = v1.nn.conv2d(x, tf.constant(weights(1, 3, 3, 3, 16)), [1, 2, 2, 1], "VALID", name="conv")
        mean, variance = tf.constant(weights(2, 16)), tf.constant(np.abs(weights(3, 16)) + 0.5)
        x = tf.nn.relu(tf.nn.batch_normalization(x, mean, variance, None, None, 1e-3), name="conv/relu")
        narrow = v1.nn.conv2d(x, tf.constant(weights(4, 1, 1, 16, 12)), [1, 1, 1, 1], "SAME")
        x = tf.concat([narrow, v1.nn.max_pool2d(x, 3, 1, "SAME")], 3, name="mixed_10/join")
        pooled = v1.nn.avg_pool2d(x, 17, 1, "VALID", name="pool_3")
        if features != 28:
            pooled = tf.matmul(tf.reshape(pooled, [1, 28]), tf.constant(weights(5, 28, features)))
        tf.reshape(pooled, [1, features], name="pool_3/_reshape")
    path.write_bytes(graph.as_graph_def().SerializeToString(deterministic=True))
    return path


class Odd(tf.Module):  # type: ignore[misc]
    """Signatures that don't convert, or not in the way of an encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.count = tf.Variable(0.0)

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], tf.float32, name="x")])
    def counting(self, x: Any) -> dict[str, Any]:
        """Adds how often it ran, and how much it saw."""
        self.count.assign_add(tf.reduce_sum(x))
        return {"y": tf.reduce_mean(x, [1, 2]) + self.count}

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], tf.float32, name="x")])
    def looping(self, x: Any) -> dict[str, Any]:
        """Doubles a picture's mean five times, in a loop."""
        mean, step = tf.reduce_mean(x, [1, 2]), tf.constant(0)
        while step < 5:
            mean, step = mean * 2.0, step + 1
        return {"y": mean}

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], tf.float32, name="x")])
    def solve(self, x: Any) -> dict[str, Any]:
        """A matrix exponential, for which OpenVINO has no rule."""
        mean = tf.reduce_mean(x, [1, 2])
        return {"y": tf.linalg.expm(tf.matmul(mean, mean, transpose_b=True))}

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], tf.float32, name="x")])
    def one(self, x: Any) -> dict[str, Any]:
        """One row whatever the batch."""
        return {"y": tf.reduce_mean(x, [0, 1, 2])[None]}


def write_odd(folder: Path) -> Path:
    """A SavedModel of ``Odd``."""
    module = Odd()
    kinds = ("solve", "one", "counting", "looping")
    tf.saved_model.save(module, str(folder), signatures={kind: getattr(module, kind) for kind in kinds})
    return folder


def pack(folder: Path, archive: Path) -> Path:
    """A ``.tar.gz`` as hubs give it, names from ``./``."""
    with tarfile.open(archive, "w:gz") as out:
        out.add(folder, ".")
    return archive


def saved_model_says(folder: Path, signature: str, given: Any, output: str, tags: Sequence[str] | None = None) -> Any:
    """What TensorFlow gives for one input."""
    model = tf.saved_model.load(str(folder), tags=tags)
    run = model.signatures[signature]
    key = next(iter(run.structured_input_signature[1]))
    return run(**{key: tf.constant(given)})[output].numpy()


def frozen_says(path: Path, node: str, given: Any, output: str) -> Any:
    """What TensorFlow gives for one input."""
    graph_def = v1.GraphDef.FromString(path.read_bytes())
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        tf.graph_util.import_graph_def(graph_def, name="")
        return session.run(output, {node: given})


def main() -> None:
    """Write the archives and golden vectors that tests without TensorFlow read."""
    ARCHIVES.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    # coloured noise: the vectors of plain noise hardly differ from one item to the next
    colours = np.float32([[0.9, 0.2, 0.1], [0.1, 0.9, 0.4], [0.2, 0.1, 0.9]])
    clips = (rng.integers(0, 256, (3, 4, 16, 16, 3)) * colours[:, None, None, None]).astype(np.uint8)
    pictures = (rng.integers(0, 256, (3, 24, 32, 3)) * colours[:, None, None]).astype(np.uint8)
    with tempfile.TemporaryDirectory() as name:
        s3d, two, bit, odd = (Path(name) / kind for kind in ("s3d", "two", "bit", "odd"))
        pack(write_s3d(s3d), ARCHIVES / "s3d.tar.gz")
        pack(write_two_towers(two), ARCHIVES / "two_towers.tar.gz")
        pack(write_bit(bit), ARCHIVES / "bit.tar.gz")
        pack(write_odd(odd), ARCHIVES / "odd.tar.gz")
        floats = clips.astype(np.float32) / 255
        np.savez_compressed(
            ARCHIVES / "s3d.npz",
            items=clips,
            clip=saved_model_says(s3d, "video", floats, "video_embedding", []),
            mixed=saved_model_says(s3d, "video", floats, "mixed_5c", []),
            sentences=np.array(SENTENCES),
            text=saved_model_says(s3d, "text", list(SENTENCES), "text_embedding", []),
        )
        np.savez_compressed(
            ARCHIVES / "two_towers.npz",
            items=pictures,
            picture=saved_model_says(two, "image", pictures.astype(np.float32) / 255, "embedding"),
            sentences=np.array(SENTENCES),
            text=saved_model_says(two, "text", list(SENTENCES), "embedding"),
        )
        np.savez_compressed(
            ARCHIVES / "bit.npz",
            items=pictures,
            picture=saved_model_says(bit, "serving_default", pictures.astype(np.float32) / 255, "output_1"),
        )
    frozen = write_frozen(ARCHIVES / "inception.pb")
    vectors = [frozen_says(frozen, "DecodeJpeg:0", picture, "pool_3/_reshape:0")[0] for picture in pictures]
    np.savez_compressed(ARCHIVES / "inception.npz", items=pictures, pool=np.stack(vectors))


if __name__ == "__main__":
    main()
