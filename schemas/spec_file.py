"""Turns a spec file into a checked ``Spec``: environment, overrides, references, readable errors."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from cliploom.schemas.errors import SpecError, nearest
from cliploom.schemas.evaluations import TextTruth
from cliploom.schemas.exports import PairsExport
from cliploom.schemas.head_references import head_problems
from cliploom.schemas.secrets import refuse_secrets
from cliploom.schemas.sources import BUILT_IN, offered_node
from cliploom.schemas.spec import Spec
from cliploom.schemas.spec_errors import explain
from cliploom.schemas.spec_yaml import read_document, substitute


def load_spec(path: Path, overrides: Sequence[str] = (), environment: Mapping[str, str] = os.environ) -> Spec:
    """Read, resolve and check the spec at ``path``.

    Args:
        path: a YAML file.
        overrides: ``key.path=value`` strings as given to ``--set``; values are YAML.
        environment: variables for ``${VAR}`` and ``${VAR:-default}``.

    Raises:
        SpecError: with the path in the file, the value and the fix.
    """
    return parse_document(load_document(path, overrides), environment)


def load_document(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the spec as written, with overrides but unresolved variables, so that it can be stored.

    Raises:
        SpecError: if the file cannot be read or is not a YAML mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(f"There is no spec file {str(path)!r}; `cliploom init FOLDER` writes one.") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{path} is not UTF-8 text (byte {error.start}); is it a spec file?") from None
    except IsADirectoryError:
        example = str(path / "cliploom.yaml")
        raise SpecError(f"{str(path)!r} is a folder; name a spec file, such as {example!r}.") from None
    except OSError as error:
        raise SpecError(f"{str(path)!r} can't be read ({error.strerror}); name a spec file.") from None
    return read_document(text, overrides, str(path))


def parse_document(document: dict[str, Any], environment: Mapping[str, str] = os.environ) -> Spec:
    """Resolve the variables of a document and check it, see ``load_spec``."""
    resolved = substitute(document, environment)
    refuse_secrets(document, resolved)
    try:
        spec = Spec.model_validate(resolved)
    except ValidationError as error:
        problems = [_explained(problem, resolved) for problem in error.errors()]
        raise SpecError("\n".join(dict.fromkeys(problems))) from None
    check_references(spec)
    return spec


def _explained(problem: ErrorDetails, document: dict[str, Any]) -> str:
    """Return a sentence about one problem; nodes of sources of other packages are explained by their own models."""
    match problem["loc"]:
        case ("sources", str(name), *place):
            node = document["sources"][name]
            kind = node.get("kind") if isinstance(node, dict) else None
            model = offered_node(kind) if isinstance(kind, str) and kind not in BUILT_IN else None
            if model is not None:
                problem = {**problem, "loc": tuple(place)}
                return explain(problem, node, model, f"sources.{name}")
    return explain(problem, document, Spec)


def check_references(spec: Spec) -> None:
    """Check that references name existing nodes and that text encoders form no cycle.

    Raises:
        SpecError: with every wrong reference.
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
        source = spec.sources.get(feature.source)
        if name in spec.tags or name in spec.projections:
            continue
        if source is not None and source.own_vectors:
            problems += [
                f"features.{name}.{key}: source {feature.source!r} brings vectors of its own; leave {key!r} out."
                for key in ("encoder", "sample")
                if getattr(feature, key) is not None
            ]
        elif source is not None and feature.encoder is None:
            problems.append(f"features.{name}.encoder is missing; name one of the spec's encoders.")
        if feature.sample is None and source is not None and source.content == "media":
            problems.append(f"features.{name}.sample is missing; for media write, for example, sample: {{every: 1s}}.")
    for group, nodes in (("indexes", spec.indexes), ("exports", spec.exports)):
        for name, node in nodes.items():
            refer(f"{group}.{name}.feature", node.feature, spec.features, "feature")
            if isinstance(node, PairsExport):
                refer(f"{group}.{name}.text", node.text, spec.features, "feature")
    for name, evaluation in spec.evaluations.items():
        refer(f"evaluations.{name}.feature", evaluation.feature, spec.features, "feature")
        if isinstance(evaluation, TextTruth):
            refer(f"evaluations.{name}.texts", evaluation.texts, spec.sources, "source")
    problems += _cycles(spec)
    problems = problems or head_problems(spec)
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
