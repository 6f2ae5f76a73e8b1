"""The model of an answer to a query: hits, their moments, and what is known of all of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from cliploom.schemas.errors import short
from cliploom.transforms.readers.release_tables import ItemLabel

Fit = Literal["good", "weak", "none"]


@dataclass(frozen=True)
class Moment:
    """A stretch of an item that answers a query.

    Attributes:
        start_s, end_s: seconds from the item's start; stretches of one hit do not overlap.
        best_s: start of the best row.
        score: of the best row.
        row_id: of the best row.
        text: of the best row, where rows are sentences.
    """

    start_s: float
    end_s: float
    best_s: float
    score: float
    row_id: int
    text: str = ""


@dataclass(frozen=True)
class Hit:
    """An item that answers a query, with its best moment.

    Attributes:
        index: whose list put it highest.
        score: larger is better: the ranker's score, or that of reciprocal rank fusion when several indexes were asked.
        start_s, end_s: the best row's stretch, seconds from the item's start.
        frame: index in the file of the best row's (first) frame.
        metadata: further columns of the table that listed the item.
        release: that answered.
        text: of the row, where rows are sentences.
        labels: of the item, given ones first, then those that trained heads predict, the most probable first.
        row_id: of the best row.
        fit: calibrated score, 0 to 1; None where the index has no calibration.
        moments: the item's best stretches, best first, as many as were asked for.
    """

    index: str
    source: str
    uid: str
    score: float
    start_s: float | None
    end_s: float | None
    frame: int | None
    uri: str
    metadata: dict[str, Any] = field(default_factory=dict)
    release: int = 0
    text: str = ""
    labels: tuple[ItemLabel, ...] = ()
    row_id: int | None = None
    fit: float | None = None
    moments: tuple[Moment, ...] = ()

    def __repr__(self) -> str:
        """The item, its score and its best moment; ``to_dict()`` has everything."""
        shown = [repr(self.uid), f"score={self.score:.3f}"]
        if self.fit is not None:
            shown.append(f"fit={self.fit:.2f}")
        if self.start_s is not None and self.end_s is not None:
            shown.append(f"start_s={self.start_s:g}, end_s={self.end_s:g}")
        shown.append(f"index={self.index!r}")
        if self.text:
            shown.append(f"text={short(self.text)}")
        if self.labels:
            shown.append(f"labels={short(', '.join(str(label.name) for label in self.labels))}")
        if self.moments:
            shown.append(f"moments={len(self.moments)}")
        return f"Hit({', '.join(shown)})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with stable keys."""
        # Not asdict: its deep copies took a fifth of a query by a vector (python -m benchmarks serve, 200,000 rows).
        copied = {"metadata": dict(self.metadata)}
        nested = {name: tuple(dict(vars(each)) for each in getattr(self, name)) for name in ("labels", "moments")}
        return vars(self) | copied | nested


@dataclass(frozen=True)
class Answer:
    """What a store answers to a query.

    Attributes:
        release: that answered.
        hits: one page of them, best first.
        total: number of items that the query could give, without those that the filters leave out; None if unknown.
        fit: how well the best hit fits; None where the indexes have no calibration.
        message: one sentence for the user, such as that nothing fits; empty when there is nothing to say.
        facets: for each facet its (value, count) pairs, the most frequent first.
        took_s: seconds that the answer took.
    """

    release: int
    hits: tuple[Hit, ...]
    total: int | None = None
    fit: Fit | None = None
    message: str = ""
    facets: dict[str, list[tuple[Any, int]]] = field(default_factory=dict)
    took_s: float = 0.0

    def __repr__(self) -> str:
        """How many hits there are and how well they fit; the hits themselves are ``hits``."""
        shown = [f"release={self.release}", f"hits={len(self.hits)}", f"total={self.total}", f"fit={self.fit!r}"]
        return f"Answer({', '.join(shown + ([f'message={self.message!r}'] if self.message else []))})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with stable keys."""
        return asdict(self)
