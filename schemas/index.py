"""Records of ANN indexes: what an index is made as, what a shard file holds, and what a search finds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

Metric = Literal["cosine", "dot", "l2"]
Kind = Literal["flat", "ivf_sq8", "hnsw"]


@dataclass(frozen=True)
class IndexRecipe:
    """What all shards of an index have in common.

    Attributes:
        dim: length of its vectors.
        nprobe: how much of a shard a query looks at: inverted lists for ``ivf_sq8``, ``efSearch`` for ``hnsw``;
            0 for ``flat``, which looks at everything, and for indexes that are not tuned yet.
    """

    metric: Metric
    kind: Kind
    dim: int
    nprobe: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> IndexRecipe:
        """Read back what ``to_dict`` gave."""
        return cls(**value)


@dataclass(frozen=True)
class IndexShard:
    """One index file.

    Attributes:
        file: name inside the index's folder.
        size: bytes.
        digest: of the file's bytes.
        parts: feature parts whose rows it holds.
    """

    file: str
    size: int
    digest: str
    rows: int
    parts: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> IndexShard:
        """Read back what ``to_dict`` gave, also after JSON made a list of the parts."""
        return cls(**(value | {"parts": tuple(value.get("parts", ()))}))


class RowHit(NamedTuple):
    """A row that answers a query.

    Attributes:
        score: larger is better, in the metric's own terms: cosine, dot product, or minus the Euclidean distance.
        distance: smaller is better: 1 - cosine (0..2), minus the dot product, or the Euclidean distance.
    """

    row_id: int
    score: float
    distance: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return self._asdict()


@dataclass(frozen=True)
class MediaHit:
    """An item that answers a query by its rows.

    Attributes:
        score: larger is better; what it means depends on the ranker.
        best: the item's row with the best score of all.
        hits: how many row hits the item had, over all query rows.
    """

    item_no: int
    score: float
    best: RowHit
    hits: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"best": self.best.to_dict()}
