"""Converts transformers' CLIP, SigLIP and SigLIP2; needs the extra ``[text]``, runs in a separate process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from cliploom.schemas.errors import CliploomError
from cliploom.transforms.encoders.clip_folder import find_clip, picture_settings
from cliploom.transforms.encoders.clip_towers import Patches, Towers, Unit
from cliploom.transforms.encoders.patches import patches_of
from cliploom.transforms.encoders.runtime import last_line
from cliploom.transforms.encoders.text import STEP, TOKENIZER, TextSettings


def convert(source: str, weights: str, folder: str, tower: str, output: str, prompt: str, batch: int) -> dict[str, Any]:
    """Write both towers of a transformers folder; see ``clip_towers.Towers.write``.

    Args:
        source: the folder of the model.
        weights: unused; transformers finds the weights itself.
        folder: the folder to write to.
        tower: ``image`` or ``text``.
        output: the name of the output for sentences.
        prompt: a text put before each sentence.
        batch: the number of pictures computed together.

    Raises:
        CliploomError: the model cannot be loaded or converted.
    """
    family = find_clip(source).family
    preprocess = picture_settings(Path(source), family)
    opened = [_model(source)]
    config = opened[0].config
    size = getattr(config.vision_config, "image_size", None)
    if family != "siglip2" and size != preprocess.width:
        raise CliploomError(
            f"'{source}' prepares pictures of {preprocess.width} pixels for a model of {size}; correct size or "
            "crop_size in preprocessor_config.json."
        )
    longest = int(config.text_config.max_position_embeddings)
    tokenizer = _tokenizer(Path(source))
    pad = tokenizer.pad_token_id or 0
    full = family != "clip"  # trained on sentences padded to full length, without a mask
    settings = TextSettings(
        output=output,
        max_tokens=longest,
        step=longest if full else STEP,
        pad_id=int(pad),
        masked=False,
        prompt=prompt,
        query_prompt=prompt,
        pad_left=tokenizer.padding_side == "left",
    )

    def tokenize(sentences: list[str]) -> torch.Tensor:
        ids = tokenizer(sentences, padding="max_length", truncation=True, max_length=longest, return_tensors="pt")
        found: torch.Tensor = ids["input_ids"]
        return found

    def text() -> torch.nn.Module:
        model = opened.pop()
        return Unit(lambda ids: _vectors(model.get_text_features(input_ids=ids)), model)

    def image() -> tuple[torch.nn.Module, Patches | None]:
        # Load it again: weights are memory-mapped, so those of the text tower no longer take memory.
        model = _model(source)
        tower = Unit(_pictures(model, family, preprocess.patch), model)
        return tower, _patches(model) if family == "siglip2" else None

    return Towers(
        open_text=text,
        open_image=image,
        preprocess=preprocess,
        tokenizer=_backend(tokenizer, Path(source)),
        settings=settings,
        tokenize=tokenize,
    ).write(source, Path(folder), tower, batch)


def _model(source: str) -> Any:
    """Return the model of a folder, in evaluation mode.

    Raises:
        CliploomError: the model cannot be loaded.
    """
    try:
        # weights_only: only tensors of a .bin are unpickled; no code from the folder runs either
        return AutoModel.from_pretrained(
            source, local_files_only=True, trust_remote_code=False, weights_only=True, dtype=torch.float32
        ).eval()
    except Exception as error:
        raise CliploomError(f"transformers can't load '{source}': {last_line(error)}.") from error


def _vectors(found: Any) -> torch.Tensor:
    """Return the vectors; transformers 5 wraps them in an object, transformers 4 does not."""
    vectors: torch.Tensor = getattr(found, "pooler_output", found)
    return vectors


def _pictures(model: torch.nn.Module, family: str, patch: int) -> Any:
    """Return the image tower, for normalised pictures [n, 3, H, W]."""
    if family != "siglip2":
        return lambda pixels: _vectors(model.get_image_features(pixel_values=pixels))

    def of_patches(pixels: torch.Tensor) -> torch.Tensor:
        cut = torch.from_numpy(np.stack([patches_of(one.permute(1, 2, 0).numpy(), patch) for one in pixels]))
        down, across = pixels.shape[2] // patch, pixels.shape[3] // patch
        return _vectors(
            model.get_image_features(
                pixel_values=cut,
                pixel_attention_mask=torch.ones(cut.shape[:2], dtype=torch.int64),
                spatial_shapes=torch.tensor([[down, across]] * len(pixels)),
            )
        )

    return of_patches


def _patches(model: torch.nn.Module) -> Patches:
    """Return SigLIP2's image tower of patches, given positions; ``PatchEncoder`` resizes them."""
    embeddings = model.vision_model.embeddings
    side = embeddings.position_embedding_size
    grid = embeddings.position_embedding.weight.detach().reshape(side, side, -1).numpy().copy()

    def tower(patches: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        embeddings.resize_positional_embeddings = lambda *_given, **_named: positions
        try:
            # their purpose, resizing positions, is already done
            shapes = torch.ones((len(patches), 2), dtype=torch.int64)
            return _vectors(
                model.get_image_features(pixel_values=patches, pixel_attention_mask=mask, spatial_shapes=shapes)
            )
        finally:
            del embeddings.resize_positional_embeddings

    return Patches(Unit(tower, model), grid)


def _tokenizer(folder: Path) -> Any:
    """Return the library's tokenizer; SigLIP's needs sentencepiece, but ``tokenizer.json`` gives the same ids."""
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        if not (folder / TOKENIZER).is_file():
            raise CliploomError(
                f"The tokenizer of '{folder}' can't be loaded: {last_line(error)}; workers need tokenizer.json."
            ) from error
    config = folder / "tokenizer_config.json"
    said = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    pad = said.get("pad_token") or "</s>"
    return PreTrainedTokenizerFast(
        tokenizer_file=str(folder / TOKENIZER),
        pad_token=pad["content"] if isinstance(pad, dict) else pad,
        padding_side=said.get("padding_side", "right"),
    )


def _backend(tokenizer: Any, folder: Path) -> Tokenizer:
    found: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
    if found is not None:
        return found
    if not (folder / TOKENIZER).is_file():
        raise CliploomError(
            f"'{folder}' has no tokenizer.json, which workers need; download it, or save the tokenizer of "
            "another model of the same vocabulary there."
        )
    return Tokenizer.from_file(str(folder / TOKENIZER))
