"""The errors that cliploom raises; each message quotes the offending value and suggests a fix."""

from cliploom.schemas.errors import (
    CliploomError,
    ItemError,
    LimitError,
    MissingExtraError,
    SpecError,
    StoreError,
    UnknownNameError,
    UnknownReleaseError,
)

__all__ = [
    "CliploomError",
    "ItemError",
    "LimitError",
    "MissingExtraError",
    "SpecError",
    "StoreError",
    "UnknownNameError",
    "UnknownReleaseError",
]
