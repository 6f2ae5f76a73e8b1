"""Presets: settings of public models by name, where their files are published, and what must come out of them.

They are data, in ``presets.yaml`` beside this module. An encoder of a spec names one, ``{kind: saved_model, preset:
s3d_milnce, model: s3d.tar.gz}``, and gets its settings; any of them can be overridden. A digest covers the settings,
not the preset's name, so a preset and its settings written out are one model.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from cliploom.schemas.errors import SpecError, nearest

FILE = Path(__file__).with_name("presets.yaml")
_MERGED = ("input", "text")
"""Options whose keys are overridden one by one; all others are replaced as a whole."""


class Scores(BaseModel):
    """Published dot products of sentences and clips.

    Attributes:
        output: of the encoder.
        tolerance: largest difference that is still the published score.
        sentences: in the order of the scores.
        files: name of a media file -> its address and its score for each sentence.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    output: str
    tolerance: float
    sentences: tuple[str, ...]
    files: dict[str, ScoredFile]


class ScoredFile(BaseModel):
    """A media file of published scores."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    url: str
    scores: tuple[float, ...]


class Preset(BaseModel):
    """One public model.

    Attributes:
        title: what it is.
        kind: of the encoder.
        published: address of its files, or of the page that has them.
        former: an earlier address.
        licence: of the weights, as an SPDX identifier.
        size: of the files, about.
        files: names under which its files are looked for.
        sha256: name of a file -> its SHA-256, or the beginning that the publisher prints.
        takes: option that names the file.
        expects: what the model computes on.
        options: of the encoder.
        dims: length of the vectors by output name.
        signatures: of a SavedModel: signature -> output -> length.
        nodes: of a frozen graph.
        config: dotted path in ``config.json`` -> value.
        sample, index: how the published system uses the model.
        scores: published scores, which ``cliploom models check`` computes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    title: str
    kind: str
    published: str
    former: str = ""
    licence: str
    size: str
    files: tuple[str, ...]
    sha256: dict[str, str] = {}
    takes: str = "model"
    expects: str
    options: dict[str, Any]
    dims: dict[str, int]
    signatures: dict[str, dict[str, int]] = {}
    nodes: tuple[str, ...] = ()
    config: dict[str, Any] = {}
    sample: Any = None
    index: dict[str, Any] | None = None
    scores: Scores | None = None


@functools.cache
def presets() -> dict[str, Preset]:
    """All presets by name, in the order of the file."""
    values = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return {name: Preset.model_validate(value) for name, value in values.items()}


def find_preset(name: str) -> Preset:
    """The preset of a name.

    Raises:
        SpecError: for an unknown name, with the nearest known one.
    """
    found = presets().get(name)
    if found is None:
        raise SpecError(f"There is no preset '{name}'{nearest(name, presets())}")
    return found


def with_preset(kind: str, name: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """An encoder's options, those of its preset among them.

    Args:
        kind: of the encoder.
        name: of its preset; None for none.
        options: as the spec says; they override the preset's. Of ``input`` and ``text`` single keys are overridden, and
            None leaves such a part out.

    Raises:
        SpecError: for an unknown preset, or one of another kind.

    >>> options = with_preset("saved_model", "s3d_milnce", {"model": "s3d", "input": {"frames": 16}, "text": None})
    >>> options["input"]["frames"], options["input"]["layout"], "text" in options
    (16, 'nthwc', False)
    """
    if name is None:
        return dict(options)
    preset = find_preset(name)
    if preset.kind != kind:
        raise SpecError(f"The preset '{name}' is of kind {preset.kind}; write kind: {preset.kind}.")
    merged = dict(preset.options)
    for key, value in options.items():
        both = key in _MERGED and isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = {**merged[key], **value} if both else value
    return {key: value for key, value in merged.items() if not (value is None and key in _MERGED)}
