"""Base DoFn for steps that need the plan. Only a reference is pickled; each process loads the plan once."""

from __future__ import annotations

import apache_beam as beam

from cliploom.schemas.plan import RunPlan
from cliploom.transforms.work.plan_ref import PlanRef


class PlanDoFn(beam.DoFn):  # type: ignore[misc]
    """Base DoFn for steps that need the plan."""

    def __init__(self, plan: PlanRef) -> None:
        super().__init__()
        self._stored = plan

    @property
    def _plan(self) -> RunPlan:
        return self._stored.load()
