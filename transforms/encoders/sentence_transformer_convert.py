"""Converts a sentence-transformers model to an OpenVINO graph; needs the extra ``[text]``, on the launcher."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers.utils import logging as transformers_logging

from cliploom.schemas.errors import CliploomError, SpecError, nearest
from cliploom.schemas.models import Precision
from cliploom.transforms.encoders.agreement import GOLDEN_SENTENCES, smallest_cosine
from cliploom.transforms.encoders.runtime import last_line, save_graph
from cliploom.transforms.encoders.text import TEXT_GRAPH, TOKENIZER, TextSettings, TextTower
from cliploom.transforms.encoders.text_graph import text_graph
from cliploom.transforms.encoders.torch_graph import traced_graph

_LONGEST = 512
_UNLIMITED = 1_000_000  # tokenizers use a huge number for "no limit"


@dataclass(frozen=True)
class Converted:
    """A converted model and the results of the original.

    Attributes:
        dim: the length of the vectors.
        documents, queries: the original's vectors of the golden sentences, float32 [n, dim].
    """

    dim: int
    documents: NDArray[np.float32]
    queries: NDArray[np.float32]

    def agreement(self, folder: Path, precision: Precision) -> float:
        """Return the smallest cosine of the converted model against the original, for stored sentences and queries."""
        tower = TextTower(folder, precision)
        return min(
            smallest_cosine(tower.encode(GOLDEN_SENTENCES), self.documents),
            smallest_cosine(tower.encode(GOLDEN_SENTENCES, query=True), self.queries),
        )


@contextlib.contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Disable progress bars, as loading is quick."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


class _Pipeline(torch.nn.Module):  # type: ignore[misc]
    """The model's modules from token ids to sentence vector, as one traceable module."""

    def __init__(self, model: SentenceTransformer, typed: bool) -> None:
        super().__init__()
        self._modules_in_order = torch.nn.ModuleList(list(model))
        self._typed = typed
        self._truncate = model.truncate_dim

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        features = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self._typed:
            features["token_type_ids"] = torch.zeros_like(input_ids)
        for module in self._modules_in_order:
            features = module(features)
        vectors: torch.Tensor = features["sentence_embedding"]
        return vectors if self._truncate is None else vectors[..., : self._truncate]


def convert(source: Path, folder: Path, output: str, prompt: str | None, query_prompt: str | None) -> Converted:
    """Convert a model and write graph, tokenizer and settings.

    Args:
        source: the folder of the model.
        folder: the folder to write to.
        output: the name of the output.
        prompt: the name of the model's prompt for stored sentences; None for the model's default.
        query_prompt: the same for queries.

    Raises:
        SpecError: the model does not have the prompt.
        CliploomError: it cannot be loaded or converted.
    """
    try:
        with _no_progress_bar():
            model = SentenceTransformer(
                str(source), device="cpu", model_kwargs={"use_safetensors": True}, local_files_only=True
            ).eval()
    except Exception as error:
        raise CliploomError(f"sentence-transformers can't load '{source}': {last_line(error)}.") from error
    document_text = _prompt(model, "prompt", prompt, ("document", "passage", "corpus"))
    query_text = _prompt(model, "query_prompt", query_prompt, ("query",))
    if (document_text or query_text) and not all(m.include_prompt for m in model if isinstance(m, Pooling)):
        raise CliploomError(f"'{source}' leaves its prompt out of the pooling, which is not supported.")
    tokenizer = getattr(model[0].tokenizer, "backend_tokenizer", None)
    if tokenizer is None:
        raise CliploomError(f"'{source}' has no fast tokenizer (tokenizer.json), which workers need.")
    tokenizer.save(str(folder / TOKENIZER))
    longest = model.max_seq_length
    settings = TextSettings(
        output=output,
        max_tokens=int(longest) if longest and longest < _UNLIMITED else _LONGEST,
        pad_id=int(model[0].tokenizer.pad_token_id or 0),
        prompt=document_text,
        query_prompt=query_text,
    )
    settings.write(folder)
    typed = "token_type_ids" in model[0].tokenizer.model_input_names
    save_graph(_traced(_Pipeline(model, typed), output, source), folder / TEXT_GRAPH)
    documents = model.encode(GOLDEN_SENTENCES, prompt=document_text, batch_size=2, show_progress_bar=False)
    queries = model.encode(GOLDEN_SENTENCES, prompt=query_text, batch_size=2, show_progress_bar=False)
    return Converted(documents.shape[1], documents.astype(np.float32), queries.astype(np.float32))


def _prompt(model: SentenceTransformer, option: str, name: str | None, usual: tuple[str, ...]) -> str:
    """Return the text of a prompt: the named one, else the default of sentence-transformers."""
    prompts: dict[str, str] = model.prompts
    if name is not None and name not in prompts:
        raise SpecError(f"{option}: the model has no prompt '{name}'{nearest(name, prompts)}")
    chosen = name or next((candidate for candidate in usual if candidate in prompts), model.default_prompt_name)
    return prompts.get(chosen or "", "")


def _traced(pipeline: _Pipeline, output: str, source: Path) -> ov.Model:
    ids = torch.ones((2, 7), dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0  # models that inspect the mask would be traced without it if it were all ones
    model = traced_graph(pipeline, (ids, mask), str(source))
    return text_graph(model, output, name=str(source))
