"""The rows per second of a feature, derived from its recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cliploom.schemas.units import parse_duration


def rows_per_second(recipe: Mapping[str, Any]) -> float:
    """Return the rate of a feature with evenly spaced rows from 0, else 0; dropped repeats break the spacing.

    Args:
        recipe: the recipe of a ``FeatureEntry``: with ``sample`` (``every``, or ``window`` with ``fps``), or ``window``
            of precomputed features.

    >>> rows_per_second({"window": {"fps": 30, "window": 32, "stride": 16}})
    1.875
    >>> rows_per_second({"sample": {"every": "500ms"}})
    2.0
    >>> rows_per_second({"sample": {"keyframes": True}})
    0.0
    >>> rows_per_second({"sample": {"every": "500ms", "distinct": {"vectors": 0.95}}})
    0.0
    """
    sample = recipe.get("sample") or {}
    if sample.get("distinct"):
        return 0.0
    if "every" in sample:
        return 1 / parse_duration(sample["every"])
    window = sample.get("window") or recipe.get("window") or {}
    if window.get("fps"):
        return float(window["fps"]) / int(window["stride"])
    return 0.0
