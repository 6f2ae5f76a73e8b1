"""A head's learned steps in plain numpy: the constants that tf.Transform computed, and their application.

``transform_fit`` has the same steps as TensorFlow operations; its graph is stored with the model and is part of its
SavedModel. Workers need only this module.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.errors import SpecError, nearest
from cliploom.schemas.head_steps import BucketsStep, PcaStep, RangeStep, Step, VocabularyStep, ZscoreStep
from cliploom.schemas.heads import InputColumn
from cliploom.transforms.literals import load_arrays

Constants = Mapping[str, NDArray[np.float32]]
Block = NDArray[np.float32] | NDArray[np.object_]
"""An input's vectors [n, D], or its texts [n, 1]."""
_WORDS = "words"


@dataclass(frozen=True)
class LearnedStep:
    """A learned step of one input.

    Attributes:
        input: the name of the input.
        constants: float32, by name: ``mean`` and ``deviation`` [D] of zscore; ``low`` and ``high`` [D] of range;
            ``mean`` [D] and ``vectors`` [D, K] of pca; ``bounds`` [D, count - 1] of buckets; ``values`` [size] of
            vocabulary, most frequent first, padded with NaN.
        words: the words of a text vocabulary, most frequent first.
    """

    step: Step
    input: str
    constants: Constants
    words: tuple[str, ...] = ()

    def apply(self, rows: Block) -> NDArray[np.float32]:
        """Apply the step to float32 [n, D], or texts [n, 1]; returns float32 [n, K].

        Raises:
            TypeError: the input is a text, but the step is for numbers.
        """
        known = self.constants
        if rows.dtype == np.object_:
            if not isinstance(self.step, VocabularyStep):
                raise TypeError(f"{self.step.kind} is for numbers, but {self.input} is a text")
            places = {word: place for place, word in enumerate(self.words)}
            found = np.array([places.get(text, -1) for text in rows[:, 0]], np.int64)
            return np.asarray(found[:, None] == np.arange(self.step.size), np.float32)
        match self.step:
            case ZscoreStep():
                return np.asarray((rows - known["mean"]) / divisor(known["deviation"]), np.float32)
            case RangeStep(low=low, high=high):
                share = (rows - known["low"]) / divisor(known["high"] - known["low"])
                return np.asarray(share * np.float32(high - low) + np.float32(low), np.float32)
            case PcaStep():
                return np.asarray((rows - known["mean"]) @ known["vectors"], np.float32)
            case BucketsStep():
                return one_hot(rows[:, :, None] >= known["bounds"], rows)
            case VocabularyStep():
                hits = np.rint(rows)[:, :, None] == known["values"]
                return np.asarray(hits.reshape(len(rows), -1), np.float32)


def divisor(spread: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the divisor for a spread: 1 if it is zero."""
    return np.asarray(np.where(spread > 0, spread, np.float32(1)), np.float32)


def one_hot(beyond: NDArray[np.bool_], rows: Block) -> NDArray[np.float32]:
    """Return one-hot buckets [n, D * count], given which bounds [n, D, count - 1] each number has reached."""
    places = beyond.sum(axis=2)
    hot = np.eye(beyond.shape[2] + 1, dtype=np.float32)[places]
    return np.asarray(hot.reshape(len(rows), -1), np.float32)


def steps_of_inputs(
    steps: Sequence[Step], inputs: Sequence[InputColumn], place: str = "transform.steps"
) -> list[tuple[Step, str]]:
    """Return each step with the name of one input, in order; a step for all inputs is repeated for each that it fits.

    Args:
        steps: the declared steps.
        inputs: the inputs of the head.
        place: the location of the steps in the spec, for errors.

    Raises:
        SpecError: the head does not have an input, has fewer numbers than components, or no vocabulary converts a text
            to numbers.
    """
    widths = {each.name: each.dim for each in inputs}
    texts = {each.name for each in inputs if each.is_text}
    found: list[tuple[Step, str]] = []
    for number, step in enumerate(steps):
        if step.input is not None and step.input not in widths:
            raise SpecError(f"{place}.{number}.input: there is no {step.input!r}{nearest(step.input, widths)}")
        for name in widths if step.input is None else [step.input]:
            if name in texts and not isinstance(step, VocabularyStep):
                if step.input is None:
                    continue
                raise SpecError(f"{place}.{number}.input: {name} is a text; put a step {{kind: vocabulary}} first.")
            if isinstance(step, PcaStep) and step.components > widths[name]:
                raise SpecError(
                    f"{place}.{number}.components: {name} has {widths[name]} numbers there, no "
                    f"{step.components} components."
                )
            widths[name] = width_after(step, 1 if name in texts else widths[name])
            texts.discard(name)
            found.append((step, name))
    for name in sorted(texts):
        raise SpecError(f"{place}: the input {name} is a text; add {{kind: vocabulary, input: {name}, size: 100}}.")
    return found


def rounds_of(declared: Sequence[tuple[Step, str]]) -> list[list[int]]:
    """Return the positions of the steps that can be learned together: first the first ones of each input, and so on.

    >>> one, two = ZscoreStep(kind="zscore"), PcaStep(kind="pca", components=2)
    >>> rounds_of([(one, "a"), (one, "b"), (two, "a")])
    [[0, 1], [2]]
    """
    depths: dict[str, int] = {}
    found: list[list[int]] = []
    for place, (_, name) in enumerate(declared):
        depth = depths.get(name, 0)
        depths[name] = depth + 1
        if depth == len(found):
            found.append([])
        found[depth].append(place)
    return found


def width_after(step: Step, width: int) -> int:
    """Return the vector length after a step for vectors of ``width`` numbers."""
    match step:
        case PcaStep(components=components):
            return components
        case BucketsStep(count=count):
            return width * count
        case VocabularyStep(size=size):
            return width * size
        case _:
            return width


def apply_steps(
    steps: Sequence[LearnedStep],
    vectors: NDArray[np.float32],
    inputs: Sequence[InputColumn],
    texts: NDArray[np.object_] | None = None,
) -> list[Block]:
    """Return each input's block after its steps, float32 [n, K].

    Args:
        steps: some or all of the learned steps.
        vectors: the joined vectors, float32 [n, dim].
        inputs: the inputs of the head.
        texts: [n, texts], for text inputs; a text stays unchanged until a step converts it to numbers.
    """
    ends = np.cumsum([each.dim for each in inputs])
    blocks: dict[str, Block] = {
        each.name: block for each, block in zip(inputs, np.split(vectors, ends[:-1], axis=1), strict=True)
    }
    if texts is not None:
        named = [each.name for each in inputs if each.is_text]
        blocks |= {name: texts[:, place : place + 1] for place, name in enumerate(named)}
    for learned in steps:
        blocks[learned.input] = learned.apply(blocks[learned.input])
    return list(blocks.values())


def blank_row(inputs: Sequence[InputColumn]) -> tuple[NDArray[np.float32], NDArray[np.object_] | None]:
    """Return the joined vector of one row of zeros, and empty texts."""
    texts = sum(each.is_text for each in inputs)
    vectors = np.zeros((1, sum(each.dim for each in inputs)), np.float32)
    return vectors, np.full((1, texts), "", np.object_) if texts else None


def write_steps(file: Path | BinaryIO, steps: Sequence[LearnedStep]) -> None:
    """Write the constants; the steps themselves are in the card. Words are stored as UTF-8 JSON in a byte array."""
    named: dict[str, NDArray[np.generic]] = {}
    for place, step in enumerate(steps):
        named |= {f"{place}.{name}": value for name, value in step.constants.items()}
        if step.words:
            named[f"{place}.{_WORDS}"] = np.frombuffer(json.dumps(step.words, ensure_ascii=False).encode(), np.uint8)
    np.savez(file, **named)  # type: ignore[arg-type]


def read_steps(file: Path | BinaryIO, steps: Sequence[Step], inputs: Sequence[InputColumn]) -> tuple[LearnedStep, ...]:
    """Read constants that ``write_steps`` wrote.

    Raises:
        ValueError: the constants do not match the steps.
    """
    declared = steps_of_inputs(steps, inputs)
    constants: list[dict[str, NDArray[np.float32]]] = [{} for _ in declared]
    words: list[tuple[str, ...]] = [() for _ in declared]
    for key, stored in load_arrays(file).items():
        place, _, name = key.partition(".")
        if int(place) >= len(declared):
            raise ValueError(f"constants of a step {place}, of {len(declared)}")
        if name == _WORDS:
            words[int(place)] = tuple(json.loads(stored.tobytes()))
        else:
            constants[int(place)][name] = stored.astype(np.float32)
    return tuple(LearnedStep(*each) for each in zip(*zip(*declared, strict=True), constants, words, strict=True))
