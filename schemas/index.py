"""Records of ANN indexes: settings of an index, contents of a shard file, and hits of a search."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

Metric = Literal["cosine", "dot", "l2"]
Kind = Literal["flat", "ivf_sq8", "ivf_rabitq", "hnsw"]
INVERTED: frozenset[str] = frozenset({"ivf_sq8", "ivf_rabitq"})
"""Kinds that are inverted files of one byte a number."""


@dataclass(frozen=True)
class IndexRecipe:
    """Settings that all shards of an index share.

    Attributes:
        dim: length of its vectors.
        nprobe: how much of a shard a query visits: inverted lists for ``ivf_sq8`` and ``ivf_rabitq``, ``efSearch`` for
            ``hnsw``; 0 for ``flat``, which visits everything, and for indexes that are not tuned yet.
    """

    metric: Metric
    kind: Kind
    dim: int
    nprobe: int = 0

    @property
    def inverted(self) -> bool:
        """Whether its shards are inverted files of one byte a number."""
        return self.kind in INVERTED

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> IndexRecipe:
        """Create from the output of ``to_dict``."""
        return cls(**value)


@dataclass(frozen=True)
class IndexShard:
    """One index file.

    Attributes:
        file: name inside the index's folder.
        size: bytes.
        digest: digest of the file's bytes.
        parts: feature parts whose rows it contains.
    """

    file: str
    size: int
    digest: str
    rows: int
    parts: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> IndexShard:
        """Create from the output of ``to_dict``, also after JSON turned the parts into a list."""
        return cls(**(value | {"parts": tuple(value.get("parts", ()))}))


class RowHit(NamedTuple):
    """A row found by a query.

    Attributes:
        score: larger is better, in the metric's own terms: cosine, dot product, or minus the Euclidean distance.
        distance: smaller is better: 1 - cosine (0..2), minus the dot product, or the Euclidean distance.
    """

    row_id: int
    score: float
    distance: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return self._asdict()


@dataclass(frozen=True)
class MediaHit:
    """An item found by a query through its rows.

    Attributes:
        score: larger is better; its meaning depends on the ranker.
        best: the item's row with the highest score.
        hits: number of row hits of the item, over all query rows.
    """

    item_no: int
    score: float
    best: RowHit
    hits: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self) | {"best": self.best.to_dict()}
