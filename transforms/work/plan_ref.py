"""A reference to a plan in the store. It keeps the pipeline graph constant-size; workers load the plan on demand."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from cliploom.schemas.digests import digest_bytes
from cliploom.schemas.errors import StoreError
from cliploom.schemas.plan import RunPlan
from cliploom.transforms.store.object_store import ObjectStore

PLAN = "plan.json"
_NUMBER = "number-"
ITEMS_FILE = "items.parquet"
"""File of the next items table, in the plan's folder."""


@dataclass(frozen=True)
class PlanRef:
    """A reference to a plan in the store.

    Attributes:
        store: URI of the store.
        run: run that the plan belongs to.
        digest: digest of the plan's bytes; lets a process cache the plan without using an outdated one.
    """

    store: str
    run: str
    digest: str

    @property
    def folder(self) -> str:
        """Folder of the plan's tables, relative to the store."""
        return f"plans/{self.run}"

    def load(self) -> RunPlan:
        """Load the plan."""
        return _read(self)


def newest_plan(objects: ObjectStore) -> str | None:
    """Return the path of the plan that was stored last, or None.

    Plans are numbered in the order in which they reach the store, because names of runs are times and a clock may be
    set back. Plans of older versions have no number; they come first, ordered by name.
    """
    numbers, plans = _listed(objects)
    return max(plans, key=lambda path: (numbers.get(path.split("/")[1], 0), path), default=None)


def last_plan(objects: ObjectStore) -> RunPlan:
    """The newest plan of the store.

    Raises:
        StoreError: when there is none.
    """
    path = newest_plan(objects)
    if path is None:
        raise StoreError(f"{objects.uri} has no plan to go on from; use `cliploom run SPEC`.")
    return RunPlan.model_validate_json(objects.get(path))


def store_plan(objects: ObjectStore, plan: RunPlan) -> PlanRef:
    """Write a plan into its folder and make it the newest one."""
    data = plan.model_dump_json().encode()
    numbers, _ = _listed(objects)
    last = max(numbers.values(), default=0)
    if numbers.get(plan.job.run, 0) < max(1, last):
        objects.put(f"{plan.folder}/{_NUMBER}{last + 1:09}.json", b"{}")
    objects.put(f"{plan.folder}/{PLAN}", data)
    return PlanRef(objects.uri, plan.job.run, digest_bytes(data))


def _listed(objects: ObjectStore) -> tuple[dict[str, int], list[str]]:
    """Return the highest number of each numbered run, and the paths of all plans."""
    numbers: dict[str, int] = {}
    plans = []
    for entry in objects.list("plans"):
        _, run, *rest = entry.path.split("/")
        if rest == [PLAN]:
            plans.append(entry.path)
        elif len(rest) == 1 and rest[0].startswith(_NUMBER):
            numbers[run] = max(int(rest[0].removeprefix(_NUMBER).removesuffix(".json")), numbers.get(run, 0))
    return numbers, plans


@lru_cache(maxsize=2)
def _read(stored: PlanRef) -> RunPlan:
    return RunPlan.model_validate_json(ObjectStore(stored.store).get(f"{stored.folder}/{PLAN}"))
