"""From a checked spec to jobs: encoder options checked by their families, models prepared, config digests made."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from schemas.digests import SHORT, digest_of
from schemas.errors import SpecError, nearest
from schemas.exports import Export, Hdf5Export, PairsExport, TfrecordExport
from schemas.jobs import FeatureJob
from schemas.models import ModelCard
from schemas.sources import MediaSource, NarrationsSource, PrecomputedSource, Source, TfrecordSource
from schemas.spec import EncoderSpec, FeatureSpec, IndexSpec, Spec
from schemas.spec_errors import explain
from transforms.encoders.base import EncoderOptions, Family, PreparedText
from transforms.encoders.registry import family, load_text_tower
from transforms.rates import rows_per_second
from transforms.store.objects import Objects

TEXT_KINDS = ("narrations", "labels")
"""Kinds of sources whose items are texts."""


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
        try:
            kind = family(node.kind)
            options = kind.located(kind.Options.model_validate(node.options), base)
        except ValidationError as error:
            problems += [explain(problem, node.options, kind.Options, place) for problem in error.errors()]
            continue
        except SpecError as error:
            problems.append(f"{place}.kind: {str(error)[:1].lower()}{str(error)[1:]}")
            continue
        checked[name] = CheckedEncoder(name, node, kind, options)
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
    for name, feature in spec.features.items():
        wanted = checked.get(feature.encoder) if feature.encoder else None
        if spec.sources[feature.source].own_vectors:
            problems += _check_own_outputs(f"features.{name}.outputs", feature, spec)
        elif wanted is not None:
            problems += _check_feature(f"features.{name}", feature, wanted, spec.sources[feature.source].kind)
    if not problems:
        problems += _check_outputs(spec, checked)
    if problems:
        raise SpecError("\n".join(problems))
    return checked


def _check_feature(place: str, feature: FeatureSpec, encoder: CheckedEncoder, kind: str) -> list[str]:
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
    if kind in TEXT_KINDS and modality != "text":
        problems.append(
            f"{place}.encoder: {encoder.name!r} encodes {modality}s, but source {feature.source!r} holds texts; "
            "name one for text, such as an encoder of kind minilm."
        )
    elif kind in TEXT_KINDS and feature.sample is not None:
        problems.append(f"{place}.sample: source {feature.source!r} holds texts, which are not sampled; leave it out.")
    elif kind not in TEXT_KINDS and modality == "text":
        problems.append(f"{place}.encoder: {encoder.name!r} encodes text, but the source holds media.")
    elif modality == "clip" and feature.sample is not None and not feature.sample.windowed:
        problems.append(
            f"{place}.sample: encoder {encoder.name!r} takes clips; use a window, such as "
            "{window: {frames: 32, stride: 16, fps: 30}} or {first: {frames: 32}}."
        )
    return problems


def output_names(encoder: CheckedEncoder) -> tuple[str, ...]:
    """Names of an encoder's outputs."""
    return encoder.family.output_names(encoder.options, encoder.spec.text_encoder is not None)


def own_outputs(source: Source) -> dict[str, int]:
    """Name and width of the outputs of a source that brings vectors of its own."""
    if isinstance(source, TfrecordSource):
        from transforms.tfrecords.settings import ShardSettings

        return ShardSettings.of(source, None).outputs
    if isinstance(source, PrecomputedSource):
        return {source.output: source.dim}
    raise TypeError(f"a source of kind {source.kind!r} brings no vectors")


def _check_own_outputs(place: str, feature: FeatureSpec, spec: Spec) -> list[str]:
    known = own_outputs(spec.sources[feature.source])
    return [
        f"{place}: source {feature.source!r} has no output {output!r}{nearest(output, known)}"
        for output in feature.outputs or ()
        if output not in known
    ]


def feature_outputs(feature: FeatureSpec, spec: Spec, checked: Mapping[str, CheckedEncoder]) -> tuple[str, ...]:
    """Names of the outputs that a feature keeps."""
    if feature.outputs:
        return tuple(feature.outputs)
    source = spec.sources[feature.source]
    return tuple(own_outputs(source)) if feature.encoder is None else output_names(checked[feature.encoder])


def _check_outputs(spec: Spec, checked: Mapping[str, CheckedEncoder]) -> list[str]:
    problems = []
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
            elif isinstance(node, Hdf5Export) and isinstance(spec.sources[feature.source], TfrecordSource):
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


def _check_pairs(place: str, export: PairsExport, spec: Spec, checked: Mapping[str, CheckedEncoder]) -> list[str]:
    problems = []
    texts, clips = spec.features[export.text], spec.features[export.feature]
    if spec.sources[texts.source].kind != "narrations":
        problems.append(f"{place}.text: feature {export.text!r} is not of narrations; name one that is.")
    source = spec.sources[clips.source]
    on_grid = isinstance(source, PrecomputedSource)
    if clips.sample is not None:
        on_grid = rows_per_second({"sample": clips.sample.model_dump(mode="json")}) > 0
    if not on_grid:
        problems.append(
            f"{place}.feature: the rows of {export.feature!r} do not lie on a grid of time; sample it with "
            "{every: 1s} or {window: {frames: 32, stride: 16, fps: 30}}."
        )
    known = feature_outputs(texts, spec, checked)
    if export.text_output is not None and export.text_output not in known:
        problems.append(
            f"{place}.text_output: feature {export.text!r} has no output {export.text_output!r}"
            f"{nearest(export.text_output, known)}"
        )
    return problems


def _check_tfrecord_export(name: str, export: TfrecordExport, outputs: tuple[str, ...]) -> list[str]:
    from transforms.tfrecords.export import chosen_outputs

    try:
        chosen_outputs(name, export, outputs)
    except SpecError as error:
        return [str(error)]
    return []


@dataclass(frozen=True)
class Resolved:
    """A spec made ready to plan.

    Attributes:
        jobs: by feature.
        recipes: by feature, what its config digest was made from.
        indexes: with their outputs filled in.
        exports: with the files that they name kept in the store.
    """

    jobs: dict[str, FeatureJob]
    recipes: dict[str, dict[str, Any]]
    indexes: dict[str, IndexSpec]
    exports: dict[str, Export]


def resolve(spec: Spec, objects: Objects, base: Path = Path()) -> Resolved:
    """Prepare the models that features need, in the store, and name every feature's table.

    Args:
        spec: checked.
        objects: the store.
        base: folder that the spec's relative paths start from.

    Raises:
        SpecError: for a spec that its encoders refuse.
        CliploomError: when weights are missing or a model agrees too little with its original.
    """
    checked = check_encoders(spec, base)
    if not spec.features:
        raise SpecError("features is empty: nothing to compute; add one, such as frames: {source: ..., encoder: ...}.")
    cards: dict[str, ModelCard] = {}
    encoders = [feature.encoder for feature in spec.features.values() if feature.encoder is not None]
    if objects.root is not None:
        models = objects.root / "models"
        for encoder in encoders:
            _prepare(encoder, checked, models, cards)
    else:
        from transforms.models import upload_model

        with tempfile.TemporaryDirectory(prefix="cliploom-models-") as folder:
            for encoder in encoders:
                _prepare(encoder, checked, Path(folder), cards)
            for card in cards.values():
                upload_model(objects, Path(folder) / card.digest)
    jobs, recipes = {}, {}
    for name, feature in spec.features.items():
        source = spec.sources[feature.source]
        if isinstance(source, TfrecordSource):
            jobs[name], recipes[name] = _shards_job(name, feature, source, base)
        elif isinstance(source, PrecomputedSource):
            jobs[name], recipes[name] = _precomputed_job(name, feature, source)
        elif feature.encoder is not None:
            jobs[name], recipes[name] = _job(name, feature, spec, checked[feature.encoder], cards[feature.encoder])
    indexes = {
        name: index.model_copy(update={"output": index.output or _default_output(jobs[index.feature])})
        for name, index in spec.indexes.items()
    }
    return Resolved(jobs, recipes, indexes, _stored_exports(spec, base, objects))


def _stored_exports(spec: Spec, base: Path, objects: Objects) -> dict[str, Export]:
    exports: dict[str, Export] = dict(spec.exports)
    for name, export in spec.exports.items():
        if isinstance(export, PairsExport):
            from transforms.narrations.pairs_export import with_stored_lists

            exports[name] = with_stored_lists(export, base, objects, f"exports.{name}")
        if isinstance(export, TfrecordExport):
            from transforms.tfrecords.export import with_stored_matrices

            exports[name] = with_stored_matrices(export, base, objects, name)
    return exports


def _default_output(job: FeatureJob) -> str:
    return "semantic" if "semantic" in job.outputs else next(iter(job.outputs))


def _prepare(
    name: str, checked: Mapping[str, CheckedEncoder], models: Path, cards: dict[str, ModelCard]
) -> PreparedText | None:
    """Prepare one encoder after its text encoder; returns it as a text encoder where another needs it as such."""
    from transforms.encoders.prepare import prepare_model

    encoder = checked[name]
    text = None
    if encoder.spec.text_encoder is not None:
        text = _prepare(encoder.spec.text_encoder, checked, models, cards)
    folder, cards[name] = prepare_model(encoder.spec.kind, encoder.options, models, text)
    if cards[name].modality != "text":
        return None
    # Opened only when something is prepared with it: on most nights every model is there already.
    return PreparedText(folder, cards[name], lambda texts: load_text_tower(folder)(texts))


def _job(
    name: str, feature: FeatureSpec, spec: Spec, encoder: CheckedEncoder, card: ModelCard
) -> tuple[FeatureJob, dict[str, Any]]:
    source = spec.sources[feature.source]
    outputs = {output: card.outputs[output].dim for output in feature.outputs or output_names(encoder)}
    values = _source_values(source, feature) | {"model": card.digest, "outputs": sorted(outputs)}
    config = digest_of(values)
    text = encoder.spec.text_encoder
    recipe = values | {
        "encoder": {"name": encoder.name, "kind": encoder.spec.kind, "text_encoder": text}
        | encoder.options.model_dump(mode="json")
    }
    job = FeatureJob(
        name=name,
        source=feature.source,
        kind=source.kind,
        settings=source.model_dump_json(),
        config=config,
        table=f"features/{name}/{config[:SHORT]}",
        model=f"models/{card.digest}",
        card=card,
        outputs=outputs,
        sampling=feature.sample,
    )
    return job, recipe


def _precomputed_job(name: str, feature: FeatureSpec, source: PrecomputedSource) -> tuple[FeatureJob, dict[str, Any]]:
    """The job of a feature that others computed."""
    from transforms.precomputed import read

    outputs = own_outputs(source)
    values = {
        "window": source.window.model_dump(mode="json"),
        "outputs": outputs,
        "key": source.key,
        "revisions": {"read": read.REVISION},
    }
    config = digest_of(values)
    job = FeatureJob(
        name=name,
        source=feature.source,
        kind=source.kind,
        settings=source.model_dump_json(),
        config=config,
        table=f"features/{name}/{config[:SHORT]}",
        model="",
        card=None,
        outputs=outputs,
    )
    return job, values


def _source_values(source: Source, feature: FeatureSpec) -> dict[str, Any]:
    """What of a source, and of how it is read, a feature's values depend on."""
    if isinstance(source, NarrationsSource):
        from transforms.narrations import text
        from transforms.narrations.readers import rules_of

        rules = [list(pair) for pair in rules_of(source).replace]
        return {"rules": rules, "order": source.order, "revisions": {"texts": text.REVISION}}
    if not isinstance(source, MediaSource):
        return {}
    from transforms.media import sampling, scale

    return {
        "sample": feature.sample.model_dump(mode="json") if feature.sample is not None else None,
        "stereo": source.stereo or "",
        "revisions": {"sampling": sampling.REVISION, "pixels": scale.REVISION},
    }


def _shards_job(
    name: str, feature: FeatureSpec, source: TfrecordSource, base: Path
) -> tuple[FeatureJob, dict[str, Any]]:
    """The job of a feature whose vectors stand in TFRecords."""
    from transforms.tfrecords.settings import source_settings

    settings = source_settings(source, base, f"sources.{feature.source}")
    outputs = {output: settings.outputs[output] for output in feature.outputs or settings.outputs}
    values = {"records": settings.recipe(), "outputs": sorted(outputs)}
    config = digest_of(values)
    job = FeatureJob(
        name=name,
        source=feature.source,
        kind=source.kind,
        settings=settings.to_json(),
        config=config,
        table=f"features/{name}/{config[:SHORT]}",
        model="",
        card=None,
        outputs=outputs,
        compact=tuple(output for output in outputs if output in settings.compact),
        records=True,
    )
    return job, values


def describe_change(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Sentence that says how a feature's config differs from the last release's, for reasons a person reads.

    >>> describe_change({"encoder": {"name": "lite0", "precision": "f32"}}, {"encoder": {"name": "lite0", "precision": "bf16"}})
    'encoder lite0: precision f32 -> bf16'
    """
    changes = []
    before, after = old.get("encoder", {}), new.get("encoder", {})
    if before.get("name") != after.get("name") and before.get("kind") != after.get("kind"):
        changes.append(f"encoder {before.get('name')} -> {after.get('name')}")
    else:
        for key in sorted({*before, *after} - {"name"}):
            if before.get(key) != after.get(key):
                changes.append(
                    f"encoder {after.get('name')}: {key} {_text(before.get(key))} -> {_text(after.get(key))}"
                )
    for key in ("sample", "window", "rules", "order", "key", "outputs", "stereo", "revisions", "records"):
        if old.get(key) != new.get(key):
            changes.append(f"{key} {_text(old.get(key))} -> {_text(new.get(key))}")
    if not changes and old.get("model") != new.get("model"):
        changes.append("the model's weights or revision changed")
    return "; ".join(changes)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key} {_text(inner)}" for key, inner in value.items() if inner is not None)
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return "none" if value in (None, "") else str(value)
