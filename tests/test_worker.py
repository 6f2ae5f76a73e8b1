"""``cliploom-worker``: the task manager's settings reach Beam's worker."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest
from apache_beam.portability.api import beam_provision_api_pb2 as api
from apache_beam.portability.api import beam_provision_api_pb2_grpc as services

from cliploom.pipelines.running.worker import settings_of


class Provision(services.ProvisionServiceServicer):
    """A task manager's service, which knows its workers by an id beside the request."""

    def GetProvisionInfo(self, request: api.GetProvisionInfoRequest, context: grpc.ServicerContext) -> object:  # noqa: N802
        assert dict(context.invocation_metadata())["worker_id"] == "3-1"
        found = api.GetProvisionInfoResponse()
        found.info.pipeline_options.update({"beam:option:job_name:v1": "cliploom-a", "beam:option:experiments:v1": []})
        found.info.control_endpoint.url = "localhost:1"
        found.info.logging_endpoint.url = "localhost:2"
        found.info.runner_capabilities.extend(["a", "b"])
        return found


@pytest.fixture
def address() -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(1))
    services.add_ProvisionServiceServicer_to_server(Provision(), server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    yield f"localhost:{port}"
    server.stop(None)


def test_settings_are_those_of_the_task_manager(address: str) -> None:
    settings = settings_of("3-1", address)
    assert json.loads(settings.pop("PIPELINE_OPTIONS")) == {
        "beam:option:job_name:v1": "cliploom-a",
        "beam:option:experiments:v1": [],
    }
    assert settings == {
        "WORKER_ID": "3-1",
        "CONTROL_API_SERVICE_DESCRIPTOR": 'url: "localhost:1"\n',
        "LOGGING_API_SERVICE_DESCRIPTOR": 'url: "localhost:2"\n',
        "RUNNER_CAPABILITIES": "a b",
    }


class Rest(BaseHTTPRequestHandler):
    """Flink's list of jobs: what the server's ``states`` say in turn, and the last of them from then on."""

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        states: list[str] = self.server.states  # type: ignore[attr-defined]
        state = states.pop(0) if len(states) > 1 else states[0]
        jobs = [{"name": "other", "state": "FINISHED", "start-time": 2}]
        jobs += [{"name": "cliploom-a", "state": state, "start-time": 1}] if state else []
        body = json.dumps({"jobs": jobs}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


WAITS = """
import sys, threading
from cliploom.pipelines.running.worker import watch_job
watch_job({"beam:option:job_name:v1": "cliploom-a", "beam:option:flink_master:v1": sys.argv[1]}, 0.05)
print("watching", flush=True)
threading.Event().wait(float(sys.argv[2]))
print("alive")
"""


def outlives(states: list[str], wait_s: str) -> tuple[bool, list[str]]:
    """Whether a worker is there after so many seconds of Flink's telling these states; what was not told."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Rest)
    server.states = states  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-c", WAITS, f"127.0.0.1:{server.server_address[1]}", wait_s]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    server.shutdown()
    server.server_close()
    assert done.stdout.startswith("watching"), done.stderr
    return "alive" in done.stdout, states


def test_a_worker_that_was_forgotten_ends_when_its_job_has_ended() -> None:
    assert outlives(["RUNNING", "FAILED", "RESTARTING", "", "FINISHED"], "60") == (False, ["FINISHED"])


@pytest.mark.parametrize("state", ["RUNNING", "RESTARTING", ""])
def test_a_worker_whose_job_goes_on_or_is_not_known_stays(state: str) -> None:
    assert outlives([state], "1")[0]
