"""Inspects model files in a separate process with time and memory limits, since they may be malicious."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import tempfile
from pathlib import Path

from cliploom.schemas.errors import CliploomError
from cliploom.transforms.model_files.found import Found
from cliploom.transforms.python_child import python_command

MEMORY = 3 << 30
SECONDS = 120.0


def look_apart(path: Path, given: str, seconds: float = SECONDS, memory: int = MEMORY) -> Found:
    """Identify a file or folder; see ``look.look``.

    Args:
        path: the path of the file or folder.
        given: the path as written by the user.
        seconds: the time limit.
        memory: the memory limit, in bytes.

    Raises:
        CliploomError: it is not a model, or exceeds the limits.
    """
    with tempfile.TemporaryDirectory(prefix="cliploom-") as scratch:
        answer = Path(scratch) / "answer.json"
        command = python_command(__name__, str(path.absolute()), given, str(answer), str(memory))
        environment = os.environ | {"TMPDIR": scratch}
        try:
            done = subprocess.run(
                command,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CliploomError(f"'{given}' took more than {seconds:g} s to inspect, so it is not a model.") from None
        found = json.loads(answer.read_text(encoding="utf-8")) if answer.exists() else {}
    if found.get("memory"):
        raise CliploomError(f"'{given}' needs more than {memory >> 30} GiB of memory to be inspected; it is rejected.")
    if "error" in found:
        raise CliploomError(found["error"])
    if "found" not in found:
        raise CliploomError(
            f"'{given}' crashed the process that inspected it (code {done.returncode}), so it is probably damaged; "
            "download it again."
        )
    return Found.from_dict(found["found"])


def main(arguments: list[str]) -> None:
    """Inspect the path, and write the result to the answer's file."""
    from cliploom.transforms.model_files.look import look

    path, given, answer, memory = arguments
    resource.setrlimit(resource.RLIMIT_DATA, (int(memory), int(memory)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        reply: dict[str, object] = {"found": look(Path(path), given).to_dict()}
    except CliploomError as error:
        reply = {"error": str(error)}
    except MemoryError:
        reply = {"memory": True}
    except Exception as error:  # libraries that read untrusted files raise many types
        reason = " ".join(str(error).split())[:200].rstrip(".")
        reply = {"error": f"'{given}' cannot be inspected ({type(error).__name__}: {reason}); download it again."}
    Path(answer).write_text(json.dumps(reply), encoding="utf-8")
