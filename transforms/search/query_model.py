"""Data model of a query, shared by the Python API, the command line and the HTTP API."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from cliploom.schemas.errors import SpecError, nearest, short
from cliploom.transforms.search.answer_model import Answer, Fit, Hit, Moment

__all__ = ["Answer", "Fit", "Hit", "Mode", "Moment", "PartKind", "Query", "QueryPart", "read_query", "vector_rows"]

PartKind = Literal["text", "file", "url", "uid", "vector", "bytes"]
Mode = Literal["words", "vectors", "both"]
RANKERS = ("max", "mean", "bimatch")
# Limit of offset plus top, so that one request cannot rank a whole store repeatedly.
MOST_HITS = 10_000
MOST_MOMENTS = 1_000

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class QueryPart:
    """One thing that hits should be like, or unlike.

    Attributes:
        kind: ``text``; ``file``, a local path or an object in a bucket; ``url``, an http(s) URL; ``uid``, an item of
            the store; ``vector``; ``bytes``, the contents of a media file.
        value: the text, path, URL or uid; the rows of a vector query; the bytes of a file.
        at_s: for media, only the row on screen at this time is used, in seconds.
        weight: the weight of the part in a query of several parts, above 0.
        negative: whether hits should be unlike this part.
    """

    kind: PartKind
    value: str | bytes | Rows
    at_s: float | None = None
    weight: float = 1.0
    negative: bool = False

    def __repr__(self) -> str:
        """Return the part; files and vectors as their sizes."""
        value = short(self.value)
        if isinstance(self.value, bytes):
            value = f"<{len(self.value):,} bytes>"
        elif not isinstance(self.value, str):
            value = f"<{len(self.value)} x {len(self.value[0])} numbers>"
        return f"QueryPart({', '.join([repr(self.kind), value, *changed_fields(self, ('kind', 'value'))])})"

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            SpecError: a value is invalid.
        """
        if self.kind not in get_args(PartKind):
            raise SpecError(f"There is no kind of query {self.kind!r}{nearest(str(self.kind), get_args(PartKind))}")
        if not _is_number(self.weight) or not 0 < self.weight < math.inf:
            raise SpecError(f"The weight of a query part is {self.weight!r}; give a number above 0, such as 0.5.")
        if self.at_s is not None and not (_is_number(self.at_s) and 0 <= self.at_s < math.inf):
            raise SpecError(f"The time in a query is {self.at_s!r}; give seconds from the start, such as 12.5.")
        if self.at_s is not None and self.kind in ("text", "vector"):
            raise SpecError(f"A part of kind {self.kind!r} has no time; remove at_s.")
        if self.kind == "vector":
            object.__setattr__(self, "value", vector_rows(self.value))
        elif self.kind == "bytes":
            if not isinstance(self.value, bytes) or not self.value:
                raise SpecError("The file to search by is empty; give the bytes of a picture, GIF or video.")
        elif not isinstance(self.value, str) or not self.value.strip():
            name = "text" if self.kind == "text" else "like"
            raise SpecError(f"The {name} to search for is empty ({self.value!r}); give a few words, a file or a uid.")
        if not isinstance(self.negative, bool):
            raise SpecError(f"negative is {self.negative!r}; give true or false.")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; bytes as base64."""
        value: Any = self.value
        if isinstance(value, bytes):
            value = base64.b64encode(value).decode("ascii")
        elif not isinstance(value, str):
            value = [list(row) for row in value]
        plain = {"kind": self.kind, "value": value, "at_s": self.at_s, "weight": self.weight}
        return plain | {"negative": self.negative}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> QueryPart:
        """Create a part from the result of ``to_dict``.

        Raises:
            SpecError: a key is unknown or a value is invalid.
        """
        known = _checked_keys(value, cls, "a part of a query", required=("kind", "value"))
        if known["kind"] == "bytes":
            try:
                known["value"] = base64.b64decode(str(known["value"]), validate=True)
            except (binascii.Error, ValueError):
                raise SpecError("The bytes of a query are not base64; encode the file as base64.") from None
        return cls(**known)


@dataclass(frozen=True)
class Query:
    """A search query.

    Attributes:
        parts: what hits should be like and unlike; at least one positive part.
        where: an SQL expression that items or rows must satisfy; see docs/search.md.
        in_uid: the uid of the only item to search, if any.
        index: the indexes to search; None for all that support the query.
        top: the number of hits.
        offset: the number of hits to skip, for paging.
        rank: ``max``, ``mean`` or ``bimatch``.
        d_miss: for ``bimatch``, the distance that counts as a miss.
        moments: the number of moments of each hit.
        group: a metadata column; only the best hit for each of its values is kept.
        facets: the columns whose values are counted.
        mode: ``words``, ``vectors`` or ``both``.
        min_fit: hits with a lower calibrated score are omitted.
    """

    parts: tuple[QueryPart, ...]
    where: str | None = None
    in_uid: str | None = None
    index: tuple[str, ...] | None = None
    top: int = 10
    offset: int = 0
    rank: str = "max"
    d_miss: float | None = None
    moments: int = 0
    group: str | None = None
    facets: tuple[str, ...] = ()
    mode: Mode = "vectors"
    min_fit: float | None = None

    def __repr__(self) -> str:
        """Return the parts, and the fields that differ from their defaults."""
        parts = ", ".join(map(repr, self.parts)) + ("," if len(self.parts) == 1 else "")
        return f"Query({', '.join([f'({parts})', *changed_fields(self, ('parts',))])})"

    @property
    def only_text(self) -> str | None:
        """The text of a query that has no other part, else None."""
        part = self.parts[0]
        return str(part.value) if len(self.parts) == 1 and part.kind == "text" and not part.negative else None

    @property
    def title(self) -> str:
        """A short description of the query for users."""
        named = [
            f"{'not ' if part.negative else ''}{'' if part.kind == 'text' else 'like '}"
            f"{part.value if isinstance(part.value, str) else f'a {part.kind}'}"
            for part in self.parts
        ]
        return ", ".join(named)

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            SpecError: a value is invalid for any store.
        """
        if not self.parts:
            raise SpecError("Search by a text or by --like (a file or uid), or in Python by a vector; none is given.")
        if all(part.negative for part in self.parts):
            raise SpecError("The query only has negative parts; add a text or --like NAME.")
        if not _is_int(self.top, 1):
            raise SpecError(f"top is {self.top!r}; ask for at least 1 hit.")
        if not _is_int(self.offset, 0):
            raise SpecError(f"offset is {self.offset!r}; give the number of hits to skip, 0 or more.")
        if not _is_int(self.moments, 0) or self.moments > MOST_MOMENTS:
            raise SpecError(f"moments is {self.moments!r}; ask for 0 to {MOST_MOMENTS} moments of each hit.")
        if self.rank not in RANKERS:
            raise SpecError(f"There is no ranker {self.rank!r}{nearest(str(self.rank), RANKERS)}")
        if self.mode not in get_args(Mode):
            raise SpecError(f"There is no mode {self.mode!r}{nearest(str(self.mode), get_args(Mode))}")
        if self.min_fit is not None and not (_is_number(self.min_fit) and 0 <= self.min_fit <= 1):
            raise SpecError(f"min_fit is {self.min_fit!r}; give a number from 0 to 1, such as 0.5.")
        for name in ("where", "in_uid", "group"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, str) and value.strip()):
                raise SpecError(f"{name} is empty ({value!r}); give a value, or remove it.")
        self._check_d_miss()

    def _check_d_miss(self) -> None:
        if self.d_miss is None:
            return
        if not _is_number(self.d_miss):
            raise SpecError(f"d_miss is {self.d_miss!r}; give a number above 0, such as 2.0.")
        if not 0 < self.d_miss < math.inf:
            raise SpecError(f"d_miss is {self.d_miss}; it must be a number above 0, such as 2.0.")
        if self.rank != "bimatch":
            raise SpecError(
                f"d_miss applies to the ranker bimatch, not to {self.rank!r}; add --rank bimatch, or remove it."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        plain = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return plain | {
            "parts": [part.to_dict() for part in self.parts],
            "index": None if self.index is None else list(self.index),
            "facets": list(self.facets),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Query:
        """Create a query from the result of ``to_dict``; all keys but ``parts`` are optional.

        Raises:
            SpecError: a key is unknown or a value is invalid.
        """
        known = _checked_keys(value, cls, "a query", required=("parts",))
        parts = known["parts"]
        if not isinstance(parts, Sequence) or isinstance(parts, str | bytes):
            raise SpecError('The parts of a query are not a list; give "parts": [{"kind": "text", "value": "a cat"}].')
        known["parts"] = tuple(QueryPart.from_dict(part) for part in parts)
        for name in ("index", "facets"):
            if known.get(name) is not None:
                known[name] = _names(name, known[name])
        return cls(**known)


def changed_fields(value: QueryPart | Query, without: Sequence[str]) -> list[str]:
    """Return ``name=value`` for each field of a dataclass that differs from its default."""
    others = [entry for entry in fields(value) if entry.name not in without]
    found = {entry.name: getattr(value, entry.name) for entry in others if getattr(value, entry.name) != entry.default}
    return [f"{name}={each!r}" for name, each in found.items()]


def read_query(text: str) -> Query:
    """Read a query from JSON, or from the file named after ``@``.

    Raises:
        SpecError: it is not a valid query.
    """
    try:
        source = Path(text[1:]).read_text("utf-8") if text.startswith("@") else text
        value = json.loads(source)
    except (OSError, ValueError) as error:
        raise SpecError(
            f"The query can't be read as JSON ({error}); write it as in "
            """'{"parts": [{"kind": "text", "value": "a cat"}]}'."""
        ) from None
    return Query.from_dict(value)


def vector_rows(value: Any) -> Rows:
    """Return the rows of a vector query as tuples, from a list of numbers, a list of rows, or an array.

    Raises:
        SpecError: it is not a vector, or has values that are not finite.
    """
    import numpy as np

    try:
        rows = np.atleast_2d(np.asarray(value, np.float32))
    except (TypeError, ValueError) as error:
        raise SpecError(f"The vector to search for is not a list of numbers ({error}).") from None
    if rows.ndim != 2 or not rows.size or not np.isfinite(rows).all():
        raise SpecError(f"The vector to search for has the shape {list(rows.shape)} or values that are not finite.")
    return tuple(tuple(row) for row in rows.tolist())


def _checked_keys(
    value: Any, model: type[QueryPart] | type[Query], what: str, required: Sequence[str]
) -> dict[str, Any]:
    names = [entry.name for entry in fields(model)]
    if not isinstance(value, Mapping):
        raise SpecError(f"{what.capitalize()} is {value!r:.80}; give an object with the keys {', '.join(names)}.")
    for key in value:
        if key not in names:
            raise SpecError(f"There is no key {key!r} in {what}{nearest(str(key), names)}")
    for key in required:
        if key not in value:
            raise SpecError(f"The key {key!r} is missing in {what}.")
    return dict(value)


def _names(key: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, Sequence) or not all(isinstance(name, str) for name in value):
        raise SpecError(f"{key} is {value!r:.80}; give a list of names.")
    return tuple(value)


def _is_int(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value
