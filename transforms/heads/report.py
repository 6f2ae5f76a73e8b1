"""What a person reads of a trained head: a page of Markdown and its curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
    """The model card as Markdown."""
    spec = card.spec
    inputs = ", ".join(
        f"{each.feature}.{each.output} {'(text)' if each.is_text else [each.dim]}" for each in card.inputs
    )
    names = [each.name for each in card.classes]
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    held = "" if card.source != card.validation_source else f" ({spec.held_out:.0%} by hash of the uid)"
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
        f"measure on{held} |",
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
        f"![loss and Hit@1 by epoch]({CURVES_FILE})",
    ]
    return "\n".join(lines) + "\n"


def curves(epochs: Sequence[EpochFigures]) -> Image.Image:
    """Losses, each part of the largest, and Hit@1 by epoch, as a picture of 640 x 360."""
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
