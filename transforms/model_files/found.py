"""The result of inspecting model files, and the spec that uses the model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cliploom.transforms.encoders.presets import Preset, find_preset

TEXT_KINDS = ("sentence_transformer", "word_vectors")
_PLAIN = re.compile(r"[A-Za-z_./][\w./+-]*")
_YAML_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "nan", "inf"}
_COLUMNS = 80
_START = """\
version: 1
name: media
store: ./store
sources:
  media: {kind: media, glob: "media/**/*", types: media, uid: file}
"""


@dataclass(frozen=True)
class Found:
    """A description of a model file or folder.

    Attributes:
        path: the path as written by the user.
        what: a short description.
        kind: the kind of encoder that accepts it; empty if none does.
        facts: further lines of description.
        signatures: for a SavedModel or an ONNX file: ``name``, ``inputs`` and ``outputs`` with name, type and shape.
        preset: the name of the matching preset; empty for none.
        options: the encoder's options besides kind and preset.
        sample: a suitable sampling for a feature.
        output: an output suitable for an index.
        guesses: values that the spec needs and the files do not have, for the user to check.
        advice: what to do if no encoder accepts it.
    """

    path: str
    what: str
    kind: str = ""
    facts: tuple[str, ...] = ()
    signatures: tuple[dict[str, Any], ...] = ()
    preset: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    sample: Any = None
    output: str = ""
    guesses: tuple[str, ...] = ()
    advice: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, with the spec as ``yaml``."""
        values = asdict(self)
        return values | {"options": dict(self.options), "yaml": spec_text(self) if self.kind else ""}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Found:
        """Create a description from the result of ``to_dict``."""
        kept: dict[str, Any] = {name: values[name] for name in cls.__dataclass_fields__}
        plain: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in kept.items()
        }
        return cls(**plain)


def with_preset(found: Found, name: str, preset: Preset, model: str) -> Found:
    """Return the description of a model that matches a preset.

    Args:
        found: the description so far.
        name: the name of the preset.
        preset: the matching preset.
        model: the path of the file.
    """
    options: dict[str, Any] = {preset.takes: model}
    output = (preset.index or {}).get("output", "")
    values = asdict(found) | {"preset": name, "options": options, "sample": preset.sample, "output": output}
    return Found(**values | {"guesses": (), "kind": preset.kind})


def spec_text(found: Found) -> str:
    """Return a complete spec, as YAML, that uses a model for the media in a folder ``media``."""
    encoder = {"kind": found.kind} | ({"preset": found.preset} if found.preset else {}) | dict(found.options)
    lines = [_START + "encoders:", "  model:"]
    for key, value in encoder.items():
        lines += _lines(key, value)
    if found.kind in TEXT_KINDS:
        lines += [
            "  lite0: {kind: efficientnet_lite0, text_encoder: model}",
            "features:",
            "  frames:",
            "    source: media",
            "    sample: {every: 1s}",
            "    encoder: lite0",
            "    outputs: [pooled, semantic]",
            "indexes:",
            "  frames: {feature: frames, output: semantic, metric: cosine, kind: auto}",
        ]
        return "\n".join(lines) + "\n"
    sample = {"every": "1s"} if found.sample is None else found.sample
    name = "clips" if isinstance(sample, dict) and {"first", "window"} & set(sample) else "frames"
    index = {"feature": name} | (dict(find_preset(found.preset).index or {}) if found.preset else {})
    if "output" not in index:
        index |= {"output": found.output, "metric": "cosine", "kind": "auto"}
    lines += ["features:", f"  {name}: {flow({'source': 'media', 'sample': sample, 'encoder': 'model'})}"]
    lines += ["indexes:", f"  {name}: {flow(index)}"]
    return "\n".join(lines) + "\n"


def _lines(key: str, value: Any) -> list[str]:
    """Return an option of the encoder as lines; a long mapping has one line per key."""
    remark = "  # a program: keep this line if you trust its origin" if key == "trusted" else ""
    line = f"    {key}: {flow(value)}{remark}"
    if len(line) <= _COLUMNS or not isinstance(value, Mapping):
        return [line]
    return [f"    {key}:", *(f"      {_word(str(inner))}: {flow(each)}" for inner, each in value.items())]


def flow(value: Any) -> str:
    """Return a value in YAML's flow style.

    >>> flow({"node": "pool_3:0", "size": [1, 2.5], "on": True, "n": None})
    '{node: "pool_3:0", size: [1, 2.5], on: true, n: null}'
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_word(str(key))}: {flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    return _word(value) if isinstance(value, str) else json.dumps(value)


def _word(text: str) -> str:
    plain = _PLAIN.fullmatch(text) and text.lower() not in _YAML_WORDS - {"on", "n"}
    if plain or re.fullmatch(r"\d+m?s", text):
        return text
    # Escape nonprintable characters: a file's names must not end a line or move the cursor.
    return json.dumps(text, ensure_ascii=not text.isprintable())
