"""Looks for elements without a type in Beam graphs."""

from __future__ import annotations

from typing import Any

import apache_beam as beam
from apache_beam.pipeline import PipelineVisitor


class Untyped(PipelineVisitor):
    """Finds cliploom's own transforms with an input or output of type Any."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.seen = 0

    def enter_composite_transform(self, transform_node: Any) -> None:
        self.visit_transform(transform_node)

    def visit_transform(self, transform_node: Any) -> None:
        if not is_own(transform_node.transform):
            return
        self.seen += 1
        for collection in (*transform_node.inputs, *transform_node.outputs.values()):
            kind = getattr(collection, "element_type", None)
            if kind is not None and has_any(kind):
                self.found.append(f"{transform_node.full_label}: {kind}")


def is_own(transform: Any) -> bool:
    """The class or the function that does the work is cliploom's."""
    # What a combiner passes between its own stages is Beam's matter.
    wrapped = getattr(transform, "fn", None) if isinstance(transform, beam.ParDo | beam.CombineGlobally) else None
    works = [type(transform), type(wrapped), getattr(wrapped, "_fn", None)]
    return any((getattr(each, "__module__", "") or "").startswith("cliploom.") for each in works)


def has_any(kind: Any) -> bool:
    if kind in (Any, beam.typehints.Any):
        return True
    inner = getattr(kind, "_inner_types", None)
    return callable(inner) and any(has_any(each) for each in inner())
