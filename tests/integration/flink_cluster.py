"""A Flink cluster on this machine for tests and benchmarks: a job manager, task managers and Beam's job server.

Flink's libraries come from PyPI (the sdist ``apache-flink-libraries``), Beam's Flink runner from Maven Central. Both
are fetched once into ``CLIPLOOM_FLINK_HOME``, by default ``~/.cache/cliploom/flink-<version>`` (350 MB). The processes
are started as plain Java programs, so that a test can kill each by its pid.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLINK_VERSION = "1.19.3"
BEAM_RUNNER = "org.apache.beam", "beam-runners-flink-1.19", "2.62.0"
HOST = "localhost"
_PATIENCE_S = 120.0
_POM = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>cliploom</groupId><artifactId>job-server</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>
  </dependencies>
</project>
"""
_LOGGING = """\
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = Console
appender.console.name = Console
appender.console.type = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss.SSS} %-5p %c{1} %m%n
"""
# What Flink's own configuration opens to reflection on Java 17.
_OPENED = ("lang", "net", "io", "nio", "lang.reflect", "text", "time", "util")
_OPENED_TOO = ("util.concurrent", "util.concurrent.atomic", "util.concurrent.locks")
_JAVA = (
    "--add-exports=java.base/sun.net.util=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    *(f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in (*_OPENED, *_OPENED_TOO)),
)


def flink_home() -> Path:
    """Where the jars are kept between runs."""
    named = os.environ.get("CLIPLOOM_FLINK_HOME")
    return Path(named) if named else Path.home() / ".cache" / "cliploom" / f"flink-{FLINK_VERSION}"


def missing() -> str:
    """What this machine lacks for a cluster, with the mend; empty when nothing."""
    if shutil.which("java") is None:
        return "a Flink cluster needs Java 11 or 17 on PATH (Debian: openjdk-17-jre-headless)"
    if not flink_home().exists() and shutil.which("mvn") is None:
        return (
            f"the jars of Flink {FLINK_VERSION} are not in {flink_home()} and Maven, which fetches them, is not on "
            "PATH (Debian: maven); install it, or name a folder that has them in CLIPLOOM_FLINK_HOME"
        )
    return ""


def install() -> Path:
    """Fetch the jars unless they are there; returns the folder with ``flink/`` and ``job-server/``.

    Raises:
        RuntimeError: with what the package manager said, when it fails.
    """
    home = flink_home()
    if home.exists():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=".fetching-") as name:
        folder = Path(name)
        _call(
            [*_installer(), "--no-deps", "--target", str(folder / "python"), f"apache-flink-libraries=={FLINK_VERSION}"]
        )
        (folder / "pom.xml").write_text(_POM.format(*BEAM_RUNNER), encoding="utf-8")
        wanted = folder / "wanted"
        _call(
            [
                "mvn", "-q", "-B", "-f", str(folder / "pom.xml"), "dependency:copy-dependencies",
                "-DincludeScope=runtime", f"-DoutputDirectory={wanted / 'job-server'}",
            ]
        )  # fmt: skip
        (folder / "python" / "pyflink" / "lib").rename(wanted / "flink")
        try:
            wanted.rename(home)
        except OSError:
            if not home.exists():  # else another process has just finished the same
                raise
    return home


def _installer() -> list[str]:
    """The command that installs a package into a folder: that of this environment, or one that is on PATH."""
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0:
        return [sys.executable, "-m", "pip", "install", "--quiet"]
    for name in ("uv", "pip"):
        if found := shutil.which(name):
            return [found, "pip", "install", "--quiet"] if name == "uv" else [found, "install", "--quiet"]
    raise RuntimeError("Flink's libraries are fetched with pip or uv, and neither is on PATH; install one.")


def _call(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:3])} ... failed:\n{(done.stdout + done.stderr)[-2000:]}")


def _die_with_parent() -> None:
    """Let the kernel end this process with the one that started it, also after SIGKILL; nothing is left behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind((HOST, 0))
        port: int = found.getsockname()[1]
        return port


def wait_until(true: Callable[[], bool], what: str, patience_s: float = _PATIENCE_S) -> None:
    """Poll until ``true()``.

    Raises:
        TimeoutError: naming ``what``.
    """
    end = time.monotonic() + patience_s
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not happen within {patience_s:.0f} s")
        time.sleep(0.2)


class FlinkCluster:
    """One job manager, some task managers with a slot each, one job server; see ``flink_cluster``.

    Attributes:
        rest: ``host:port`` of Flink's REST interface.
        endpoint: ``host:port`` of Beam's job server.
        taskmanagers: their processes, in order of start.
    """

    def __init__(self, folder: Path, settings: Mapping[str, object]) -> None:
        self._home = install()
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self._rest_port, rpc_port = free_port(), free_port()
        self.rest = f"{HOST}:{self._rest_port}"
        self._job_ports = [free_port() for _ in range(3)]
        self.endpoint = f"{HOST}:{self._job_ports[0]}"
        self.taskmanagers: list[subprocess.Popen[bytes]] = []
        config: dict[str, object] = {
            "jobmanager.rpc.address": HOST,
            "jobmanager.rpc.port": rpc_port,
            "jobmanager.bind-host": HOST,
            "rest.address": HOST,
            "rest.bind-address": HOST,
            "rest.port": self._rest_port,
            "taskmanager.bind-host": HOST,
            "taskmanager.host": HOST,
            "taskmanager.numberOfTaskSlots": 1,
            # Flink's own start script works these out; without it all must be said.
            "taskmanager.cpu.cores": 1.0,
            "taskmanager.memory.task.heap.size": "256m",
            "taskmanager.memory.task.off-heap.size": "128m",
            "taskmanager.memory.managed.size": "128m",
            "taskmanager.memory.network.min": "128m",
            "taskmanager.memory.network.max": "128m",
            "taskmanager.memory.framework.heap.size": "128m",
            "taskmanager.memory.framework.off-heap.size": "128m",
            "taskmanager.memory.jvm-metaspace.size": "256m",
            "taskmanager.memory.jvm-overhead.min": "64m",
            "taskmanager.memory.jvm-overhead.max": "64m",
            "restart-strategy.type": "fixed-delay",
            "restart-strategy.fixed-delay.attempts": 100,
            "restart-strategy.fixed-delay.delay": "3 s",
            "heartbeat.interval": 1000,
            "heartbeat.timeout": 8000,
            "io.tmp.dirs": str(folder / "tmp"),
        }
        (folder / "conf").mkdir(parents=True)
        (folder / "tmp").mkdir()
        (folder / "conf" / "log4j.properties").write_text(_LOGGING, encoding="utf-8")
        lines = [f"{key}: {value}" for key, value in (config | dict(settings)).items()]
        (folder / "conf" / "config.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")

    @property
    def pids(self) -> list[int]:
        """Of all processes that run."""
        return [process.pid for process in self._processes if process.poll() is None]

    def start(self, taskmanagers: int) -> None:
        """Start everything and wait until it answers."""
        self._java(
            "jobmanager", "flink", "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint", "384m"
        )
        for _ in range(taskmanagers):
            self.start_taskmanager()
        master, job, artifact, expansion = self.rest, *self._job_ports
        self._java(
            "jobserver", "job-server", "org.apache.beam.runners.flink.FlinkJobServerDriver", "384m",
            f"--flink-master={master}", f"--job-port={job}", f"--artifact-port={artifact}",
            f"--expansion-port={expansion}", f"--artifacts-dir={self._folder / 'artifacts'}",
        )  # fmt: skip
        self.wait_for_taskmanagers(taskmanagers)
        wait_until(lambda: listens(self.endpoint), "the start of the job server")

    def start_taskmanager(self) -> None:
        """Add a task manager."""
        name = f"taskmanager-{len(self.taskmanagers)}"
        main = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
        self.taskmanagers.append(self._java(name, "flink", main, "512m"))

    def wait_for_taskmanagers(self, number: int) -> None:
        """Wait until so many have registered."""

        def registered() -> bool:
            try:
                return int(self.ask("/overview")["taskmanagers"]) == number
            except (urllib.error.URLError, ConnectionError):
                return False

        wait_until(registered, f"the registration of {number} task managers")

    def _java(self, name: str, jars: str, main: str, heap: str, *arguments: str) -> subprocess.Popen[bytes]:
        conf = ["--configDir", str(self._folder / "conf")] if jars == "flink" else []
        # Beam's jars come without a logger; Flink's will do.
        logging = [] if jars == "flink" else map(str, sorted((self._home / "flink").glob("log4j*")))
        command = [
            "java", f"-Xmx{heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", *_JAVA,
            f"-Dlog4j.configurationFile={self._folder / 'conf' / 'log4j.properties'}",
            "-cp", os.pathsep.join([f"{self._home / jars}/*", *logging]), main, *conf, *arguments,
        ]  # fmt: skip
        with (self._folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                preexec_fn=_die_with_parent,
            )
        self._processes.append(process)
        return process

    def ask(self, path: str) -> Any:
        """A GET of Flink's REST interface, as JSON."""
        with urllib.request.urlopen(f"http://{self.rest}{path}", timeout=10) as answer:
            return json.load(answer)

    def jobs(self) -> list[dict[str, Any]]:
        """Jobs with name, state, jid, start-time; the newest first."""
        found: list[dict[str, Any]] = self.ask("/jobs/overview")["jobs"]
        return sorted(found, key=lambda job: -int(job["start-time"]))

    def logs(self, last: int = 4000) -> str:
        """The end of every process's log."""
        return "\n".join(
            f"== {path.name}\n{path.read_text(encoding='utf-8', errors='replace')[-last:]}"
            for path in sorted(self._folder.glob("*.log"))
        )

    def stop(self) -> None:
        """End all processes."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
        for process in self._processes:
            process.wait()


def listens(address: str) -> bool:
    """Somebody accepts connections at ``host:port``."""
    host, _, port = address.partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def flink_cluster(
    folder: Path, taskmanagers: int = 2, settings: Mapping[str, object] | None = None
) -> Iterator[FlinkCluster]:
    """A running cluster for the time of the block.

    Args:
        folder: for logs, configuration and temporary files; new.
        settings: of Flink, added to the cluster's own.
    """
    cluster = FlinkCluster(folder, settings or {})
    try:
        cluster.start(taskmanagers)
        yield cluster
    finally:
        cluster.stop()


class WorkerPool:
    """Beam's worker pool for the environment EXTERNAL: one Python process that works for all task managers.

    It is started again when it dies, as an orchestrator does with a container.

    Attributes:
        address: ``host:port``, for ``environment_config``.
        deaths: how often it had to be started again.
    """

    def __init__(self, log: Path, environment: Mapping[str, str]) -> None:
        self.address = f"{HOST}:{free_port()}"
        self.deaths = 0
        self._log = log
        self._environment = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)} | dict(environment)
        self._ended = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._process = self._start()
        self._keeper.start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, __file__, self.address.partition(":")[2]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | self._environment,
                preexec_fn=_die_with_parent,
            )

    def _keep(self) -> None:
        while not self._ended.wait(0.1):
            if self._process.poll() is not None:
                self.deaths += 1
                self._process = self._start()

    @property
    def pid(self) -> int:
        """Of the worker process."""
        return self._process.pid

    def kill(self) -> None:
        """End the worker process as ``kill -9`` does."""
        self._process.kill()

    def stop(self) -> None:
        """End it for good."""
        self._ended.set()
        self._keeper.join()
        self._process.kill()
        self._process.wait()


@contextmanager
def worker_pool(log: Path, environment: Mapping[str, str] | None = None) -> Iterator[WorkerPool]:
    """A worker pool for the time of the block, with these environment variables; ``log`` keeps what it prints."""
    pool = WorkerPool(log, environment or {})
    try:
        wait_until(lambda: listens(pool.address), "the start of the worker pool")
        yield pool
    finally:
        pool.stop()


def serve_pool(port: int) -> None:
    """Be a worker pool that task managers of one machine can share.

    Beam's own keeps its workers by their ids, which each task manager counts from 1: the first to end would stop the
    other's worker. Here none is stopped; a worker ends by itself when its task manager lets go of it.
    """
    from apache_beam.portability.api import beam_fn_api_pb2
    from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer

    class SharedPool(BeamFnExternalWorkerPoolServicer):  # type: ignore[misc]
        def StopWorker(self, stop_worker_request: Any, unused_context: Any) -> Any:  # noqa: N802
            return beam_fn_api_pb2.StopWorkerResponse()

    _, server = SharedPool.start(port=port)
    server.wait_for_termination()


if __name__ == "__main__":
    serve_pool(int(sys.argv[1]))
