"""How a run ended, as its last step leaves it for the launcher: ``runs/<run>/outcome.json``."""

from __future__ import annotations

import json

from cliploom.schemas.plan import RunPlan
from cliploom.transforms.store.object_store import ObjectStore

OUTCOME = "outcome.json"


def write_outcome(objects: ObjectStore, plan: RunPlan, outcome: dict[str, object]) -> None:
    """Report to the launcher how the run ended."""
    objects.put(f"runs/{plan.job.run}/{OUTCOME}", json.dumps(outcome).encode())


def read_outcome(objects: ObjectStore, run: str) -> dict[str, object] | None:
    """How a run ended, or None when it has not."""
    try:
        outcome: dict[str, object] = json.loads(objects.get(f"runs/{run}/{OUTCOME}"))
    except FileNotFoundError:
        return None
    return outcome
