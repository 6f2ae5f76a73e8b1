"""The Python worker that a task manager starts as its child: ``environment_type: PROCESS``.

Beam's images have a program in Go for this, which is on no package index. Here the environment is there already, so
that nothing is fetched: the worker asks the task manager for its settings, serves it, and ends when it does.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

from transforms.work.inflight import watch_parent

COMMAND = "cliploom-worker"


def settings_of(worker: str, address: str) -> dict[str, str]:
    """What Beam's worker reads from its environment, from the provision service at ``address``.

    Args:
        worker: the id that the task manager gave this process.
        address: ``host:port``.
    """
    import grpc
    from apache_beam.portability.api import beam_provision_api_pb2, beam_provision_api_pb2_grpc
    from google.protobuf import json_format, text_format

    with grpc.insecure_channel(address) as channel:
        service = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        request = beam_provision_api_pb2.GetProvisionInfoRequest()
        info = service.GetProvisionInfo(request, metadata=[("worker_id", worker)]).info
    return {
        "WORKER_ID": worker,
        "PIPELINE_OPTIONS": json.dumps(json_format.MessageToDict(info.pipeline_options)),
        "CONTROL_API_SERVICE_DESCRIPTOR": text_format.MessageToString(info.control_endpoint),
        "LOGGING_API_SERVICE_DESCRIPTOR": text_format.MessageToString(info.logging_endpoint),
        "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve one task manager until it lets go."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--id", required=True)
    parser.add_argument("--provision_endpoint", required=True)
    known, _ = parser.parse_known_args(arguments)
    # A task manager that is killed stops nobody; its worker would compute for a job that has begun anew elsewhere.
    watch_parent(os.getppid())
    os.environ |= settings_of(known.id, known.provision_endpoint)
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main([sys.argv[0]])


if __name__ == "__main__":
    main()
