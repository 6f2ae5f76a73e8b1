"""Derives the ``input`` of an encoder from the shapes of a model's inputs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

USUAL_SIZE, USUAL_FRAMES = 224, 32
MOST_OUTPUTS = 8
"""Maximum number of a file's outputs in a suggested spec."""


@dataclass(frozen=True)
class Guess:
    """An input of pictures or clips.

    Attributes:
        layout: the order of its axes.
        width, height: the size of a picture.
        frames: the frames of a clip; 0 for pictures.
        guesses: what the shape does not determine.
    """

    layout: str
    width: int
    height: int
    frames: int = 0
    guesses: tuple[str, ...] = ()

    def options(self, node: str | None) -> dict[str, Any]:
        """Return the encoder's option ``input``; ``node`` is the name of the input."""
        named = {} if node is None else {"node": node}
        size = {"width": self.width, "height": self.height}
        return {"layout": self.layout} | named | ({"frames": self.frames} if self.frames else {}) | size

    @property
    def sample(self) -> Any:
        """Return a sampling for it."""
        return {"first": {"frames": self.frames}} if self.frames else {"every": "1s"}


def guessed_input(shape: Sequence[int | None] | None) -> Guess | None:
    """Return the input that a shape describes; None if it is not a batch of pictures or clips.

    Args:
        shape: the sizes, None for a dynamic one; None for any shape.

    >>> guessed_input([None, 3, 224, 224])
    Guess(layout='nchw', width=224, height=224, frames=0, guesses=())
    >>> guessed_input([None, None, None, None, 3]).guesses
    ('32 frames', '224 x 224 pictures')
    """
    if shape is None:
        return Guess(
            "nhwc", USUAL_SIZE, USUAL_SIZE, guesses=("the layout nhwc", f"{USUAL_SIZE} x {USUAL_SIZE} pictures")
        )
    threes = {axis for axis, size in enumerate(shape) if size == 3}
    layouts = {4: ("nhwc", "nchw"), 5: ("nthwc", "ncthw", "ntchw")}.get(len(shape), ())
    layout = next((each for each in layouts if each.index("c") in threes), None)
    if layout is None:
        return None
    sizes = dict(zip(layout, shape, strict=True))
    guesses = []
    frames = sizes.get("t") or 0
    if "t" in layout and not frames:
        frames = USUAL_FRAMES
        guesses.append(f"{frames} frames")
    height, width = sizes["h"] or USUAL_SIZE, sizes["w"] or USUAL_SIZE
    if None in (sizes["h"], sizes["w"]):
        guesses.append(f"{width} x {height} pictures")
    return Guess(layout, width, height, frames, tuple(guesses))


def name_of(node: str) -> str:
    """Return a name for the output of a node.

    >>> name_of("StatefulPartitionedCall:0"), name_of("1234")
    ('StatefulPartitionedCall_0', 'output_1234')
    """
    name = re.sub(r"[^A-Za-z0-9_-]", "_", node)[:64]
    return name if name[:1].isalpha() else f"output_{name.lstrip('_')}"[:64].rstrip("_")
