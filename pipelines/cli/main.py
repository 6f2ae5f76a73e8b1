"""The command line. Heavy libraries are imported by the commands that need them, so that ``--help`` is fast."""

from __future__ import annotations

import logging
import os
import resource
import subprocess
import sys
import traceback

import typer

from cliploom.pipelines.cli import (  # noqa: F401 - they add their commands
    completion,
    doctor,
    models,
    models_bench,
    report,
    serve,
    spec,
    specs,
    store,
    train,
)
from cliploom.pipelines.cli.app import app
from cliploom.pipelines.cli.working import working
from cliploom.pipelines.console import say
from cliploom.schemas.errors import CliploomError
from cliploom.schemas.faults import memory_sentence, system_fault
from cliploom.schemas.secrets import masked

_ENOUGH_BYTES = 2 << 30


def main(arguments: list[str] | None = None) -> None:
    """Entry point: run a command, print errors as one sentence, exit with their code."""
    # Beam warns about packages that are not needed here.
    logging.getLogger().setLevel(logging.ERROR)
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments[: arguments.index("--") if "--" in arguments else None]
    if debug:
        arguments.remove("--debug")
    try:
        _check_memory()
        with working():
            code = _invoke(arguments)
        raise SystemExit(code)
    except CliploomError as error:
        say(_told(f"cliploom: {error}", debug), "error", event="error", exit_code=error.exit_code)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        say(
            "\ncliploom: stopped; finished parts are kept, run the same command again to continue.",
            "warning",
            event="error",
        )
        raise SystemExit(130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except Exception as error:
        refused = system_fault(error)
        if refused is not None:
            say(_told(f"cliploom: {refused}", debug), "error", event="error", exit_code=refused.exit_code)
            raise SystemExit(refused.exit_code) from None
        fault = f"cliploom: {type(error).__name__}: {error} (internal error; rerun with --debug for the traceback)"
        say(_told(fault, debug), "error", event="error", exit_code=1)
        raise SystemExit(1) from None


def _check_memory() -> None:
    """Under a small memory limit, check that libraries load: some crash the process, which cannot be caught here.

    Raises:
        CliploomError: they do not load.
    """
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY or limit > _ENOUGH_BYTES:
        return
    command = [sys.executable, "-P", "-c", "import numpy, polars, pyarrow"]
    if subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode:
        raise CliploomError(memory_sentence())


def _told(sentence: str, debug: bool) -> str:
    """Return the text to print for the current error: a sentence or its traceback, without credentials."""
    return masked(traceback.format_exc() if debug else sentence)


def _invoke(arguments: list[str]) -> int:
    """Run typer without its own error printing; arguments after ``--`` become the context's object."""
    from cliploom.pipelines.cli.usage import usage_error

    extra: list[str] = []
    if arguments[:1] == ["run"] and "--" in arguments:
        cut = arguments.index("--")
        arguments, extra = arguments[:cut], arguments[cut + 1 :]
    command = typer.main.get_command(app)
    try:
        # Not command.main, which handles Ctrl-C and closed pipes differently.
        with command.make_context("cliploom", list(arguments), obj=extra) as context:
            command.invoke(context)
    except typer.Exit as ended:
        return ended.exit_code
    except typer.TyperException as error:
        if not arguments:
            print(error.message, file=sys.stderr)
            return 2
        raise usage_error(error, arguments) from None
    except typer.Abort:
        raise KeyboardInterrupt from None
    return 0
