"""Logs and metrics of the server: one line of JSON per request, and metrics in the Prometheus text format."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping

from cliploom.pipelines.running.metrics import label_text

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LOGGER = "cliploom.serve"
_MOST_CHARACTERS = 300

Gauge = tuple[str, str, Mapping[str, str], float]


class JsonLines(logging.Formatter):
    """Formats log records as one JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return time, level, event and the record's ``fields``; control characters are escaped by JSON."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "event": record.getMessage()[:_MOST_CHARACTERS],
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)[-2000:]
        return json.dumps(line, ensure_ascii=True, default=str)


def log_to_stderr() -> None:
    """Write the server's log lines to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logger = logging.getLogger(LOGGER)
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


class RequestMetrics:
    """Request counts and durations by route and status."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._buckets: Counter[tuple[str, float]] = Counter()
        self._seconds: Counter[str] = Counter()
        self.started_at = time.time()

    def add(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request; ``route`` is the pattern of the path, not the path, to keep the number of labels small."""
        with self._lock:
            self._requests[route, method, status] += 1
            self._seconds[route] += seconds  # type: ignore[assignment]
            for bound in BUCKETS_S:
                if seconds <= bound:
                    self._buckets[route, bound] += 1

    def text(self, gauges: Iterable[Gauge] = ()) -> str:
        """Return all metrics in the Prometheus text format.

        Args:
            gauges: further metrics: name, help, labels, value.
        """
        with self._lock:
            requests, buckets, seconds = dict(self._requests), dict(self._buckets), dict(self._seconds)
        lines = [
            "# HELP cliploom_serve_requests_total Requests by route, method and status.",
            "# TYPE cliploom_serve_requests_total counter",
        ]
        for (route, method, status), count in sorted(requests.items()):
            labels = {"route": route, "method": method, "status": str(status)}
            lines.append(f"cliploom_serve_requests_total{label_text(labels)} {count}")
        name = "cliploom_serve_request_seconds"
        lines += [f"# HELP {name} Seconds from a request's headers to its last byte.", f"# TYPE {name} histogram"]
        for route in sorted(seconds):
            total = sum(count for (each, _, _), count in requests.items() if each == route)
            for bound in BUCKETS_S:
                labels = {"route": route, "le": f"{bound:g}"}
                lines.append(f"{name}_bucket{label_text(labels)} {buckets.get((route, bound), 0)}")
            lines.append(f"{name}_bucket{label_text({'route': route, 'le': '+Inf'})} {total}")
            lines.append(f"{name}_sum{label_text({'route': route})} {seconds[route]:.6f}")
            lines.append(f"{name}_count{label_text({'route': route})} {total}")
        said = set()
        for gauge, about, given, value in gauges:
            if gauge not in said:
                said.add(gauge)
                lines += [f"# HELP {gauge} {about}", f"# TYPE {gauge} gauge"]
            lines.append(f"{gauge}{label_text(given)} {value:g}")
        return "\n".join(lines) + "\n"
