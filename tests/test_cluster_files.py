"""The files that a cluster is built from parse, refer to each other rightly, and hold what the docs and tests say.

No Docker daemon and no Kubernetes is needed, or asked: what only they could tell is not shown here.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from commands import ROOT

from cliploom.pipelines.launching.runner import check_options
from cliploom.pipelines.running.live_metrics import LIVE_METRICS
from cliploom.pipelines.running.metrics import METRICS
from cliploom.schemas.secrets import masked
from cliploom.schemas.spec_file import load_spec

CLUSTER = ROOT / "examples" / "cluster"
API = {
    "ServiceAccount": "v1",
    "ConfigMap": "v1",
    "Service": "v1",
    "Deployment": "apps/v1",
    "CronJob": "batch/v1",
    "Role": "rbac.authorization.k8s.io/v1",
    "RoleBinding": "rbac.authorization.k8s.io/v1",
    "FlinkDeployment": "flink.apache.org/v1beta1",
}
CONTAINER = {
    *("name", "image", "command", "args", "env", "envFrom", "ports", "workingDir", "volumeMounts", "resources"),
    *("livenessProbe", "readinessProbe"),
}
POD = {"containers", "volumes", "serviceAccountName", "restartPolicy", "terminationGracePeriodSeconds"}
SERVICE = {
    *("image", "build", "command", "entrypoint", "environment", "env_file", "volumes", "depends_on", "ports"),
    *("profiles", "working_dir"),
}


def text(name: str) -> str:
    return (CLUSTER / name).read_text(encoding="utf-8")


def objects(*names: str) -> list[dict[str, Any]]:
    return [found for name in names for found in yaml.safe_load_all(text(f"kubernetes/{name}"))]


def of_kind(kind: str, *names: str) -> dict[str, dict[str, Any]]:
    return {found["metadata"]["name"]: found for found in objects(*names) if found["kind"] == kind}


def pods() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, labels and pod of each thing that starts pods."""
    for name, found in of_kind("Deployment", "common.yaml", "plain.yaml").items():
        template = found["spec"]["template"]
        assert found["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        yield name, template["metadata"]["labels"], template["spec"]
    for name, found in of_kind("CronJob", "common.yaml").items():
        template = found["spec"]["jobTemplate"]["spec"]["template"]
        yield name, template["metadata"]["labels"], template["spec"]


def flink_settings() -> dict[str, dict[str, Any]]:
    """Flink's configuration in each of the three ways."""
    (config,) = of_kind("ConfigMap", "plain.yaml").values()
    (deployment,) = of_kind("FlinkDeployment", "operator.yaml").values()
    return {
        "compose": yaml.safe_load(text("flink-config.yaml")),
        "plain": yaml.safe_load(config["data"]["config.yaml"]),
        "operator": deployment["spec"]["flinkConfiguration"],
    }


def test_kubernetes_objects_are_of_known_kinds_and_name_what_is_there() -> None:
    found = objects("common.yaml", "plain.yaml", "operator.yaml")
    assert {each["kind"]: each["apiVersion"] for each in found} == API
    assert {each["metadata"]["namespace"] for each in found} == {"cliploom"}
    accounts, maps = of_kind("ServiceAccount", "common.yaml"), of_kind("ConfigMap", "plain.yaml")
    (binding,) = of_kind("RoleBinding", "common.yaml").values()
    assert binding["roleRef"]["name"] in of_kind("Role", "common.yaml")
    assert {each["name"] for each in binding["subjects"]} == set(accounts)
    for _, _, pod in pods():
        assert pod.keys() <= POD
        assert pod.get("serviceAccountName", "flink") in accounts
        volumes = {each["name"]: each for each in pod.get("volumes", ())}
        for container in pod["containers"]:
            assert container.keys() <= CONTAINER
            assert {"requests", "limits"} == container["resources"].keys()
            assert {each["name"] for each in container.get("volumeMounts", ())} <= volumes.keys()
        named = {each["configMap"]["name"] for each in volumes.values() if "configMap" in each}
        # The spec's ConfigMap is made from the file, as the head of common.yaml says.
        assert named <= {*maps, "cliploom-spec"}


def test_services_lead_to_ports_of_pods() -> None:
    ports = {
        tuple(labels.items()): {port["name"] for container in pod["containers"] for port in container.get("ports", ())}
        for _, labels, pod in pods()
    }
    for service in of_kind("Service", "common.yaml", "plain.yaml").values():
        there = ports[tuple(service["spec"]["selector"].items())]
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= there
    # The operator names the service of Flink's REST interface after its deployment.
    rest = {f"{name}-rest" for name in of_kind("FlinkDeployment", "operator.yaml")}
    assert rest <= of_kind("Service", "plain.yaml").keys()
    assert f"--flink-master={rest.pop()}:8081" in text("kubernetes/common.yaml")


def test_flink_has_the_settings_that_the_cluster_tests_run_with() -> None:
    tested = (ROOT / "tests" / "integration" / "flink_cluster.py").read_text(encoding="utf-8")
    settings = flink_settings()
    restarts = {key: str(value) for key, value in settings["compose"].items() if key.startswith("restart-strategy")}
    assert len(restarts) == 6
    for key, value in restarts.items():
        assert re.search(rf'"{re.escape(key)}": "?{re.escape(value)}"?,', tested), key
    for each in settings.values():
        assert {key: str(value) for key, value in each.items() if key.startswith("restart-strategy")} == restarts
        assert each["classloader.resolve-order"] == "parent-first"
        assert int(each["heartbeat.timeout"]) >= 3 * int(each["heartbeat.interval"])
    assert settings["plain"]["high-availability.type"] == settings["operator"]["high-availability.type"] == "kubernetes"


def test_versions_are_those_of_the_tests_and_of_the_package() -> None:
    tested = (ROOT / "tests" / "integration" / "flink_cluster.py").read_text(encoding="utf-8")
    flink = re.search(r'FLINK_VERSION = "([\d.]+)"', tested)
    beam = re.search(r'BEAM_RUNNER = "[^"]+", "[^"]+", "([\d.]+)"', tested)
    assert flink is not None
    assert beam is not None
    pom = ElementTree.fromstring(text("pom.xml"))
    space = {"m": "http://maven.apache.org/POM/4.0.0"}
    assert pom.findtext("m:properties/m:beam.version", namespaces=space) == beam[1]
    assert pom.findtext("m:properties/m:flink.series", namespaces=space) == flink[1].rpartition(".")[0]
    dockerfile = text("Dockerfile")
    assert f"FROM flink:{flink[1]}-java17" in dockerfile
    assert f"flink-s3-fs-presto-{flink[1]}.jar" in dockerfile
    (deployment,) = of_kind("FlinkDeployment", "operator.yaml").values()
    assert deployment["spec"]["flinkVersion"] == f"v{flink[1].rpartition('.')[0].replace('.', '_')}"
    version = re.search(r'version="(\d+\.\d+\.\d+)', (ROOT / "setup.py").read_text(encoding="utf-8"))
    assert version is not None
    everything = "".join(text(name) for name in ("compose.yaml", "Dockerfile", *MANIFESTS))
    assert set(re.findall(r"cliploom-flink:([\d.]+)", everything)) == {version[1]}


MANIFESTS = tuple(f"kubernetes/{name}.yaml" for name in ("common", "plain", "operator"))


def test_dockerfiles_copy_what_is_there_and_the_context_leaves_it_in() -> None:
    ignored = set((ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n"))
    for file in (ROOT / "Dockerfile", CLUSTER / "Dockerfile"):
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith("COPY ") and "--from" not in line:
                for name in line.split()[1:-1]:
                    assert list(ROOT.glob(name)), name
                    assert name.partition("/")[0] not in ignored
    assert {".git", "tests", "docs", "**/credentials.env"} <= ignored


def test_compose_services_are_whole_and_the_spec_runs_on_them(monkeypatch: pytest.MonkeyPatch) -> None:
    compose = yaml.safe_load(text("compose.yaml"))
    services = compose["services"]
    for service in services.values():
        assert service.keys() <= SERVICE
        assert set(service.get("depends_on", ())) <= services.keys()
        for volume in service.get("volumes", ()):
            where = volume.partition(":")[0]
            assert where in compose["volumes"] or (CLUSTER / where).is_file()
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    monkeypatch.setenv("FLINK_MASTER", services["cliploom"]["environment"]["FLINK_MASTER"])
    spec = load_spec(CLUSTER / "cliploom.yaml")
    target = spec.targets["flink"]
    check_options(target, ())
    host, _, port = str(target.options["flink_master"]).partition(":")
    assert (host in services, port) == (True, "8081")
    host, _, port = str(target.options["job_endpoint"]).partition(":")
    assert f"--job-port={port}" in services[host]["command"]
    slots = yaml.safe_load(text("flink-config.yaml"))["taskmanager.numberOfTaskSlots"]
    managers = sum(name.startswith("taskmanager") for name in services)
    assert target.options["parallelism"] == slots * managers
    assert target.workers == slots


def test_no_file_holds_a_credential() -> None:
    for file in CLUSTER.rglob("*"):
        if file.is_file():
            found = file.read_text(encoding="utf-8")
            assert masked(found, {}) == found
            assert not re.search(r"(SECRET_ACCESS_KEY|ACCESS_KEY_ID|PASSWORD)[=:]\s*(?!\.\.\.)\S", found), file


def test_alert_rules_name_metrics_that_exist() -> None:
    served = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    rules = yaml.safe_load((ROOT / "examples" / "monitoring" / "alerts.yml").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8")
    known = {*METRICS, *LIVE_METRICS, *re.findall(r"`(cliploom_serve_\w+)`", served)}
    assert all(f"`{name}`" in served for name in known)
    (group,) = rules["groups"]
    for rule in group["rules"]:
        assert {"alert", "expr", "labels", "annotations"} <= rule.keys() <= {*rule, "for"}
        assert re.fullmatch(r"Cliploom\w+", rule["alert"])
        assert f"`{rule['alert']}`" in page
        assert rule["labels"]["severity"] in ("page", "ticket")
        names = set(re.findall(r"cliploom_\w+", rule["expr"] + rule["annotations"]["summary"]))
        assert names
        assert names <= known
        assert rule["expr"].count("(") == rule["expr"].count(")")
        assert "for" not in rule or re.fullmatch(r"\d+[smhd]", rule["for"])
