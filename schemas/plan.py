"""The plan of one run as workers see it: the launcher's decisions, stored as JSON beside the plan's tables."""

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
SEEN = (UNCHANGED, MOVED, CONTENT_CHANGED, CONFIG_CHANGED)
"""Verdicts of items of which readers have rows, of this feature or an earlier config of it."""
LIMITED = "limited"
"""Key in a release's counts: the limit, if only runs with ``--limit`` have published so far."""


class Accept(BaseModel):
    """Limits that the user has lifted for this run."""

    model_config = ConfigDict(frozen=True)
    failures: bool = False
    deletes: bool = False
    recompute: bool = False
    worse: bool = False

    def __or__(self, other: Accept) -> Accept:
        """Return the union of both."""
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
    """Return a digest of each index's, export's and evaluation's declaration, including its defaults."""
    nodes: dict[str, BaseModel] = {f"indexes.{name}": index for name, index in indexes.items()}
    nodes |= {f"exports.{name}": export for name, export in exports.items()}
    nodes |= {f"evaluations.{name}": evaluation for name, evaluation in evaluations.items()}
    plain = {name: node.model_dump(mode="json") for name, node in nodes.items()}
    # Later keys are left out at their default, so that an upgrade does not publish an unchanged store again.
    return {
        name: digest_of({key: value for key, value in node.items() if key not in _LATER or value is not None})
        for name, node in plain.items()
    }


class RunPlan(BaseModel):
    """The plan of one run.

    Attributes:
        base: release that the run starts from; None for a new store.
        releases_version: version of the ``releases`` table that the plan saw.
        document: the spec as written, with unresolved variables.
        recipes: inputs of the config digest, by feature.
        heads: how labels are predicted, by feature.
        projections: how a head makes its rows from those of another feature, by feature.
        next_item_no: first unused number.
        emptied: sources that had items and now list none.
        lost: missing parts that the release names, by feature; ``lost_files``: other missing files.
        recompute_reason: why items whose bytes did not change are computed again.
        target: name of the requested target of the spec; empty for the first one.
        compact: whether to merge small parts even if there are few.
        prober: revision of the prober that examined all media of this plan.

    Columns such as item_no, uid and digest are in ``plans/<run>/*.parquet``.
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
        """Return the folder of the plan's tables, relative to the store."""
        return f"plans/{self.job.run}"

    @property
    def is_first(self) -> bool:
        """Return whether there is no release yet, or only releases of runs with ``--limit``."""
        return self.base is None or LIMITED in self.base.counts

    @property
    def max_failed(self) -> float:
        """Return the share of items that may fail in this run."""
        first = self.limits.max_failed_first if self.is_first else 0.0
        return max(self.limits.max_failed, first)

    def feature(self, name: str) -> FeatureJob:
        """Return the job of a feature."""
        return self.job.features[name]
