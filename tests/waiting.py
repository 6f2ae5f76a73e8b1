"""Waiting for what another thread or process does, never without an end."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(true: Callable[[], bool], what: str, patience_s: float = 120.0, every_s: float = 0.02) -> None:
    """Poll until ``true()``.

    Raises:
        TimeoutError: naming ``what``.
    """
    end = time.monotonic() + patience_s
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not happen within {patience_s:.0f} s")
        time.sleep(every_s)
