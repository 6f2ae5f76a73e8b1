"""Open, search, plan and build feature stores from Python.

>>> import cliploom
>>> store = cliploom.open("demo/store")  # doctest: +SKIP
>>> store.search("a cup of coffee", top=1)[0].uid  # doctest: +SKIP
'videos/coffee-2997'
>>> store.table("frames").select("uid", "start_s", "semantic").collect()  # doctest: +SKIP

Importing this package imports nothing else, not even from the standard library; each call imports what it needs. All
errors derive from ``CliploomError``; each message quotes the offending value and suggests a fix.

Public modules: ``cliploom``, ``cliploom.beam``, ``cliploom.encoders``, ``cliploom.sources`` and ``cliploom.errors``.
Everything else may change without notice.
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
        store: the folder, ``s3://...`` or ``gs://...`` of the store.
        release: the number of the release; the newest by default.

    Returns:
        The store: ``.table(name)`` is a polars LazyFrame over exactly the files that the release names,
        ``.search(...)`` returns hits, and ``.features``, ``.tables``, ``.releases``, ``.items`` and ``.failures``
        describe the content.

    Raises:
        StoreError: the store does not exist.
        UnknownReleaseError: the store has no such release.
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
    """Return what a run would do, and why. New files are probed, nothing is computed or published.

    Args:
        spec: the path of the YAML file.
        overrides: changes to the spec, such as ``"features.frames.sample.every=2s"``.
        target: the name of the target for probing; the spec's first target by default.
        limit: the number of items, for a seeded subset.
        retry_failed: whether to plan retries of known failures.
        full_refresh: whether to plan computing everything again.

    Returns:
        A dictionary with the keys of ``cliploom plan --json``: verdicts by feature, reasons, numbers of items, bytes
        and rows. ``print`` shows it like ``cliploom plan``.

    Raises:
        CliploomError: the errors of a run before computing.
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
    """Bring a store up to date with its spec and publish a release if anything changed.

    Args:
        spec: the path of the YAML file.
        overrides: changes to the spec, such as ``"features.frames.sample.every=2s"``.
        target: the name of the target; the spec's first target by default.
        limit: the number of items, for a seeded subset.
        retry_failed: whether to retry known failures.
        full_refresh: whether to compute everything again.
        allow_recompute: whether to lift ``limits.max_recompute``.
        supervised: whether to work in a child process that is restarted if a file crashes it, like the command line;
            otherwise in this process.
        on_stage: a callback that receives one message per stage.

    Returns:
        The result of the run; ``.release`` is the release that readers see now.

    Raises:
        LimitError: a limit stopped the run; nothing is published.
        CliploomError: the spec is invalid, or the store is in use or damaged.
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
    from dataclasses import fields
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
    told = {field.name: result[field.name] for field in fields(RunResult)}
    return RunResult(**told | {"release": Release.model_validate(told["release"])})


def __getattr__(name: str) -> Any:
    """Import a public class or function on first use."""
    if name in _LAZY:
        import importlib

        found = globals()[name] = getattr(importlib.import_module(_LAZY[name]), name)
        return found
    raise AttributeError(f"module 'cliploom' has no attribute {name!r}")
