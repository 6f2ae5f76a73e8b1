"""Converts errors of the spec's models to sentences: the path in the file, the value, the fix."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Tag
from pydantic_core import ErrorDetails

from cliploom.schemas.errors import nearest, short

_MOST_KEYS = 12
_MAPPING = "must be a mapping of keys to values, such as {{key: value}}"
_WANTED = {
    "string_type": "must be a text; put it in quotes",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "list_type": "must be a list, such as [a, b]",
    "dict_type": _MAPPING,
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
    "string_too_short": "is empty; fill it in",
    "too_short": "is empty; give at least one",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be {ge} or more",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be {le} or less",
}


def explain(problem: ErrorDetails, document: Any, model: type[BaseModel] | None = None, prefix: str = "") -> str:
    """Return a sentence for one pydantic error: path in the file, value, fix.

    Args:
        problem: an error from ``ValidationError.errors()``.
        document: the validated document.
        model: the model that it was validated with, to find the nearest key.
        prefix: the path of the document in the file.
    """
    path = real_path(problem["loc"], document, missing=problem["type"] == "missing")
    place = ".".join(map(str, (prefix, *path) if prefix else path)) or "spec"
    kind, message, value = problem["type"], problem["msg"], problem["input"]
    context = problem.get("ctx", {})
    if kind == "extra_forbidden":
        return f"{place}: unknown key{nearest(str(path[-1]), _known_keys(problem['loc'], model))}"
    if kind == "missing":
        return f"{place} is missing; add {path[-1]!r}{_inside(prefix, path)}."
    if problem["loc"] and problem["loc"][-1] == "[key]" and kind == "string_type":
        return f"{place}: the key {value!r} is not a text; put it in quotes."
    if kind in ("literal_error", "union_tag_invalid"):
        expected = str(context.get("expected") or context.get("expected_tags"))
        options = re.findall(r"'([^']*)'", expected)
        found = context.get("tag") if kind == "union_tag_invalid" else value
        where = f"{place}.{_discriminator(context)}" if kind == "union_tag_invalid" else place
        if isinstance(found, str) and options:
            return f"{where}: unknown {found!r}{nearest(found, options)}"
        return f"{where}: {short(found)} is wrong: must be {expected.lower()}."
    tagged = kind == "union_tag_not_found"
    if tagged:
        key = _discriminator(context)
        if isinstance(value, dict):
            return f"{place}.{key} is missing; add {key!r} in {place}."
        kind = "dict_type"
    if kind == "value_error":
        message = message.removeprefix("Value error, ")
        return f"{place}: {message}" if message.endswith(("?", ".")) else f"{place}: {message}."
    said = _WANTED[kind].format(**context) if kind in _WANTED else f"{message[:1].lower()}{message[1:]}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        said = _mapping_of(_models_at(problem["loc"], model), named=kind == "dict_type" and not tagged) or said
    if value is None:
        return f"{place} is empty; give it a value, or remove the key."
    verb = "" if said.startswith("is ") else "is wrong: "
    return f"{place}: {short(value)} {verb}{said.rstrip('.')}."


def _discriminator(context: Mapping[str, Any]) -> str:
    """Return the key that distinguishes the members of a union; for a function it is ``kind``."""
    name = str(context["discriminator"]).strip("'")
    return "kind" if name.endswith("()") else name


def _inside(prefix: str, path: Sequence[int | str]) -> str:
    parents = [prefix, *map(str, path[:-1])] if prefix else [*map(str, path[:-1])]
    return f" in {'.'.join(parents)}" if parents else ""


def real_path(location: Sequence[int | str], document: Any, *, missing: bool = False) -> list[int | str]:
    """Return the path in the file of a pydantic location, which also contains the tags of unions.

    A tag may be spelled like a key (``every`` is both), so of all ways to omit steps, the one that matches the document
    best is used. With ``missing`` the last step is a missing key.
    """
    return list(_longest(tuple(step for step in location if step != "[key]"), document, missing)[1])


def _longest(steps: tuple[int | str, ...], here: Any, missing: bool) -> tuple[int, tuple[int | str, ...]]:
    if not steps:
        return 0, ()
    first, rest = steps[0], steps[1:]
    ways = [_longest(rest, here, missing)]
    inside = isinstance(here, dict) and first in here
    if inside or (isinstance(here, list) and isinstance(first, int) and first < len(here)):
        found, path = _longest(rest, here[first], missing)
        ways.append((found + 1, (first, *path)))
    elif missing and not rest and isinstance(here, dict):
        ways.append((1, (first,)))
    return max(ways, key=lambda way: way[0])


def _mapping_of(models: Sequence[type[BaseModel]], *, named: bool) -> str:
    """Return what is required in place of a mapping; empty if any mapping is allowed.

    Args:
        models: the models that the mapping may be.
        named: whether it maps names to these models.
    """
    if not models:
        return ""
    if len(models) > 1:
        kinds = [str(literal) for each in models for literal in _kinds_of(each)]
        keys = f"the key kind ({', '.join(kinds)}) and those of the kind" if kinds else ""
    else:
        fields = models[0].model_fields
        required = [field.alias or name for name, field in fields.items() if field.is_required()]
        others = [field.alias or name for name, field in fields.items() if not field.is_required()]
        keys = f"the {'key' if len(required) == 1 else 'keys'} {_listed(required)}" if required else ""
        some = ", ".join(others[:_MOST_KEYS]) + (", ..." if len(others) > _MOST_KEYS else "")
        if others:
            keys += f" (and optionally {some})" if required else f"any of the keys {some}"
    if not keys:
        return ""
    return f"must be a mapping of names to mappings with {keys}" if named else f"must be a mapping with {keys}"


def _listed(names: Sequence[str]) -> str:
    """Return the names joined by commas and "and".

    >>> _listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _kinds_of(model: type[BaseModel]) -> tuple[Any, ...]:
    kind = model.model_fields.get("kind")
    return getattr(kind.annotation, "__args__", ()) if kind else ()


def _known_keys(location: Sequence[int | str], model: type[BaseModel] | None) -> set[str]:
    """Return the names that are allowed in place of an unknown key."""
    return {
        field.alias or name for each in _models_at(location[:-1], model) for name, field in each.model_fields.items()
    }


def _models_at(location: Sequence[int | str], model: type[BaseModel] | None) -> list[type[BaseModel]]:
    """Return the models that are possible at a location; the last ones if the walk along it ends early."""
    current: list[tuple[str, type[BaseModel]]] = [("", model)] if model else []
    for step in location:
        # Members of a union are distinguished by tag, or else by their class names.
        members = [(tag, candidate) for tag, candidate in current if step in (tag, candidate.__name__)]
        if len(current) > 1 and members:
            current = members
            continue
        fields = [candidate.model_fields.get(str(step)) for _, candidate in current]
        current = [found for field in fields if field for found in _models_in(field.annotation)] or current
    return [candidate for _, candidate in current]


def _models_in(annotation: Any, tag: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield the models in an annotation, with the tags that distinguish them in a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield tag or str(next(iter(_kinds_of(annotation)), "")), annotation
        return
    tag = next((str(note.tag) for note in getattr(annotation, "__metadata__", ()) if isinstance(note, Tag)), tag)
    for argument in getattr(annotation, "__args__", ()):
        yield from _models_in(argument, tag)
