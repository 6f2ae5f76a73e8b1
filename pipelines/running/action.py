"""What ``run``, ``compact`` and ``publish`` do on the terminal: supervise, show progress, sum up."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cliploom.pipelines.console import fit, log_as_json, logs_json, run_summary, say, short_path, show, show_json
from cliploom.pipelines.launching.target import new_run_id
from cliploom.pipelines.running.lineage import RunEvents
from cliploom.pipelines.running.observers import NOBODY, Observers, lineage_of, sources_of
from cliploom.pipelines.running.report import summary_lines
from cliploom.pipelines.running.supervise import run_supervised
from cliploom.schemas.errors import CliploomError, LimitError, SpecError, StoreError
from cliploom.schemas.faults import check_temporary_folder
from cliploom.schemas.records import POSTPONED


def run_action(
    request: dict[str, Any],
    spec_path: Path,
    overrides: Sequence[str],
    *,
    as_json: bool,
    strict: bool,
    observers: Observers = NOBODY,
) -> int:
    """Run a spec; returns the exit code.

    Args:
        request: for ``cliploom.pipelines.running.child``.
        spec_path: the spec.
        overrides: of its values.
        as_json: print the result as JSON.
        strict: failures give exit code 1.
        observers: receive the progress and the end of the run.

    Raises:
        CliploomError: as the run does.
    """
    observers.check()
    try:
        return _run(request, spec_path, overrides, as_json=as_json, strict=strict, observers=observers)
    except Exception as error:
        observers.ended(getattr(error, "exit_code", 1))
        raise


def _run(
    request: dict[str, Any],
    spec_path: Path,
    overrides: Sequence[str],
    *,
    as_json: bool,
    strict: bool,
    observers: Observers,
) -> int:
    run = new_run_id()
    if logs_json():
        log_as_json(run=run)
    try:
        with _lineage(observers.lineage, run, spec_path, overrides) as outcome:
            result = _supervised(request | {"run": run}, run, observers)
            outcome |= result
        return show_result(result, as_json=as_json, strict=strict, observers=observers)
    except KeyboardInterrupt:
        with suppress(CliploomError):
            _say_what_goes_on(request, spec_path, overrides)
        raise


@contextmanager
def _lineage(lineage: str, run: str, spec_path: Path, overrides: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Report a run to OpenLineage, see ``lineage_of``; only that needs the spec in this process."""
    if not lineage:
        yield {}
        return
    from cliploom.pipelines.launching.target import open_store
    from cliploom.schemas.spec_file import load_spec
    from cliploom.transforms.store.uris import absolute

    spec, base = load_spec(spec_path, overrides), absolute(spec_path).parent
    with lineage_of(lineage, RunEvents(open_store(spec, base).uri, run, spec.name, sources_of(spec, base))) as outcome:
        yield outcome


def _say_what_goes_on(request: dict[str, Any], spec_path: Path, overrides: Sequence[str]) -> None:
    """Say after an interrupt what a job that has begun on a cluster does without this command."""
    from cliploom.pipelines.launching.runner import is_local
    from cliploom.pipelines.launching.target import choose_target, open_store
    from cliploom.schemas.spec_file import load_spec
    from cliploom.transforms.store.uris import absolute

    spec = load_spec(spec_path, overrides)
    target = choose_target(spec, request.get("target"))
    if str(target.options.get("environment_type", "")).upper() == "LOOPBACK":
        say("The job's workers were threads of this command (environment_type LOOPBACK): cancel it on the cluster.")
    elif not is_local(target):
        store = open_store(spec, absolute(spec_path).parent).uri
        say(f"A job that has begun elsewhere goes on; `cliploom attach {shlex.quote(store)}` waits for its end.")


def publish_action(store: str, accept: dict[str, bool], *, as_json: bool) -> int:
    """Publish what a limit stopped; returns the exit code."""
    from cliploom.transforms.store.object_store import existing_store

    uri = existing_store(store).uri
    request = {"action": "publish", "store": uri, "accept": accept, "command": "cliploom publish"}
    run = new_run_id()
    return show_result(_supervised(request | {"run": run}, run, NOBODY), as_json=as_json, strict=False)


def _supervised(request: dict[str, Any], run: str, observers: Observers) -> dict[str, Any]:
    check_temporary_folder()
    log = Path(tempfile.gettempdir()) / f"cliploom-{run}.log"
    try:
        with observers.watching(run, log) as watching:
            result = run_supervised(request, watching)
    except (LimitError, SpecError, StoreError, KeyboardInterrupt):
        log.unlink(missing_ok=True)
        raise
    log.unlink(missing_ok=True)
    return result


def attach_action(store: str, *, as_json: bool, strict: bool, metrics_file: Path | None = None) -> int:
    """Wait for a run that goes on without its launcher; returns the exit code that the run would have given."""
    from cliploom.pipelines.running.attach import attach

    observers = Observers(metrics_file)
    observers.check()
    try:
        result = attach(store, say)
    except Exception as error:
        observers.ended(getattr(error, "exit_code", 1))
        raise
    return show_result(with_listings(result, store), as_json=as_json, strict=strict, observers=observers)


def with_listings(result: dict[str, Any], store: str) -> dict[str, Any]:
    """Add to a run's result what its summary shows besides: the store, failures by reason, warnings."""
    from cliploom.pipelines.listings import empty_outcomes, failure_groups

    failures = failure_groups(store, result["release"]["release"])
    return result | {"store": store, "failures": failures, "warnings": empty_outcomes(store, result["release"])}


def show_result(result: dict[str, Any], *, as_json: bool, strict: bool, observers: Observers = NOBODY) -> int:
    """Sum a run up on the terminal; returns the exit code.

    Args:
        result: with what ``with_listings`` adds.
        as_json: print the result as JSON.
        strict: failures give exit code 1.
        observers: receive the end of the run.
    """
    store, failures, empty = result["store"], result["failures"], result["warnings"]
    if as_json:
        show_json(result)
    else:
        failed = [group for group in failures if group["type"] != POSTPONED]
        lines = [run_summary(result, store, failed), *summary_lines(result["report"]), *empty]
        if failed:
            lines.append(f"Each file that failed: cliploom failures {shlex.quote(short_path(store))} --list")
        show(fit("\n".join(lines)))
        say(f"Next: {_next_command(short_path(store), result['release'])}")
    lost = any(not group["partial"] and group["type"] != POSTPONED for group in failures)
    code = 1 if strict and lost else 0
    observers.ended(code, result)
    return code


def _next_command(store: str, release: dict[str, Any]) -> str:
    """What to try on a release (its JSON): a search that its indexes can answer, if any."""
    named = shlex.quote(store)
    filled = [index for index in release["indexes"].values() if index["rows"]]
    if not filled:
        return f"cliploom {'failures' if release['indexes'] else 'releases'} {named}"
    asked = [(release["features"][index["feature"]], index["output"]) for index in filled]
    takes_text = any(feature["outputs"][output]["text"] for feature, output in asked)
    return f"cliploom search {named} " + ('"a cup of coffee"' if takes_text else "--like FILE")
