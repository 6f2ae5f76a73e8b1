"""Until when a run may begin new work: ``--until`` and ``--max-hours``."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from cliploom.schemas.errors import SpecError

_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")


def deadline_of(until: str | None, max_hours: float | None, now: float) -> float:
    """Return when a run stops to begin new work, in seconds since 1970; 0 for never.

    Args:
        until: the next time of day ``HH:MM`` on this machine's clock, or a date and time such as ``2026-12-24T06:00``.
        max_hours: hours from now; the earlier of both counts.
        now: seconds since 1970.

    Raises:
        SpecError: for a time that can't be read or has passed, or a number of hours that is not above 0.
    """
    ends = []
    if until is not None:
        ends.append(_until(until, now))
    if max_hours is not None:
        if not 0 < max_hours < 100_000:
            raise SpecError(f"--max-hours {max_hours:g}: give a number of hours above 0, such as 2 or 0.5.")
        ends.append(now + 3600 * max_hours)
    return min(ends, default=0.0)


def _until(text: str, now: float) -> float:
    here = datetime.fromtimestamp(now)
    if found := _CLOCK.fullmatch(text.strip()):
        end = here.replace(hour=int(found[1]), minute=int(found[2]), second=0, microsecond=0)
        return (end if end > here else end + timedelta(days=1)).timestamp()
    try:
        end = datetime.fromisoformat(text.strip())
    except ValueError:
        raise SpecError(
            f"--until {text!r}: give a time of day such as 06:00, or a time such as 2026-12-24T06:00."
        ) from None
    if end.timestamp() <= now:
        raise SpecError(f"--until {text!r}: this time has passed; give a later one.")
    return end.timestamp()
