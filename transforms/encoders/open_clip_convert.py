"""Converts open_clip's models; needs the extra ``[text]`` and open_clip, runs in a separate process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from tokenizers import Regex, Tokenizer, normalizers
from transformers import CLIPTokenizer

from cliploom.schemas.errors import CliploomError
from cliploom.schemas.media import Preprocess
from cliploom.transforms.encoders.clip_folder import OPEN_CLIP_CONFIG
from cliploom.transforms.encoders.clip_towers import Towers, Unit
from cliploom.transforms.encoders.runtime import last_line
from cliploom.transforms.encoders.text import TextSettings

_QUOTES = {"\u2019": "'", "\u2018": "'", "\u201c": '"', "\u201d": '"'}  # like ftfy, which open_clip calls


def convert(source: str, weights: str, folder: str, tower: str, output: str, prompt: str, batch: int) -> dict[str, Any]:
    """Write both towers of an open_clip model; see ``clip_towers.Towers.write``.

    Args:
        source: the folder with ``open_clip_config.json``.
        weights: the checkpoint.
        folder: the folder to write to.
        tower: ``image`` or ``text``.
        output: the name of the output for sentences.
        prompt: a text put before each sentence.
        batch: the number of pictures computed together.

    Raises:
        CliploomError: the model cannot be loaded or converted.
    """
    try:
        model = open_clip.create_model(
            f"local-dir:{source}", load_weights=False, pretrained_text=False, pretrained_image=False
        )
        # weights_only: only tensors of a checkpoint are unpickled
        open_clip.load_checkpoint(model, weights, weights_only=True)
        tokenizer = open_clip.get_tokenizer(f"local-dir:{source}")
    except Exception as error:
        raise CliploomError(f"open_clip can't load '{source}': {last_line(error)}.") from error
    model.eval()
    longest = int(tokenizer.context_length)
    known = getattr(tokenizer, "tokenizer", None)
    settings = TextSettings(
        output=output,
        max_tokens=longest,
        step=longest,
        pad_id=int(known.pad_token_id or 0) if known is not None else 0,
        masked=False,
        prompt=prompt,
        query_prompt=prompt,
    )
    config = json.loads((Path(source) / OPEN_CLIP_CONFIG).read_text(encoding="utf-8"))

    def image() -> tuple[torch.nn.Module, None]:
        for name in ("transformer", "token_embedding", "text"):
            if hasattr(model, name):
                delattr(model, name)  # the text tower is written; its weights are no longer needed
        return Unit(model.encode_image, model), None

    return Towers(
        open_text=lambda: Unit(model.encode_text, model),
        open_image=image,
        preprocess=_preprocess(model.visual.preprocess_cfg, source),
        tokenizer=_backend(tokenizer, config),
        settings=settings,
        tokenize=tokenizer,
    ).write(source, Path(folder), tower, batch)


def _preprocess(config: Mapping[str, Any], source: str) -> Preprocess:
    """Return open_clip's preprocessing, which follows torchvision."""
    size = config["size"]
    width, height = (size, size) if isinstance(size, int) else (int(size[-1]), int(size[0]))
    fit = {"shortest": "crop", "squash": "squash"}.get(config.get("resize_mode") or "shortest")
    if fit is None or (fit == "crop" and width != height):
        raise CliploomError(
            f"'{source}' prepares pictures with resize_mode {config.get('resize_mode')} and size {size}; only "
            "'shortest' to a square and 'squash' are supported."
        )
    return Preprocess(
        width=int(width),
        height=int(height),
        fit=fit,  # type: ignore[arg-type]
        filter="bilinear" if config.get("interpolation") == "bilinear" else "bicubic",
        offset=tuple(255.0 * value for value in config["mean"]),
        scale=tuple(255.0 * value for value in config["std"]),
        alpha="drop",
        rounding="torchvision",
    )


def _backend(tokenizer: Any, config: Mapping[str, Any]) -> Tokenizer:
    """Return the tokenizer for workers; measuring the agreement verifies that it gives the same ids."""
    known = getattr(tokenizer, "tokenizer", None)
    if known is None:
        begin, end = (tokenizer.decoder[number] for number in tokenizer.all_special_ids[:2])
        found: Any = CLIPTokenizer(
            vocab=tokenizer.encoder,
            merges=list(tokenizer.bpe_ranks),
            bos_token=begin,
            eos_token=end,
            unk_token=end,
            pad_token=end,
        ).backend_tokenizer
        cleaned = [normalizers.Replace(quote, plain) for quote, plain in _QUOTES.items()]
    else:
        found = getattr(known, "backend_tokenizer", None)
        if found is None:
            raise CliploomError("The tokenizer of the open_clip model has no tokenizer.json, which workers need.")
        text = config.get("model_cfg", config).get("text_cfg", {})
        cleaned = _canonical() if text.get("tokenizer_kwargs", {}).get("clean") == "canonicalize" else []
    if cleaned:
        rest = [found.normalizer] if found.normalizer is not None else []
        found.normalizer = normalizers.Sequence([*cleaned, *rest])
    backend: Tokenizer = found
    return backend


def _canonical() -> list[Any]:
    """Return open_clip's ``canonicalize_text``: no ASCII punctuation, lower case, single blanks."""
    return [
        normalizers.Replace("_", " "),
        normalizers.Replace(Regex(r"[!-/:-@\[-`{-~]"), ""),
        normalizers.Lowercase(),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
    ]
