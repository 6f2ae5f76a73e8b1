"""The plan of one run as workers see it: what the launcher decided, kept as JSON beside the plan's tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from cliploom.schemas.digests import digest_of
from cliploom.schemas.evaluations import Evaluation
from cliploom.schemas.exports import Export
from cliploom.schemas.heads import HeadJob
from cliploom.schemas.jobs import FeatureJob, RunJob
from cliploom.schemas.release import Release
from cliploom.schemas.spec import IndexSpec, Limits
from cliploom.schemas.vector_heads import ProjectionJob

NEW = "new"
CONTENT_CHANGED = "content_changed"
CONFIG_CHANGED = "config_changed"
MOVED = "moved"
UNCHANGED = "unchanged"
DELETED = "deleted"
RETRY = "retry"
FAILED = "failed"
VERDICTS = (NEW, CONTENT_CHANGED, CONFIG_CHANGED, MOVED, UNCHANGED, DELETED, RETRY, FAILED)
COMPUTED = (NEW, CONTENT_CHANGED, CONFIG_CHANGED, RETRY)
LIMITED = "limited"
"""Count of a release that was made by runs with ``--limit`` only: the limit."""


class Accept(BaseModel):
    """Guards that a person has lifted for this run."""

    model_config = ConfigDict(frozen=True)
    failures: bool = False
    deletes: bool = False
    recompute: bool = False
    worse: bool = False

    def __or__(self, other: Accept) -> Accept:
        """All that either lifts."""
        return Accept(
            failures=self.failures or other.failures,
            deletes=self.deletes or other.deletes,
            recompute=self.recompute or other.recompute,
            worse=self.worse or other.worse,
        )


_LATER = ("d_miss",)


def declared(
    indexes: Mapping[str, IndexSpec], exports: Mapping[str, Export], evaluations: Mapping[str, Evaluation]
) -> dict[str, str]:
    """Digest of each index's, export's and evaluation's declaration, however much the spec leaves to defaults."""
    nodes: dict[str, BaseModel] = {f"indexes.{name}": index for name, index in indexes.items()}
    nodes |= {f"exports.{name}": export for name, export in exports.items()}
    nodes |= {f"evaluations.{name}": evaluation for name, evaluation in evaluations.items()}
    plain = {name: node.model_dump(mode="json") for name, node in nodes.items()}
    # Keys that came later: left to their default they change nothing, and a store that stands need not be published.
    return {
        name: digest_of({key: value for key, value in node.items() if key not in _LATER or value is not None})
        for name, node in plain.items()
    }


class RunPlan(BaseModel):
    """One run, planned.

    Attributes:
        base: the release that it starts from; None for a new store.
        releases_version: version of the ``releases`` table that the plan saw.
        document: the spec as written, variables not resolved.
        recipes: by feature, what its config digest was made from.
        heads: by feature, how labels are predicted.
        projections: by feature, how a head makes its rows from those of another feature.
        next_item_no: first number that no item has.
        emptied: sources that had items and list none any more.
        lost: by feature, parts that the release names and the store no longer has; ``lost_files``: other such files.
        recompute_reason: why items whose bytes did not change are computed again.
        target: name of the spec's target that the run was asked for, empty for its first.
        compact: merge small parts even when few.
        prober: revision of the prober that all media of this plan were shown to.
        digests: item_no, uid, digest etc. stand in ``plans/<run>/*.parquet``.
    """

    model_config = ConfigDict(frozen=True)
    job: RunJob
    base: Release | None
    releases_version: int
    document: dict[str, Any]
    recipes: dict[str, dict[str, Any]]
    indexes: dict[str, IndexSpec]
    exports: dict[str, Export]
    heads: dict[str, HeadJob] = {}
    evaluations: dict[str, Evaluation] = {}
    projections: dict[str, ProjectionJob] = {}
    limits: Limits
    next_item_no: int
    prober: int = 1
    counts: dict[str, int]
    verdicts: dict[str, dict[str, int]]
    emptied: tuple[str, ...] = ()
    lost: dict[str, tuple[str, ...]] = {}
    lost_files: tuple[str, ...] = ()
    recompute_reason: str = ""
    started_at: float
    program: str
    note: str = ""
    compact: bool = False
    accept: Accept = Accept()
    target: str = ""

    @property
    def folder(self) -> str:
        """Folder of the plan's tables, relative to the store."""
        return f"plans/{self.job.run}"

    @property
    def is_first(self) -> bool:
        """There is no release yet, or only those of runs with ``--limit``."""
        return self.base is None or LIMITED in self.base.counts

    @property
    def max_failed(self) -> float:
        """The share of items that may fail in this run."""
        first = self.limits.max_failed_first if self.is_first else 0.0
        return max(self.limits.max_failed, first)

    def feature(self, name: str) -> FeatureJob:
        """The job of a feature."""
        return self.job.features[name]
