"""What ``run``, ``compact`` and ``publish`` do on the terminal: supervise, show progress, sum up."""

from __future__ import annotations

import shlex
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cliploom.pipelines.console import fit, run_summary, say, short_path, show, show_json
from cliploom.pipelines.launching.runner import is_local
from cliploom.pipelines.launching.target import choose_target, new_run_id, open_store
from cliploom.pipelines.listings import empty_outcomes, failure_groups
from cliploom.pipelines.live_progress import LiveProgress
from cliploom.pipelines.planning.check import check_encoders
from cliploom.pipelines.running.report import metrics_text, summary_lines, write_metrics
from cliploom.pipelines.running.supervise import Watching, run_supervised
from cliploom.schemas.errors import LimitError, SpecError, StoreError
from cliploom.schemas.faults import check_temporary_folder
from cliploom.schemas.spec_file import load_spec
from cliploom.transforms.store.uris import absolute


def run_action(
    request: dict[str, Any],
    spec_path: Path,
    overrides: Sequence[str],
    *,
    as_json: bool,
    strict: bool,
    metrics_file: Path | None = None,
) -> int:
    """Run a spec; returns the exit code.

    Args:
        request: for ``cliploom.pipelines.running.child``.
        spec_path: the spec.
        overrides: of its values.
        as_json: print the result as JSON.
        strict: failures give exit code 1.
        metrics_file: where to leave the run's end for Prometheus, however it ends.

    Raises:
        CliploomError: as the run does.
    """
    check_metrics_file(metrics_file)
    try:
        return _run(request, spec_path, overrides, as_json=as_json, strict=strict, metrics_file=metrics_file)
    except Exception as error:
        if metrics_file is not None:
            write_metrics(metrics_file, metrics_text(getattr(error, "exit_code", 1), time.time()))
        raise


def check_metrics_file(path: Path | None) -> None:
    """See to it that a metrics file can be written.

    Raises:
        SpecError: when its folder is not there.
    """
    if path is not None and not path.absolute().parent.is_dir():
        raise SpecError(f"--metrics-file: there is no folder {str(path.absolute().parent)!r}; make it first.")


def _run(
    request: dict[str, Any],
    spec_path: Path,
    overrides: Sequence[str],
    *,
    as_json: bool,
    strict: bool,
    metrics_file: Path | None,
) -> int:
    spec = load_spec(spec_path, overrides)
    check_encoders(spec, absolute(spec_path).parent)
    target = choose_target(spec, request.get("target"))
    store = open_store(spec, absolute(spec_path).parent).uri
    try:
        return _supervised(request, store, as_json, strict, metrics_file)
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
    return _supervised(request, uri, as_json, strict=False)


def _supervised(
    request: dict[str, Any],
    store: str,
    as_json: bool,
    strict: bool,
    metrics_file: Path | None = None,
) -> int:
    check_temporary_folder()
    run = new_run_id()
    log = Path(tempfile.gettempdir()) / f"cliploom-{run}.log"
    progress = LiveProgress()
    try:
        progress.begin()
        result = run_supervised(request | {"run": run}, Watching(progress.on_stage, progress.tick, log))
    except (LimitError, SpecError, StoreError, KeyboardInterrupt):
        log.unlink(missing_ok=True)
        raise
    finally:
        progress.close()
    log.unlink(missing_ok=True)
    return show_result(result, store, as_json=as_json, strict=strict, metrics_file=metrics_file)


def attach_action(store: str, *, as_json: bool, strict: bool, metrics_file: Path | None = None) -> int:
    """Wait for a run that goes on without its launcher; returns the exit code that the run would have given."""
    from cliploom.pipelines.running.attach import attach

    check_metrics_file(metrics_file)
    try:
        result = attach(store, say)
    except Exception as error:
        if metrics_file is not None:
            write_metrics(metrics_file, metrics_text(getattr(error, "exit_code", 1), time.time()))
        raise
    return show_result(result, store, as_json=as_json, strict=strict, metrics_file=metrics_file)


def show_result(
    result: dict[str, Any], store: str, *, as_json: bool, strict: bool, metrics_file: Path | None = None
) -> int:
    """Sum a run up on the terminal; returns the exit code."""
    failures = failure_groups(store, result["release"]["release"])
    empty = empty_outcomes(store, result["release"])
    if as_json:
        show_json(result | {"store": store, "failures": failures, "warnings": empty})
    else:
        lines = [run_summary(result, store, failures), *summary_lines(result["report"]), *empty]
        if failures:
            lines.append(f"Each file that failed: cliploom failures {shlex.quote(short_path(store))} --list")
        show(fit("\n".join(lines)))
        say(f"Next: {_next_command(short_path(store), result['release'])}")
    code = 1 if strict and any(not group["partial"] for group in failures) else 0
    if metrics_file is not None:
        write_metrics(metrics_file, metrics_text(code, time.time(), result))
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
