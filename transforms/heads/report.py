"""A readable report of a trained head: a Markdown page and its learning curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from cliploom.schemas.heads import EpochFigures, HeadCard

PAGE_FILE, CURVES_FILE = "README.md", "curves.png"
_SIZE, _EDGE = (640, 360), 48
_INK, _GRID = (40, 40, 40), (220, 220, 220)
_LINES = (("loss", (31, 119, 180)), ("validation_loss", (214, 39, 40)), ("hit_at_1", (44, 160, 44)))


def write_report(card: HeadCard, folder: Path) -> None:
    """Write the page and the curves into the head's folder."""
    (folder / PAGE_FILE).write_text(page(card), encoding="utf-8")
    curves(card.epochs).save(folder / CURVES_FILE)


def page(card: HeadCard) -> str:
    """Return the model card as Markdown."""
    spec = card.spec
    inputs = ", ".join(
        f"{each.feature}.{each.output} {'(text)' if each.is_text else [each.dim]}" for each in card.inputs
    )
    names = [each.name for each in card.classes]
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    note = "" if card.source != card.validation_source else f" ({spec.held_out:.0%} by hash of the uid)"
    lines = [
        f"# Head {card.name}",
        "",
        f"A logistic regression over the mean of a video's vectors, trained {card.created_at} by {card.program}.",
        "",
        "| | |",
        "| --- | --- |",
        f"| data | release {card.release} (run {card.run}), source {card.source} |",
        f"| inputs | {inputs} |",
        f"| classes | {len(names)}: {shown} |",
        f"| videos | {card.videos['train']} to learn from, {card.videos['validation']} of {card.validation_source} to "
        f"measure on{note} |",
        f"| loss | {spec.loss}, L2 {spec.l2:g}, learning rate {spec.learning_rate:g}, batch {spec.batch} |",
        f"| epochs | {len(card.epochs)}, the best is {card.best} |",
        f"| libraries | {', '.join(f'{name} {version}' for name, version in card.libraries.items())} |",
        "",
        "Measured on the validation videos:",
        "",
        "| metric | value |",
        "| --- | --- |",
        *(f"| {name} | {value:.4f} |" for name, value in card.metrics.items()),
        f"| Hit@1 of the most frequent class | {card.majority:.4f} |",
        "",
        *figure_rows(card.figures),
        f"![loss and Hit@1 by epoch]({CURVES_FILE})",
    ]
    return "\n".join(lines) + "\n"


def figure_rows(figures: Mapping[str, Any]) -> list[str]:
    """Return a Markdown table of a card's figures, with intervals, chance levels and query counts; may be empty."""
    if not figures:
        return []
    rows = ["| | figure | value | 95% interval | by chance | queries | candidates |", f"|{' --- |' * 7}"]
    for part, found in figures.items():
        for name, figure in found["figures"].items():
            digits = 1 if name in ("MedR", "MeanR") else 4
            chance = "" if figure["chance"] is None else f"{figure['chance']:.{digits}f}"
            interval = f"{figure['low']:.{digits}f} to {figure['high']:.{digits}f}"
            rows.append(
                f"| {part} | {name} | {figure['value']:.{digits}f} | {interval} | {chance} | {found['queries']} | "
                f"{found['candidates']} |"
            )
    return [*rows, ""]


def figure_lines(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield the main figure of each part, for a terminal of 80 columns.

    >>> figure = {"value": 0.5, "low": 0.4, "high": 0.6, "chance": 0.1}
    >>> part = {"queries": 9, "candidates": 10, "figures": {"hit@1": figure, "hit@5": figure}}
    >>> next(figure_lines({"item to label": part}))
    'item to label: hit@1 0.500 [0.400, 0.600], chance 0.100; 9 queries of 10'
    """
    for part, found in figures.items():
        name = next((name for name in ("mAP", "R@10") if name in found["figures"]), next(iter(found["figures"])))
        name = "hit@1" if "hit@1" in found["figures"] else name
        figure = found["figures"][name]
        yield (
            f"{part}: {name} {figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}], chance "
            f"{figure['chance']:.3f}; {found['queries']} queries of {found['candidates']}"
        )


def curves(epochs: Sequence[EpochFigures]) -> Image.Image:
    """Draw the losses, each relative to its maximum, and Hit@1 by epoch, as a picture of 640 x 360."""
    image = Image.new("RGB", _SIZE, "white")
    draw = ImageDraw.Draw(image)
    width, height = _SIZE[0] - 2 * _EDGE, _SIZE[1] - 2 * _EDGE
    most = max([each.loss for each in epochs] + [each.validation_loss for each in epochs] + [1e-12])

    def place(number: int, value: float) -> tuple[float, float]:
        return _EDGE + width * number / max(1, len(epochs) - 1), _EDGE + height * (1 - value)

    for step in range(5):
        y = _EDGE + height * step / 4
        draw.line([(_EDGE, y), (_EDGE + width, y)], _GRID)
        draw.text((6, y - 6), f"{most * (1 - step / 4):.3g}", _INK)
        draw.text((_EDGE + width + 6, y - 6), f"{1 - step / 4:.2f}", _LINES[2][1])
    for order, (name, colour) in enumerate(_LINES):
        share = 1.0 if name == "hit_at_1" else most
        points = [place(number, getattr(each, name) / share) for number, each in enumerate(epochs)]
        draw.line(points, colour, 2)
        for x, y in points if len(points) < 2 else ():
            draw.ellipse([x - 2, y - 2, x + 2, y + 2], colour)
        draw.text((_EDGE + 160 * order, 12), name, colour)
    draw.text((_EDGE, _SIZE[1] - 30), f"epochs 1 to {len(epochs)}", _INK)
    return image
