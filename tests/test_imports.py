"""What commands import: none loads a library that it does not use, as that is most of what a short command costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from stores import SmallStore

ROOT = Path(__file__).resolve().parent.parent
NEVER = {"apache_beam", "grpc", "pandas", "tensorflow", "torch"}
ENCODING = {"av", "faiss", "h5py", "openvino"}
READING = {"deltalake", "numpy", "polars", "pyarrow"}

COMMAND = """
import json, sys
from cliploom.pipelines.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as ended:
    assert not ended.code, ended.code
print("MODULES", json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
WORK = """
import json, sys
from cliploom.pipelines.running.child import run_request
result = run_request(json.loads(sys.argv[1]))
assert not result["changed"]
print("MODULES", json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def modules_of(code: str, *arguments: str) -> set[str]:
    """Top-level modules that a process has imported when it ends."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *arguments]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    (line,) = (line for line in ended.stdout.splitlines() if line.startswith("MODULES "))
    return set(json.loads(line.removeprefix("MODULES ")))


@pytest.mark.parametrize("command", ["status", "releases", "failures"])
def test_listings_load_only_what_reads_tables(command: str, built_store: SmallStore) -> None:
    assert modules_of(COMMAND, command, str(built_store.store)) & (NEVER | ENCODING) == set()


def test_search_by_words_loads_neither_beam_nor_decoders(built_store: SmallStore) -> None:
    loaded = modules_of(COMMAND, "search", str(built_store.store), "a cat")
    assert {"faiss", "openvino"} <= loaded
    assert loaded & (NEVER | {"av", "h5py"}) == set()


def test_openvino_does_not_report_that_it_is_used() -> None:
    code = """
from cliploom.transforms.encoders import runtime
from openvino.tools.ovc import telemetry_utils
assert telemetry_utils.tm.__name__.endswith("telemetry_stub"), telemetry_utils.tm
print("MODULES []")
"""
    assert modules_of(code) == set()


def test_an_unchanged_night_loads_no_beam(small_store: SmallStore) -> None:
    small_store.run()  # the copy's files lie elsewhere than the original's
    supervisor = modules_of(COMMAND, "run", str(small_store.spec))
    assert supervisor & (NEVER | ENCODING | READING) == set()
    files = {name: str(small_store.folder / name) for name in ("progress", "notes", "started")}
    request = {"action": "run", "spec": str(small_store.spec), "run": "20260101T000000-0000", "command": "test"} | files
    assert modules_of(WORK, json.dumps(request)) & (NEVER | {"faiss", "openvino"}) == set()
