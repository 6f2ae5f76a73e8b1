"""A spec against what its encoders and sources say, without loading any model or listing any file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from cliploom.schemas.errors import SpecError, nearest
from cliploom.schemas.exports import Hdf5Export, PairsExport, TfrecordExport
from cliploom.schemas.head_references import head_encoder, tower_inputs
from cliploom.schemas.heads import HEAD, HeadInput, ZeroShotSpec
from cliploom.schemas.sources import SourceNode
from cliploom.schemas.spec import EncoderSpec, FeatureSpec, Spec
from cliploom.schemas.spec_errors import explain
from cliploom.schemas.vector_heads import EMBEDDING, DeviseSpec, TwoTowerSpec, VectorInput
from cliploom.transforms.encoders.base import EncoderOptions, Family
from cliploom.transforms.encoders.presets import with_preset
from cliploom.transforms.encoders.quantised_options import check_device, check_quantisable
from cliploom.transforms.encoders.registry import family
from cliploom.transforms.sources.registry import named_errors, source_kind
from cliploom.transforms.store.rates import rows_per_second


@dataclass(frozen=True)
class CheckedEncoder:
    """An encoder node whose options its family has accepted."""

    name: str
    spec: EncoderSpec
    family: Family
    options: EncoderOptions


def check_encoders(spec: Spec, base: Path = Path()) -> dict[str, CheckedEncoder]:
    """Options, outputs and samplings against what the encoders' families say, without loading any model.

    Args:
        spec: checked by itself.
        base: folder that relative paths in options start from.

    Raises:
        SpecError: naming every problem.
    """
    problems: list[str] = []
    checked: dict[str, CheckedEncoder] = {}
    for name, node in spec.encoders.items():
        place = f"encoders.{name}"
        if node.kind == HEAD:
            # it needs no weights; the references are checked with the spec
            problems += [f"{place}.preset: a head has no presets; leave it out."] if node.preset is not None else []
            continue
        try:
            kind = family(node.kind)
        except SpecError as error:
            problems.append(f"{place}.kind: {str(error)[:1].lower()}{str(error)[1:]}")
            continue
        values = node.options
        try:
            values = with_preset(node.kind, node.preset, values)
            options = kind.located(kind.Options.model_validate(values), base)
        except ValidationError as error:
            problems += [explain(problem, values, kind.Options, place) for problem in error.errors()]
            continue
        except SpecError as error:
            problems.append(f"{place}.preset: {str(error)[:1].lower()}{str(error)[1:]}")
            continue
        checked[name] = CheckedEncoder(name, node, kind, options)
        if (refused := check_quantisable(kind, options)) != "":
            problems.append(f"{place}.precision: {refused}.")
        if (refused := check_device(kind, options)) != "":
            problems.append(f"{place}.device: {refused}.")
        if node.text_encoder is not None and not kind.TEXT_ENCODER:
            problems.append(
                f"{place}.text_encoder: the encoder kind {node.kind!r} takes no text_encoder; leave it out."
            )
    for name, encoder in checked.items():
        named = checked.get(encoder.spec.text_encoder or "")
        if named is not None and named.family.modality(named.options) != "text":
            problems.append(
                f"encoders.{name}.text_encoder: {named.name!r} does not encode text; name one that does, "
                "such as an encoder of kind minilm."
            )
    for name, feature in spec.computed.items():
        wanted = checked.get(feature.encoder) if feature.encoder else None
        if spec.sources[feature.source].own_vectors:
            problems += _check_own_outputs(f"features.{name}.outputs", feature, spec)
        elif wanted is not None:
            problems += _check_feature(f"features.{name}", feature, wanted, spec.sources[feature.source])
    if not problems:
        problems += _check_outputs(spec, checked)
    if problems:
        raise SpecError("\n".join(problems))
    return checked


def _check_feature(place: str, feature: FeatureSpec, encoder: CheckedEncoder, source: SourceNode) -> list[str]:
    problems = []
    known = output_names(encoder)
    for output in feature.outputs or ():
        if output not in known:
            hint = ""
            if output == "semantic" and encoder.spec.text_encoder is None:
                hint = f" It needs encoders.{encoder.name}.text_encoder, such as an encoder of kind minilm."
            problems.append(
                f"{place}.outputs: encoder {encoder.name!r} has no output {output!r}{nearest(output, known)}{hint}"
            )
    if len(set(feature.outputs or ())) != len(feature.outputs or ()):
        problems.append(f"{place}.outputs: {feature.outputs} names an output twice.")
    modality = encoder.family.modality(encoder.options)
    texts = source.content == "texts"
    if texts and modality != "text":
        problems.append(
            f"{place}.encoder: {encoder.name!r} encodes {modality}s, but source {feature.source!r} holds texts; "
            "name one for text, such as an encoder of kind minilm."
        )
    elif texts and feature.sample is not None:
        problems.append(f"{place}.sample: source {feature.source!r} holds texts, which are not sampled; leave it out.")
    elif not texts and modality == "text":
        problems.append(f"{place}.encoder: {encoder.name!r} encodes text, but the source holds media.")
    elif modality == "clip" and feature.sample is not None and not feature.sample.windowed:
        problems.append(
            f"{place}.sample: encoder {encoder.name!r} takes clips; use a window, such as "
            "{window: {frames: 32, stride: 16, fps: 30}} or {first: {frames: 32}}."
        )
    repeats = feature.sample.repeats if feature.sample is not None else None
    kept = feature.outputs or known
    if repeats is not None and repeats.output is not None and repeats.output not in kept:
        problems.append(
            f"{place}.sample.distinct.output: the feature keeps no output {repeats.output!r}"
            f"{nearest(repeats.output, kept)}"
        )
    return problems


def output_names(encoder: CheckedEncoder) -> tuple[str, ...]:
    """Names of an encoder's outputs."""
    return encoder.family.output_names(encoder.options, encoder.spec.text_encoder is not None)


def own_outputs(source: SourceNode) -> dict[str, int]:
    """Name and width of the outputs of a source that brings vectors of its own."""
    with named_errors(source.kind, "name its outputs"):
        return source_kind(source.kind).outputs(source)


def own_texts(source: SourceNode) -> tuple[str, ...]:
    """Names of the texts that stand beside a source's own vectors."""
    with named_errors(source.kind, "name its texts"):
        return source_kind(source.kind).texts(source)


def _check_own_outputs(place: str, feature: FeatureSpec, spec: Spec) -> list[str]:
    source = spec.sources[feature.source]
    vectors = own_outputs(source)
    known = [*vectors, *own_texts(source)]
    problems = [
        f"{place}: source {feature.source!r} has no output {output!r}{nearest(output, known)}"
        for output in feature.outputs or ()
        if output not in known
    ]
    if feature.outputs and not problems and not set(feature.outputs) & set(vectors):
        problems.append(
            f"{place}: {', '.join(feature.outputs)} are texts; keep a vector, too, such as {min(vectors)!r}."
        )
    return problems


def feature_outputs(feature: FeatureSpec, spec: Spec, checked: Mapping[str, CheckedEncoder]) -> tuple[str, ...]:
    """Names of the outputs that a feature keeps."""
    source = spec.sources[feature.source]
    if feature in spec.projections.values():
        return (EMBEDDING,)
    if feature.outputs:
        return tuple(output for output in feature.outputs if output not in own_texts(source))
    return tuple(own_outputs(source)) if feature.encoder is None else output_names(checked[feature.encoder])


def feature_texts(feature: FeatureSpec, spec: Spec) -> tuple[str, ...]:
    """Names of the texts that a feature keeps beside its outputs."""
    texts = own_texts(spec.sources[feature.source])
    return tuple(name for name in texts if not feature.outputs or name in feature.outputs)


def _check_outputs(spec: Spec, checked: Mapping[str, CheckedEncoder]) -> list[str]:
    problems = _check_heads(spec, checked)
    for group, nodes in (("indexes", spec.indexes), ("exports", spec.exports)):
        for name, node in nodes.items():
            feature = spec.features[node.feature]
            known = feature_outputs(feature, spec, checked)
            if node.output is None and group == "indexes" and len(known) > 1 and "semantic" not in known:
                problems.append(
                    f"{group}.{name}.output is missing; feature {node.feature!r} has {', '.join(known)}: name one."
                )
            elif isinstance(node, TfrecordExport):
                problems += _check_tfrecord_export(name, node, known)
            elif isinstance(node, Hdf5Export) and spec.sources[feature.source].records:
                problems.append(
                    f"{group}.{name}.kind: hdf5 holds an array an item, but the items of source {feature.source!r} are "
                    "shards; use kind tfrecord, or read the feature's table."
                )
            elif node.output is not None and node.output not in known:
                problems.append(
                    f"{group}.{name}.output: feature {node.feature!r} has no output {node.output!r}"
                    f"{nearest(node.output, known)}"
                )
            if isinstance(node, PairsExport):
                problems += _check_pairs(f"{group}.{name}", node, spec, checked)
    return problems


def _check_heads(spec: Spec, checked: Mapping[str, CheckedEncoder]) -> list[str]:
    named: list[tuple[str, Sequence[HeadInput | VectorInput]]] = []
    problems = []
    for name, head in spec.heads.items():
        if isinstance(head, TwoTowerSpec):
            named += [(f"heads.{name}", tower_inputs(spec, head))] if head.pairs is None else []
            problems += _check_towers(name, head, spec) if head.pairs is None else []
            continue
        named.append((f"heads.{name}.inputs", head.inputs))
        if isinstance(head, DeviseSpec):
            text = checked[head.text_encoder]
            if text.family.modality(text.options) != "text":
                problems.append(
                    f"heads.{name}.text_encoder: {head.text_encoder!r} does not encode text; name one that does, "
                    "such as an encoder of kind minilm."
                )
        else:
            named.append((f"heads.{name}.validation", head.validation or []))
    own = {f"heads.{name}.inputs" for name, head in spec.heads.items() if isinstance(head, ZeroShotSpec)}
    nodes = {name: head_encoder(node) for name, node in spec.encoders.items() if node.kind == HEAD}
    named += [(f"encoders.{name}.inputs", node.inputs or []) for name, node in nodes.items()]
    for place, inputs in named:
        for number, each in enumerate(inputs):
            known = feature_outputs(spec.features[each.feature], spec, checked)
            if isinstance(each, HeadInput):
                known += feature_texts(spec.features[each.feature], spec)
            step = number if isinstance(each, HeadInput) else ("clip", "text")[number]
            here, feature = f"{place}.{step}.output", repr(each.feature)
            if place in own:
                here = here.replace(".inputs.0.", ".")
            if each.output is None and len(known) > 1:
                problems.append(f"{here} is missing; feature {feature} has {', '.join(known)}: name one.")
            elif each.output is not None and each.output not in known:
                problems.append(f"{here}: feature {feature} has no output {each.output!r}{nearest(each.output, known)}")
    return problems


def _check_towers(name: str, head: TwoTowerSpec, spec: Spec) -> list[str]:
    """The features of a head that joins them itself, as an export of pairs would."""
    clip, text = tower_inputs(spec, head)
    export = PairsExport(kind="pairs", feature=clip.feature, text=text.feature)
    found = _check_pairs("", export, spec, {})
    return [
        problem.replace(".feature:", f"heads.{name}.clip.feature:", 1).replace(".text:", f"heads.{name}.text:", 1)
        for problem in found
    ]


def _check_pairs(place: str, export: PairsExport, spec: Spec, checked: Mapping[str, CheckedEncoder]) -> list[str]:
    problems = []
    texts, clips = spec.features[export.text], spec.features[export.feature]
    narrations = spec.sources[texts.source]
    if not narrations.about_media:
        problems.append(f"{place}.text: feature {export.text!r} is not of narrations; name one that is.")
    source = spec.sources[clips.source]
    on_grid = source.on_grid
    if clips.sample is not None:
        on_grid = rows_per_second({"sample": clips.sample.model_dump(mode="json")}) > 0
    # Rows as they come have no place for a moment; texts without times need none, they pair with the whole clip.
    if (narrations.timed and not on_grid) or source.content == "texts" or source.records:
        problems.append(
            f"{place}.feature: the rows of {export.feature!r} do not lie on a grid of time; sample it with "
            "{every: 1s} or {window: {frames: 32, stride: 16, fps: 30}}, both without distinct, or pair it with texts "
            'without times (format tgif, or columns: {start: ""}).'
        )
    known = feature_outputs(texts, spec, checked) if export.text_output is not None else ()
    if export.text_output is not None and export.text_output not in known:
        problems.append(
            f"{place}.text_output: feature {export.text!r} has no output {export.text_output!r}"
            f"{nearest(export.text_output, known)}"
        )
    return problems


def _check_tfrecord_export(name: str, export: TfrecordExport, outputs: tuple[str, ...]) -> list[str]:
    from cliploom.transforms.tfrecords.export import chosen_outputs

    try:
        chosen_outputs(name, export, outputs)
    except SpecError as error:
        return [str(error)]
    return []


def missing_devices(checked: Mapping[str, CheckedEncoder]) -> dict[str, str]:
    """What to say of encoders that ask for a device which this machine does not have, by encoder."""
    wanted = {name: encoder.options.device for name, encoder in checked.items() if encoder.options.device != "cpu"}
    if not wanted:
        return {}
    from cliploom.transforms.encoders.accelerators import missing_accelerator

    why = missing_accelerator()
    if not why:
        return {}
    then = {"cuda": "workers on such a machine stop the run", "auto": "workers on such a machine use their processor"}
    return {
        name: f"encoders.{name}.device: {asked} is not to be had here: {why}; {then[asked]}."
        for name, asked in wanted.items()
    }
