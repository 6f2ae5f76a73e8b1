"""A word on a terminal while a command loads what it needs; it is gone when the command prints something itself."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

WORD = "• working"


class _Clearing:
    """A stream before whose first output the word is cleared."""

    def __init__(self, stream: TextIO, clear: Any) -> None:
        self._stream, self._clear = stream, clear

    def write(self, text: str) -> int:
        """Clear the word, and write."""
        self._clear()
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        """Everything else is the stream's."""
        return getattr(self._stream, name)


@contextmanager
def working() -> Iterator[None]:
    """Show the word where a person watches stderr, until the block prints something or ends."""
    out, err = sys.stdout, sys.stderr
    if err is None or out is None or not err.isatty():
        yield
        return
    shown = [True]

    def clear() -> None:
        if shown:
            shown.clear()
            # Blanks, as not every terminal knows the sequence that erases a line.
            err.write(f"\r{' ' * len(WORD)}\r")
            err.flush()
            sys.stdout, sys.stderr = out, err

    err.write(WORD)
    err.flush()
    sys.stdout, sys.stderr = cast("TextIO", _Clearing(out, clear)), cast("TextIO", _Clearing(err, clear))
    try:
        yield
    finally:
        clear()
