"""How ``tests/golden/v1`` was made, by the code of commit 7e21b952 (0.1.0).

    PYTHONPATH=.:tests python tests/golden/make_v1.py tests/golden/v1

In that commit the packages stood at the top level (``from schemas...``); nothing else has changed here since. The tests
don't run or import this script, and it need not run with later code: a golden store shows what an older version wrote,
so the files of ``v1`` never change. When a later version computes other values on purpose, it gets a store of its own.

There are two releases. Before the second one, ``clip-b`` was changed and ``clip-gone`` was deleted in every source.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
from golden_store import observe, write_expected
from golden_words import word_vector, words_on_path
from media_factory import picture, write_gif, write_image, write_video
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from cliploom.pipelines.running.run import RunOptions, run_spec
from cliploom.schemas.spec_file import load_document, parse_document
from cliploom.schemas.tfrecords import Yt8mFrames
from cliploom.transforms.tfrecords.framing import write_records
from cliploom.transforms.tfrecords.write import encode_frames

SIZE = (64, 64)
DIM, RGB, AUDIO = 4, 8, 4
WORDS = ["[PAD]", "[UNK]", "black", "white", "left", "right", "dots"]
SPEC = """\
version: 1
name: golden
store: ./store
sources:
  clips: {kind: media, glob: ["media/**/*.*"], labels: folder}
  spoken: {kind: narrations, format: ego4d, path: narration.json}
  subtitles: {kind: narrations, format: srt, glob: "subtitles/*.srt", uid: stem}
  classes: {kind: labels, labels: [cup, dog, tree], templates: ["a photo of a {label}", "one {label}"]}
  given: {kind: precomputed, glob: "features/*", window: {fps: 30, window: 32, stride: 16}, dim: 4}
  shards: {kind: tfrecord, format: yt8m_frame, glob: "records/*.tfrecord", rgb: 8, audio: 4}
encoders:
  eyes:
    kind: onnx
    model: models/eyes.onnx
    input: {layout: nchw, width: 16, height: 16, fit: squash, offset: [120, 115, 100], scale: 64}
    outputs: {look: {node: look}, colour: {node: map, pool: mean}}
    text: {model: models/words.onnx, tokenizer: models/tokenizer.json, max_tokens: 8, output: look}
  words: {kind: golden_words}
features:
  frames: {source: clips, sample: {every: 400ms}, encoder: eyes}
  windows: {source: clips, sample: {window: {frames: 4, stride: 4}}, encoder: eyes, outputs: [colour]}
  middle: {source: clips, sample: {uniform: 2}, encoder: eyes, outputs: [look]}
  speech: {source: spoken, encoder: words}
  lines: {source: subtitles, encoder: words}
  prompts: {source: classes, encoder: words}
  given: {source: given}
  records: {source: shards}
indexes:
  exact: {feature: frames, output: look, kind: flat}
  lists: {feature: given, kind: ivf_sq8, metric: l2}
  graph: {feature: frames, output: colour, metric: dot, kind: hnsw}
  said: {feature: speech}
exports:
  frames_h5: {kind: hdf5, feature: frames, output: look}
  given_h5: {kind: hdf5, feature: given, single: true}
  shards: {kind: tfrecord, feature: records, format: yt8m_frame, shards: 2}
  pairs: {kind: pairs, feature: given, text: speech}
targets: {local: {workers: 1}}
limits: {max_failed: 0%, max_deleted: 100%}
"""


def write_models(folder: Path) -> None:
    """Image and text tower, both linear: a projection of the 4 x 4 blocks, and a mean of vectors of words."""
    folder.mkdir()
    random = np.random.default_rng(0)
    look = (random.integers(-8, 9, (48, 8)) / 16).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["x"], ["map"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Flatten", ["map"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["look"]),
    ]
    picture_input = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])
    write_onnx(folder / "eyes.onnx", nodes, [picture_input], ["look", "map"], {"weights": look})
    words = np.stack([word_vector(word) for word in WORDS])
    nodes = [
        helper.make_node("Gather", ["words", "input_ids"], ["vectors"]),
        helper.make_node("ReduceMean", ["vectors"], ["text"], axes=[1], keepdims=0),
    ]
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["n", 8])
    write_onnx(folder / "words.onnx", nodes, [ids], ["text"], {"words": words})
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))


def write_onnx(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[str], weights: dict[str, Any]) -> None:
    """An ONNX file with float32 outputs."""
    given = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    found = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, path.stem, inputs, found, given)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def clip(path: Path, first: int, frames: int = 20, **more: Any) -> None:
    """Square and progressive, eight bits, 10 frames a second; frame i shows ``first + 97 * i``."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def draw(index: int, width: int, height: int) -> Any:
        return picture((first + 97 * index) % 65_536, width, height)

    write_video(path, frames, fps=10, size=SIZE, draw=draw, **more)


def write_media(media: Path) -> None:
    """Videos in three containers, GIFs, photos."""
    clip(media / "videos" / "clip-a.mp4", 5_000)
    clip(media / "videos" / "clip-b.mp4", 9_000, gop=5, b_frames=0)
    clip(media / "videos" / "clip-gone.mp4", 21_000, frames=8)
    clip(media / "videos" / "clip-c.webm", 33_000, frames=12, codec="libvpx-vp9")
    clip(media / "videos" / "clip-d.mkv", 47_000, frames=15)
    (media / "gifs").mkdir()
    write_gif(media / "gifs" / "even.gif", (200,) * 6, size=SIZE)
    write_gif(media / "gifs" / "uneven.gif", (100, 700, 300), size=SIZE)
    (media / "photos").mkdir()
    write_image(media / "photos" / "plain.png", 1_234, size=SIZE)
    blocks = Image.fromarray(picture(4_321, *SIZE))
    blocks.save(media / "photos" / "plain.jpg.jpeg", quality=90, subsampling=0)


def narrations(second: bool) -> dict[str, Any]:
    """Ego4D's file, as version 1 of the data has it."""

    def video(texts: list[str]) -> dict[str, Any]:
        rows = [
            {"timestamp_sec": 2.5 * i, "timestamp_frame": 75 * i, "narration_text": text, "annotation_uid": "a"}
            for i, text in enumerate(texts)
        ]
        summary = {"start_sec": 0, "end_sec": 9, "summary_text": "#C C was in a room", "annotation_uid": "b"}
        return {"narration_pass_1": {"narrations": rows, "summaries": [summary]}, "status": "complete"}

    found = {
        "clip-a": video(["#C C opens a door", "#C C cuts an onion", "#O a man X laughs"]),
        "clip-b": video(["#C C walks", "#C C closes the red door" if second else "#C C sits down"]),
    }
    return found if second else found | {"clip-gone": video(["#C C sleeps"])}


def write_others(folder: Path, second: bool) -> None:
    """Narrations, subtitles, features and records; in the second state one of each is changed and one deleted."""
    for name in ("subtitles", "features", "records"):
        (folder / name).mkdir(exist_ok=True)
        for path in folder.glob(f"{name}/clip-gone.*"):
            path.unlink()
    (folder / "narration.json").write_text(json.dumps(narrations(second), indent=1) + "\n")
    lines = {"clip-a": ["hello there", "a red cup"], "clip-b": ["good bye" if second else "good morning"]}
    for name, texts in (lines if second else lines | {"clip-gone": ["nobody"]}).items():
        blocks = [f"{n + 1}\n00:00:0{n},500 --> 00:00:0{n + 1},000\n{text}\n" for n, text in enumerate(texts)]
        (folder / "subtitles" / f"{name}.srt").write_text("\n".join(blocks))

    def rows(seed: int, count: int) -> Any:
        return np.random.default_rng(seed).integers(-512, 513, (count, DIM)).astype(np.float32) / 256

    np.save(folder / "features" / "clip-a.npy", rows(1, 30))
    np.savez(folder / "features" / "clip-b.npz", rows(12 if second else 2, 20))
    if not second:
        with h5py.File(folder / "features" / "more.h5", "w") as file:
            file["clip-c"], file["clip-d"] = rows(3, 25), rows(4, 25)
    if not second:
        np.save(folder / "features" / "clip-gone.npy", rows(5, 8))

    def record(uid: str, seed: int, count: int, labels: tuple[int, ...]) -> bytes:
        random = np.random.default_rng(seed)
        codes = [random.integers(0, 256, (count, width), np.uint8) for width in (RGB, AUDIO)]
        return encode_frames(Yt8mFrames(uid, labels, *codes))

    shards = {
        "one": [record("id01", 1, 3, (1, 2)), record("id02", 2, 4, (0,))],
        "two": [record("id03", 33 if second else 3, 2, (2,))],
    }
    for name, payloads in (shards if second else shards | {"clip-gone": [record("id09", 9, 2, (3,))]}).items():
        with (folder / "records" / f"{name}.tfrecord").open("wb") as stream:
            write_records(stream, payloads)


def run(folder: Path) -> None:
    """A run in this process."""
    document = load_document(folder / "cliploom.yaml")
    run_spec(parse_document(document), document, folder, RunOptions(), lambda text: print(text))


def make(folder: Path) -> None:
    """Both releases, and what they hold."""
    (folder / "cliploom.yaml").write_text(SPEC)
    write_models(folder / "models")
    write_media(folder / "media")
    write_others(folder, second=False)
    run(folder)
    clip(folder / "media" / "videos" / "clip-b.mp4", 60_000, gop=5, b_frames=0)
    (folder / "media" / "videos" / "clip-gone.mp4").unlink()
    write_others(folder, second=True)
    run(folder)
    # What the runs noted for themselves and for other programs; no later run reads it.
    shutil.rmtree(folder / "store" / "plans")
    shutil.rmtree(folder / "store" / "probes", ignore_errors=True)
    (folder / "store" / "lock").unlink()
    write_expected(folder / "expected.json", observe(folder))


def main(target: Path) -> None:
    """Make it where the paths that a store notes say nothing of this machine, then put it in its place."""
    with tempfile.TemporaryDirectory() as home, words_on_path(Path(home) / "packages"):
        folder = Path(home) / "golden"
        folder.mkdir()
        make(folder)
        shutil.copytree(folder, target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
