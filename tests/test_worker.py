"""``cliploom-worker``: what a task manager tells it reaches Beam's worker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from apache_beam.portability.api import beam_provision_api_pb2 as api
from apache_beam.portability.api import beam_provision_api_pb2_grpc as services

from pipelines.worker import settings_of


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
