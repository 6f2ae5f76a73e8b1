"""``cliploom serve`` as a process: output, shutdown, and fuzzing of its API description."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from page_server import PageServer, page_server
from stores import SmallStore

from cliploom.serving.catalog import Catalog
from cliploom.serving.server import welcome
from cliploom.serving.settings import ServeSettings

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def server(built_store: SmallStore) -> Iterator[PageServer]:
    with page_server(built_store.store) as found:
        yield found


def test_command_serves_until_a_signal_and_logs_json(built_store: SmallStore) -> None:
    command = [sys.executable, "-m", "cliploom", "serve", str(built_store.store), "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        found = re.search(r"at (http://127\.0\.0\.1:\d+)/", first)
        assert found, first
        answer = httpx.get(f"{found[1]}/api/search", params={"q": "a cat", "token": "secret"}, timeout=60)
        assert answer.status_code == 200
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
    assert process.returncode in (0, -signal.SIGTERM)
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    request = next(line for line in lines if line["event"] == "request")
    assert (request["path"], request["status"], request["query"]) == ("/api/search", 200, "q=a+cat")
    assert "secret" not in log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere"], 4, "There is no store"),
        ([".", "--token", "short"], 2, "openssl rand"),
        ([], 2, "cliploom"),
    ],
)
def test_wrong_arguments_end_in_one_sentence(arguments: list[str], code: int, said: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cliploom", "serve", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_who_can_reach_it_is_said(server: PageServer) -> None:
    catalog: Catalog = server.catalog
    assert len(welcome(catalog, ServeSettings(), 80)) == 1
    assert "add --token" in welcome(catalog, ServeSettings(host="0.0.0.0"), 80)[1]
    assert "has the token" in welcome(catalog, ServeSettings(host="::", token="x" * 16), 80)[1]


def test_requests_made_from_the_description_never_bring_a_fault(server: PageServer) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings

    schema = schemathesis.openapi.from_dict(server.get("/openapi.json").json())
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path.endswith("/events"):
            continue  # only a job's own id leads anywhere

        @given(case=operation.as_strategy())
        @settings(
            max_examples=12, deadline=None, derandomize=True, database=None,
            phases=[Phase.generate], suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        def never_a_fault(case: object) -> None:
            answer = case.call(base_url=server.url, timeout=60)  # type: ignore[attr-defined]
            assert answer.status_code < 500, (answer.status_code, answer.text[:300])

        never_a_fault()
