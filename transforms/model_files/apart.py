"""Look at a model's files in a process of its own, within a time and a memory: they may be hostile."""

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
    """Say what a file or folder is; see ``look.look``.

    Args:
        path: of the file or folder.
        given: as the user wrote it.
        seconds: it may take.
        memory: bytes that it may take.

    Raises:
        CliploomError: when it is no model, or takes more than it may.
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
            raise CliploomError(f"'{given}' took more than {seconds:g} s to look into, as no model does.") from None
        found = json.loads(answer.read_text(encoding="utf-8")) if answer.exists() else {}
    if found.get("memory"):
        raise CliploomError(
            f"'{given}' needs more than {memory >> 30} GiB of memory to be looked into; it is left alone."
        )
    if "error" in found:
        raise CliploomError(found["error"])
    if "found" not in found:
        raise CliploomError(
            f"'{given}' took down the process that looked into it (code {done.returncode}), as damaged files do; "
            "download it again."
        )
    return Found.from_dict(found["found"])


def main(arguments: list[str]) -> None:
    """Look at the path, and write what it is into the answer's file."""
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
    except Exception as error:  # libraries that read foreign files raise many kinds
        reason = " ".join(str(error).split())[:200].rstrip(".")
        reply = {"error": f"'{given}' can't be looked into ({type(error).__name__}: {reason}); download it again."}
    Path(answer).write_text(json.dumps(reply), encoding="utf-8")
