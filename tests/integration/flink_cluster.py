"""A Flink cluster on this machine for tests and benchmarks: a job manager, task managers and Beam's job server.

Flink's libraries come from PyPI (the sdist ``apache-flink-libraries``), Beam's Flink runner from Maven Central. Both
are fetched once into ``CLIPLOOM_FLINK_HOME``, by default ``~/.cache/cliploom/flink-<version>`` (510 MB). The processes
are started as plain Java programs, so that a test can kill each by its pid.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests import waiting
from tests.bounded import mortal

FLINK_VERSION = "1.19.3"
BEAM_RUNNER = "org.apache.beam", "beam-runners-flink-1.19", "2.62.0"
JOB_SERVER = "job-server.jar"
HOST = "localhost"
wait_until = partial(waiting.wait_until, every_s=0.2)
"""Polls less often than by default, since most of what is asked here answers over HTTP."""
_SIGNATURES = {".SF", ".RSA", ".DSA"}
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
    """Fetch the jars unless they are there; returns the folder with ``flink/``, ``job-server/`` and ``job-server.jar``.

    Raises:
        RuntimeError: with what the package manager said, when it fails.
    """
    home = flink_home()
    if not home.exists():
        _fetch(home)
    if not (home / JOB_SERVER).exists():
        with tempfile.TemporaryDirectory(dir=home, prefix=".merging-") as name:
            merged = Path(name) / JOB_SERVER
            merge_jars(sorted((home / "job-server").glob("*.jar")), merged)
            merged.replace(home / JOB_SERVER)
    return home


def merge_jars(jars: Sequence[Path], target: Path) -> None:
    """One jar of many, since a job server uploads its class path with each job, and 160 files take Flink 17 s.

    Of equal names the first is taken; lists of services are joined, signatures left out.
    """
    services: dict[str, list[bytes]] = {}
    seen = {"META-INF/MANIFEST.MF"}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as merged:
        merged.writestr("META-INF/MANIFEST.MF", "Manifest-Version: 1.0\nMulti-Release: true\n")
        for jar in jars:
            with zipfile.ZipFile(jar) as source:
                for entry in source.infolist():
                    name = entry.filename
                    if name.startswith("META-INF/services/") and not entry.is_dir():
                        services.setdefault(name, []).append(source.read(entry))
                    elif name not in seen and not entry.is_dir() and Path(name).suffix not in _SIGNATURES:
                        seen.add(name)
                        merged.writestr(name, source.read(entry))
        for name, texts in services.items():
            merged.writestr(name, b"\n".join(texts))


def _fetch(home: Path) -> None:
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


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind((HOST, 0))
        port: int = found.getsockname()[1]
        return port


class FlinkCluster:
    """One job manager, some task managers with a slot each, one job server; see ``flink_cluster``.

    Attributes:
        rest: ``host:port`` of Flink's REST interface.
        endpoint: ``host:port`` of Beam's job server.
        taskmanagers: their processes, in order of start.
    """

    def __init__(self, folder: Path) -> None:
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
            "restart-strategy.type": "exponential-delay",
            "restart-strategy.exponential-delay.initial-backoff": "3 s",
            "restart-strategy.exponential-delay.backoff-multiplier": 1.5,
            "restart-strategy.exponential-delay.max-backoff": "1 min",
            "restart-strategy.exponential-delay.reset-backoff-threshold": "10 min",
            "restart-strategy.exponential-delay.attempts-before-reset-backoff": 30,
            "heartbeat.interval": 1000,
            "heartbeat.timeout": 8000,
            "io.tmp.dirs": str(folder / "tmp"),
            # Beam's classes are the cluster's own, so that a worker outlives the stage that it was started for.
            "classloader.resolve-order": "parent-first",
        }
        (folder / "conf").mkdir(parents=True)
        (folder / "tmp").mkdir()
        (folder / "conf" / "log4j.properties").write_text(_LOGGING, encoding="utf-8")
        lines = [f"{key}: {value}" for key, value in config.items()]
        (folder / "conf" / "config.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")

    @property
    def pids(self) -> list[int]:
        """Of all processes that run."""
        return [process.pid for process in self._processes if process.poll() is None]

    def start(self, taskmanagers: int) -> None:
        """Start everything and wait until it answers."""
        self._java(
            "jobmanager", "flink/*", "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint", "384m"
        )
        for _ in range(taskmanagers):
            self.start_taskmanager()
        master, job, artifact, expansion = self.rest, *self._job_ports
        self._java(
            "jobserver", JOB_SERVER, "org.apache.beam.runners.flink.FlinkJobServerDriver", "384m",
            f"--flink-master={master}", f"--job-port={job}", f"--artifact-port={artifact}",
            f"--expansion-port={expansion}", f"--artifacts-dir={self._folder / 'artifacts'}",
        )  # fmt: skip
        self.wait_for_taskmanagers(taskmanagers)
        wait_until(lambda: listens(self.endpoint), "the start of the job server")

    def start_taskmanager(self) -> None:
        """Add a task manager."""
        name = f"taskmanager-{len(self.taskmanagers)}"
        main = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
        self.taskmanagers.append(self._java(name, "flink/*", main, "512m"))

    def wait_for_taskmanagers(self, number: int) -> None:
        """Wait until so many have registered."""

        def registered() -> bool:
            try:
                return int(self.ask("/overview")["taskmanagers"]) == number
            except (urllib.error.URLError, ConnectionError):
                return False

        wait_until(registered, f"the registration of {number} task managers")

    def _java(self, name: str, jars: str, main: str, heap: str, *arguments: str) -> subprocess.Popen[bytes]:
        conf = ["--configDir", str(self._folder / "conf")] if jars != JOB_SERVER else []
        # Beam's jars come without a logger; Flink's will do. Its own jars of Flink would stand in for the cluster's.
        others = (
            [jar for jar in sorted((self._home / "job-server").glob("*.jar")) if not jar.name.startswith("flink-")]
            if jars != JOB_SERVER
            else sorted((self._home / "flink").glob("log4j*"))
        )
        command = [
            "java", f"-Xmx{heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", *_JAVA,
            f"-Dlog4j.configurationFile={self._folder / 'conf' / 'log4j.properties'}",
            "-cp", os.pathsep.join([str(self._home / jars), *map(str, others)]), main, *conf, *arguments,
        ]  # fmt: skip
        with (self._folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                mortal(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder
            )
        self._processes.append(process)
        return process

    def worker_command(self, path: Path, environment: Mapping[str, str]) -> Path:
        """Write the program that task managers start as their Python worker, for ``environment_config``.

        Args:
            path: of the program; what workers print is beside it, in ``workers.log``.
            environment: variables of the workers, besides those of the task managers.
        """
        lines = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
        log = shlex.quote(str(path.with_name("workers.log")))
        lines.append(f'exec {shlex.quote(sys.executable)} -m cliploom.pipelines.running.worker "$@" >>{log} 2>&1')
        path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n", encoding="utf-8")
        path.chmod(0o755)
        return path

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
def flink_cluster(folder: Path, taskmanagers: int = 2) -> Iterator[FlinkCluster]:
    """A running cluster for the time of the block.

    Args:
        folder: for logs, configuration and temporary files; new.
        taskmanagers: how many, with a slot each.
    """
    cluster = FlinkCluster(folder)
    try:
        cluster.start(taskmanagers)
        yield cluster
    finally:
        cluster.stop()
