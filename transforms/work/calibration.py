"""Samples of a spec's own media or texts, to calibrate and measure a quantised encoder with.

Items are taken in an order that follows from their digests alone, so that equal corpora give equal samples, wherever
they lie and whatever their files are called. Of every five items two are measured with and three calibrate.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from cliploom.schemas.digests import digest_of
from cliploom.schemas.errors import CliploomError, ItemError
from cliploom.schemas.media import MediaLimits, Preprocess
from cliploom.schemas.precision import Calibration, SampleId
from cliploom.schemas.sampling import Sampling
from cliploom.transforms.encoders.quantised import DrawnSamples
from cliploom.transforms.media.decode import DecodeReport, Request, decode
from cliploom.transforms.media.probe import probe
from cliploom.transforms.narrations.item_reader import read_texts
from cliploom.transforms.narrations.listing import place_of
from cliploom.transforms.sources.registry import source_kind

CALIBRATING, HELD_BACK, FEWEST = 300, 200, 100
"""Samples to calibrate and to measure with, and the fewest of both together."""
MOST_ITEMS = 2_000
"""Items that are sent to the process that draws; of more, these are enough to be read."""
_HELD_OF_FIVE = (1, 3)
_FEWEST_ITEMS = 10
_STRETCH_S, _MOST_ROWS = 60.0, 200
"""Of a long video so many seconds are read, or so many rows where it must be read from its beginning."""
_MOST_BYTES = 2_500_000_000
_SAMPLING: TypeAdapter[Any] = TypeAdapter(Sampling)


@dataclass(frozen=True)
class SampledItem:
    """An item to draw samples from.

    Attributes:
        digest: of the item.
        uri, signature: where it is, as it was listed.
        facts: of a text's item, where its rows are; empty for media.
        source: JSON text of the source's node in the spec; empty for texts.
        sampling: JSON text of the feature's sampling; empty for texts.
    """

    digest: str
    uri: str
    signature: str
    facts: str
    source: str
    sampling: str


@dataclass(frozen=True)
class DrawingRequest:
    """What the process that draws needs to know.

    Attributes:
        items: see ``in_digest_order``.
        calibrate: some samples are for calibrating; else all are for measuring.
        known: samples that were chosen before; taken again as long as their items are there.
        seconds: after which no further item is opened.
        limits: of media.
    """

    items: tuple[SampledItem, ...]
    calibrate: bool
    known: Calibration | None
    seconds: float
    limits: MediaLimits

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        known = None if self.known is None else self.known.to_dict()
        return {
            "items": [asdict(item) for item in self.items],
            "calibrate": self.calibrate,
            "known": known,
            "seconds": self.seconds,
            "limits": asdict(self.limits),
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> DrawingRequest:
        """Read back what ``to_dict`` gave."""
        return cls(
            items=tuple(SampledItem(**item) for item in value["items"]),
            calibrate=value["calibrate"],
            known=None if value["known"] is None else Calibration.from_dict(value["known"]),
            seconds=value["seconds"],
            limits=MediaLimits(**value["limits"]),
        )


def in_digest_order(items: Iterable[SampledItem]) -> list[SampledItem]:
    """Items in the order in which they are drawn from: by a digest of their digests; equal bytes once."""
    distinct: dict[str, SampledItem] = {}
    for item in items:
        distinct.setdefault(item.digest, item)
    return sorted(distinct.values(), key=lambda item: digest_of(["calibration", item.digest]))


@contextmanager
def drawn_samples(
    request: DrawingRequest, preprocess: Preprocess | None, shape: tuple[int, ...] = ()
) -> Iterator[tuple[DrawnSamples, tuple[SampleId, ...]]]:
    """Draw; pixels lie in a temporary file while the context is open.

    Args:
        request: what to draw from.
        preprocess: of the encoder; None for texts.
        shape: of one sample, [H, W, 3] or [T, H, W, 3].

    Raises:
        CliploomError: when fewer than ``FEWEST`` samples can be had.
    """
    rows = _drawn(request, preprocess)
    with tempfile.TemporaryDirectory(prefix="cliploom-samples-") as folder:
        ids: list[SampleId] = []
        if preprocess is None:
            texts: list[Any] = []
            for name, text in rows:
                ids.append(name)
                texts.append(text)
            items: Sequence[Any] = texts
        else:
            path = Path(folder) / "samples"
            with path.open("wb") as file:
                for name, rowed in rows:
                    # Of a window whose pictures are encoded one by one, the middle picture.
                    pixels = rowed[len(rowed) // 2] if rowed.ndim > len(shape) else rowed
                    if pixels.shape == shape:
                        file.write(np.ascontiguousarray(pixels).data)
                        ids.append(name)
            items = list(np.memmap(path, np.uint8, "r", shape=(len(ids), *shape))) if ids else []
        if request.calibrate and len(ids) < FEWEST:
            raise CliploomError(
                f"int8 is calibrated with samples of the spec's own media, of which there are {len(ids)}, fewer than "
                f"{FEWEST} ({CALIBRATING} are better); sample more densely, add media, or use precision: f32."
            )
        held = tuple(place for place, name in enumerate(ids) if name.held_back)
        yield DrawnSamples(items, held, len({name.item for name in ids})), tuple(ids)


def _drawn(request: DrawingRequest, preprocess: Preprocess | None) -> Iterator[tuple[SampleId, Any]]:
    """Samples with their names."""
    known = _known_ordinals(request)
    if known is not None:
        by_digest = {item.digest: item for item in request.items}
        for digest, ordinals in known.items():
            found = dict(_samples_of(by_digest[digest], preprocess, request, list(ordinals), 0))
            for ordinal, sample in found.items():
                yield SampleId(digest, ordinal, ordinals[ordinal]), sample
        return
    wanted = {False: CALIBRATING, True: HELD_BACK} if request.calibrate else {True: CALIBRATING + HELD_BACK}
    if preprocess is not None:
        frames = json.loads(request.items[0].sampling) if request.items else {}
        wanted = _within_memory(wanted, preprocess, frames)
    by_item = len(request.items) >= _FEWEST_ITEMS
    sides = [_held(place) if by_item else None for place in range(len(request.items))]
    until = time.monotonic() + request.seconds
    got = dict.fromkeys(wanted, 0)
    for place, item in enumerate(request.items):
        if time.monotonic() > until:
            break
        side = sides[place] if request.calibrate else True
        left = sum(each == side for each in sides[place:]) if request.calibrate else len(sides) - place
        short = sum(wanted.values()) - sum(got.values()) if side is None else wanted[side] - got[side]
        if short <= 0:
            continue
        for number, (ordinal, sample) in enumerate(
            _samples_of(item, preprocess, request, None, -(-short // max(1, left)))
        ):
            held = _held(number) if side is None else side
            got[held] += 1
            yield SampleId(item.digest, ordinal, held), sample


def _held(place: int) -> bool:
    return place % 5 in _HELD_OF_FIVE


def _within_memory(wanted: dict[bool, int], preprocess: Preprocess, sampling: Mapping[str, Any]) -> dict[bool, int]:
    """Fewer samples where they would fill the disk, as long clips do."""
    frames = sampling.get("window", sampling.get("first", {})).get("frames", 1)
    size = preprocess.width * preprocess.height * 3 * frames
    share = min(1.0, _MOST_BYTES / (size * sum(wanted.values())))
    return {side: max(FEWEST // 2, int(share * count)) for side, count in wanted.items()}


def _known_ordinals(request: DrawingRequest) -> dict[str, dict[int, bool]] | None:
    """By item, the ordinals that were chosen before and whether they are held back; None when an item is gone."""
    if request.known is None:
        return None
    found: dict[str, dict[int, bool]] = {}
    for sample in request.known.samples:
        found.setdefault(sample.item, {})[sample.ordinal] = sample.held_back
    return found if found.keys() <= {item.digest for item in request.items} else None


def _samples_of(
    item: SampledItem, preprocess: Preprocess | None, request: DrawingRequest, ordinals: list[int] | None, count: int
) -> Iterator[tuple[int, Any]]:
    """(ordinal, sample) of an item: those of ``ordinals``, or ``count`` that are spread over it; none when damaged."""
    try:
        if preprocess is None:
            yield from _texts_of(item, ordinals, count)
        else:
            yield from _pixels_of(item, preprocess, request.limits, ordinals, count)
    except (ItemError, OSError):
        return


def _texts_of(item: SampledItem, ordinals: list[int] | None, count: int) -> Iterator[tuple[int, str]]:
    texts = read_texts(place_of(item.facts), ["encoded"])["encoded"].to_pylist()
    for ordinal in spread(len(texts), count) if ordinals is None else ordinals:
        if ordinal < len(texts):
            yield ordinal, texts[ordinal]


def _pixels_of(
    item: SampledItem, preprocess: Preprocess, limits: MediaLimits, ordinals: list[int] | None, count: int
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    settings = json.loads(item.source)
    sampling = _SAMPLING.validate_json(item.sampling)
    wanted = Request(
        sampling,
        preprocess,
        "left" if settings.get("stereo") == "left" else "",
        deinterlace=settings.get("deinterlace", True),
        tone_map=settings.get("tone_map", True),
    )
    open_item = source_kind(settings["kind"]).open_item
    with open_item(item.uri, item.signature, "decode", item.source, item.digest) as path:
        facts = probe(path, limits)
        long = facts.duration_s > 2 * _STRETCH_S
        segment = _stretch(item.digest, sampling, facts.duration_s, ordinals, count) if long else None
        report, chosen = DecodeReport(), None if ordinals is None else set(ordinals)
        for sampled in decode(path, facts, [wanted], segment, report):
            if chosen is None:
                planned = report.planned[0] if segment is not None or not long else min(report.planned[0], _MOST_ROWS)
                chosen = {sampled.ordinal + place for place in spread(planned, count)}
            if sampled.ordinal in chosen and isinstance(sampled.pixels, np.ndarray):
                yield sampled.ordinal, sampled.pixels
            if sampled.ordinal >= max(chosen, default=0):
                return


def _stretch(
    digest: str, sampling: Any, duration_s: float, ordinals: list[int] | None, count: int
) -> tuple[float, float] | None:
    """The stretch of a long video that is read, at a place that its digest chooses; None where it can't be split."""
    if not sampling.splittable:
        return None
    if ordinals:
        return min(ordinals) * sampling.every, (max(ordinals) + 1) * sampling.every
    length = max(_STRETCH_S, count * sampling.every)
    share = int(digest_of(["stretch", digest])[:8], 16) / 16**8
    begin = max(0.0, share * (duration_s - length))
    return begin, begin + length


def spread(length: int, count: int) -> list[int]:
    """``count`` places (or all, if there are fewer) at equal distances in 0 .. ``length`` - 1.

    >>> spread(10, 3), spread(2, 5)
    ([1, 5, 8], [0, 1])
    """
    if count >= length:
        return list(range(length))
    return [(2 * place + 1) * length // (2 * count) for place in range(count)]


def with_overflow_fix(samples: Sequence[SampleId], known: Calibration | None, *, overflow_fix: bool) -> Calibration:
    """The calibration of these samples: the one that is known already, when it is of the same samples."""
    if known is not None and set(samples) == set(known.samples):
        return replace(known, samples=tuple(samples))
    return Calibration(tuple(samples), overflow_fix)
