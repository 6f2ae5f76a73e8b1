"""Beam options that cache their views.

Beam requests about 200 views of its options while it builds and runs a graph, and each creates a new parser of
command-line arguments: a quarter of the fixed time of a run (``python -m benchmarks nightly``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from apache_beam.options.pipeline_options import PipelineOptions

V = TypeVar("V", bound=PipelineOptions)


class GraphOptions(PipelineOptions):  # type: ignore[misc]
    """``PipelineOptions`` that cache their views; all views share the options' values, as in Beam."""

    def __init__(self, flags: Sequence[str] | None = None, **values: Any) -> None:
        super().__init__(flags, **values)
        self._forget_views()

    def _forget_views(self) -> None:
        # Beam only allows options to be set as attributes.
        object.__setattr__(self, "_views", {})

    def view_as(self, cls: type[V]) -> V:
        """Return the view of a class, created on the first call."""
        views: dict[type[PipelineOptions], Any] = self.__dict__["_views"]
        if cls not in views:
            views[cls] = super().view_as(cls)
        found: V = views[cls]
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for copying and pickling: everything but the views."""
        return {name: value for name, value in super().__getstate__().items() if name != "_views"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget_views()
