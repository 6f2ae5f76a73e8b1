"""Checks of heads against the rest of the spec: names that exist, consistent sources, no cycles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydantic import ValidationError

from cliploom.schemas.errors import nearest
from cliploom.schemas.exports import PairsExport
from cliploom.schemas.heads import HEAD, HeadEncoder, HeadInput, HeadSpec, ZeroShotSpec
from cliploom.schemas.spec import EncoderSpec, FeatureSpec, Spec
from cliploom.schemas.spec_errors import explain
from cliploom.schemas.vector_heads import DeviseSpec, TwoTowerSpec, VectorInput


def head_problems(spec: Spec) -> list[str]:
    """Yield sentences about all errors of heads, of encoders that apply them, and of their features."""
    problems: list[str] = []
    for name, head in spec.heads.items():
        if isinstance(head, ZeroShotSpec):
            problems += _zero_shot(spec, f"heads.{name}", head)
            continue
        if isinstance(head, TwoTowerSpec):
            problems += two_tower_problems(spec, name, head)
            continue
        problems += _inputs(spec, f"heads.{name}.inputs", head.inputs)
        if isinstance(head, DeviseSpec):
            problems += _text_encoder(spec, f"heads.{name}.text_encoder", head.text_encoder)
        else:
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
        head = spec.heads[node.head]
        if not isinstance(head, HeadSpec | ZeroShotSpec):
            continue
        found = spec.features[(node.inputs or head.inputs)[0].feature].source
        if found != feature.source:
            problems.append(
                f"features.{name}.source: encoder {feature.encoder!r} reads features of source {found!r}, not of "
                f"{feature.source!r}; give the encoder 'inputs' of that source."
            )
        problems += [
            f"features.{name}.{key}: a head reads the rows of other features and predicts labels; remove {key!r}."
            for key in ("sample", "outputs")
            if getattr(feature, key) is not None
        ]
    for name, feature in spec.projections.items():
        problems += _projection(spec, name, feature)
    return [*problems, *_used_as_vectors(spec)]


def head_encoder(encoder: EncoderSpec) -> HeadEncoder:
    """Return the checked node of an encoder of kind ``head``.

    Raises:
        ValidationError: its options are wrong.
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
    head = spec.heads[node.head]
    if not isinstance(head, HeadSpec | ZeroShotSpec):
        if node.inputs is not None and len(node.inputs) != 1:
            yield f"{place}.inputs: {len(node.inputs)} inputs; a head of kind {head.kind} reads one."
        return
    wanted = len(head.inputs)
    if node.inputs is not None and len(node.inputs) != wanted:
        yield f"{place}.inputs: {len(node.inputs)} inputs, but head {node.head!r} has {wanted}; name one for each."


def _zero_shot(spec: Spec, place: str, head: ZeroShotSpec) -> Iterator[str]:
    if head.feature not in spec.with_vectors:
        said = "has no vectors, it holds labels" if head.feature in spec.features else "is not there"
        yield f"{place}.feature: {head.feature!r} {said}{nearest(head.feature, spec.with_vectors)}"
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
            said = "is not there"
            if each.feature in spec.features:
                tags = each.feature in spec.tags
                said = "has no vectors, it holds labels" if tags else "is made by a head; name what that head reads"
            yield f"{place}.{number}.feature: {each.feature!r} {said}{known}"
        else:
            sources.setdefault(spec.features[each.feature].source, each.feature)
    if len(sources) > 1:
        (first, one), (second, other), *_ = sources.items()
        yield (
            f"{place}: feature {one!r} is of source {first!r} and {other!r} of {second!r}; a head's inputs belong to "
            "one source, whose videos have all of them."
        )


def two_tower_problems(spec: Spec, name: str, head: TwoTowerSpec) -> Iterator[str]:
    """Yield errors in the pairs or features named by a head of kind two_tower."""
    place = f"heads.{name}"
    if head.pairs is not None:
        export = spec.exports.get(head.pairs)
        known = [other for other, node in spec.exports.items() if isinstance(node, PairsExport)]
        if not isinstance(export, PairsExport):
            said = "is not of kind pairs" if export is not None else "is not there"
            yield f"{place}.pairs: export {head.pairs!r} {said}{nearest(head.pairs, known)}"
        elif export.format == "tutorial":
            yield f"{place}.pairs: export {head.pairs!r} has the tutorial's format; use format: hdf5."
        elif export.feature not in spec.computed or export.text not in spec.computed:
            yield f"{place}.pairs: export {head.pairs!r} is of a feature that is made by a head; pair what it reads."
        elif export.pool != "mean":
            yield f"{place}.pairs: export {head.pairs!r} takes several rows a pair; use pool: mean."
        return
    for side in ("clip", "text"):
        given = getattr(head, side)
        if given is not None and given.feature not in spec.computed:
            yield f"{place}.{side}.feature: {given.feature!r} is not there{nearest(given.feature, spec.computed)}"


def tower_inputs(spec: Spec, head: TwoTowerSpec) -> tuple[VectorInput, VectorInput]:
    """Return the clip and the text feature of a head of kind two_tower."""
    if head.clip is not None and head.text is not None:
        return head.clip, head.text
    export = spec.exports[str(head.pairs)]
    if not isinstance(export, PairsExport):
        raise TypeError(f"export {head.pairs!r} is of kind {export.kind}")
    return (
        VectorInput(feature=export.feature, output=export.output),
        VectorInput(feature=export.text, output=export.text_output),
    )


def projected_input(spec: Spec, feature: FeatureSpec) -> tuple[str, VectorInput]:
    """Return the tower (``clip`` or ``text``) that a feature made by a head uses, and its input.

    Raises:
        LookupError: the head reads no feature of the feature's source; the message names the possible sources.
    """
    node = head_encoder(spec.encoders[str(feature.encoder)])
    head = spec.heads[node.head]
    inputs = (
        {"clip": VectorInput(feature=head.inputs[0].feature, output=head.inputs[0].output)}
        if isinstance(head, DeviseSpec)
        else {}
    )
    if isinstance(head, TwoTowerSpec):
        inputs = dict(zip(("clip", "text"), tower_inputs(spec, head), strict=True))
    texts = "text" in inputs and spec.sources[feature.source].content == "texts"
    if node.inputs is not None:
        given = VectorInput(feature=node.inputs[0].feature, output=node.inputs[0].output)
        inputs = {"text" if texts else "clip": given}
    for side, each in inputs.items():
        if spec.features[each.feature].source == feature.source:
            return side, each
    raise LookupError(" or ".join(repr(spec.features[each.feature].source) for each in inputs.values()))


def _projection(spec: Spec, name: str, feature: FeatureSpec) -> Iterator[str]:
    place = f"features.{name}"
    for key in ("sample", "outputs"):
        if getattr(feature, key) is not None:
            yield f"{place}.{key}: a head reads the rows of another feature; remove {key!r}."
    try:
        projected_input(spec, feature)
    except LookupError as error:
        yield (
            f"{place}.source: encoder {feature.encoder!r} reads features of source {error.args[0]}, not of "
            f"{feature.source!r}; give the encoder 'inputs' of that source."
        )
    if spec.sources[feature.source].records:
        yield f"{place}.source: {feature.source!r} holds records; a head gives vectors for rows of media and texts."


def _text_encoder(spec: Spec, place: str, name: str) -> Iterator[str]:
    if name not in spec.encoders:
        yield f"{place}: there is no encoder {name!r}{nearest(name, spec.encoders)}"
    elif spec.encoders[name].kind == HEAD:
        yield f"{place}: {name!r} is a head; name an encoder of texts, such as one of kind minilm."


def _used_as_vectors(spec: Spec) -> Iterator[str]:
    """Yield errors about indexes and exports of features without vectors."""
    for group, nodes in (("indexes", spec.indexes), ("exports", spec.exports)):
        for name, node in nodes.items():
            text = node.text if isinstance(node, PairsExport) else None
            for key, feature in (("feature", node.feature), ("text", text)):
                if feature in spec.tags:
                    known = nearest(feature, spec.computed)
                    yield f"{group}.{name}.{key}: feature {feature!r} holds labels, not vectors{known}"
