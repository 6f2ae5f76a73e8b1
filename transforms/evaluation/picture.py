"""Draws figures: a bar for each share, with its interval and chance level."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image, ImageDraw

from cliploom.transforms.evaluation.results import Evaluated, shown
from cliploom.transforms.metrics.intervals import Figure

_BAR, _GAP, _HEIGHT, _EDGE, _FOOT = 34, 22, 260, 48, 64
_INK, _GRID, _CHANCE = (40, 40, 40), (220, 220, 220), (214, 39, 40)
_COLOURS = (
    (31, 119, 180),
    (44, 160, 44),
    (148, 103, 189),
    (140, 86, 75),
    (255, 127, 14),
    (23, 150, 170),
    (188, 150, 34),
    (110, 110, 110),
)


def bars(found: Evaluated) -> Image.Image:
    """Draw all figures between 0 and 1; ranks are listed below."""
    shares = [
        (number, part, name, figure)
        for number, (part, metrics) in enumerate(found.parts.items())
        for name, figure in metrics.figures.items()
        if name not in ("MedR", "MeanR")
    ]
    legend = [
        f"{part}: {metrics.queries} queries, {metrics.candidates} candidates"
        + "".join(
            f", {name} {shown(name, each)}" for name, each in metrics.figures.items() if name[:3] in ("Med", "Mea")
        )
        for part, metrics in found.parts.items()
    ]
    width = max(2 * _EDGE + len(shares) * (_BAR + _GAP), 2 * _EDGE + 7 * max(map(len, legend), default=0))
    image = Image.new("RGB", (width, _HEIGHT + 2 * _EDGE + _FOOT + 16 * len(legend)), "white")
    draw = ImageDraw.Draw(image)
    draw.text((_EDGE, 12), f"{found.kind} of {found.about}; lines: 95% interval, red: chance", _INK)

    def height(value: float) -> float:
        return _EDGE + _HEIGHT * (1 - min(max(value, 0.0), 1.0))

    for step in range(5):
        y = height(step / 4)
        draw.line([(_EDGE, y), (width - _EDGE, y)], _GRID)
        draw.text((10, y - 6), f"{step / 4:.2f}", _INK)
    for place, (number, _, name, figure) in enumerate(shares):
        _bar(draw, _EDGE + place * (_BAR + _GAP) + _GAP / 2, name, figure, _COLOURS[number % len(_COLOURS)], height)
    for number, text in enumerate(legend):
        y = _HEIGHT + _EDGE + _FOOT + 16 * number
        draw.text((_EDGE, y), text, _COLOURS[number % len(_COLOURS)])
    return image


def _bar(
    draw: ImageDraw.ImageDraw,
    left: float,
    name: str,
    figure: Figure,
    colour: tuple[int, int, int],
    height: Callable[[float], float],
) -> None:
    right, middle, bottom = left + _BAR, left + _BAR / 2, _EDGE + _HEIGHT
    if figure.value == figure.value:
        draw.rectangle([left, height(figure.value), right, bottom], colour)
        draw.line([(middle, height(figure.low)), (middle, height(figure.high))], _INK, 2)
        for value in (figure.low, figure.high):
            draw.line([(middle - 6, height(value)), (middle + 6, height(value))], _INK, 2)
    if figure.chance is not None:
        draw.line([(left - 4, height(figure.chance)), (right + 4, height(figure.chance))], _CHANCE, 2)
    draw.text((left, bottom + 6), name, _INK)
    draw.text((left, bottom + 20), f"{figure.value:.3f}", _INK)
