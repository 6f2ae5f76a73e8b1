"""SavedModels and frozen graphs: their inputs and outputs, read from their descriptions only."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cliploom.schemas.errors import CliploomError
from cliploom.transforms.encoders.presets import Preset, presets
from cliploom.transforms.encoders.saved_model_files import GRAPH, MOST_DESCRIPTION, description_of, is_archive
from cliploom.transforms.encoders.saved_model_signatures import STRING, USUAL, SavedModel, Signature, Tensor
from cliploom.transforms.encoders.tensorflow_protos import read_message
from cliploom.transforms.model_files.found import Found, with_preset
from cliploom.transforms.model_files.shapes import MOST_OUTPUTS, Guess, guessed_input, name_of

_FLOATS = (1, 2, 19)
_SHOWN = 6
_SOURCES = ("Const", "NoOp", "Placeholder", "Assert", "Assign")


def saved_model(path: Path, given: str) -> Found:
    """Identify a SavedModel's folder or archive.

    Raises:
        CliploomError: it is not one, or is damaged.
    """
    with tempfile.TemporaryDirectory(prefix="cliploom-") as scratch:
        folder = path
        if is_archive(path):
            folder = Path(scratch)
            (folder / GRAPH).write_bytes(description_of(path))
        elif (folder / GRAPH).stat().st_size > MOST_DESCRIPTION:
            raise CliploomError(f"The {GRAPH} in '{given}' has more than {MOST_DESCRIPTION >> 30} GiB; it is not read.")
        saved = SavedModel(folder, given)
    listed = saved.signatures
    found = Found(
        given,
        "a SavedModel of TensorFlow" + (", packed" if is_archive(path) else ""),
        facts=(f"tags: {', '.join(saved.tags) or 'none'}",),
        signatures=tuple(_described(each) for each in listed),
    )
    if not is_archive(path) and not (path / "variables" / "variables.index").is_file():
        found = replace(found, facts=(*found.facts, "it has no variables/variables.index, so it is incomplete"))
    for name, preset in _by_size(_fitting(listed), path):
        found = with_preset(found, name, preset, given)
        others = [other for other, _ in _fitting(listed) if other != name]
        facts = (f"the same signature: {', '.join(others)}",) if others else ()
        return replace(found, facts=(*found.facts, *_differences(listed, preset), *facts))
    return _suggested(found, listed)


def _fitting(listed: Iterable[Signature]) -> list[tuple[str, Preset]]:
    """Return the presets whose signatures and outputs all match; for common names their lengths must match too."""
    outputs = {each.name: {output.key: output for output in each.outputs} for each in listed}
    found = []
    for name, preset in presets().items():
        wanted = preset.signatures
        if not wanted or any(set(keys) - set(outputs.get(sign, {})) for sign, keys in wanted.items()):
            continue
        lengths = [(_last(outputs[sign][key]), dim) for sign, keys in wanted.items() for key, dim in keys.items()]
        if len(wanted) > 1 or all(length == dim for length, dim in lengths):
            found.append((name, preset))
    return found


def _by_size(fitting: list[tuple[str, Preset]], path: Path) -> list[tuple[str, Preset]]:
    """Sort presets with one signature by the difference between their published size and the file's."""
    files = [path] if path.is_file() else [*path.glob("variables/*")][:_SHOWN]
    size = sum(file.stat().st_size for file in files if file.is_file())
    units = {"MB": 1e6, "GB": 1e9}

    def distance(preset: Preset) -> float:
        number, unit = preset.size.split()
        return abs(size - float(number) * units[unit])

    return sorted(fitting, key=lambda each: distance(each[1]))


def _differences(listed: Iterable[Signature], preset: Preset) -> list[str]:
    found = {(each.name, output.key): _last(output) for each in listed for output in each.outputs}
    return [
        f"{key} has {found[sign, key]} numbers, the published model {dim}"
        for sign, keys in preset.signatures.items()
        for key, dim in keys.items()
        if found[sign, key] not in (None, dim)
    ]


def _suggested(found: Found, listed: Iterable[Signature]) -> Found:
    """Return an encoder for the first signature that takes pictures or clips."""
    listed = tuple(listed)
    for each in sorted(listed, key=lambda one: one.name not in USUAL):
        floats = len(each.inputs) == 1 and each.inputs[0].type in _FLOATS
        guess = guessed_input(_shape(each.inputs[0])) if floats else None
        outputs = [output for output in each.outputs if output.type in _FLOATS and _rank(output) in (None, 2, 3, 4, 5)]
        outputs = outputs[:MOST_OUTPUTS]
        if guess is None or not outputs or "n" not in guess.layout:
            continue
        options: dict[str, Any] = {"model": found.path, "input": guess.options(None)}
        options |= {"signature": each.name} if len(listed) > 1 else {}
        options["outputs"] = {name_of(output.key): _output(output.key, _rank(output)) for output in outputs}
        first = min(outputs, key=lambda output: _rank(output) not in (None, 2))
        words = _words(listed, _last(first))
        if words is not None:
            options["text"] = {"signature": words.name} | ({"output": name_of(first.key)} if len(outputs) > 1 else {})
        return replace(
            found,
            kind="saved_model",
            options=options,
            sample=guess.sample,
            output=name_of(first.key),
            guesses=(*guess.guesses, "values / 255; if the model expects others, add offset and scale to input"),
        )
    reason = "no signature takes only pictures or clips" if listed else "it has no signature"
    return replace(found, advice=f"{reason}, so no encoder uses it; export the part that does as ONNX.")


def _words(listed: Iterable[Signature], length: int | None) -> Signature | None:
    """Return a signature of strings whose vectors are as long as those of the pictures."""
    for each in listed:
        strings = [one.type for one in each.inputs] == [STRING]
        if strings and len(each.outputs) == 1 and _last(each.outputs[0]) in (None, length):
            return each
    return None


def _described(each: Signature) -> dict[str, Any]:
    return {"name": each.name, "inputs": _tensors(each.inputs), "outputs": _tensors(each.outputs)}


def _tensors(tensors: Iterable[Tensor]) -> list[dict[str, str]]:
    return [{"name": each.key, "type": each.type_name, "shape": each.shape} for each in tensors]


def _shape(tensor: Tensor) -> list[int | None] | None:
    """Return the sizes of a tensor, None for a dynamic one; None for any shape."""
    if not tensor.shape.startswith("["):
        return None
    return [int(size) if size.isdigit() else None for size in re.findall(r"\d+|\?", tensor.shape)]


def _rank(tensor: Tensor) -> int | None:
    shape = _shape(tensor)
    return None if shape is None else len(shape)


def _last(tensor: Tensor) -> int | None:
    shape = _shape(tensor)
    return shape[-1] if shape else None


def _output(node: str, rank: int | None) -> dict[str, Any]:
    pooled: dict[str, Any] = {} if rank in (None, 2) else {"pool": "mean", "channel_axis": -1}
    return {"node": node} | pooled


def frozen_graph(path: Path, given: str) -> Found:
    """Identify a GraphDef.

    Raises:
        CliploomError: it is not one.
    """
    if path.stat().st_size > MOST_DESCRIPTION:
        raise CliploomError(f"'{given}' has {path.stat().st_size:,} bytes, too many to look into; is it a graph?")
    nodes = list(read_message("GraphDef", path).node)
    if not nodes or not all(node.name and node.op for node in nodes):
        raise CliploomError(f"'{given}' is not a frozen graph: it has no named nodes; export it again.")
    by_name = {node.name: node for node in nodes}
    used = {reference.lstrip("^").split(":")[0] for node in nodes for reference in node.input}
    fed = [node.name for node in nodes if node.op.startswith("Decode")]
    fed += [node.name for node in nodes if node.op == "Placeholder"]
    ends = [node.name for node in nodes if node.name not in used and node.op not in _SOURCES]
    found = Found(
        given,
        "a frozen graph of TensorFlow 1",
        facts=(
            f"{len(nodes):,} nodes",
            f"may be fed: {_some(fed) or 'none by its type; name one by input.node'}",
            f"ends: {_some(ends)}",
        ),
    )
    for name, preset in presets().items():
        if preset.nodes and set(preset.nodes) <= set(by_name):
            return with_preset(found, name, preset, given)
    if not fed or not ends:
        return replace(
            found, advice="it has no placeholder to feed; name a tensor by input.node of kind: frozen_graph."
        )
    decoded = by_name[fed[0]].op.startswith("Decode")
    shape = None if decoded else _placeholder_shape(by_name[fed[0]])
    guess = Guess("hwc", 299, 299, guesses=("299 x 299 pictures",)) if decoded else guessed_input(shape)
    if guess is None:
        return replace(found, advice=f"its placeholder '{fed[0]}' is not a picture or clip, so no encoder supports it.")
    taken = guess.options(f"{fed[0]}:0") | ({"offset": 0, "scale": 1} if decoded else {})
    return replace(
        found,
        kind="frozen_graph",
        options={"model": given, "input": taken, "outputs": {"vector": {"node": f"{ends[-1]}:0", "pool": "flatten"}}},
        sample=guess.sample,
        output="vector",
        guesses=(*guess.guesses, f"the output {ends[-1]}", *(() if decoded else ("values / 255",))),
    )


def _placeholder_shape(node: Any) -> list[int | None] | None:
    shape = node.attr["shape"].shape if "shape" in node.attr else None
    if shape is None or shape.unknown_rank or not shape.dim:
        return None
    return [None if dim.size < 0 else int(dim.size) for dim in shape.dim]


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN] if len(names) <= _SHOWN else [*names[: _SHOWN - 1], "...", names[-1]])
    return shown
