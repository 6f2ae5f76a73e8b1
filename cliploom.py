"""cliploom from Python: open a store, search it, read its tables; plan and run specs.

>>> import cliploom
>>> store = cliploom.open("demo/store")  # doctest: +SKIP
>>> store.search("a cup of coffee", top=1)[0].uid  # doctest: +SKIP
'videos/coffee-2997'
>>> store.table("frames").select("uid", "start_s", "semantic").collect()  # doctest: +SKIP

Importing it is light; what a call needs is imported by the call. Errors are ``CliploomError`` and its kinds: one
sentence with the value and the mend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.errors import CliploomError, LimitError, SpecError, StoreError

if TYPE_CHECKING:
    from pipelines.running.run import RunResult
    from transforms.readers.pair_reading import Pairs
    from transforms.readers.training_views import tf_dataset, torch_dataset
    from transforms.readers.windows import ClipWindows
    from transforms.search.searching import Hit, Store

__all__ = [
    "ClipWindows",
    "CliploomError",
    "Hit",
    "LimitError",
    "Pairs",
    "RunResult",
    "SpecError",
    "Store",
    "StoreError",
    "open",
    "plan",
    "run",
    "tf_dataset",
    "torch_dataset",
]

_LAZY = {
    "ClipWindows": "transforms.readers.windows",
    "Pairs": "transforms.readers.pair_reading",
    "tf_dataset": "transforms.readers.training_views",
    "torch_dataset": "transforms.readers.training_views",
    "Hit": "transforms.search.searching",
    "RunResult": "pipelines.running.run",
    "Store": "transforms.search.searching",
}


def open(store: str | Path, release: int | None = None) -> Store:
    """Open a store for reading, at one release, whatever is published later.

    Args:
        store: a folder, ``s3://...`` or ``gs://...``.
        release: its number; the newest by default.

    Returns:
        The store: ``.table(feature)`` is a polars LazyFrame over exactly the files that the release names,
        ``.search(...)`` gives hits, ``.features``, ``.releases`` and ``.items`` say what there is.

    Raises:
        StoreError: when there is no store, or no such release.
    """
    from transforms.search.searching import open_store

    return open_store(str(store), release)


def plan(
    spec: str | Path,
    *,
    overrides: Sequence[str] = (),
    target: str | None = None,
    limit: int | None = None,
    retry_failed: bool = False,
    full_refresh: bool = False,
) -> dict[str, Any]:
    """What a run would do, and why. New files are probed, nothing is computed or published.

    Args:
        spec: path of the YAML file.
        overrides: such as ``"features.frames.sample.every=2s"``.
        target: where probing runs; the spec's first target by default.
        limit: take a seeded subset of so many items.
        retry_failed: as if known failures were tried again.
        full_refresh: as if everything were computed again.

    Returns:
        What ``cliploom plan --json`` prints: verdicts by feature, reasons, numbers of items, bytes and rows.

    Raises:
        CliploomError: as a run would before it computes.
    """
    from pipelines.running.preview import plan_preview
    from pipelines.running.run import RunOptions

    options = RunOptions(target=target, limit=limit, retry_failed=retry_failed, full_refresh=full_refresh)
    return plan_preview(Path(spec), overrides, options)


def run(
    spec: str | Path,
    *,
    overrides: Sequence[str] = (),
    target: str | None = None,
    limit: int | None = None,
    retry_failed: bool = False,
    full_refresh: bool = False,
    allow_recompute: bool = False,
    supervised: bool = True,
    note: Callable[[str], None] | None = None,
) -> RunResult:
    """Bring a store up to date with its spec and publish a release, when anything changed.

    Args:
        spec: path of the YAML file.
        overrides: such as ``"features.frames.sample.every=2s"``.
        target: where it runs; the spec's first target by default.
        limit: take a seeded subset of so many items.
        retry_failed: try known failures again.
        full_refresh: compute everything again.
        allow_recompute: lift ``limits.max_recompute``.
        supervised: work in a child process that is started again when a file takes it down, as the command line does;
            otherwise in this process.
        note: told of each stage.

    Returns:
        How it ended; ``.release`` is what readers see now.

    Raises:
        LimitError: when a guard stopped it; nothing is published.
        CliploomError: when the spec is wrong, or the store is in use or damaged.
    """
    from pipelines.running.run import RunOptions, choose_target, run_spec
    from schemas.plan import Accept
    from schemas.spec_file import load_document, parse_document
    from transforms.store.uris import absolute

    path = Path(spec)
    tell = note or (lambda text: None)
    document = load_document(path, overrides)
    checked = parse_document(document)
    choose_target(checked, target)
    if supervised:
        request = {
            "spec": str(path.absolute()),
            "overrides": list(overrides),
            "target": target,
            "limit": limit,
            "retry_failed": retry_failed,
            "full_refresh": full_refresh,
            "accept": {"recompute": allow_recompute},
        }
        return _supervised(request, tell)
    options = RunOptions(
        target=target,
        limit=limit,
        retry_failed=retry_failed,
        full_refresh=full_refresh,
        accept=Accept(recompute=allow_recompute),
        command="cliploom.run",
    )
    return run_spec(checked, document, absolute(path).parent, options, tell)


def _supervised(request: dict[str, Any], note: Callable[[str], None]) -> RunResult:
    import tempfile

    from pipelines.running.run import RunResult, new_run_id
    from pipelines.running.supervise import Watching, run_supervised
    from schemas.release import Release

    name = new_run_id()
    log = Path(tempfile.gettempdir()) / f"cliploom-{name}.log"
    whole = request | {"action": "run", "run": name, "command": "cliploom.run"}
    result = run_supervised(whole, Watching(note, lambda tally: None, log))
    log.unlink(missing_ok=True)
    return RunResult(**(result | {"release": Release.model_validate(result["release"])}))


def __getattr__(name: str) -> Any:
    """Types for annotations, imported when first asked for."""
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'cliploom' has no attribute {name!r}")
