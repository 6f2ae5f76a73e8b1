"""Runs in processes of their own that can be killed at a chosen point, at the price of a fork.

``python forks.py FOLDER`` imports the program once, with the encoder's package in FOLDER on the path, and then forks
one child for each line of JSON that it reads: {"spec", "overrides", "options", "answer", "kill"}. A child runs the
spec and leaves its counters and the number of calls of each place in the file ``answer``. ``kill`` names a place, the
number of the call, and whether the process dies by SIGKILL before, in the middle of or after it. The program knows
nothing of it: its functions are wrapped here, by name.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
PLACES: dict[str, str] = {
    "put": "cliploom.transforms.store.object_store:ObjectStore.put",
    "put_new": "cliploom.transforms.store.object_store:ObjectStore.put_new",
    "link": "os:link",
    "note": "cliploom.transforms.work.inflight:Inflight.mark",
    "probe": "cliploom.transforms.work.probing:probe_item",
    "row": "cliploom.transforms.store.parts:PartWriter.write",
    "close_part": "cliploom.transforms.store.parts:PartWriter.finish",
    "rewrite": "cliploom.transforms.work.shards:rewrite_part",
    "create_table": "deltalake:DeltaTable.create",
    "commit": "deltalake:DeltaTable.create_write_transaction",
    "index_file": "cliploom.transforms.index.build:write_faiss_file",
    "hdf5_item": "cliploom.transforms.store.hdf5:_Writer.write",
    "hdf5_master": "cliploom.transforms.exports.hdf5:write_master",
    "publish": "cliploom.transforms.publish.final:append_release",
    "outcome": "cliploom.transforms.publish.final:write_outcome",
}
"""Where a run can be killed: module and name."""


@dataclass(frozen=True)
class Kill:
    """A point of a run.

    Attributes:
        when: ``before``, ``after``, or ``within``: of a file that is being written, half is there.
    """

    place: str
    call: int
    when: str

    def __str__(self) -> str:
        return f"{self.when} call {self.call} of {self.place}"


@dataclass(frozen=True)
class Ended:
    """How a run ended; no counters when it was killed."""

    code: int
    counters: dict[str, int]
    calls: dict[str, int]
    error: str


class Forks:
    """The process that forks; one run at a time."""

    def __init__(self, encoder: Path, folder: Path) -> None:
        self._answer = folder / "answer.json"
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(map(str, [ROOT, ROOT / "tests", ROOT / "tests" / "integration"])),
            "GRPC_ENABLE_FORK_SUPPORT": "0",
        }
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(encoder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def run(
        self, spec: Path, kill: Kill | None = None, overrides: Sequence[str] = (), options: dict[str, Any] | None = None
    ) -> Ended:
        """Run a spec; ``kill`` ends it by SIGKILL."""
        self._answer.unlink(missing_ok=True)
        order = {
            "spec": str(spec),
            "overrides": list(overrides),
            "options": options or {},
            "answer": str(self._answer),
            "kill": [kill.place, kill.call, kill.when] if kill else None,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        said = json.loads(self._answer.read_text()) if self._answer.exists() else {}
        return Ended(code, said.get("counters", {}), said.get("calls", {}), said.get("error", ""))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def install(kill: Kill | None) -> dict[str, int]:
    """Wrap every place; returns the counts of calls, which go on."""
    calls = dict.fromkeys(PLACES, 0)
    lock = threading.Lock()
    for place, name in PLACES.items():
        module, _, path = name.partition(":")
        owner: Any = importlib.import_module(module)
        *parents, leaf = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        raw = owner.__dict__[leaf]
        bound = raw.__func__ if isinstance(raw, classmethod | staticmethod) else raw
        wrapped = _wrapper(place, bound, calls, lock, kill)
        setattr(owner, leaf, type(raw)(wrapped) if isinstance(raw, classmethod | staticmethod) else wrapped)
    return calls


def _wrapper(
    place: str, function: Callable[..., Any], calls: dict[str, int], lock: threading.Lock, kill: Kill | None
) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        with lock:
            calls[place] += 1
            here = kill is not None and (kill.place, kill.call) == (place, calls[place])
        if here and kill is not None and kill.when == "before":
            _die()
        result = function(*arguments, **named)
        if here and kill is not None and kill.when == "within":
            file = next(a for a in arguments if isinstance(a, str | Path))
            os.truncate(file, os.path.getsize(file) // 2)
        if here:
            _die()
        return result

    return call


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()


def _serve(encoder: str) -> None:
    import apache_beam.runners.portability.fn_api_runner
    import apache_beam.runners.worker.sdk_worker_main
    import av
    import deltalake
    import faiss
    import grpc
    import h5py
    import mean_colour
    import obstore
    import openvino
    import PIL.ImageOps
    import PIL.ImageSequence
    from nights import run_here
    from PIL import Image
    from quick_beam import keep_inspections

    import cliploom.pipelines.running.build
    import cliploom.transforms.media.item_reader
    import cliploom.transforms.publish.final
    from cliploom.pipelines.running.run import RunOptions

    del PIL, apache_beam, av, deltalake, faiss, grpc, h5py, mean_colour, obstore, openvino, cliploom
    for name in PLACES.values():
        importlib.import_module(name.partition(":")[0])
    # Children would else do all this one by one, and copy the memory that a search for garbage touches.
    Image.init()
    keep_inspections()
    gc.collect()
    gc.freeze()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if not child:
            calls = install(Kill(*order["kill"]) if order["kill"] else None)
            said: dict[str, Any] = {}
            try:
                result = run_here(Path(order["spec"]), order["overrides"], RunOptions(**order["options"]))
                said = {"counters": result.counters, "calls": calls}
            except Exception as error:
                said = {"error": f"{type(error).__name__}: {error}"}
            Path(order["answer"]).write_text(json.dumps(said))
            os._exit(1 if "error" in said else 0)
        _, status = os.waitpid(child, 0)
        answers.write(f"{os.waitstatus_to_exitcode(status)}\n")
        answers.flush()


@contextlib.contextmanager
def forks(encoder: Path, folder: Path) -> Iterator[Forks]:
    """A process that forks, for the block."""
    process = Forks(encoder, folder)
    try:
        yield process
    finally:
        process.close()


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    _serve(sys.argv[1])
