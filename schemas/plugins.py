"""Finds classes that installed packages offer by entry points, one class for each kind."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from cliploom.schemas.errors import CliploomError


def offered_kinds(group: str) -> list[str]:
    """Return the kinds that installed packages offer in an entry point group, sorted; nothing is imported."""
    return sorted({point.name for point in entry_points(group=group)})


def load_offered(group: str, kind: str, what: str, base: type | None = None) -> object | None:
    """Import what an installed package offers for a kind, or return None if none offers it.

    Args:
        group: name of the entry point group, such as ``cliploom.encoders``.
        kind: name of the entry point.
        what: word for messages, such as ``encoder``.
        base: class that the offered class has to extend.

    Raises:
        CliploomError: if two packages offer the kind, the import fails, or the object does not extend ``base``.
    """
    offered = list(entry_points(group=group, name=kind))
    if not offered:
        return None
    if len(offered) > 1:
        origins = " and ".join(sorted(map(_origin, offered)))
        raise CliploomError(f"The {what} '{kind}' is offered by {origins}; uninstall all but one of them.")
    try:
        found: object = offered[0].load()
    except (Exception, SystemExit) as error:
        raise CliploomError(
            f"The {what} '{kind}' of {_origin(offered[0])} can't be loaded: {type(error).__name__}: {error}."
        ) from error
    if base is not None and not (isinstance(found, type) and issubclass(found, base)):
        raise CliploomError(
            f"The {what} '{kind}' of {_origin(offered[0])} is not a class that extends {base.__name__}."
        )
    return found


def _origin(point: EntryPoint) -> str:
    return f"package '{point.dist.name}'" if point.dist else f"'{point.value}'"
