"""Running a Beam graph where a target says: on this machine, or by the options of any Beam runner."""

from __future__ import annotations

import difflib
import gc
import logging
import os
import shlex
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from cliploom.schemas.errors import CliploomError, SpecError, nearest
from cliploom.schemas.spec import Target
from cliploom.transforms.python_child import python_command

if TYPE_CHECKING:
    from apache_beam import Pipeline
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.transforms.environments import SubprocessSDKEnvironment

LOCAL = ("local", "direct", "directrunner", "fnapirunner")
FLUSH_PERIOD_MS = 0
"""How often Beam's local runner flushes what a worker is writing, besides when the buffer is full; 0 for never.

Beam's default is 1,000. Its flush is not synchronized with the thread that writes: it cuts elements in half, and drops
what is written between its two steps.
"""
_FLUSH_EXPERIMENT = "data_buffer_time_limit_ms"
_PATIENCE_S = 5.0
_NEARLY = 0.85
JOB_SERVER_OPTIONS = (
    "allow_non_restored_state",
    "auto_watermark_interval",
    "checkpoint_timeout_millis",
    "checkpointing_interval",
    "checkpointing_mode",
    "environment_expiration_millis",
    "execution_mode_for_batch",
    "execution_retry_delay",
    "externalized_checkpoints_enabled",
    "fail_on_checkpointing_errors",
    "file_input_split_max_size_m_b",
    "files_to_stage",
    "flink_conf_dir",
    "latency_tracking_interval",
    "max_bundle_size",
    "max_bundle_time_mills",
    "min_pause_between_checkpoints",
    "number_of_execution_retries",
    "object_reuse",
    "operator_chaining",
    "retain_externalized_checkpoints_on_cancellation",
    "savepoint_path",
    "shutdown_sources_after_idle_ms",
    "state_backend",
    "state_backend_storage_path",
)
"""Options of Beam's FlinkPipelineOptions (Java), which Beam's Python package does not list."""


FEW_WORKERS = 4
LOST_WORKER = ("Channel closed prematurely", "Worker subprocess exited")
"""What Beam's local runner says when one of its worker processes has ended."""


class WorkerLostError(CliploomError):
    """A worker process of a local run died; the same run can go on from its finished parts."""


def is_local(target: Target) -> bool:
    """The target runs in this process."""
    return target.runner.lower() in LOCAL


def takes_hints(target: Target) -> bool:
    """The runner chooses machines by what transforms ask for; others would only start more processes for them."""
    return target.runner.lower() == "dataflowrunner"


def workers_of(target: Target) -> int:
    """Worker threads of a local target: as many as said, else one for each core that this process may use."""
    return target.workers or len(os.sched_getaffinity(0))


def local_workers(target: Target, pieces: int | None) -> int:
    """Workers of a local run that has so many pieces of work; steps that nobody counts get ``FEW_WORKERS``.

    >>> [local_workers(Target(workers=32), pieces) for pieces in (None, 1, 20)], local_workers(Target(workers=2), 9)
    ([32, 4, 20], 2)
    """
    most = workers_of(target)
    return most if pieces is None else min(most, max(pieces, FEW_WORKERS))


_PARALLEL = ("parallelism", "max_num_workers", "num_workers")
"""Options that set how many workers of a remote runner share a job."""


def parallel_workers(target: Target) -> int:
    """Workers that share the work of a target, as far as its options say.

    >>> parallel_workers(Target(runner="FlinkRunner", parallelism=64))
    64
    """
    if is_local(target):
        return workers_of(target)
    said = [target.options[name] for name in _PARALLEL if isinstance(target.options.get(name), int)]
    return (target.workers or 1) * max(said, default=1)


def check_options(target: Target, extra: Sequence[str]) -> None:
    """Check Beam options for misspelt names, which Beam drops without a word.

    The local runner has no others than Beam's. A runner elsewhere may know more of its own, such as those that Flink's
    job server takes; there only a name that is nearly one of the known ones is refused.

    Raises:
        SpecError: for an option that Beam does not have, naming the nearest.
    """
    if target.processes and not is_local(target):
        raise SpecError(f"processes: true is for local runs; leave it out for {target.runner}.")
    given = [*arguments_of(target), *extra]
    if not given:
        return
    from apache_beam.options.pipeline_options import PipelineOptions, _BeamArgumentParser

    parser = _BeamArgumentParser(allow_abbrev=False)
    for kind in PipelineOptions.__subclasses__():
        kind._add_argparse_args(parser)
    known = [name for action in parser._actions for name in action.option_strings]
    for argument in given:
        name = argument.partition("=")[0]
        if is_local(target):
            if not argument.startswith("-"):
                raise SpecError(f"The Beam option {argument!r} does not begin with --; write --name=value.")
            if name not in known:
                raise SpecError(f"Beam has no option {name!r}{nearest(name, known)}")
        elif name.startswith("--") and name not in known and name.removeprefix("--") not in JOB_SERVER_OPTIONS:
            names = [*known, *(f"--{each}" for each in JOB_SERVER_OPTIONS)]
            close = difflib.get_close_matches(name, names, n=1, cutoff=_NEARLY)
            if close:
                raise SpecError(f"{target.runner} has no option {name!r}; did you mean '{close[0]}'?")


def job_name(run: str) -> str:
    """Name of a run's job on a cluster, as all runners allow it.

    >>> job_name("20261122T061104-019d")
    'cliploom-20261122t061104-019d'
    """
    return f"cliploom-{run.lower()}"


def run_graph(
    build: Callable[[Pipeline], None],
    target: Target,
    extra: Sequence[str] = (),
    name: str = "",
    *,
    processes: bool = False,
    pieces: int | None = None,
) -> Mapping[str, int]:
    """Build and run a graph, wait for its end.

    Args:
        build: adds the transforms.
        target: where to run.
        extra: Beam options from the command line, after the target's own.
        name: of the job, on a cluster.
        processes: each worker of a local run is a process.
        pieces: of work that there are; a local run has no more workers than that, since each of them costs time at
            each step of the graph. None where the number is not known.

    Returns:
        Committed counters by name.

    Raises:
        SpecError: for options that Beam does not take.
        WorkerLostError: when a worker process died.
        CliploomError: when the runner reports a failure.
    """
    from apache_beam import Pipeline
    from grpc import Call, RpcError

    from cliploom.pipelines.launching.beam_options import GraphOptions

    if is_local(target):
        from apache_beam.runners.portability.fn_api_runner import FnApiRunner, worker_handlers

        # The runner's own configuration takes 0 for unset.
        worker_handlers.DATA_BUFFER_TIME_LIMIT_MS = FLUSH_PERIOD_MS
        # The plain name DirectRunner may try to download another runner; this one is in the package.
        arguments = [
            f"--direct_num_workers={local_workers(target, pieces)}",
            *([] if processes else ["--direct_running_mode=multi_threading"]),
            *arguments_of(target),
            *extra,
        ]
        options = GraphOptions(arguments)
        check_flush(options)
        environment = _worker_processes() if processes else None
        pipeline = Pipeline(runner=FnApiRunner(default_environment=environment), options=options)
    else:
        named = [f"--job_name={name}"] if name else []
        options = GraphOptions([f"--runner={target.runner}", *named, *arguments_of(target), *extra])
        check_flush(options)
        check_endpoint(options)
        pipeline = Pipeline(options=options)
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    build(pipeline)
    # What is imported stays; a process that put garbage collection off until now need not look at it again.
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
    try:
        result = pipeline.run()
        check_started(pipeline.options, target, name)
        state = result.wait_until_finish()
        found = result.metrics().query()["counters"]
    except RpcError as error:
        code = error.code().name if isinstance(error, Call) else type(error).__name__
        raise CliploomError(
            f"{target.runner}: the job server went away ({code}). A job that had begun goes on without it: look at "
            "`cliploom status` of the store; when it has ended, run again: finished parts are reused."
        ) from error
    except RuntimeError as error:
        if is_local(target) and any(said in str(error) for said in LOST_WORKER):
            raise WorkerLostError("A worker process died; run again: finished parts are reused.") from error
        # Portable runners put the job's state and the error on the cluster into the text.
        if is_local(target) or "failed in state" not in str(error) or "cliploom.schemas.errors." in str(error):
            raise
        raise CliploomError(f"{target.runner}: {_first_line(error)}; finished parts are kept, run again.") from error
    if state is not None and str(state) not in ("DONE", "PipelineState.DONE"):
        raise CliploomError(f"The runner {target.runner} ended the job in state {state}; its own log says why.")
    counters: dict[str, int] = {}
    for counter in found:
        name = counter.key.metric.name
        if counter.key.metric.namespace == "cliploom":
            counters[name] = counters.get(name, 0) + int(counter.committed or counter.attempted or 0)
    return counters


def _worker_processes() -> SubprocessSDKEnvironment:
    """How Beam's local runner starts a worker process; it gives the command to a shell."""
    from apache_beam.transforms.environments import SubprocessSDKEnvironment

    command = python_command("cliploom.pipelines.running.local_worker", str(os.getpid()))
    return SubprocessSDKEnvironment.from_command_string(f"exec {shlex.join(command)}")


def check_flush(options: PipelineOptions) -> None:
    """Refuse the experiment by which workers flush on a timer: Beam's timed flush damages what is being written.

    Raises:
        SpecError: when the experiment is among the options.
    """
    from apache_beam.options.pipeline_options import DebugOptions

    period = options.view_as(DebugOptions).lookup_experiment(_FLUSH_EXPERIMENT, "0")
    if str(period) not in ("0", "-1"):
        raise SpecError(
            f"The Beam option --experiments={_FLUSH_EXPERIMENT}={period} makes workers flush on a timer, which cuts "
            "elements in half; leave it out."
        )


def check_endpoint(options: PipelineOptions) -> None:
    """See to it that the job server of a portable runner answers; Beam itself waits for minutes.

    Raises:
        CliploomError: when nobody listens there.
    """
    from apache_beam.options.pipeline_options import PortableOptions

    endpoint = options.view_as(PortableOptions).job_endpoint
    host, _, port = str(endpoint or "").rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE_S).close()
    except OSError as error:
        raise CliploomError(
            f"Nothing answers at the job endpoint {endpoint} ({error}); start Beam's job server (docs/flink.md)."
        ) from None


def check_started(options: PipelineOptions, target: Target, name: str) -> None:
    """Say so when the job was built and staged, but not run.

    Raises:
        CliploomError: where ``--dry_run`` or ``--template_location`` is among the options.
    """
    from apache_beam.options.pipeline_options import GoogleCloudOptions, TestOptions

    template = options.view_as(GoogleCloudOptions).template_location
    if template:
        raise CliploomError(f"The job {name} was staged as {template} and not run; nothing was published.")
    if options.view_as(TestOptions).dry_run:
        raise CliploomError(
            f"The job {name} was built for {target.runner} and not run (dry_run); nothing was published."
        )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")


def arguments_of(target: Target) -> list[str]:
    """Beam options as command-line arguments.

    Raises:
        SpecError: for a value that is no plain value.
    """
    arguments = []
    for name, value in target.options.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, bool):
                if one:
                    arguments.append(f"--{name}")
            elif isinstance(one, str | int | float):
                arguments.append(f"--{name}={one}")
            else:
                raise SpecError(
                    f"targets: the option {name!r} can't be {one!r}; give a text, a number, true or a list."
                )
    return arguments
