"""Runs a function in a separate process: PyTorch and TensorFlow crash in one process, and its memory is freed."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from cliploom.schemas.errors import CliploomError
from cliploom.transforms.python_child import python_command


def run_isolated(target: str, what: str, **arguments: Any) -> Any:
    """Call a function in a fresh Python process.

    Args:
        target: the function, as ``module:function``.
        what: a description of the work, for the message if the process crashes.
        arguments: the arguments of the function, as JSON values.

    Returns:
        The result of the function, a JSON value.

    Raises:
        CliploomError: the function raised an error, whose message is kept, or the process crashed.

    >>> run_isolated("math:hypot", "A test")
    0.0
    """
    with tempfile.TemporaryDirectory(prefix="cliploom-") as scratch:
        answer = Path(scratch) / "answer.json"
        done = subprocess.run(
            python_command(__name__, target, str(answer)),
            input=json.dumps(arguments),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
        if not answer.exists():
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
            last = f": {lines[-1].rstrip('.')}" if lines else ""
            raise CliploomError(f"{what} stopped with {how}{last}; is there enough memory?")
        reply = json.loads(answer.read_text(encoding="utf-8"))
    if "error" in reply:
        raise CliploomError(reply["error"])
    return reply["value"]


def main(arguments: list[str]) -> None:
    """Call the function named in the arguments, and write its result or its error message."""
    target, answer = arguments
    module, _, function = target.partition(":")
    values = json.load(sys.stdin)
    try:
        reply = {"value": getattr(importlib.import_module(module), function)(**values)}
    except CliploomError as error:
        reply = {"error": str(error)}
    Path(answer).write_text(json.dumps(reply), encoding="utf-8")
