"""The text signature of a SavedModel that takes strings: its vocabulary and rules, and the graph after them.

String operations cannot be converted. They end where word numbers are looked up in a table of vectors; so the graph is
split there, and the part before it is done in Python by rules derived from the graph (``word_tokens``). Rules that are
not recognised must be declared. Measuring against TensorFlow, or golden vectors, verifies the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as op

from cliploom.schemas.errors import CliploomError
from cliploom.transforms.encoders.runtime import named_result
from cliploom.transforms.encoders.tensorflow_graph import left_over
from cliploom.transforms.encoders.tensorflow_protos import nodes_by_name
from cliploom.transforms.encoders.word_tokens import Step

_LOOKUPS = ("LookupTableFindV2", "LookupTableFind")
_COMPARISONS = ("NotEqual", "Equal", "Greater", "GreaterEqual", "Less", "LessEqual")
# operations that only rearrange numbers
_MOVES = {
    *("Convert", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Broadcast", "Tile", "Pad", "Concat"),
    *("Gather", "GatherND", "StridedSlice", "Slice", "Split", "VariadicSplit", "NonZero"),
    *("ScatterNDUpdate", "ScatterUpdate", "ScatterElementsUpdate"),
}
_STRIP = r"^[ \t\n\v\f\r]+|[ \t\n\v\f\r]+$"


@dataclass
class FoundRules:
    """The tokenization rules found in the graph; None for unknown ones.

    Attributes:
        steps, split, keep_empty, any_of, unknown, pad_id, tokens: see ``WordRules``.
        offset: the number added to a word's number in the table.
        dropped: whether unknown words are dropped.
        reasons: for each key of the spec that must be declared, the reason.
    """

    steps: tuple[Step, ...] | None = None
    split: str | None = None
    keep_empty: bool = False
    any_of: bool = False
    unknown: int | None = None
    dropped: bool = False
    offset: int | None = None
    pad_id: int | None = None
    tokens: int | None = None
    reasons: dict[str, str] = field(default_factory=dict)


class TextGraph:
    """A partially converted text signature."""

    def __init__(self, graph: ov.Model, graph_def: Any, model: str) -> None:
        """Find the operation that looks up word numbers.

        Args:
            graph: the graph of one output, from ``convert_signature(partially=True)``.
            graph_def: the GraphDef that it was converted from.
            model: the name, for messages.

        Raises:
            CliploomError: there is no such operation.
        """
        self._graph, self._model = graph, model
        self._nodes = nodes_by_name(graph_def)
        self._order = graph.get_ordered_ops()
        texts = [node for node in graph.get_parameters() if node.get_element_type() == ov.Type.string]
        if len(texts) != 1 or len(graph.get_parameters()) != 1:
            raise CliploomError(
                f"The text signature of '{model}' must take strings alone; name another by text.signature."
            )
        self._from_text = self._descendants(texts, lambda node: True)
        self.ids, self._table = self._ids()
        self._before_ids = self._ancestors(self.ids.get_node())

    @property
    def rows(self) -> int | None:
        """The number of rows in the table of word vectors, if the graph fixes it."""
        size = self._table.get_partial_shape()[0]
        return None if size.is_dynamic else int(size.get_length())

    def cut(self, tokens: int, output: str) -> ov.Model:
        """Return the graph after the tokens: int32 [batch, tokens] to float32 ``output``; modifies this one.

        Raises:
            CliploomError: string operations are left.
        """
        ids = op.parameter(ov.PartialShape([-1, tokens]), np.int32, name="ids")
        kind = self.ids.get_element_type()
        source = op.convert(ids, "i64" if kind.is_dynamic() else kind.get_type_name())
        for target in self.ids.get_target_inputs():
            target.replace_source_output(source.output(0))
        vectors = op.convert(self._graph.get_results()[0].input_value(0), "f32")
        try:
            made = ov.Model([named_result(vectors, output)], [ids], "text")
            made.validate_nodes_and_infer_types()
        except RuntimeError:
            made = None
        if made is None or left_over(made):
            raise CliploomError(
                f"The text signature of '{self._model}' uses its sentences for more than one table of word vectors, so "
                "it can't be converted; export the text tower from token ids as ONNX and use kind: onnx."
            )
        return made

    def rules(self) -> FoundRules:
        """Derive the rules from the graph."""
        found = FoundRules()
        lookups = [node for node in self._before_ids if self._type(node) in _LOOKUPS]
        if len(lookups) != 1:
            reason = f"the graph looks words up in {len(lookups)} tables"
            found.reasons = dict.fromkeys(("replace", "split", "tokens", "unknown", "first", "pad_id"), reason)
            return found
        lookup = lookups[0]
        self._read_strings(lookup, found)
        self._read_numbers(lookup, found)
        return found

    def _ids(self) -> tuple[Any, Any]:
        """Return the output that feeds the table of word vectors, and the table."""
        found: dict[tuple[str, int], tuple[Any, Any]] = {}
        for node in self._order:
            if node.get_type_name() != "Gather" or node.get_name() not in self._from_text:
                continue
            table, index = node.input_value(0), node.input_value(1)
            if table.get_node().get_name() in self._from_text or index.get_node().get_name() not in self._from_text:
                continue
            if table.get_element_type().is_real() and table.get_partial_shape().rank == 2:
                found[index.get_node().get_name(), index.get_index()] = (index, table)
        if len(found) != 1:
            raise CliploomError(
                f"The text signature of '{self._model}' looks words up in {len(found)} tables of vectors, where one is "
                "needed; export the text tower from token ids as ONNX and use kind: onnx."
            )
        return next(iter(found.values()))

    def _read_strings(self, lookup: Any, found: FoundRules) -> None:
        """Find the rules between the sentence and the table of words."""
        steps: list[Step] = []
        chain = self._ancestors(lookup.input_value(1).get_node())
        for node in chain:
            if node.get_name() not in self._from_text or node.get_type_name() == "Parameter":
                continue
            definition = self._definition(node)
            kind = definition.op if definition is not None else node.get_type_name()
            if kind in ("StringSplit", "StringSplitV2"):
                self._read_split(definition, found)
            elif (step := self._step(kind, definition)) is not None:
                steps.append(step)
            elif kind not in _MOVES:
                found.reasons["replace"] = f"the graph changes its sentences by {kind}"
                return
        found.steps = tuple(steps)
        if found.split is None:
            found.reasons.setdefault("split", "the graph splits its sentences in an unknown way")

    def _step(self, kind: str, definition: Any) -> Step | None:
        if kind == "StringLower":
            return Step("unicode" if definition.attr["encoding"].s == b"utf-8" else "ascii")
        if kind == "StringStrip":
            return Step("replace", _STRIP)
        if kind not in ("StaticRegexReplace", "RegexReplace"):
            return None
        everywhere = definition.attr["replace_global"].b if "replace_global" in definition.attr else True
        if kind == "StaticRegexReplace":
            pattern, rewrite = definition.attr["pattern"].s, definition.attr["rewrite"].s
        else:
            pattern, rewrite = self._string(definition.input[1]) or b"", self._string(definition.input[2])
        return None if rewrite is None else Step("replace", pattern.decode(), rewrite.decode(), everywhere)

    def _read_split(self, definition: Any, found: FoundRules) -> None:
        separator = self._string(definition.input[1])
        attr = definition.attr
        first = definition.op == "StringSplit"
        limited = "maxsplit" in attr and attr["maxsplit"].i >= 0
        if separator is None or limited or (first and not separator):
            found.reasons["split"] = "the graph splits its sentences in an unknown way"
            return
        found.split = separator.decode()
        if first:
            found.any_of, found.keep_empty = True, "skip_empty" in attr and not attr["skip_empty"].b
        else:
            found.keep_empty = bool(separator)

    def _read_numbers(self, lookup: Any, found: FoundRules) -> None:
        """Find the rules between the table of words and the table of vectors."""
        default = _constant(lookup.input_value(2))
        values = self._descendants([lookup], lambda node: node.get_type_name() not in ("ShapeOf", *_COMPARISONS))
        offset, dropped = 0, False
        lengths: set[int] = set()
        fills: list[int | None] = []
        for node in self._before_ids:
            kind, name = self._type(node), node.get_name()
            if name not in values or name == lookup.get_name() or kind == "ShapeOf":
                continue
            if kind in ("Add", "Subtract") and (number := _other(node, values)) is not None:
                change = number if kind == "Add" else -number
                offset += change
                fills = [None if each is None else each + change for each in fills]
            elif kind in _COMPARISONS:
                dropped = True
            elif kind == "RaggedTensorToTensor":
                lengths |= _lengths(node.input_value(0))
                fills.append(_constant(node.input_value(2)))
            elif kind == "Pad":
                fills.append(_constant(node.input_value(3)) if node.get_input_size() > 3 else 0)
            elif kind == "ScatterNDUpdate":
                fills.append(_constant(node.input_value(0).get_node().input_value(0)))
            elif kind == "StridedSlice":
                lengths |= _lengths(node.input_value(2))
            elif kind not in _MOVES:
                reason = f"the graph changes the numbers of words by {kind}"
                found.reasons |= dict.fromkeys(("unknown", "first", "pad_id"), reason)
        for node in self._before_ids:
            if node.get_type_name() in ("Subtract", "Minimum") and node.get_name() not in values:
                lengths |= _lengths(node.input_value(0)) | _lengths(node.input_value(1))
        self._conclude(found, default, offset, dropped, lengths, fills)

    def _conclude(
        self, found: FoundRules, default: int | None, offset: int, dropped: bool, lengths: set[int], fills: list[Any]
    ) -> None:
        if "first" not in found.reasons:
            found.offset, found.dropped = offset, dropped
            found.unknown = None if default is None else default + offset
            if default is None:
                found.reasons["unknown"] = "the graph's number for unknown words is not a constant"
            if len(set(fills)) > 1 or None in fills:
                found.reasons["pad_id"] = f"the graph fills up with several numbers ({fills})"
            else:
                found.pad_id = fills[0] if fills else 0
        if len(lengths) == 1:
            found.tokens = next(iter(lengths))
        else:
            listed = " or ".join(map(str, sorted(lengths))) or "no number of words"
            found.reasons["tokens"] = f"the graph cuts its sentences to {listed}"

    def _definition(self, node: Any) -> Any:
        """Return the TensorFlow node of an unconverted node of the graph, or None."""
        if "FrameworkNode" not in node.get_type_name():
            return None
        parts = node.get_friendly_name().split("/")
        for begin in range(len(parts)):
            named = self._nodes.get("/".join(parts[begin:]))
            if named:
                return named[0]
        return None

    def _type(self, node: Any) -> str:
        definition = self._definition(node)
        return str(definition.op if definition is not None else node.get_type_name())

    def _string(self, reference: str) -> bytes | None:
        """Return the value of a constant string that a TensorFlow node takes."""
        for node in self._nodes.get(reference.split(":")[0].lstrip("^"), []):
            if node.op == "Const":
                values = node.attr["value"].tensor.string_val
                return values[0] if len(values) == 1 else b""
        return None

    def _ancestors(self, node: Any) -> list[Any]:
        """Return a node and everything it depends on, in the order of computation."""
        seen = {node.get_name()}
        waiting = [node]
        while waiting:
            for value in waiting.pop().input_values():
                source = value.get_node()
                if source.get_name() not in seen:
                    seen.add(source.get_name())
                    waiting.append(source)
        return [each for each in self._order if each.get_name() in seen]

    def _descendants(self, nodes: Iterable[Any], passes: Callable[[Any], bool]) -> set[str]:
        """Return the names of some nodes and of everything that depends on them through transparent nodes."""
        seen = {node.get_name() for node in nodes}
        for node in self._order:
            sources = (value.get_node() for value in node.input_values())
            if any(source.get_name() in seen and passes(source) for source in sources):
                seen.add(node.get_name())
        return seen


def _constant(value: Any) -> int | None:
    """Return a scalar constant, or None."""
    node = value.get_node()
    if node.get_type_name() == "Convert":
        return _constant(node.input_value(0))
    if node.get_type_name() != "Constant" or node.get_element_type() == ov.Type.string:
        return None
    data = np.asarray(node.data).reshape(-1)
    return int(data[0]) if len(data) == 1 else None


def _other(node: Any, values: set[str]) -> int | None:
    """Return the constant that is added to word numbers."""
    sources = [value for value in node.input_values() if value.get_node().get_name() not in values]
    return _constant(sources[0]) if len(sources) == 1 else None


def _lengths(value: Any) -> set[int]:
    """Return the numbers above 1 in a constant: lengths, not axes or strides."""
    node = value.get_node()
    if node.get_type_name() != "Constant" or not node.get_element_type().is_integral():
        return set()
    largest = np.iinfo(np.int32).max
    return {int(number) for number in np.asarray(node.data).reshape(-1) if 1 < number < largest}
