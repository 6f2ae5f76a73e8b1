"""What a spec says of heads, against the rest of the spec: names that exist, sources that agree, nothing in circles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydantic import ValidationError

from cliploom.schemas.errors import nearest
from cliploom.schemas.exports import PairsExport
from cliploom.schemas.heads import HEAD, HeadEncoder, HeadInput, ZeroShotSpec
from cliploom.schemas.spec import EncoderSpec, Spec
from cliploom.schemas.spec_errors import explain


def head_problems(spec: Spec) -> list[str]:
    """Sentences about everything that is wrong with heads, the encoders that apply them, and their features."""
    problems: list[str] = []
    for name, head in spec.heads.items():
        if isinstance(head, ZeroShotSpec):
            problems += _zero_shot(spec, f"heads.{name}", head)
            continue
        problems += _inputs(spec, f"heads.{name}.inputs", head.inputs)
        problems += _inputs(spec, f"heads.{name}.validation", head.validation or ())
    heads = {name for name, encoder in spec.encoders.items() if encoder.kind == HEAD}
    for name, encoder in spec.encoders.items():
        if name in heads:
            problems += _encoder(spec, f"encoders.{name}", encoder)
        if encoder.text_encoder in heads:
            problems.append(f"encoders.{name}.text_encoder: {encoder.text_encoder!r} is a head and encodes no text.")
    if problems:
        return problems
    for name, feature in spec.tags.items():
        node = head_encoder(spec.encoders[str(feature.encoder)])
        found = spec.features[(node.inputs or spec.heads[node.head].inputs)[0].feature].source
        if found != feature.source:
            problems.append(
                f"features.{name}.source: encoder {feature.encoder!r} reads features of source {found!r}, not of "
                f"{feature.source!r}; give the encoder 'inputs' of that source."
            )
        problems += [
            f"features.{name}.{key}: a head reads the rows of other features and makes labels; leave {key!r} out."
            for key in ("sample", "outputs")
            if getattr(feature, key) is not None
        ]
    return [*problems, *_used_as_vectors(spec)]


def head_encoder(encoder: EncoderSpec) -> HeadEncoder:
    """The node of an encoder of kind ``head``, checked.

    Raises:
        ValidationError: when its options are wrong.
    """
    return HeadEncoder.model_validate(encoder.model_dump(exclude_none=True))


def _encoder(spec: Spec, place: str, encoder: EncoderSpec) -> Iterator[str]:
    try:
        node = head_encoder(encoder)
    except ValidationError as error:
        yield from (explain(problem, encoder.model_dump(), HeadEncoder, place) for problem in error.errors())
        return
    if node.head not in spec.heads:
        yield f"{place}.head: there is no head {node.head!r}{nearest(node.head, spec.heads)}"
        return
    yield from _inputs(spec, f"{place}.inputs", node.inputs or ())
    wanted = len(spec.heads[node.head].inputs)
    if node.inputs is not None and len(node.inputs) != wanted:
        yield f"{place}.inputs: {len(node.inputs)} inputs, but head {node.head!r} has {wanted}; name one for each."


def _zero_shot(spec: Spec, place: str, head: ZeroShotSpec) -> Iterator[str]:
    if head.feature not in spec.computed:
        said = "has no vectors, it holds labels" if head.feature in spec.features else "is not there"
        yield f"{place}.feature: {head.feature!r} {said}{nearest(head.feature, spec.computed)}"
    source = spec.sources.get(head.labels)
    if source is None or source.kind != "labels":
        sources = [name for name, each in spec.sources.items() if each.kind == "labels"]
        said = "is not there" if source is None else f"is of kind {source.kind}, not labels"
        hint = nearest(head.labels, sources) if sources else "; add sources: {NAME: {kind: labels, labels: [...]}}."
        yield f"{place}.labels: source {head.labels!r} {said}{hint}"


def _inputs(spec: Spec, place: str, inputs: Iterable[HeadInput]) -> Iterator[str]:
    sources: dict[str, str] = {}
    for number, each in enumerate(inputs):
        if each.feature not in spec.computed:
            known = nearest(each.feature, spec.computed)
            said = "has no vectors, it holds labels" if each.feature in spec.features else "is not there"
            yield f"{place}.{number}.feature: {each.feature!r} {said}{known}"
        else:
            sources.setdefault(spec.features[each.feature].source, each.feature)
    if len(sources) > 1:
        (first, one), (second, other), *_ = sources.items()
        yield (
            f"{place}: feature {one!r} is of source {first!r} and {other!r} of {second!r}; a head's inputs belong to "
            "one source, whose videos have all of them."
        )


def _used_as_vectors(spec: Spec) -> Iterator[str]:
    """Indexes and exports of features that have none."""
    for group, nodes in (("indexes", spec.indexes), ("exports", spec.exports)):
        for name, node in nodes.items():
            text = node.text if isinstance(node, PairsExport) else None
            for key, feature in (("feature", node.feature), ("text", text)):
                if feature in spec.tags:
                    known = nearest(feature, spec.computed)
                    yield f"{group}.{name}.{key}: feature {feature!r} holds labels, not vectors{known}"
