"""Kinds of sources by name: the built-in ones, and those that installed packages offer.

Importing this module and asking for a kind loads neither Beam nor a decoder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pkgutil import resolve_name
from typing import Any, cast

from cliploom.schemas.errors import CliploomError, UnknownNameError, nearest
from cliploom.schemas.faults import machine_fault
from cliploom.schemas.plugins import load_offered
from cliploom.schemas.sources import BUILT_IN, GROUP, source_kinds
from cliploom.transforms.sources.base import SourceKind

_BUILT_IN: Mapping[str, str] = {
    "media": "cliploom.transforms.sources.media:MediaKind",
    "tfrecord": "cliploom.transforms.sources.tfrecord:TfrecordKind",
    "narrations": "cliploom.transforms.sources.narrations:NarrationsKind",
    "labels": "cliploom.transforms.sources.labels:LabelsKind",
    "precomputed": "cliploom.transforms.sources.precomputed:PrecomputedKind",
}


@lru_cache(maxsize=64)
def source_kind(kind: str) -> SourceKind[Any]:
    """Return a kind of source; an installed package can't replace a built-in one.

    Raises:
        SpecError: for an unknown kind, with the nearest known one.
        CliploomError: if an installed package's class can't be loaded or is none, or two packages offer the kind.
    """
    if kind in _BUILT_IN:
        built_in: type[SourceKind[Any]] = resolve_name(_BUILT_IN[kind])
        return built_in()
    found = load_offered(GROUP, kind, "source kind", SourceKind)
    if found is None:
        raise UnknownNameError(f"There is no source kind '{kind}'{nearest(kind, source_kinds())}")
    return cast("type[SourceKind[Any]]", found)()


@contextmanager
def named_errors(kind: str, doing: str) -> Iterator[None]:
    """Name the kind in errors of another package's class, which would end a command with a traceback.

    Args:
        kind: name of the kind; errors of built-in kinds are left as they are.
        doing: what the class is asked to do, for the message.

    Raises:
        CliploomError: for any exception that is not one.
    """
    try:
        yield
    except CliploomError:
        raise
    except (Exception, SystemExit) as error:
        if kind in BUILT_IN:
            raise
        raise machine_fault(error) or CliploomError(
            f"The source kind '{kind}' failed to {doing} ({type(error).__name__}: {error}); this is an error of the "
            "package that offers it."
        ) from error
