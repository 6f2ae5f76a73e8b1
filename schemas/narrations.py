"""Records of timed texts: narrations, unusable rows, and the rules that select narrations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from cliploom.schemas.errors import CliploomError

NARRATIONS = pa.schema(
    [
        pa.field("uid", pa.string(), nullable=False),
        pa.field("pass", pa.int32(), nullable=False),
        pa.field("idx", pa.int32(), nullable=False),
        pa.field("start_s", pa.float64()),
        pa.field("end_s", pa.float64()),
        pa.field("text", pa.string(), nullable=False),
        pa.field("encoded", pa.string(), nullable=False),
        pa.field("annotation_uid", pa.string(), nullable=False),
    ]
)
"""Texts as they are read: ``text`` as given, ``encoded`` as the text rules turn it for the encoder."""

NARRATIONS_TABLE = pa.schema(
    [pa.field("row_id", pa.int64(), nullable=False), pa.field("source", pa.string(), nullable=False), *NARRATIONS]
)
"""The ``narrations`` table of a store; ``row_id`` is the same in the features of the source."""


@dataclass(frozen=True, slots=True)
class Narration:
    """One text of one video.

    Attributes:
        uid: uid of the video.
        pass_: number of the annotation pass (Ego4D has 1 and 2), 0 for formats without passes.
        idx: number of the row within its uid and pass in the file, from 0; bad rows keep their number.
        start_s: seconds from the video's start, rounded to 1 us, or None for a text about the whole video. May be
            slightly negative.
        end_s: None for a text about a moment.
        text: text as given.
        annotation_uid: id of the annotation; may be shared by several rows, and may be empty.
    """

    uid: str
    pass_: int
    idx: int
    start_s: float | None
    end_s: float | None
    text: str
    annotation_uid: str = ""


@dataclass(frozen=True, slots=True)
class BadRow:
    """An unusable row. It is recorded as a failure, and the rest of the file is read.

    Attributes:
        position: ``line 12``, or a JSON path such as ``<uid>.narration_pass_1.narrations[17]``.
        value: the offending value as Python shows it, shortened.
        uid: uid of the video if known, else empty.
    """

    file: str
    position: str
    reason: str
    value: str
    uid: str = ""

    @property
    def message(self) -> str:
        """Return a sentence for the ``failures`` table.

        >>> BadRow("n.csv", "line 3", "the start is not a number", "'x'").message
        "n.csv, line 3: the start is not a number: 'x'."
        """
        return f"{self.file}, {self.position}: {self.reason}: {self.value}."


class BrokenFileError(CliploomError):
    """A file of narrations does not follow its format from a given byte on.

    Attributes:
        byte: offset of the first invalid byte, counted from 0.
    """

    def __init__(self, file: str, byte: int, reason: str) -> None:
        super().__init__(f"{file} is broken at byte {byte}: {reason}; get the file again, or repair it there.")
        self.file = file
        self.byte = byte
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.file, self.byte, self.reason))


@dataclass(frozen=True)
class Columns:
    """Names of the columns (CSV) or keys (JSONL) for each field; an empty name means that the field is missing.

    Without ``start`` the texts are about whole videos.
    """

    uid: str = "uid"
    text: str = "text"
    start: str = "start_s"
    end: str = ""
    pass_: str = ""
    annotation_uid: str = ""

    def named(self) -> tuple[str, ...]:
        """Return the required columns."""
        names = (self.uid, self.text, self.start, self.end, self.pass_, self.annotation_uid)
        return tuple(name for name in names if name)


@dataclass(frozen=True)
class TextRules:
    """How a given text becomes the encoded one: plain string replacements, applied in order."""

    replace: tuple[tuple[str, str], ...] = ()


PLAIN = TextRules()
EGO4D = TextRules((("#C", "Camera wearer"), ("#O", "Other person"), ("#unsure", "something")))
"""Ego4D's tags in words, as its features tutorial and research code put them."""


@dataclass(frozen=True)
class KeepRules:
    """Which narrations are kept.

    Attributes:
        min_tokens: minimum number of pieces between single spaces in the given text; 0 keeps all.
        min_spacing_s: a video whose narrations follow each other closer than this on average is dropped whole.
        only: keep these videos; None keeps all.
        without: drop these videos, such as those of the val and test splits.
    """

    min_tokens: int = 0
    min_spacing_s: float = 0.0
    only: frozenset[str] | None = None
    without: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Dropped:
    """Numbers dropped for one reason; ``videos`` counts those that lost all of their remaining narrations."""

    reason: str
    narrations: int
    videos: int


@dataclass(frozen=True)
class FilterTally:
    """Numbers that filters kept and dropped; tallies of disjoint videos can be added."""

    narrations: int = 0
    videos: int = 0
    dropped: tuple[Dropped, ...] = ()

    def __add__(self, other: FilterTally) -> FilterTally:
        sums: dict[str, list[int]] = {}
        for drop in (*self.dropped, *other.dropped):
            total = sums.setdefault(drop.reason, [0, 0])
            total[0] += drop.narrations
            total[1] += drop.videos
        dropped = tuple(Dropped(reason, *sums[reason]) for reason in sorted(sums))
        return FilterTally(self.narrations + other.narrations, self.videos + other.videos, dropped)

    @staticmethod
    def total(tallies: Iterable[FilterTally]) -> FilterTally:
        """Return the sum, which does not depend on the order."""
        return sum(tallies, FilterTally())


@dataclass(frozen=True)
class VideoNarrations:
    """One item: all narrations of one video.

    Attributes:
        digest: digest of the narrations, independent of their order in the file.
    """

    uid: str
    digest: str
    narrations: tuple[Narration, ...]


@dataclass(frozen=True)
class LabelText:
    """A class name put into a prompt template, to be encoded for zero-shot classification.

    Attributes:
        label_no, template_no: positions in the given lists.
    """

    label_no: int
    template_no: int
    label: str
    text: str


@dataclass(frozen=True)
class EvenlySpaced:
    """Keep ``n`` feature rows of a window, one from the middle of each of ``n`` equal stretches of it."""

    n: int


Pool = Literal["mean"] | EvenlySpaced


@dataclass(frozen=True)
class SplitRule:
    """How videos are assigned to splits such as train and val; a video is never in two splits.

    Attributes:
        shares: (name, share) in order, by seeded hash of the uid; the shares add up to 1.
        lists: (name, uids), instead of shares; a video in no list has no split.
    """

    shares: tuple[tuple[str, float], ...] = (("train", 1.0),)
    lists: tuple[tuple[str, frozenset[str]], ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class PairRules:
    """How narrations and clip features become pairs.

    Attributes:
        rate: feature rows per second.
        around_s: a moment t means [t - around_s, t + around_s]; narrations with an end keep their own range.
    """

    rate: float
    around_s: float = 2.0
    keep: KeepRules = KeepRules()
    split: SplitRule = SplitRule()


@dataclass(frozen=True)
class Pair:
    """A narration and the corresponding rows of its video's features: ``features[first:end]``."""

    narration: Narration
    first: int
    end: int
    split: str
