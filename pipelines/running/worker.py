"""The Python worker that a task manager starts as its child: ``environment_type: PROCESS``.

Beam's images have a program in Go for this, which is on no package index. Here the environment is there already, so
that nothing is fetched: the worker asks the task manager for its settings, serves it, and ends when it does, or when
its job has ended: after a job is begun anew, a task manager may forget a worker (seen with Beam 2.62).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from cliploom.transforms.work.inflight import watch_parent

COMMAND = "cliploom-worker"
_OVER = ("FINISHED", "FAILED", "CANCELED")
_LOOK_S = 60.0


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


def watch_job(options: Mapping[str, Any], every_s: float = _LOOK_S) -> None:
    """End this process when Flink says, twice in a row, that its job has ended; who can't be asked ends nothing.

    Args:
        options: of the pipeline, as the provision service gives them.
        every_s: seconds between two looks.
    """
    from cliploom.pipelines.running.flink import flink_masters, flink_state

    job = str(options.get("beam:option:job_name:v1") or "")
    masters = flink_masters({"targets": {"here": {"flink_master": options.get("beam:option:flink_master:v1") or ""}}})

    def watch() -> None:
        over = 0
        while over < 2:
            time.sleep(every_s)
            over = over + 1 if flink_state(masters, job) in _OVER else 0
        os._exit(0)

    if job and masters:
        threading.Thread(target=watch, daemon=True).start()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve one task manager until it lets go."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--id", required=True)
    parser.add_argument("--provision_endpoint", required=True)
    known, _ = parser.parse_known_args(arguments)
    # A task manager that is killed stops nobody; its worker would compute for a job that has begun anew elsewhere.
    watch_parent(os.getppid())
    settings = settings_of(known.id, known.provision_endpoint)
    os.environ |= settings
    watch_job(json.loads(settings["PIPELINE_OPTIONS"]))
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main([sys.argv[0]])


if __name__ == "__main__":
    main()
