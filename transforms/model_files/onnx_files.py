"""ONNX files: their inputs and outputs, parsed field by field without weights; nothing is loaded or run.

Source of the field numbers: onnx/onnx.proto, messages ModelProto, GraphProto, ValueInfoProto and TypeProto.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from cliploom.schemas.errors import CliploomError
from cliploom.transforms.model_files.found import Found
from cliploom.transforms.model_files.shapes import MOST_OUTPUTS, guessed_input, name_of

_TYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    6: "int32",
    7: "int64",
    8: "string",
    9: "bool",
    10: "float16",
    11: "float64",
}
_WHOLE = ("int32", "int64")
_EXTERNAL = 14


def onnx(path: Path, given: str) -> Found:
    """Identify an ONNX file.

    Raises:
        CliploomError: it is not one, or is damaged.
    """
    try:
        with path.open("rb") as stream:
            data = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        inputs, outputs, outside = _graph(data)
    except (ValueError, IndexError):
        raise CliploomError(f"'{given}' is not an ONNX file (or it is damaged); download or export it again.") from None
    signature = {"name": "graph", "inputs": inputs, "outputs": outputs}
    found = Found(given, "an ONNX file", signatures=(signature,))
    if outside and not list(path.parent.glob(f"{path.name}*"))[1:]:
        found = replace(found, facts=("its weights are in another file, which is missing",))
    pixels = inputs[0] if len(inputs) == 1 else None
    if inputs and all(each["type"] in _WHOLE for each in inputs):
        return replace(
            found,
            what="an ONNX file that takes token ids: a text tower",
            advice="give it as text of an encoder of kind onnx, with its tokenizer.json (docs/encoders.md).",
        )
    shape = None if pixels is None else [size if isinstance(size, int) else None for size in pixels["sizes"]]
    guess = guessed_input(shape) if shape else None
    vectors = [each for each in outputs if each["type"] in ("float32", "float16", "float64")]
    if pixels is None or guess is None or not vectors:
        return replace(found, advice="its inputs are not just pictures or clips, so no encoder supports it.")
    kept = {name_of(each["name"]): _output(each) for each in vectors[:MOST_OUTPUTS]}
    return replace(
        found,
        kind="onnx",
        options={"model": given, "input": guess.options(None), "outputs": kept},
        sample=guess.sample,
        output=next(iter(kept)),
        guesses=(*guess.guesses, "values / 255; if the model expects others, add offset and scale to input"),
    )


def _output(value: dict[str, Any]) -> dict[str, Any]:
    rank = len(value["sizes"])
    if rank in (0, 1, 2):
        return {"node": value["name"]}
    return {"node": value["name"], "pool": "mean", "channel_axis": 1 if rank > 3 else -1}


def _graph(data: memoryview) -> tuple[list[dict[str, Any]], list[dict[str, Any]], bool]:
    """Return the inputs without initial values, the outputs, and whether weights are in other files."""
    graphs = [value for number, value in _fields(data) if number == 7 and isinstance(value, memoryview)]
    if len(graphs) != 1:
        raise ValueError("no graph")
    inputs: list[dict[str, Any]] = []
    outputs: list[dict[str, Any]] = []
    given, outside = set(), False
    for number, value in _fields(graphs[0]):
        if number in (11, 12) and isinstance(value, memoryview):
            (inputs if number == 11 else outputs).append(_value_info(value))
        elif number == 5 and isinstance(value, memoryview):
            for inner, content in _fields(value):
                if inner == 8 and isinstance(content, memoryview):
                    given.add(bytes(content).decode("utf-8", "replace"))
                outside |= inner == _EXTERNAL and content == 1
    if not outputs:
        raise ValueError("no outputs")
    return [each for each in inputs if each["name"] not in given], outputs, outside


def _value_info(data: memoryview) -> dict[str, Any]:
    """Return name, type and sizes of an input or output; a dynamic size is its name, or ``?``."""
    name, kind = "", "of another type"
    sizes: list[int | str] = []
    for number, value in _fields(data):
        if number == 1 and isinstance(value, memoryview):
            name = bytes(value).decode("utf-8", "replace")
        for tensor in _inside(value, 1) if number == 2 else ():
            for inner, content in _fields(tensor):
                if inner == 1 and isinstance(content, int):
                    kind = _TYPES.get(content, kind)
                sizes += [_size(dim) for dim in _inside(content, 1)] if inner == 2 else []
    return {"name": name, "type": kind, "shape": f"[{', '.join(map(str, sizes))}]", "sizes": sizes}


def _size(dim: memoryview) -> int | str:
    for number, value in _fields(dim):
        if number == 1 and isinstance(value, int):
            return value
        if number == 2 and isinstance(value, memoryview):
            return bytes(value[:40]).decode("utf-8", "replace")
    return "?"


def _inside(value: int | memoryview, wanted: int) -> list[memoryview]:
    if not isinstance(value, memoryview):
        return []
    return [content for number, content in _fields(value) if number == wanted and isinstance(content, memoryview)]


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the number and value of each field of a message; groups are rejected.

    Raises:
        ValueError: it is not a message, or is truncated.
    """
    place, end = 0, len(data)
    while place < end:
        tag, place = _varint(data, place)
        number, kind = tag >> 3, tag & 7
        value: int | memoryview
        if kind == 0:
            value, place = _varint(data, place)
        else:
            size, place = _varint(data, place) if kind == 2 else ({1: 8, 5: 4}.get(kind, -1), place)
            if size < 0 or place + size > end or number == 0:
                raise ValueError("cut short")
            value, place = data[place : place + size], place + size
        yield number, value


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ValueError("a number of more than 10 bytes")
