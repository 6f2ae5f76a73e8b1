"""Every error that a user can cause or meet, with its exit code on the command line.

A message is one sentence that quotes the offending value and says how to fix it; the command line prints it without a
traceback. ``ItemError`` and its subclasses never stop a run: they become rows of the ``failures`` table.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class CliploomError(Exception):
    """Base class of all errors with messages for users."""

    exit_code: ClassVar[int] = 1


class SpecError(CliploomError):
    """The spec, an option or an argument is wrong."""

    exit_code = 2


class UnknownNameError(SpecError, KeyError):
    """Nothing has the requested name; the message has the nearest name, or the known ones."""

    # KeyError would put the message in quotes.
    __str__ = Exception.__str__


class MissingExtraError(CliploomError):
    """A feature needs an optional dependency that is not installed."""

    exit_code = 2

    def __init__(self, extra: str, what: str) -> None:
        super().__init__(f"{what} needs the extra '{extra}': pip install 'cliploom[{extra}]'.")


class PrecisionError(CliploomError):
    """The processor does not support the precision of an encoder."""


class DeviceError(CliploomError):
    """The device that an encoder asks for is missing, or failed."""


class LimitError(CliploomError):
    """A limit (``max_failed``, ``max_deleted``, ``max_recompute``) stopped the run before publishing."""

    exit_code = 3


class StoreError(CliploomError):
    """The store is damaged or locked, or another run published first."""

    exit_code = 4


class UnknownReleaseError(StoreError, KeyError):
    """The store has no release with the requested number."""

    __str__ = Exception.__str__


class DiskFullError(StoreError):
    """The disk of the store or of the temporary folder is full."""


class ItemError(Exception):
    """One item cannot be used; recorded as a failure, the run continues.

    Attributes:
        stage: the stage at which it happened (``probe``, ``decode``, ``encode``, ...).
        transient: whether a later run may succeed (time-outs, 5xx, lost workers).
    """

    def __init__(self, stage: str, message: str, *, transient: bool = False) -> None:
        # File names may contain bytes that are not valid UTF-8, which Arrow strings reject.
        super().__init__(message.encode("utf-8", "backslashreplace").decode())
        self.stage = stage
        self.transient = transient

    @property
    def failure_type(self) -> str:
        """The type in rows of failures: the name of the class without ``Error``."""
        return type(self).__name__.removesuffix("Error")

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_item_error, (type(self), self.stage, str(self), self.transient))


class MediaError(ItemError):
    """A media file cannot be probed or decoded."""


class UnreadableError(MediaError):
    """The bytes cannot be read: missing, a directory, no permission, a permanent network error."""


class TooLargeError(MediaError):
    """Size, pixels, duration or frame count exceed the spec's limits."""


class NoVideoError(MediaError):
    """The file is readable but has no picture: audio only, no decodable frame, not media at all."""


class UnsupportedCodecError(MediaError):
    """This build of the decoder lacks the codec."""


class DamagedError(MediaError):
    """Only a part of the file could be decoded; its rows are kept."""


class EncodeError(ItemError):
    """An encoder failed on an item, or returned a value that is not finite."""


class CrashedError(ItemError):
    """The item killed a worker process twice."""


class StalledError(ItemError):
    """The item made no progress for ``limits.stall``, twice."""


def _rebuild_item_error(kind: type[ItemError], stage: str, message: str, transient: bool) -> ItemError:
    return kind(stage, message, transient=transient)


MOST_NAMES = 30


def short(value: object, limit: int = 60) -> str:
    """Return the value as quoted in a message, shortened if it is long."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**40:
        return "a number of more than 40 digits"
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?``, or some known names if none is similar, to end a message."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    more = ", ..." if len(names) > MOST_NAMES else ""
    return f"; known: {', '.join(names[:MOST_NAMES]) or 'none'}{more}."
