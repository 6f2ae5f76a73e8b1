"""What was found in a model's files, and the spec that uses it."""

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
    """What a file or folder is.

    Attributes:
        path: as it was given.
        what: in a few words.
        kind: of the encoder that takes it; empty where none does.
        facts: further lines about it.
        signatures: of a SavedModel or an ONNX file: ``name``, ``inputs`` and ``outputs`` with name, type and shape.
        preset: name of the preset that fits; empty for none.
        options: of the encoder, beside kind and preset.
        sample: how a feature may sample for it.
        output: the output that an index may be over.
        guesses: what the files don't say and the spec needs; to be checked by the user.
        advice: what to do where no encoder takes it.
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
        """Plain values for JSON, with the spec as ``yaml``."""
        values = asdict(self)
        return values | {"options": dict(self.options), "yaml": spec_text(self) if self.kind else ""}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Found:
        """Read back what ``to_dict`` gave."""
        kept: dict[str, Any] = {name: values[name] for name in cls.__dataclass_fields__}
        plain: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in kept.items()
        }
        return cls(**plain)


def with_preset(found: Found, name: str, preset: Preset, model: str) -> Found:
    """What was found, used by a preset.

    Args:
        found: what it is.
        name: of the preset.
        preset: that fits.
        model: path of the file.
    """
    options: dict[str, Any] = {preset.takes: model}
    output = (preset.index or {}).get("output", "")
    values = asdict(found) | {"preset": name, "options": options, "sample": preset.sample, "output": output}
    return Found(**values | {"guesses": (), "kind": preset.kind})


def spec_text(found: Found) -> str:
    """A whole spec, as YAML, that uses a model for the media in a folder ``media``."""
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
    """An option of the encoder; a long mapping has a line for each of its keys."""
    remark = "  # a program: keep this line if you know where it comes from" if key == "trusted" else ""
    line = f"    {key}: {flow(value)}{remark}"
    if len(line) <= _COLUMNS or not isinstance(value, Mapping):
        return [line]
    return [f"    {key}:", *(f"      {_word(str(inner))}: {flow(each)}" for inner, each in value.items())]


def flow(value: Any) -> str:
    """A value in YAML's flow style.

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
    # What can't be printed is escaped: a file's names must not end a line or move a cursor.
    return json.dumps(text, ensure_ascii=not text.isprintable())
