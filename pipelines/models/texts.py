"""Texts about presets and model files, in 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from cliploom.pipelines.console import width
from cliploom.transforms.encoders.presets import Preset, presets
from cliploom.transforms.model_files.found import Found, flow, spec_text

_USUAL_WIDTH = 80
_SHOWN = 8
_LONGEST = 100


def list_text() -> str:
    """Return all presets as text: name, kind, outputs, size, licence."""
    rows = [(name, preset.kind, _dims(preset), preset.size, preset.licence) for name, preset in presets().items()]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [" ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[4]]) for row in rows]
    return "\n".join([*lines, "", "`cliploom models show NAME` says what to download."])


def preset_values(name: str, preset: Preset) -> dict[str, Any]:
    """Return a preset for JSON."""
    return {"name": name} | preset.model_dump(mode="json")


def show_text(name: str, preset: Preset) -> str:
    """Return one preset as text: where it is published, its input and outputs, and how to use it in a spec."""
    hashes = ", ".join(f"{value}... ({file})" for file, value in preset.sha256.items())
    facts = {
        "published": preset.published,
        "formerly": preset.former,
        "licence": preset.licence,
        "size": f"about {preset.size}",
        "names": ", ".join(preset.files),
        "SHA-256": hashes,
        "expects": preset.expects,
        "outputs": _dims(preset),
    }
    lines = [*_wrapped(f"{name}: {preset.title}", "  "), ""]
    for key, value in facts.items():
        lines += _wrapped(f"{key:<10} {value}", " " * 11) if value else []
    encoder = {"kind": preset.kind, "preset": name, preset.takes: f"./{preset.files[0]}"}
    lines += ["", "encoders:", f"  {name}:", *(f"    {key}: {flow(value)}" for key, value in encoder.items())]
    lines += ["", "# its settings, any of which may be overridden:"]
    for key, value in preset.options.items():
        lines += _wrapped(f"# {key}: {flow(value)}", "#   ")
    if preset.scores is not None:
        lines += ["", *_wrapped(f"`cliploom models check {name}` computes the published scores.", "")]
    return "\n".join(lines)


def found_text(found: Found) -> str:
    """Return a description of a model file or folder; if an encoder supports it, as comments of a complete spec."""
    lines = [f"{found.path}: {found.what}", *(f"- {fact}" for fact in found.facts)]
    lines += [_signature(each) for each in found.signatures[:_SHOWN]]
    lines += ["- ..."] if len(found.signatures) > _SHOWN else []
    if found.preset:
        lines.append(f"- fits the preset {found.preset}: {presets()[found.preset].title}")
    if found.guesses:
        lines.append(f"- guessed: {'; '.join(found.guesses)}")
    if found.advice:
        lines.append(f"- {found.advice}")
    if not found.kind:
        return "\n".join(part for line in lines for part in _wrapped(line, "  "))
    comments = [part for line in lines for part in _wrapped(f"# {line}", "#   ")]
    return "\n".join([*comments, "", spec_text(found)]).rstrip()


def _signature(each: dict[str, Any]) -> str:
    def listed(tensors: Sequence[dict[str, str]]) -> str:
        shown = [f"{tensor['name'][:_LONGEST]} {tensor['type']} {tensor['shape']}" for tensor in tensors[:_SHOWN]]
        return ", ".join([*shown, *(["..."] if len(tensors) > _SHOWN else [])])

    return f"- {each['name']}: {listed(each['inputs'])} -> {listed(each['outputs'])}"


def _dims(preset: Preset) -> str:
    return ", ".join(f"{output} {dim}" for output, dim in preset.dims.items())


def _wrapped(line: str, further: str) -> list[str]:
    """Return a line wrapped to the terminal; URLs and long words stay whole, unprintable characters are replaced."""
    columns = width() or _USUAL_WIDTH
    line = "".join(letter if letter.isprintable() else "?" for letter in line)
    return textwrap.wrap(line, columns, subsequent_indent=further, break_long_words=False, break_on_hyphens=False)
