"""SVG drawings without scripts or inline styles: the DAG, lines over releases, scores over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_COLUMN, _NODE_WIDTH, _NODE_HEIGHT, _GAP = 330, 262, 62, 14
_RANK = {"source": 0, "feature": 1, "head": 2, "index": 2, "export": 2}


def dag_svg(dag: Mapping[str, Any]) -> str:
    """Draw the DAG in columns: sources, features, then indexes, exports and heads."""
    places: dict[str, tuple[int, int]] = {}
    heights = [0, 0, 0]
    boxes = []
    for node in dag["nodes"]:
        rank = _RANK[node["kind"]]
        x, y = rank * _COLUMN + 1, heights[rank] + 1
        heights[rank] += _NODE_HEIGHT + _GAP
        places[node["id"]] = x, y
        lines = [
            f"{node['kind']} · {node['about']}",
            node["name"],
            " · ".join(filter(None, (node["count"], node["change"]))),
        ]
        texts = "".join(
            f'<text class="{kind}" x="{x + 10}" y="{y + dy}">{escape(_cut(line))}</text>'
            for kind, dy, line in zip(("quiet", "strong", "quiet"), (17, 35, 52), lines, strict=True)
            if line
        )
        boxes.append(
            f'<g class="node {node["kind"]}"><rect x="{x}" y="{y}" width="{_NODE_WIDTH}" height="{_NODE_HEIGHT}" '
            f'rx="8"/>{texts}</g>'
        )
    paths = []
    for edge in dag["edges"]:
        if edge["from"] not in places or edge["to"] not in places:
            continue
        (x1, y1), (x2, y2) = places[edge["from"]], places[edge["to"]]
        x1, y1, y2 = x1 + _NODE_WIDTH, y1 + _NODE_HEIGHT // 2, y2 + _NODE_HEIGHT // 2
        middle = (x1 + x2) // 2
        paths.append(f'<path class="edge" d="M{x1} {y1} C{middle} {y1} {middle} {y2} {x2} {y2}"/>')
    width, height = 2 * _COLUMN + _NODE_WIDTH + 2, max(10, max(heights) - _GAP + 2)
    return (
        f'<svg class="dag" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="Sources, features, indexes and exports of release {dag["release"]}">'
        f"{''.join(paths)}{''.join(boxes)}</svg>"
    )


def _cut(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"


def line_svg(values: Sequence[float], labels: Sequence[str], name: str) -> str:
    """Draw one line over releases, labelled with its first and last value."""
    width, height, pad = 320, 96, 8
    top = max(values, default=0.0) or 1.0
    step = (width - 2 * pad) / max(1, len(values) - 1)
    points = [
        (pad + number * step, height - pad - (height - 3 * pad) * value / top) for number, value in enumerate(values)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{escape(label)}: {value:g}</title></circle>'
        for (x, y), value, label in zip(points, values, labels, strict=True)
    )
    said = f"{name}: from {values[0]:g} to {values[-1]:g}" if values else f"{name}: no values"
    return (
        f'<svg class="plot" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(said)}">'
        f'<line class="axis" x1="{pad}" y1="{height - pad}" x2="{width - pad}" y2="{height - pad}"/>'
        f'<polyline points="{line}"/>{dots}</svg>'
    )


def curve_svg(curve: Sequence[Any], duration_s: float) -> str:
    """Draw an item's scores over time as steps; the page's script turns it into a slider of the player."""
    width, height = 800, 72
    scores = [point.score for point in curve]
    low, high = min(scores), max(scores)
    span = (high - low) or 1.0
    duration_s = max(duration_s, max(point.end_s for point in curve), 1e-6)
    parts = []
    for point in curve:
        x1, x2 = width * point.start_s / duration_s, width * max(point.end_s, point.start_s) / duration_s
        tall = 8 + (height - 12) * (point.score - low) / span
        parts.append(
            f'<rect class="{"best" if point.score == high else "bar"}" x="{x1:.1f}" y="{height - tall:.1f}" '
            f'width="{max(1.0, x2 - x1 - 1):.1f}" height="{tall:.1f}" data-s="{point.start_s:g}">'
            f"<title>{point.start_s:g} s: {point.score:.3f}</title></rect>"
        )
    return (
        f'<svg class="curve" viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img" '
        f'data-duration="{duration_s:g}" aria-label="Scores over time, from {low:.3f} to {high:.3f}">'
        f'{"".join(parts)}<line class="now" x1="0" x2="0" y1="0" y2="{height}"/></svg>'
    )
