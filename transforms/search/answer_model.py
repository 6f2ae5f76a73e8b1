"""Data models of search results: hits, their moments, and facts about the whole result."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from cliploom.schemas.errors import short
from cliploom.transforms.readers.release_tables import ItemLabel

Fit = Literal["good", "weak", "none"]


@dataclass(frozen=True)
class Moment:
    """A stretch of an item that matches a query.

    Attributes:
        start_s, end_s: seconds from the item's start; stretches of one hit do not overlap.
        best_s: the start of the best row, in seconds.
        score: the score of the best row.
        row_id: the id of the best row.
        text: the text of the best row, if rows are sentences.
    """

    start_s: float
    end_s: float
    best_s: float
    score: float
    row_id: int
    text: str = ""


@dataclass(frozen=True)
class Hit:
    """An item that matches a query, with its best moment.

    Attributes:
        index: the index that ranked it highest.
        score: larger is better: the ranker's score, or the reciprocal rank fusion score if several indexes were
            searched.
        start_s, end_s: the time range of the best row, in seconds from the item's start.
        frame: the index in the file of the (first) frame of the best row.
        metadata: the other columns of the table that listed the item.
        release: the number of the release that was searched.
        text: the text of the row, if rows are sentences.
        labels: the labels of the item: given ones first, then predictions of heads, the most probable first.
        row_id: the id of the best row.
        fit: the calibrated score, 0 to 1; None if the index is not calibrated.
        moments: the item's best stretches, best first, as many as were requested.
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
        """Return the item, its score and its best moment; ``to_dict()`` has everything."""
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
        """Return plain values for JSON, with stable keys."""
        # asdict makes deep copies, which took a fifth of a vector query (python -m benchmarks serve, 200,000 rows).
        copied = {"metadata": dict(self.metadata)}
        nested = {name: tuple(dict(vars(each)) for each in getattr(self, name)) for name in ("labels", "moments")}
        return vars(self) | copied | nested


@dataclass(frozen=True)
class Answer:
    """The result of a query.

    Attributes:
        release: the number of the release that was searched.
        hits: one page of hits, best first.
        total: the number of items that match the filters; None if unknown.
        fit: how well the best hit fits; None if the indexes are not calibrated.
        message: one sentence for the user, such as that nothing fits; usually empty.
        facets: the (value, count) pairs of each facet, the most frequent first.
        took_s: the duration of the search, in seconds.
    """

    release: int
    hits: tuple[Hit, ...]
    total: int | None = None
    fit: Fit | None = None
    message: str = ""
    facets: dict[str, list[tuple[Any, int]]] = field(default_factory=dict)
    took_s: float = 0.0

    def __repr__(self) -> str:
        """Return the number of hits and how well they fit; ``hits`` has the hits themselves."""
        shown = [f"release={self.release}", f"hits={len(self.hits)}", f"total={self.total}", f"fit={self.fit!r}"]
        return f"Answer({', '.join(shown + ([f'message={self.message!r}'] if self.message else []))})"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, with stable keys."""
        return asdict(self)
