"""The results of an evaluation, as plain values for JSON and as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cliploom.transforms.metrics.intervals import Figure
from cliploom.transforms.metrics.retrieval import RetrievalMetrics


@dataclass(frozen=True)
class Evaluated:
    """The results of one evaluation.

    Attributes:
        kind: the kind of the evaluation.
        about: the measured thing, such as ``frames.semantic``.
        parts: the figures by direction, such as ``text to item``.
        settings: the effective settings: similarity, unit, and so on.
        notes: what was excluded, and why.
    """

    kind: str
    about: str
    parts: Mapping[str, RetrievalMetrics]
    settings: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "kind": self.kind,
            "about": self.about,
            "settings": dict(self.settings),
            "parts": {name: part.to_dict() for name, part in self.parts.items()},
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Evaluated:
        """Create results from the result of ``to_dict``."""
        parts = {
            name: RetrievalMetrics(
                part["queries"],
                part["videos"],
                part["candidates"],
                {key: Figure(**figure) for key, figure in part["figures"].items()},
            )
            for name, part in value["parts"].items()
        }
        return cls(value["kind"], value["about"], parts, value["settings"], tuple(value["notes"]))

    def lines(self) -> Iterator[str]:
        """Yield the figures as lines of text."""
        chosen = ", ".join(f"{name} {value}" for name, value in self.settings.items() if value not in (None, ""))
        yield f"{self.kind} of {self.about} ({chosen})"
        for name, part in self.parts.items():
            yield f"  {name}: {part.queries} queries of {part.videos} items, {part.candidates} candidates"
            for key, figure in part.figures.items():
                yield f"    {key:8} {shown(key, figure)}"
        yield from (f"  note: {note}" for note in self.notes)


def shown(name: str, figure: Figure) -> str:
    """Format a figure with its interval and its chance level.

    >>> shown("R@1", Figure(0.25, 0.2, 0.3, 0.001)), shown("MedR", Figure(12, 9, 14, 500.5))
    ('0.2500 [0.2000, 0.3000], chance 0.0010', '12.0 [9.0, 14.0], chance 500.5')
    """
    digits = 1 if name in ("MedR", "MeanR") else 4
    text = f"{figure.value:.{digits}f} [{figure.low:.{digits}f}, {figure.high:.{digits}f}]"
    return text if figure.chance is None else f"{text}, chance {figure.chance:.{digits}f}"
