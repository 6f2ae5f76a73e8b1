"""Where a spec's work is done and kept: its target, its store, and the name of a run."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cliploom.schemas.errors import SpecError

if TYPE_CHECKING:
    from cliploom.schemas.spec import Spec, Target
    from cliploom.transforms.store.object_store import ObjectStore


def new_run_id() -> str:
    """A sortable name for a run: UTC time and four random hex digits."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"


def choose_target(spec: Spec, name: str | None) -> Target:
    """The target of this name, or the spec's first.

    Raises:
        SpecError: naming the targets that exist.
    """
    if name is None:
        return next(iter(spec.targets.values()))
    if name not in spec.targets:
        raise SpecError(f"There is no target {name!r}; the spec has {', '.join(spec.targets)}.")
    return spec.targets[name]


def open_store(spec: Spec, base: Path) -> ObjectStore:
    """The spec's store; a relative path starts from the spec's folder."""
    from cliploom.transforms.store.object_store import ObjectStore
    from cliploom.transforms.store.uris import check_bucket

    check_bucket(spec.store)
    return ObjectStore(spec.store if "://" in spec.store else (base / Path(spec.store).expanduser()))
