"""Converts queries (a text, a file, or an item of the store) to vectors in the space of an index."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cliploom.schemas.errors import EncodeError, ItemError, SpecError
from cliploom.schemas.media import MediaFacts, MediaLimits
from cliploom.schemas.release import FeatureEntry
from cliploom.transforms.store.encoded import WrongResultsError, as_results, checked_vectors
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.repeats import RepeatFilter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cliploom.schemas.media import Sampled
    from cliploom.schemas.sampling import Sampling
    from cliploom.transforms.encoders.base import Row

_TIME = re.compile(r"(?:(?P<h>\d+)h)?(?:(?P<m>\d+)m)?(?:(?P<s>\d+(?:\.\d*)?|\.\d+)s?)?")
_CLOCK = re.compile(r"(?:(?P<h>\d+):)?(?P<m>\d+):(?P<s>\d\d(?:\.\d*)?)")
_MICRO = 1e-6


@dataclass(frozen=True)
class Like:
    """A file or uid that hits should be like: all of it, or the moment ``at_s``."""

    name: str
    at_s: float | None = None


def parse_moment(text: str) -> float | None:
    """Return the seconds of ``12.5s``, ``12.5``, ``1m30s``, ``1h2m`` or ``0:01:30.5``; None for anything else.

    >>> parse_moment("12.5"), parse_moment("1m30s"), parse_moment("0:01:30.5"), parse_moment("nan"), parse_moment("")
    (12.5, 90.0, 90.5, None, None)
    """
    match = _TIME.fullmatch(text) or _CLOCK.fullmatch(text)
    if match is None or not text:
        return None
    hours, minutes, seconds = (float(match[unit] or 0) for unit in "hms")
    return hours * 3600 + minutes * 60 + seconds


def split_moment(text: str) -> Like:
    """Split ``NAME@MOMENT`` in two.

    >>> split_moment("cats/tom@1m30s")
    Like(name='cats/tom', at_s=90.0)

    Raises:
        SpecError: the part after the last ``@`` is not a time.
    """
    name, _, moment = text.rpartition("@")
    at_s = parse_moment(moment)
    if at_s is None or not name:
        raise SpecError(f"{moment!r} is not a time; write it as in UID@12.5s or UID@1m30s.")
    return Like(name, at_s)


@contextmanager
def query_file(name: str) -> Iterator[Path | None]:
    """Return the file that a query names as a local path, or None; objects in buckets are downloaded."""
    if "://" in name and not name.startswith("file://"):
        bucket, _, key = name.rpartition("/")
        with tempfile.TemporaryDirectory(prefix="cliploom-query-") as folder:
            local = Path(folder) / f"query{Path(key).suffix[:10]}"
            try:
                ObjectStore(bucket).download(key, local)
            except FileNotFoundError:
                raise SpecError(f"There is no object {name!r}; check its name.") from None
            yield local
        return
    yield local_file(name.removeprefix("file://"))


def local_file(name: str) -> Path | None:
    """Return the local file with this path; None if there is none or it is not a valid path."""
    try:
        path = Path(name).expanduser()
        return path if path.is_file() else None
    except (OSError, RuntimeError, ValueError):  # too long, no such user, or not a path
        return None


def sampling_of(feature: FeatureEntry) -> Sampling | None:
    """Return the sampling of a feature as recorded in the release."""
    declared = feature.recipe.get("sample")
    if declared is None:
        return None
    from pydantic import TypeAdapter

    from cliploom.schemas.sampling import Sampling  # a slow import that vector queries do not need

    adapter: TypeAdapter[Sampling] = TypeAdapter(Sampling)
    return adapter.validate_python(declared)


def text_vectors(tower: Callable[[list[str]], NDArray[np.float32]], text: str) -> NDArray[np.float32]:
    """Return the vector of a sentence in the space of a text tower, float32 [1, dim].

    Raises:
        SpecError: the text tower rejects the text.
    """
    try:
        return tower([text])
    except EncodeError as error:
        raise SpecError(f"The text can't be searched for: {error}") from None


def check_text(text: str) -> None:
    """Reject a text without words, before any model is loaded.

    Raises:
        SpecError: the text has no word.
    """
    if not text.strip():
        raise SpecError(f"The text to search for is empty ({text!r}); give a few words, such as 'a cup of coffee'.")


def file_vectors(
    objects: ObjectStore,
    feature: FeatureEntry,
    output: str,
    path: Path,
    at_s: float | None,
    name: str,
    use: str = "used as a query",
) -> NDArray[np.float32]:
    """Return the vectors of a media file, computed as the feature computes those of its items: float32 [rows, dim].

    Args:
        objects: the store that has the prepared model.
        feature: the feature whose sampling, preprocessing and model are used; it also says whether repeats are dropped.
        output: the output of the encoder.
        path: the path of a local file.
        at_s: if given, only the row on screen at this time, in seconds from the file's start.
        name: the name of the file, for errors.
        use: the purpose of the vectors, for errors.

    Raises:
        SpecError: the file cannot be used, or is shorter than ``at_s``.
    """
    from cliploom.transforms.encoders.registry import load, read_card
    from cliploom.transforms.media.decode import DecodeReport, Request, decode
    from cliploom.transforms.media.probe import probe
    from cliploom.transforms.work.models import BATCH_PICTURES, SampleEncoder, local_model

    sampling = sampling_of(feature)
    folder = local_model(objects, feature.model)
    card = read_card(folder)
    if sampling is None or card.preprocess is None:
        raise SpecError(
            f"{name!r}: source {feature.source!r} is not sampled media, so its features do not support file queries."
        )
    recipe = feature.recipe
    request = Request(
        sampling,
        card.preprocess,
        "left" if recipe.get("stereo") == "left" else "",
        deinterlace=recipe.get("deinterlace", True),
        tone_map=recipe.get("tone_map", True),
    )
    averaged = sampling.windowed and card.modality == "frame"
    encoder = SampleEncoder(load(folder), 1 if sampling.windowed else BATCH_PICTURES, averaged)
    try:
        facts = probe(path, MediaLimits())
        segment = _segment(sampling, facts, at_s)
        samples = decode(path, facts, [request], segment, DecodeReport())
        repeats = RepeatFilter(sampling.repeats if at_s is None else None, min(feature.outputs))
        chosen = (
            [sampled for sampled in samples if not repeats.drops_picture(sampled.pixels)]
            if at_s is None
            else _on_screen(samples, at_s)
        )
        if not chosen:
            raise SpecError(_beyond(name, facts, at_s))
        rows: list[Row | EncodeError] = []
        checked = {name: about.dim for name, about in feature.outputs.items()} | {output: card.outputs[output].dim}
        for start in range(0, len(chosen), encoder.batch):
            pixels = [sampled.pixels for sampled in chosen[start : start + encoder.batch]]
            found = as_results(encoder.encode(pixels), len(pixels))
            rows += [checked_vectors(row, checked, card.kind) for row in found]
    except (ItemError, WrongResultsError) as error:
        raise SpecError(f"{name!r} can't be {use}: {error}") from None
    bad = next((row for row in rows if isinstance(row, EncodeError)), None)
    if bad is not None:
        raise SpecError(f"{name!r} can't be {use}: {bad}")
    good = [row for row in rows if not isinstance(row, EncodeError)]
    return np.stack([row[output] for row in good if not repeats.drops_vectors(row)])


def _segment(sampling: Sampling, facts: MediaFacts, at_s: float | None) -> tuple[float, float] | None:
    """Return the range to decode for one moment, if the sampling allows decoding only a part."""
    from cliploom.schemas.sampling import Every

    if at_s is None or not isinstance(sampling, Every) or not sampling.splittable or at_s >= facts.duration_s > 0:
        return None
    row = math.floor(at_s / sampling.every + _MICRO)
    return row * sampling.every, (row + 1) * sampling.every


def _on_screen(samples: Iterator[Sampled], at_s: float) -> list[Sampled]:
    """Return the sample shown at a moment: the last one to start by then, unless it has ended."""
    found: list[Sampled] = []
    for sampled in samples:
        if sampled.start_s is not None and sampled.start_s > at_s + _MICRO:
            break
        found = [sampled]
    return [sampled for sampled in found if lasts_until(sampled.start_s, sampled.end_s, at_s)]


def lasts_until(start_s: float | None, end_s: float | None, at_s: float) -> bool:
    """Return whether a row is on screen at ``at_s``: within [start_s, end_s), or for an image at its start.

    >>> lasts_until(1.0, 2.0, 1.5), lasts_until(1.0, 2.0, 2.0), lasts_until(0.0, 0.0, 0.0), lasts_until(None, None, 0.0)
    (True, False, True, False)
    """
    if start_s is None:
        return False
    ends_s = start_s if end_s is None else end_s
    return start_s - _MICRO <= at_s < ends_s or abs(at_s - start_s) <= _MICRO


def _beyond(name: str, facts: MediaFacts, at_s: float | None) -> str:
    if at_s is None:
        return f"{name!r} has no frame that the feature's sampling takes; give another file."
    return f"{name!r} lasts {facts.duration_s:g} s, so nothing is on screen at {at_s:g} s; give an earlier time."


def rows_at(rows: Any, at_s: float, name: str, repeated_until_s: float = 0.0) -> Any:
    """Return the rows of an item (a polars frame with start_s, end_s, sorted by row_id) on screen at a moment.

    Args:
        rows: the rows of the item.
        at_s: the time in seconds from its start.
        name: the name of the item, for errors.
        repeated_until_s: the item's duration if the feature drops repeats, so that each row lasts until the next one;
            else 0.

    Raises:
        SpecError: no row is on screen then.
    """
    for number in range(rows.height - 1, -1, -1):
        start_s, end_s = rows["start_s"][number], rows["end_s"][number]
        if lasts_until(start_s, max(end_s or 0.0, repeated_until_s) if repeated_until_s else end_s, at_s):
            return rows.slice(number, 1)
    if rows["start_s"].null_count():
        raise SpecError(f"{name!r} has rows without times, so nothing is on screen at {at_s:g} s; remove the time.")
    first, last = rows["start_s"].min(), max(rows["end_s"].max(), repeated_until_s)
    raise SpecError(f"{name!r} has no row at {at_s:g} s; its rows lie within {first:g} to {last:g} s.")
