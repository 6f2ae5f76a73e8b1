"""A report of a head that returns vectors: the model card as a page, and a picture of its epochs."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from cliploom.schemas.vector_heads import VectorHeadCard
from cliploom.transforms.heads.report import CURVES_FILE, PAGE_FILE, figure_rows

_SIZE, _EDGE = (640, 360), 40
_LOSS, _FIGURE, _INK, _GRID = (200, 60, 40), (40, 90, 200), (40, 40, 40), (225, 225, 225)


def write_tower_report(card: VectorHeadCard, folder: Path) -> None:
    """Write the page and the picture into the head's folder."""
    (folder / PAGE_FILE).write_text(page(card), encoding="utf-8")
    curves(card).save(folder / CURVES_FILE)


def page(card: VectorHeadCard) -> str:
    """Return the model card as Markdown."""
    inputs = ", ".join(f"{side}: {each.feature}.{each.output} [{each.dim}]" for side, each in card.inputs.items())
    method = f", method {card.method}" if card.method else ""
    asked = "words, through the text encoder of the store" if card.text_model else "vectors only"
    settings = ", ".join(f"{name} {value}" for name, value in card.settings.items() if value not in (None, {}, []))
    lines = [
        f"# Head {card.name}",
        "",
        f"A head of kind {card.kind}{method}, trained {card.created_at} by {card.program} in {card.seconds:.0f} s.",
        "",
        "| | |",
        "| --- | --- |",
        f"| data | release {card.release} (run {card.run}), {card.items} items |",
        f"| inputs | {inputs} |",
        f"| output | {card.dim} numbers, space {card.space}, asked by {asked} |",
        f"| counts | {', '.join(f'{name} {count}' for name, count in card.counts.items())} |",
        f"| settings | {settings} |",
        f"| epochs | {len(card.epochs)}, the best is {card.best} by {card.key} |",
        f"| libraries | {', '.join(f'{name} {version}' for name, version in card.libraries.items())} |",
        "",
        "Measured on data that it has not learned from:",
        "",
        "| metric | value |",
        "| --- | --- |",
        *(f"| {name} | {value:.4f} |" for name, value in card.metrics.items()),
        "",
        *figure_rows(card.figures),
        f"![loss and {card.key} by epoch]({CURVES_FILE})",
    ]
    return "\n".join(lines) + "\n"


def curves(card: VectorHeadCard) -> Image.Image:
    """Draw the loss, relative to its maximum, and the deciding figure by epoch, as a picture of 640 x 360."""
    image = Image.new("RGB", _SIZE, "white")
    draw = ImageDraw.Draw(image)
    width, height = _SIZE[0] - 2 * _EDGE, _SIZE[1] - 2 * _EDGE
    most = max([each.loss for each in card.epochs] + [1e-12])
    for step in range(5):
        y = _EDGE + height * step / 4
        draw.line([(_EDGE, y), (_EDGE + width, y)], _GRID)
        draw.text((6, y - 6), f"{most * (1 - step / 4):.3g}", _LOSS)
        draw.text((_EDGE + width + 6, y - 6), f"{1 - step / 4:.2f}", _FIGURE)
    lines = (
        ("loss", _LOSS, [each.loss / most for each in card.epochs]),
        (card.key, _FIGURE, [each.figures[card.key] for each in card.epochs]),
    )
    for order, (name, colour, values) in enumerate(lines):
        points = [
            (_EDGE + width * number / max(1, len(values) - 1), _EDGE + height * (1 - value))
            for number, value in enumerate(values)
        ]
        draw.line(points, colour, 2)
        for x, y in points if len(points) < 2 else ():
            draw.ellipse([x - 2, y - 2, x + 2, y + 2], colour)
        draw.text((_EDGE + 160 * order, 12), name, colour)
    draw.text((_EDGE, _SIZE[1] - 30), f"epochs 1 to {len(card.epochs)}", _INK)
    return image
