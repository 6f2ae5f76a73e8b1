"""Beam step of evaluations: measures the draft of a release before it is published."""

from __future__ import annotations

from collections.abc import Iterator

from cliploom.schemas.errors import CliploomError
from cliploom.schemas.evaluations import Figures
from cliploom.schemas.release import IndexEntry, Release
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.wire import Step
from cliploom.transforms.work.counters import count
from cliploom.transforms.work.plan_dofn import PlanDoFn


class _MeasureReleaseFn(PlanDoFn):
    def process(self, draft: Release, indexes: list[tuple[str, IndexEntry]]) -> Iterator[tuple[str, Figures]]:
        """Measure one evaluation after the other."""
        plan = self._plan
        if not plan.evaluations:
            return
        from cliploom.transforms.evaluation.measure import measure

        objects = ObjectStore(plan.job.store)
        whole = draft.model_copy(update={"indexes": dict(sorted(indexes))})
        for name, node in plan.evaluations.items():
            try:
                yield name, measure(objects, whole, node, name).to_dict()
            except CliploomError as error:
                yield name, {"error": str(error)}
            count("evaluations", 1)


class MeasureRelease(Step):
    """Yields (name, figures) of each evaluation of the spec, for a draft.

    A failed measurement does not prevent the release; its figures contain the reason.
    """

    do_fn = _MeasureReleaseFn
