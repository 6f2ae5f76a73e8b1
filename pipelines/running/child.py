"""The supervised process of a local run: does the work, leaves its result in a file, dies with its supervisor."""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cliploom.pipelines.launching.runner import WorkerLostError
from cliploom.schemas.errors import CliploomError
from cliploom.schemas.faults import system_fault
from cliploom.schemas.plan import Accept
from cliploom.schemas.secrets import masked
from cliploom.schemas.spec_file import load_document, parse_document
from cliploom.transforms.store.uris import absolute
from cliploom.transforms.watchdog import WORKER_LOST
from cliploom.transforms.work.inflight import die_with

_KINDS = (
    *(
        "StoreError",
        "DiskFullError",
        "DeviceError",
        "UnknownReleaseError",
        "LimitError",
        "SpecError",
        "UnknownNameError",
    ),
    *("PrecisionError", "CliploomError"),
)
"""Errors that are recognised in the text of another."""


def run_request(request: dict[str, Any]) -> dict[str, Any]:
    """Do what the supervisor asks; see ``cliploom.pipelines.running.supervise``."""
    from cliploom.pipelines.launching.target import open_store
    from cliploom.pipelines.planning.check import check_encoders
    from cliploom.pipelines.running.action import with_listings
    from cliploom.pipelines.running.run import RunOptions, run_spec

    # A process that ends before this could not start; another one could not, either.
    Path(request["started"]).touch()

    def on_stage(text: str) -> None:
        with Path(request["notes"]).open("a", encoding="utf-8") as file:
            file.write(text + "\n")

    options = RunOptions(
        target=request.get("target"),
        limit=request.get("limit"),
        retry_failed=request.get("retry_failed", False),
        full_refresh=request.get("full_refresh", False),
        compact=request.get("compact", False),
        recalibrate=request.get("recalibrate", False),
        run=request["run"],
        progress=request["progress"],
        extra=tuple(request.get("extra", ())),
        accept=Accept(**request.get("accept", {})),
        command=request["command"],
        restarts=tuple(request.get("restarts", ())),
        cpu_s=request.get("cpu_s", 0.0),
        deadline=request.get("deadline", 0.0),
        log_format=request.get("log_format", ""),
    )
    if request["action"] == "publish":
        from cliploom.pipelines.running.publish import publish_plan

        store = request["store"]
        result = publish_plan(store, options, on_stage)
    else:
        path = Path(request["spec"])
        document = load_document(path, request.get("overrides", ()))
        spec = parse_document(document)
        base = absolute(path).parent
        check_encoders(spec, base)
        store = open_store(spec, base).uri
        result = run_spec(spec, document, base, options, on_stage)
    plain = asdict(result)
    plain["release"] = result.release.model_dump(mode="json")
    # Here, where the libraries that read the store are loaded anyway; the supervisor needs none of them.
    return with_listings(plain, store)


def main(arguments: list[str]) -> int:
    """``python -m cliploom.pipelines.running.child REQUEST PARENT_PID``."""
    # Looking for garbage among a million objects of Beam's modules takes a fifth of the start; run_graph lets it again.
    gc.disable()
    # Beam warns of packages that nothing here needs.
    logging.getLogger().setLevel(logging.ERROR)
    request = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    die_with(int(arguments[1]))
    try:
        answer = run_request(request)
    except (KeyboardInterrupt, SystemExit):
        raise
    except WorkerLostError:
        # As if it had been a thread of this process.
        sys.stderr.flush()
        os._exit(WORKER_LOST)
    except BaseException as error:  # a panic of a library in Rust is no Exception, and would only come again
        found = user_error(error)
        trace = masked(traceback.format_exc())
        answer = {"error": masked(str(found)) or type(found).__name__, "kind": type(found).__name__, "trace": trace}
        print(trace, file=sys.stderr)
        if not isinstance(found, CliploomError):
            answer["error"] = (
                f"{type(found).__name__}: {answer['error']} (this is a fault of cliploom; --debug shows where)"
            )
    result = Path(request["result"])
    partial = result.with_suffix(".partial")
    partial.write_text(json.dumps(answer), encoding="utf-8")
    partial.rename(result)
    # Worker threads of the runner may still wait for work; everything that matters is on disk.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def user_error(error: BaseException) -> BaseException:
    """The error meant for a person inside what Beam wraps around it.

    Beam raises errors of user code again as RuntimeError with the text ``module.Class: message [while running ...]``.
    """
    here: BaseException | None = error
    while here is not None:
        if isinstance(here, CliploomError):
            return here
        here = here.__cause__ or here.__context__
    text = str(error)
    import cliploom.schemas.errors as errors

    for name in _KINDS:
        marker = f"cliploom.schemas.errors.{name}: "
        if marker in text:
            kind: type[CliploomError] = getattr(errors, name)
            # One line: a text may tell of the same error several times, each with a traceback.
            return kind(text.split(marker, 1)[1].splitlines()[0].split(" [while running", 1)[0].strip())
    return system_fault(error) or error


if __name__ == "__main__":
    main(sys.argv[1:])
