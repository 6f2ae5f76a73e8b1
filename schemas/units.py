"""Values with units in a spec: durations, sizes and shares."""

from __future__ import annotations

import math
import re
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer

from cliploom.schemas.errors import short

_NUMBER = r"(?P<number>[0-9]{1,15}(?:\.[0-9]{0,15})?|\.[0-9]{1,15})"
_DURATION = re.compile(rf"{_NUMBER}\s*(?P<unit>us|ms|s|m|h)")
_SIZE = re.compile(rf"{_NUMBER}\s*(?P<unit>B|KB|MB|GB|TB|KiB|MiB|GiB|TiB)")
_PERCENT = re.compile(rf"{_NUMBER}\s*%")

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES = (
    {"B": 1}
    | {f"{p}B": 1000**i for i, p in enumerate("KMGT", 1)}
    | {f"{p}iB": 1024**i for i, p in enumerate("KMGT", 1)}
)


def parse_duration(value: object) -> float:
    """Parse a duration such as ``500ms``, ``1s``, ``1.5m`` or ``2h`` into seconds.

    >>> parse_duration("500ms")
    0.5

    Raises:
        ValueError: without a unit, or for anything else.
    """
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        hint = f"; write {value}s" if isinstance(value, int | float) and not isinstance(value, bool) else ""
        raise ValueError(f"{short(value)} is not a duration with a unit (us, ms, s, m, h), such as 500ms or 1s{hint}")
    return round(float(match["number"]) * _SECONDS[match["unit"]], 6)


def parse_size(value: object) -> int:
    """Parse a size such as ``16MB`` or ``1.5GiB`` into bytes.

    >>> parse_size("16MB")
    16000000

    Raises:
        ValueError: without a unit, or for anything else.
    """
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{short(value)} is not a size with a unit (B, KB, MB, GB, TB, KiB, ...), such as 16MB")
    factor: int = _BYTES[match["unit"]]
    return math.floor(float(match["number"]) * factor)


def parse_share(value: object) -> float:
    """Parse a percentage such as ``10%`` into a share from 0 to 1.

    >>> parse_share("10%")
    0.1

    Raises:
        ValueError: without the percent sign, or beyond 100%.
    """
    match = _PERCENT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{short(value)} is not a percentage, such as 10%")
    share = float(match["number"]) / 100
    if share > 1:
        raise ValueError(f"{short(value)} is more than 100%; give at most 100%")
    return share


def format_duration(seconds: float) -> str:
    """Format seconds so that ``parse_duration`` reads them back.

    >>> format_duration(0.5)
    '0.5s'
    """
    return f"{seconds:.6f}".rstrip("0").rstrip(".") + "s"


# The maximum number of rows per item; a larger value is almost certainly a typo.
Count = Annotated[int, Field(gt=0, le=(1 << 24) - 1)]
LargeCount = Annotated[int, Field(gt=0, le=1 << 53)]

# Serialized in the form in which they are parsed, so that a stored spec can be parsed again.
PositiveSeconds = Annotated[
    float, BeforeValidator(parse_duration), Field(gt=0), PlainSerializer(format_duration, return_type=str)
]
NonNegativeSeconds = Annotated[
    float, BeforeValidator(parse_duration), Field(ge=0), PlainSerializer(format_duration, return_type=str)
]
Bytes = Annotated[
    int, BeforeValidator(parse_size), Field(gt=0), PlainSerializer(lambda size: f"{size}B", return_type=str)
]
Share = Annotated[
    float, BeforeValidator(parse_share), PlainSerializer(lambda share: f"{share * 100:.10g}%", return_type=str)
]
