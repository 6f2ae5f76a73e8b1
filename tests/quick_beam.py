"""Beam inspects all methods of a DoFn some five times while it builds a graph; here it does so once for each class.

That is a third of the fixed time of a small run, and the tests make hundreds of them. What is kept depends on nothing
but the class, or for a plain function on its code: which of its parameters ask for state or timers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

_KEPT: dict[tuple[Any, ...], Any] = {}


def keep_inspections() -> None:
    """Keep what Beam finds out from now on, in a process that has imported Beam; else do nothing."""
    core = sys.modules.get("apache_beam.transforms.core")
    userstate = sys.modules.get("apache_beam.transforms.userstate")
    # Another thread may be in the middle of importing Beam.
    whole = hasattr(core, "CallableWrapperDoFn") and hasattr(userstate, "get_dofn_specs")
    if whole and userstate.get_dofn_specs.__module__ != __name__:  # type: ignore[union-attr]
        userstate.get_dofn_specs = _keeping(userstate.get_dofn_specs, _dofn_key)  # type: ignore[union-attr]
        core.get_signature = _keeping(core.get_signature, _method_key)  # type: ignore[union-attr]


def _keeping(asked: Callable[[Any], Any], key_of: Callable[[Any], tuple[Any, ...] | None]) -> Callable[[Any], Any]:
    def answer(subject: Any) -> Any:
        key = key_of(subject)
        if key is None:
            return asked(subject)
        if key not in _KEPT:
            _KEPT[key] = asked(subject)
        return _KEPT[key]

    return answer


def _method_key(function: Any) -> tuple[Any, ...] | None:
    """A method and the class of its object."""
    plain = getattr(function, "__func__", None)
    return None if plain is None else ("signature", plain, type(function.__self__))


def _dofn_key(dofn: Any) -> tuple[Any, ...] | None:
    """A DoFn's class; where it wraps a function, also that one's code, if no default of it can ask for state."""
    if not hasattr(dofn, "_inspect_process") and "_fn" not in vars(dofn):
        return "specs", type(dofn)
    wrapped = getattr(dofn, "_fn", None)
    code = getattr(wrapped, "__code__", None)
    return None if code is None or wrapped.__defaults__ else ("specs", type(dofn), code)
