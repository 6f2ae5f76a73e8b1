"""Turns the text of a spec into plain values: YAML, overrides from the command line, environment variables."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import yaml

from cliploom.schemas.errors import SpecError, short

MOST_VALUES = 1_000_000
_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")
_TRUTH = {"true": True, "false": False}
_HINTS = (
    ("'\\t'", "indent with spaces"),
    ("could not determine a constructor", "a spec holds plain texts, numbers, lists and mappings"),
    ("unhashable key", "a key must be a text"),
    ("another document", "remove the line ---"),
    ("occurs twice", "remove or rename one"),
    ("undefined alias", "a text that begins with * needs quotes"),
)


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys, of which YAML would silently use the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[tuple[type, Any]] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None):
                continue
            if (type(key), key) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} occurs twice", key_node.start_mark
                )
            seen.add((type(key), key))
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


# A date cannot be stored as JSON; a string keeps it as written.
_PlainLoader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_document(text: str, overrides: Sequence[str] = (), where: str = "spec") -> dict[str, Any]:
    """Parse the text of a spec into a mapping, with overrides but unresolved variables.

    Raises:
        SpecError: with the place and the fix.
    """
    try:
        document = yaml.load(text, Loader=_PlainLoader)  # noqa: S506 (a subclass of SafeLoader)
    except yaml.MarkedYAMLError as error:
        raise SpecError(f"{where} is not valid YAML{_describe(error)}.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SpecError(f"{where} is not valid YAML: {_sentence(str(error))}; correct or quote that value.") from None
    if document is None:
        raise SpecError(f"{where} is empty; `cliploom init FOLDER` writes a spec to start from.")
    if not isinstance(document, dict):
        raise SpecError(f"{where} must be a mapping with version, name, store, sources, ..., not {short(document)}.")
    for override in overrides:
        _override(document, override)
    _Plain().check(document, ())
    return document


def _describe(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    at = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    said = str(error.problem or error.context)
    if said.startswith("but "):
        said = f"{error.context} {said}"
    hint = next((hint for text, hint in _HINTS if text in said), "check brackets, quotes and indentation there")
    return f"{at}: {said}; {hint}"


def _sentence(text: str) -> str:
    """Return the first line, without advice for programmers."""
    return text.splitlines()[0].split(";")[0].rstrip(".")


class _Plain:
    """Checks that a document only contains JSON values, and not too many."""

    def __init__(self) -> None:
        self._seen = 0

    def check(self, value: Any, path: tuple[str, ...], above: tuple[int, ...] = ()) -> None:
        """Check a value and everything below it.

        Args:
            value: value from the YAML loader.
            path: path of the value, for messages.
            above: ids of the containers around it.
        """
        place = ".".join(path) or "spec"
        self._seen += 1
        if self._seen > MOST_VALUES:
            raise SpecError(f"{place}: the spec has more than {MOST_VALUES:,} values; are its anchors (&, *) right?")
        if id(value) in above:
            raise SpecError(f"{place}: the anchor refers to itself; write the values out.")
        if isinstance(value, dict):
            for key, inner in value.items():
                if not isinstance(key, str):
                    raise SpecError(f"{place}: the key {key!r} is not a text; put it in quotes.")
                self.check(inner, (*path, key), (*above, id(value)))
        elif isinstance(value, list):
            for number, inner in enumerate(value):
                self.check(inner, (*path, str(number)), (*above, id(value)))
        elif isinstance(value, float) and not math.isfinite(value):
            raise SpecError(f"{place}: {value} is not a finite number; write a plain one.")
        elif not isinstance(value, str | int | float | None):
            kind = type(value).__name__
            raise SpecError(f"{place}: {short(value)} is of the YAML type {kind}; write plain texts and numbers.")


def _override(document: dict[str, Any], text: str) -> None:
    key, separator, raw = text.partition("=")
    if not separator or not all(key.split(".")):
        raise SpecError(f"--set {text!r} is not key.path=value, such as features.frames.sample.every=2s.")
    try:
        value = yaml.load(raw, Loader=_PlainLoader)  # noqa: S506 (a subclass of SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = getattr(error, "problem", None) or _sentence(str(error))
        raise SpecError(
            f"--set {short(text)}: {short(raw)} is not a YAML value ({reason}); put it in quotes."
        ) from None
    *parents, last = key.split(".")
    here: Any = document
    for depth, step in enumerate(parents):
        if depth and step not in here and (close := get_close_matches(step, map(str, here), n=1)):
            above = ".".join(parents[:depth])
            raise SpecError(f"--set {text!r}: there is no {step!r} in {above}; did you mean {close[0]!r}?")
        if here.get(step) is None:
            here[step] = {}
        here = here[step]
        if not isinstance(here, dict):
            place = ".".join(parents[: depth + 1])
            raise SpecError(f"--set {text!r}: {place} is {short(here)}, not a mapping; set it whole: {place}=...")
    here[last] = value


def substitute(value: Any, environment: Mapping[str, str], path: tuple[str, ...] = ()) -> Any:
    """Return a document with ``${VAR}`` and ``${VAR:-default}`` resolved.

    A value that consists of a single variable may be an integer, ``true`` or ``false``.

    Raises:
        SpecError: for a variable that is not set and has no default.
    """
    if isinstance(value, dict):
        return {key: substitute(inner, environment, (*path, str(key))) for key, inner in value.items()}
    if isinstance(value, list):
        return [substitute(inner, environment, (*path, str(number))) for number, inner in enumerate(value)]
    if not isinstance(value, str) or "${" not in value:
        return value
    place = ".".join(path)

    def replace(match: re.Match[str]) -> str:
        found = environment.get(match["name"], match["default"])
        if found is None:
            raise SpecError(
                f"{place}: the environment variable {match['name']} is not set; "
                f"set it or write ${{{match['name']}:-default}}."
            )
        return found

    if "${" in _VARIABLE.sub("", value):
        raise SpecError(f"{place}: {value!r} has a ${{ that is not a variable; write ${{NAME}} or ${{NAME:-default}}.")
    text = _VARIABLE.sub(replace, value)
    if _VARIABLE.fullmatch(value):
        return int(text) if _WHOLE_NUMBER.fullmatch(text) else _TRUTH.get(text, text)
    return text
