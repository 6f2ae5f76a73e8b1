"""Open, search, plan and build feature stores from Python.

>>> import cliploom
>>> store = cliploom.open("demo/store")  # doctest: +SKIP
>>> store.search("a cup of coffee", top=1)[0].uid  # doctest: +SKIP
'videos/coffee-2997'
>>> store.table("frames").select("uid", "start_s", "semantic").collect()  # doctest: +SKIP

Importing this package imports nothing else, not even from the standard library; each call imports what it needs. All
errors derive from ``CliploomError``; each message quotes the offending value and suggests a fix.

Public modules: ``cliploom``, ``cliploom.beam``, ``cliploom.encoders`` and ``cliploom.errors``. Everything else may
change without notice.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Any

    from cliploom.pipelines.running.preview import Plan
    from cliploom.pipelines.running.run import RunResult
    from cliploom.schemas.errors import CliploomError, LimitError, SpecError, StoreError
    from cliploom.transforms.readers.pair_reading import Pairs
    from cliploom.transforms.readers.training_views import tf_dataset, torch_dataset
    from cliploom.transforms.readers.windows import ClipWindows
    from cliploom.transforms.search.answer_model import Answer, Hit, Moment
    from cliploom.transforms.search.query_model import Query, QueryPart
    from cliploom.transforms.search.searching import Store

__all__ = [
    "Answer",
    "ClipWindows",
    "CliploomError",
    "Hit",
    "LimitError",
    "Moment",
    "Pairs",
    "Plan",
    "Query",
    "QueryPart",
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
    "Answer": "cliploom.transforms.search.answer_model",
    "ClipWindows": "cliploom.transforms.readers.windows",
    "CliploomError": "cliploom.schemas.errors",
    "Hit": "cliploom.transforms.search.answer_model",
    "LimitError": "cliploom.schemas.errors",
    "Moment": "cliploom.transforms.search.answer_model",
    "Pairs": "cliploom.transforms.readers.pair_reading",
    "Plan": "cliploom.pipelines.running.preview",
    "Query": "cliploom.transforms.search.query_model",
    "QueryPart": "cliploom.transforms.search.query_model",
    "RunResult": "cliploom.pipelines.running.run",
    "SpecError": "cliploom.schemas.errors",
    "Store": "cliploom.transforms.search.searching",
    "StoreError": "cliploom.schemas.errors",
    "tf_dataset": "cliploom.transforms.readers.training_views",
    "torch_dataset": "cliploom.transforms.readers.training_views",
}


def open(store: str | Path, release: int | None = None) -> Store:
    """Open a store for reading, at one release, whatever is published later.

    Args:
        store: a folder, ``s3://...`` or ``gs://...``.
        release: its number; the newest by default.

    Returns:
        The store: ``.table(name)`` is a polars LazyFrame over exactly the files that the release names,
        ``.search(...)`` gives hits, ``.features``, ``.tables``, ``.releases``, ``.items`` and ``.failures`` say what
        there is.

    Raises:
        StoreError: when there is no store.
        UnknownReleaseError: when it has no such release.
    """
    from cliploom.transforms.search.searching import open_store

    return open_store(str(store), release)


def plan(
    spec: str | Path,
    *,
    overrides: Sequence[str] = (),
    target: str | None = None,
    limit: int | None = None,
    retry_failed: bool = False,
    full_refresh: bool = False,
) -> Plan:
    """What a run would do, and why. New files are probed, nothing is computed or published.

    Args:
        spec: path of the YAML file.
        overrides: such as ``"features.frames.sample.every=2s"``.
        target: where probing runs; the spec's first target by default.
        limit: take a seeded subset of so many items.
        retry_failed: as if known failures were tried again.
        full_refresh: as if everything were computed again.

    Returns:
        A dictionary with the keys of ``cliploom plan --json``: verdicts by feature, reasons, numbers of items, bytes
        and rows. ``print`` shows it as ``cliploom plan`` does.

    Raises:
        CliploomError: as a run would before it computes.
    """
    from pathlib import Path

    from cliploom.pipelines.running.preview import plan_preview
    from cliploom.pipelines.running.run import RunOptions

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
    on_stage: Callable[[str], None] | None = None,
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
        on_stage: told of each stage.

    Returns:
        How it ended; ``.release`` is what readers see now.

    Raises:
        LimitError: when a guard stopped it; nothing is published.
        CliploomError: when the spec is wrong, or the store is in use or damaged.
    """
    from pathlib import Path

    from cliploom.pipelines.launching.target import choose_target
    from cliploom.pipelines.running.run import RunOptions, run_spec
    from cliploom.schemas.plan import Accept
    from cliploom.schemas.spec_file import load_document, parse_document
    from cliploom.transforms.store.uris import absolute

    path = Path(spec)
    report = on_stage or (lambda text: None)
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
        return _supervised(request, report)
    options = RunOptions(
        target=target,
        limit=limit,
        retry_failed=retry_failed,
        full_refresh=full_refresh,
        accept=Accept(recompute=allow_recompute),
        command="cliploom.run",
    )
    return run_spec(checked, document, absolute(path).parent, options, report)


def _supervised(request: dict[str, Any], on_stage: Callable[[str], None]) -> RunResult:
    import tempfile
    from pathlib import Path

    from cliploom.pipelines.launching.target import new_run_id
    from cliploom.pipelines.running.run import RunResult
    from cliploom.pipelines.running.supervise import Watching, run_supervised
    from cliploom.schemas.release import Release

    name = new_run_id()
    log = Path(tempfile.gettempdir()) / f"cliploom-{name}.log"
    whole = request | {"action": "run", "run": name, "command": "cliploom.run"}
    result = run_supervised(whole, Watching(on_stage, lambda tally: None, log))
    log.unlink(missing_ok=True)
    release = Release.model_validate(result.pop("release"))
    return RunResult(release=release, **result)


def __getattr__(name: str) -> Any:
    """Import a public class or function when it is first used."""
    if name in _LAZY:
        import importlib

        found = globals()[name] = getattr(importlib.import_module(_LAZY[name]), name)
        return found
    raise AttributeError(f"module 'cliploom' has no attribute {name!r}")
