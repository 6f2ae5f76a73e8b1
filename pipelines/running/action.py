"""What ``run``, ``compact`` and ``publish`` do on the terminal: supervise, show progress, sum up."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cliploom.pipelines.console import fit, log_as_json, logs_json, run_summary, say, short_path, show, show_json
from cliploom.pipelines.launching.runner import is_local
from cliploom.pipelines.launching.target import choose_target, new_run_id, open_store
from cliploom.pipelines.listings import empty_outcomes, failure_groups
from cliploom.pipelines.planning.check import check_encoders
from cliploom.pipelines.running.lineage import RunEvents
from cliploom.pipelines.running.observers import NOBODY, Observers, lineage_of, sources_of
from cliploom.pipelines.running.report import summary_lines
from cliploom.pipelines.running.supervise import run_supervised
from cliploom.schemas.errors import LimitError, SpecError, StoreError
from cliploom.schemas.faults import check_temporary_folder
from cliploom.schemas.records import POSTPONED
from cliploom.schemas.spec_file import load_spec
from cliploom.transforms.store.uris import absolute


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
        observers: who is told of the run, however it ends.

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
    spec = load_spec(spec_path, overrides)
    check_encoders(spec, absolute(spec_path).parent)
    target = choose_target(spec, request.get("target"))
    store = open_store(spec, absolute(spec_path).parent).uri
    run = new_run_id()
    if logs_json():
        log_as_json(run=run)
    events = RunEvents(store, run, spec.name, sources_of(spec, absolute(spec_path).parent))
    try:
        with lineage_of(observers.lineage, events) as told:
            result = _supervised(request | {"run": run}, run, observers)
            told |= result
        return show_result(result, store, as_json=as_json, strict=strict, observers=observers)
    except KeyboardInterrupt:
        if str(target.options.get("environment_type", "")).upper() == "LOOPBACK":
            say("The job's workers were threads of this command (environment_type LOOPBACK): cancel it on the cluster.")
        elif not is_local(target):
            say(f"A job that has begun elsewhere goes on; `cliploom attach {shlex.quote(store)}` waits for its end.")
        raise


def publish_action(store: str, accept: dict[str, bool], *, as_json: bool) -> int:
    """Publish what a limit stopped; returns the exit code."""
    from cliploom.transforms.store.object_store import existing_store

    uri = existing_store(store).uri
    request = {"action": "publish", "store": uri, "accept": accept, "command": "cliploom publish"}
    run = new_run_id()
    return show_result(_supervised(request | {"run": run}, run, NOBODY), uri, as_json=as_json, strict=False)


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
    return show_result(result, store, as_json=as_json, strict=strict, observers=observers)


def show_result(
    result: dict[str, Any], store: str, *, as_json: bool, strict: bool, observers: Observers = NOBODY
) -> int:
    """Sum a run up on the terminal; returns the exit code."""
    failures = failure_groups(store, result["release"]["release"])
    empty = empty_outcomes(store, result["release"])
    if as_json:
        show_json(result | {"store": store, "failures": failures, "warnings": empty})
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
