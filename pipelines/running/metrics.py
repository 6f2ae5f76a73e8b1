"""The end of a run in the text format of Prometheus, and the file that a collector reads."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

Sample = tuple[str, dict[str, str], float]
"""Name of a metric, labels, value."""

METRICS = {
    "cliploom_run_success": "1 when the last run ended well, else 0.",
    "cliploom_run_exit_code": "Exit code of the last run.",
    "cliploom_run_end_time_seconds": "When the last run ended, in seconds since 1970.",
    "cliploom_release": "Number of the release that readers see.",
    "cliploom_release_time_seconds": "When that release was published, in seconds since 1970.",
    "cliploom_items": "Items of the release by state.",
    "cliploom_verdicts": "Items of the last run by feature and verdict.",
    "cliploom_rows": "Rows of the release by feature.",
    "cliploom_stage_seconds": "Seconds of the last run by stage.",
    "cliploom_bytes": "Bytes that the last run wrote, by what.",
    "cliploom_counter": "Counters of the last run's workers, over all attempts.",
    "cliploom_run_restarts": "Restarts of the last run.",
    "cliploom_run_repeated_shards": "Shards of the last run that were begun again after an attempt was lost.",
    "cliploom_run_cpu_seconds": "CPU seconds of the last run, over all attempts and workers.",
    "cliploom_index_recall": "recall@10 of the index against exact search.",
    "cliploom_drift_mean_cosine": "Mean cosine between old and new vectors of rows computed again.",
}


def metrics_text(code: int, now: float, result: Mapping[str, Any] | None = None) -> str:
    """A run's end in the text format of Prometheus.

    Args:
        code: exit code.
        now: seconds since 1970.
        result: of the run (``cliploom.pipelines.running.run.RunResult`` as plain values), when it had one.
    """
    samples = [
        ("cliploom_run_success", {}, int(code == 0)),
        ("cliploom_run_exit_code", {}, code),
        ("cliploom_run_end_time_seconds", {}, round(now, 3)),
        *(_result_samples(result) if result is not None else ()),
    ]
    return exposition(METRICS, samples)


def exposition(metrics: Mapping[str, str], samples: Sequence[Sample]) -> str:
    """Return samples in the text format of Prometheus, all as gauges.

    Args:
        metrics: help text by name of the metric, in the order in which they are written.
        samples: name, labels and value.
    """
    lines: list[str] = []
    for name, text in metrics.items():
        mine = [(labels, value) for metric, labels, value in samples if metric == name]
        if mine:
            lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge"]
            lines += [f"{name}{label_text(labels)} {value}" for labels, value in mine]
    return "\n".join(lines) + "\n"


def _result_samples(result: Mapping[str, Any]) -> Iterator[Sample]:
    release, report = result["release"], result["report"]
    published = round(datetime.fromisoformat(release["created_at"]).timestamp(), 3)
    yield "cliploom_release", {}, release["release"]
    yield "cliploom_release_time_seconds", {}, published
    for state in ("items", "failed", "partial", "outdated", "postponed"):
        yield "cliploom_items", {"state": "listed" if state == "items" else state}, release["counts"].get(state, 0)
    for feature, counts in result["verdicts"].items():
        for verdict, number in counts.items():
            yield "cliploom_verdicts", {"feature": feature, "verdict": verdict}, number
    for feature, entry in release["features"].items():
        yield "cliploom_rows", {"feature": feature}, entry["rows"]
    for stage, seconds in result["seconds"].items():
        yield "cliploom_stage_seconds", {"stage": stage}, seconds
    for what, size in report["bytes"].items():
        yield "cliploom_bytes", {"what": what}, size
    for name, value in result["counters"].items():
        yield "cliploom_counter", {"name": name}, value
    yield "cliploom_run_restarts", {}, len(report["attempts"]["restarts"])
    yield "cliploom_run_repeated_shards", {}, report["attempts"]["repeated_shards"]
    yield "cliploom_run_cpu_seconds", {}, report["attempts"]["cpu_seconds"]
    for name, index in release["indexes"].items():
        if index.get("recall") is not None:
            yield "cliploom_index_recall", {"index": name}, index["recall"]
    for drift in report["drift"]:
        labels = {"feature": drift["feature"], "output": drift["output"]}
        yield "cliploom_drift_mean_cosine", labels, drift["mean_cosine"]


def label_text(labels: Mapping[str, str]) -> str:
    r"""Return labels in the text format of Prometheus.

    >>> label_text({"route": 'a"b'}), label_text({})
    ('{route="a\\"b"}', '')
    """
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return re.sub(r'(["\\])', r"\\\1", value).replace("\n", r"\n")


def write_metrics(path: Path, text: str) -> None:
    """Replace ``path`` in one step, so that a collector never reads half of it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).chmod(0o644)
        os.replace(name, path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
