"""From the text of a spec file to a checked ``Spec``: environment, overrides, references, readable errors."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from schemas.errors import SpecError, nearest
from schemas.spec import Spec

_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, which YAML would silently let win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float | bool) and key in seen and key != "<<":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key if isinstance(key, str | int | float | bool) else str(key))
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def load_spec(path: Path, overrides: Sequence[str] = (), environment: Mapping[str, str] = os.environ) -> Spec:
    """Read, resolve and check the spec at ``path``.

    Args:
        path: a YAML file.
        overrides: ``key.path=value`` texts as given to ``--set``; values are YAML.
        environment: where ``${VAR}`` and ``${VAR:-default}`` come from.

    Raises:
        SpecError: naming the path in the file, the value and the mend.
    """
    return parse_document(load_document(path, overrides), environment, str(path))


def load_document(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The spec as written, with overrides, variables not yet resolved: fit to be kept in the store.

    Raises:
        SpecError: when the file can't be read or is no YAML mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(f"There is no spec file {str(path)!r}; `cliploom init FOLDER` writes one.") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{path} is not UTF-8 text (byte {error.start}); is it a spec file?") from None
    except OSError as error:
        raise SpecError(f"{path} can't be read: {error.strerror}.") from None
    return read_document(text, overrides, str(path))


def read_document(text: str, overrides: Sequence[str] = (), where: str = "spec") -> dict[str, Any]:
    """The mapping that the text of a spec says, with overrides; see ``load_document``."""
    try:
        document = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 (a subclass of SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        at = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise SpecError(f"{where} is not valid YAML{at}: {error.problem or error.context}.") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise SpecError(f"{where} is not valid YAML: {str(error).splitlines()[0]}.") from None
    if not isinstance(document, dict):
        raise SpecError(f"{where} must be a mapping with version, name, store, sources, ..., not {_short(document)}.")
    for override in overrides:
        _override(document, override)
    return document


def parse_document(document: dict[str, Any], environment: Mapping[str, str] = os.environ, where: str = "spec") -> Spec:
    """Resolve the variables of a document and check it; see ``load_spec``."""
    resolved = _substitute(document, environment, ())
    try:
        spec = Spec.model_validate(resolved)
    except ValidationError as error:
        problems = [explain(problem, resolved, Spec) for problem in error.errors()]
        raise SpecError("\n".join(dict.fromkeys(problems))) from None
    check_references(spec)
    return spec


def explain(problem: ErrorDetails, document: Any, model: type[BaseModel] | None = None, prefix: str = "") -> str:
    """One sentence for one pydantic error: path in the file, value, mend."""
    path = _real_path(problem["loc"], document)
    place = ".".join((prefix, *map(str, path))) if prefix else ".".join(map(str, path)) or "spec"
    kind, message = problem["type"], problem["msg"]
    if kind == "extra_forbidden":
        known = _known_keys(problem, document, path, model)
        return f"{place}: unknown key{nearest(str(path[-1]), known)}"
    if kind == "missing":
        return f"{place} is missing."
    message = message.removeprefix("Value error, ")
    if "repr" not in kind and problem["type"] != "value_error":
        message = f"{_short(problem['input'])} is wrong: {message[:1].lower()}{message[1:]}"
    if kind == "literal_error" and isinstance(problem["input"], str):
        options = re.findall(r"'([^']*)'", problem.get("ctx", {}).get("expected", ""))
        message = f"unknown {problem['input']!r}{nearest(problem['input'], options)}"
    return f"{place}: {message.rstrip('.;')}." if not message.endswith(("?", ".")) else f"{place}: {message}"


def _real_path(location: Iterable[int | str], document: Any) -> list[int | str]:
    """Drop from a pydantic location the names of union members, which are not in the file."""
    path: list[int | str] = []
    here = document
    steps = list(location)
    for number, step in enumerate(steps):
        last = number == len(steps) - 1
        if isinstance(here, dict) and (step in here or (last and step not in ("[key]",))):
            path.append(step)
            here = here.get(step)
        elif isinstance(here, list) and isinstance(step, int) and step < len(here):
            path.append(step)
            here = here[step]
    return path


def _known_keys(problem: ErrorDetails, document: Any, path: list[int | str], model: type[BaseModel] | None) -> set[str]:
    """Names that may stand where an unknown key stood, by walking the models along the location."""
    current: list[type[BaseModel]] = [model] if model else []
    for step in problem["loc"][:-1]:
        found: list[type[BaseModel]] = []
        for candidate in current:
            field = candidate.model_fields.get(str(step))
            found += _models_in(field.annotation) if field else []
        current = found or current
    return {name for candidate in current for name in candidate.model_fields}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    inner = getattr(annotation, "__args__", ())
    return [found for argument in inner for found in _models_in(argument)]


def _short(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _override(document: dict[str, Any], text: str) -> None:
    key, separator, raw = text.partition("=")
    if not separator or not all(key.split(".")):
        raise SpecError(f"--set {text!r} is not key.path=value, such as features.frames.sample.every=2s.")
    try:
        value = yaml.safe_load(raw)
    except yaml.YAMLError:
        raise SpecError(f"--set {text!r}: {raw!r} is not a YAML value.") from None
    *parents, last = key.split(".")
    here: Any = document
    for step in parents:
        here = here.setdefault(step, {})
        if not isinstance(here, dict):
            raise SpecError(f"--set {text!r}: {step!r} is not a mapping in the spec.")
    here[last] = value


def _substitute(value: Any, environment: Mapping[str, str], path: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {key: _substitute(inner, environment, (*path, str(key))) for key, inner in value.items()}
    if isinstance(value, list):
        return [_substitute(inner, environment, (*path, str(number))) for number, inner in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        found = environment.get(match["name"], match["default"])
        if found is None:
            raise SpecError(
                f"{'.'.join(path)}: the environment variable {match['name']} is not set; "
                f"set it or write ${{{match['name']}:-default}}."
            )
        return found

    return _VARIABLE.sub(replace, value)


def check_references(spec: Spec) -> None:
    """Check that nodes name nodes that exist and that text encoders form no cycle.

    Raises:
        SpecError: naming every wrong reference.
    """
    problems: list[str] = []

    def refer(place: str, name: str | None, known: Iterable[str], what: str) -> None:
        if name is not None and name not in known:
            problems.append(f"{place}: there is no {what} {name!r}{nearest(name, known)}")

    for name, encoder in spec.encoders.items():
        refer(f"encoders.{name}.text_encoder", encoder.text_encoder, spec.encoders, "encoder")
    for name, feature in spec.features.items():
        refer(f"features.{name}.source", feature.source, spec.sources, "source")
        refer(f"features.{name}.encoder", feature.encoder, spec.encoders, "encoder")
        if feature.sample is None and feature.source in spec.sources and spec.sources[feature.source].kind == "media":
            problems.append(f"features.{name}.sample is missing; for media write, for example, sample: {{every: 1s}}.")
    for group, nodes in (("indexes", spec.indexes), ("exports", spec.exports)):
        for name, node in nodes.items():
            place = f"{group}.{name}"
            refer(f"{place}.feature", node.feature, spec.features, "feature")
            feature_spec = spec.features.get(node.feature)
            if node.output is not None and feature_spec is not None and feature_spec.outputs is not None:
                refer(f"{place}.output", node.output, feature_spec.outputs, f"output of feature {node.feature!r} named")
    problems += _cycles(spec)
    if problems:
        raise SpecError("\n".join(problems))


def _cycles(spec: Spec) -> list[str]:
    for start in spec.encoders:
        trail, here = [start], spec.encoders[start].text_encoder
        while here is not None and here in spec.encoders:
            trail.append(here)
            if here == start:
                return [f"encoders.{start}.text_encoder: encoders name each other in a circle: {' -> '.join(trail)}."]
            if here in trail[:-1]:
                break
            here = spec.encoders[here].text_encoder
    return []
