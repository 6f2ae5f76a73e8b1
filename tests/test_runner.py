"""What becomes of a run whose job server goes away."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import apache_beam as beam
import pytest

from cliploom.pipelines.launching.runner import check_options, run_graph
from cliploom.schemas.errors import CliploomError, SpecError
from cliploom.schemas.spec import Target


@pytest.fixture
def job_server() -> Iterator[tuple[int, str]]:
    """Beam's own job server in Python: its process and its address."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    module = "apache_beam.runners.portability.local_job_service_main"
    process = subprocess.Popen([sys.executable, "-m", module, "--port", str(port)], stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end and process.poll() is None:
            with socket.socket() as caller:
                if caller.connect_ex(("localhost", port)) == 0:
                    break
            time.sleep(0.1)
        yield process.pid, f"localhost:{port}"
    finally:
        process.kill()
        process.wait()


def end_process(process: int) -> None:
    os.kill(process, signal.SIGKILL)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # threads of the loopback worker
def test_a_job_server_that_dies_during_a_job_is_reported_in_one_sentence(job_server: tuple[int, str]) -> None:
    process, address = job_server
    options = {"runner": "PortableRunner", "job_endpoint": address, "environment_type": "LOOPBACK"}
    target = Target.model_validate(options)
    with pytest.raises(CliploomError, match=r"PortableRunner: the job server went away \(UNAVAILABLE\)") as told:
        run_graph(lambda pipeline: pipeline | beam.Create([process]) | beam.Map(end_process), target)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("runner", "options", "meant"),
    [
        ("FlinkRunner", {"paralelism": 4}, "--parallelism"),
        ("FlinkRunner", {"checkpointing_intervall": 60000}, "--checkpointing_interval"),
        ("DataflowRunner", {"regoin": "europe-west1"}, "--region"),
        ("DataflowRunner", {"max_num_worker": 4}, "--max_num_workers"),
    ],
)
def test_misspelt_options_of_clusters_are_refused_by_name(runner: str, options: dict[str, object], meant: str) -> None:
    target = Target.model_validate({"runner": runner, **options})
    with pytest.raises(SpecError, match=f"{runner} has no option .*did you mean '{meant}'"):
        check_options(target, ())


def test_options_that_only_the_cluster_knows_pass() -> None:
    target = Target.model_validate({"runner": "FlinkRunner", "parallelism": 4, "checkpointing_interval": 60000})
    check_options(target, ["--something_of_a_newer_flink=1", "--object_reuse"])
    check_options(Target.model_validate({"runner": "DataflowRunner", "region": "europe-west1"}), ["--num_workers=3"])
