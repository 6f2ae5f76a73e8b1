"""Beam counters of a run, in one namespace, so that the launcher can sum them."""

from __future__ import annotations

from apache_beam.metrics import Metrics

NAMESPACE = "cliploom"


def count(name: str, value: int) -> None:
    """Increment a Beam counter of this stage."""
    Metrics.counter(NAMESPACE, name).inc(value)
