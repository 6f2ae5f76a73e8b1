"""Every error that a user can cause or meet, with the exit code that the command line gives for it.

A message is one sentence that quotes the offending value and says how to mend it; the command line prints it
without a traceback. ``ItemError`` and its kinds never stop a run: they become rows of the ``failures`` table.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class CliploomError(Exception):
    """Base of all errors that are meant for a person."""

    exit_code: ClassVar[int] = 1


class SpecError(CliploomError):
    """The spec, an option or an argument is wrong."""

    exit_code = 2


class UnknownNameError(SpecError, KeyError):
    """Nothing has the name that was asked for; the message gives the nearest name, or those that there are."""

    # KeyError would put the message in quotes.
    __str__ = Exception.__str__


class MissingExtraError(CliploomError):
    """A feature needs an optional dependency that is not installed."""

    exit_code = 2

    def __init__(self, extra: str, what: str) -> None:
        super().__init__(f"{what} needs the extra '{extra}': pip install 'cliploom[{extra}]'.")


class PrecisionError(CliploomError):
    """The processor can't compute in the precision that an encoder asks for."""


class DeviceError(CliploomError):
    """The device that an encoder asks for is missing, or failed."""


class LimitError(CliploomError):
    """A guard (``max_failed``, ``max_deleted``, ``max_recompute``) stopped the run before publishing."""

    exit_code = 3


class StoreError(CliploomError):
    """The store is damaged, locked, or another run published first."""

    exit_code = 4


class UnknownReleaseError(StoreError, KeyError):
    """The store has no release with the number that was asked for."""

    __str__ = Exception.__str__


class DiskFullError(StoreError):
    """There is no room for what is to be written, in the store or in the temporary folder."""


class ItemError(Exception):
    """One item can't be used; recorded as a failure, the run goes on.

    Attributes:
        stage: where it happened (``probe``, ``decode``, ``encode``, ...).
        transient: true when trying again on another night may help (time-outs, 5xx, lost workers).
    """

    def __init__(self, stage: str, message: str, *, transient: bool = False) -> None:
        # Names of files may hold bytes that are no text, which no table takes.
        super().__init__(message.encode("utf-8", "backslashreplace").decode())
        self.stage = stage
        self.transient = transient

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_item_error, (type(self), self.stage, str(self), self.transient))


class MediaError(ItemError):
    """A media file can't be probed or decoded."""


class UnreadableError(MediaError):
    """The bytes can't be had: missing, a directory, no permission, a lasting network error."""


class TooLargeError(MediaError):
    """Size, pixels, duration or frame count are beyond the spec's limits."""


class NoVideoError(MediaError):
    """The file is readable but has nothing to see: audio only, no decodable frame, not media at all."""


class UnsupportedCodecError(MediaError):
    """This build of the decoder lacks the codec."""


class DamagedError(MediaError):
    """Only a part of the file could be decoded; its rows are kept."""


class EncodeError(ItemError):
    """An encoder failed on an item, or gave a value that is not finite."""


class CrashedError(ItemError):
    """The item killed a worker process twice."""


class StalledError(ItemError):
    """The item made no progress for ``limits.stall``, twice."""


def _rebuild_item_error(kind: type[ItemError], stage: str, message: str, transient: bool) -> ItemError:
    return kind(stage, message, transient=transient)


MOST_NAMES = 30


def short(value: object, limit: int = 60) -> str:
    """The value as a message quotes it, cut where it is long."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**40:
        return "a number of more than 40 digits"
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?``, or some known names when none is near, ready to end a message."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    more = ", ..." if len(names) > MOST_NAMES else ""
    return f"; known: {', '.join(names[:MOST_NAMES]) or 'none'}{more}."
