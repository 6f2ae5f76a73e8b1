"""A plan by its place: what a graph holds of it is of one size, whatever the corpus; workers read the rest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from cliploom.schemas.digests import digest_bytes
from cliploom.schemas.plan import RunPlan
from cliploom.transforms.store.object_store import ObjectStore

PLAN = "plan.json"
ITEMS_FILE = "items.parquet"
"""The file of the next items table, beside the plan."""


@dataclass(frozen=True)
class PlanRef:
    """A plan in the store.

    Attributes:
        store: URI of the store.
        run: whose plan it is.
        digest: of its bytes: a process that has read the plan need not read it again, but must not use an older one.
    """

    store: str
    run: str
    digest: str

    @property
    def folder(self) -> str:
        """Folder of the plan's tables, relative to the store."""
        return f"plans/{self.run}"

    def load(self) -> RunPlan:
        """The plan."""
        return _read(self)


def newest_plan(objects: ObjectStore) -> str | None:
    """Path of the plan that was stored last, or None; runs are named by the time of their start."""
    return max((entry.path for entry in objects.list("plans") if entry.path.endswith(f"/{PLAN}")), default=None)


def store_plan(objects: ObjectStore, plan: RunPlan) -> PlanRef:
    """Write a plan into its folder."""
    data = plan.model_dump_json().encode()
    objects.put(f"{plan.folder}/{PLAN}", data)
    return PlanRef(objects.uri, plan.job.run, digest_bytes(data))


@lru_cache(maxsize=2)
def _read(stored: PlanRef) -> RunPlan:
    return RunPlan.model_validate_json(ObjectStore(stored.store).get(f"{stored.folder}/{PLAN}"))
