"""Presets: named settings of public models, the locations of their published files, and expected results.

They are data, in ``presets.yaml`` beside this module. An encoder in a spec names one, ``{kind: saved_model, preset:
s3d_milnce, model: s3d.tar.gz}``, and gets its settings, which can be overridden one by one. Digests cover the settings,
not the preset's name, so a preset and the same settings written out give the same model.
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
"""Options whose keys are overridden individually; all others are replaced as a whole."""


class Scores(BaseModel):
    """Published dot products of sentences and clips.

    Attributes:
        output: the output of the encoder.
        tolerance: the largest acceptable difference from a published score.
        sentences: the sentences, in the order of the scores.
        files: maps the name of a media file to its URL and its score for each sentence.
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
        title: a description of the model.
        kind: the kind of the encoder.
        published: the URL of its files, or of the page that has them.
        former: an earlier URL.
        licence: the licence of the weights, as an SPDX identifier.
        size: the approximate size of the files.
        files: the names by which its files are searched for.
        sha256: maps the name of a file to its SHA-256, or to the prefix that the publisher prints.
        takes: the option that names the file.
        expects: what the model computes on.
        options: the options of the encoder.
        dims: the length of the vectors by output name.
        signatures: the signatures of a SavedModel: signature -> output -> length.
        nodes: the nodes of a frozen graph.
        config: maps a dotted path in ``config.json`` to its value.
        sample, index: the sampling and index of the published system.
        scores: published scores, which ``cliploom models check`` reproduces.
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
    """Return all presets by name, in the order of the file."""
    values = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return {name: Preset.model_validate(value) for name, value in values.items()}


def find_preset(name: str) -> Preset:
    """Return the preset with a name.

    Raises:
        SpecError: the name is unknown; the message has the nearest known one.
    """
    found = presets().get(name)
    if found is None:
        raise SpecError(f"There is no preset '{name}'{nearest(name, presets())}")
    return found


def with_preset(kind: str, name: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return an encoder's options, completed by those of its preset.

    Args:
        kind: the kind of the encoder.
        name: the name of its preset; None for none.
        options: the options in the spec; they override the preset's. Keys of ``input`` and ``text`` are overridden
            individually; None removes such a part.

    Raises:
        SpecError: the preset is unknown, or of another kind.

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
