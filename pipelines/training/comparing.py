"""``cliploom compare``: the figures of two releases side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cliploom.pipelines.training.vector_training import PREVIOUS
from cliploom.schemas.errors import SpecError
from cliploom.schemas.release import Release
from cliploom.transforms.evaluation.results import Evaluated
from cliploom.transforms.heads.plain import read_head
from cliploom.transforms.heads.towers import read_vector_card
from cliploom.transforms.metrics.intervals import Figure
from cliploom.transforms.store.object_store import ObjectStore, existing_store
from cliploom.transforms.store.releases import read_releases

_LESS_IS_BETTER = ("MedR", "MeanR")


@dataclass(frozen=True)
class ComparedFigure:
    """One figure in both releases; None for a release that lacks it.

    Attributes:
        name: the name, such as ``search: text to item R@1``.
        apart: whether the intervals do not overlap, i.e. the difference is significant. None without intervals.
        better: whether the newer value is better.
    """

    name: str
    old: float | None
    new: float | None
    old_interval: tuple[float, float] | None = None
    new_interval: tuple[float, float] | None = None
    apart: bool | None = None
    better: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def compare_releases(store: str, old: int, new: int) -> list[ComparedFigure]:
    """Compare the figures of two releases: of evaluations, of trained heads, of indexes.

    Raises:
        SpecError: neither release has figures.
        StoreError: the store or the release does not exist.
    """
    objects = existing_store(store)
    releases = read_releases(objects)
    sides = [dict(release_figures(objects, releases.get(number))) for number in (old, new)]
    if not any(sides):
        raise SpecError(
            f"Neither release {old} nor release {new} has figures; declare evaluations in the spec, such as\n"
            "evaluations:\n  search: {kind: retrieval, feature: FEATURE, truth: captions.csv}\nand run again."
        )
    return [_compared(name, *(side.get(name) for side in sides)) for name in dict.fromkeys([*sides[0], *sides[1]])]


def release_figures(objects: ObjectStore, release: Release) -> Iterator[tuple[str, Figure]]:
    """Yield all figures of a release by name."""
    for name, value in release.figures.items():
        if "error" not in value:
            for part, metrics in Evaluated.from_dict(value).parts.items():
                yield from ((f"{name}: {part} {key}", figure) for key, figure in metrics.figures.items())
    for name, entry in release.heads.items():
        card = read_head(objects, entry.model).card
        yield from _of_head(f"head {entry.head} of {name}", card.metrics)
    for name, feature in release.features.items():
        if "head" in feature.recipe:
            trained = read_vector_card(objects, str(feature.recipe["head"]))
            yield from _of_head(f"head {trained.name} of {name}", trained.metrics)
    for name, index in release.indexes.items():
        if index.recall is not None:
            yield f"index {name}: recall@10 of exact search", Figure(index.recall, index.recall, index.recall)


def _of_head(name: str, metrics: Mapping[str, float]) -> Iterator[tuple[str, Figure]]:
    """Yield the metrics of a head's card, except those of the previous model."""
    for key, number in metrics.items():
        if key != PREVIOUS:
            yield f"{name}: {key}", Figure(number, number, number)


def _compared(name: str, old: Figure | None, new: Figure | None) -> ComparedFigure:
    intervals = [(each.low, each.high) if each and each.low != each.high else None for each in (old, new)]
    apart = better = None
    if old is not None and new is not None:
        less = name.rpartition(" ")[2] in _LESS_IS_BETTER
        better = None if old.value == new.value else (new.value < old.value) == less
        if intervals[0] and intervals[1]:
            apart = old.high < new.low or new.high < old.low
    return ComparedFigure(
        name, old.value if old else None, new.value if new else None, intervals[0], intervals[1], apart, better
    )


def compared_text(rows: list[ComparedFigure], old: int, new: int) -> str:
    """Return the comparison as text."""
    cells = [("", f"release {old}", f"release {new}", "")]
    for row in rows:
        verdict = "" if row.better is None else "better" if row.better else "worse"
        if verdict and row.apart is False:
            verdict += ", within the intervals"
        cells.append((row.name, _cell(row.old, row.old_interval), _cell(row.new, row.new_interval), verdict))
    widths = [max(len(row[column]) for row in cells) for column in range(4)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def _cell(value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" + (f" [{interval[0]:.4g}, {interval[1]:.4g}]" if interval else "")
