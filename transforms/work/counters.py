"""Beam counters of a run, all in one namespace, so that the launcher can add them up."""

from __future__ import annotations

from apache_beam.metrics import Metrics

NAMESPACE = "cliploom"


def count(name: str, value: int) -> None:
    """Add to a Beam counter of this stage."""
    Metrics.counter(NAMESPACE, name).inc(value)
