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
from schemas.jobs import FeatureJob
from schemas.models import ModelCard
from schemas.spec import EncoderSpec, FeatureSpec, IndexSpec, Spec
from schemas.spec_file import explain
from transforms.encoders.base import EncoderOptions, Family, PreparedText
from transforms.encoders.registry import family, load_text_tower
from transforms.store.objects import Objects


@dataclass(frozen=True)
class CheckedEncoder:
    """An encoder node whose options its family has accepted."""

    name: str
    spec: EncoderSpec
    family: Family
    options: EncoderOptions


def check_encoders(spec: Spec) -> dict[str, CheckedEncoder]:
    """Options, outputs and samplings against what the encoders' families say, without loading any model.

    Raises:
        SpecError: naming every problem.
    """
    problems: list[str] = []
    checked: dict[str, CheckedEncoder] = {}
    for name, node in spec.encoders.items():
        place = f"encoders.{name}"
        try:
            kind = family(node.kind)
            options = kind.Options.model_validate(node.options)
        except ValidationError as error:
            problems += [explain(problem, node.options, kind.Options, place) for problem in error.errors()]
            continue
        except SpecError as error:
            problems.append(f"{place}.kind: {error}")
            continue
        checked[name] = CheckedEncoder(name, node, kind, options)
        if node.text_encoder is not None and not kind.TEXT_ENCODER:
            problems.append(
                f"{place}.text_encoder: the encoder kind {node.kind!r} takes no text_encoder; leave it out."
            )
    for name, feature in spec.features.items():
        encoder = checked.get(feature.encoder)
        if encoder is not None:
            problems += _check_feature(f"features.{name}", feature, encoder)
    if not problems:
        problems += _check_outputs(spec, checked)
    if problems:
        raise SpecError("\n".join(problems))
    return checked


def _check_feature(place: str, feature: FeatureSpec, encoder: CheckedEncoder) -> list[str]:
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
    if modality == "text":
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


def feature_outputs(feature: FeatureSpec, encoder: CheckedEncoder) -> tuple[str, ...]:
    """Names of the outputs that a feature keeps."""
    return tuple(feature.outputs) if feature.outputs else output_names(encoder)


def _check_outputs(spec: Spec, checked: Mapping[str, CheckedEncoder]) -> list[str]:
    problems = []
    for group, nodes in (("indexes", spec.indexes), ("exports", spec.exports)):
        for name, node in nodes.items():
            feature = spec.features[node.feature]
            known = feature_outputs(feature, checked[feature.encoder])
            if node.output is None and group == "indexes" and len(known) > 1 and "semantic" not in known:
                problems.append(
                    f"{group}.{name}.output is missing; feature {node.feature!r} has {', '.join(known)}: name one."
                )
            elif node.output is not None and node.output not in known:
                problems.append(
                    f"{group}.{name}.output: feature {node.feature!r} has no output {node.output!r}"
                    f"{nearest(node.output, known)}"
                )
    return problems


@dataclass(frozen=True)
class Resolved:
    """A spec made ready to plan.

    Attributes:
        jobs: by feature.
        recipes: by feature, what its config digest was made from.
        indexes: with their outputs filled in.
    """

    jobs: dict[str, FeatureJob]
    recipes: dict[str, dict[str, Any]]
    indexes: dict[str, IndexSpec]


def resolve(spec: Spec, objects: Objects) -> Resolved:
    """Prepare the models that features need, in the store, and name every feature's table.

    Raises:
        SpecError: for a spec that its encoders refuse.
        CliploomError: when weights are missing or a model agrees too little with its original.
    """
    checked = check_encoders(spec)
    if not spec.features:
        raise SpecError("features is empty: nothing to compute; add one, such as frames: {source: ..., encoder: ...}.")
    cards: dict[str, ModelCard] = {}
    if objects.root is not None:
        models = objects.root / "models"
        for feature in spec.features.values():
            _prepare(feature.encoder, checked, models, cards)
    else:
        from transforms.models import upload_model

        with tempfile.TemporaryDirectory(prefix="cliploom-models-") as folder:
            for feature in spec.features.values():
                _prepare(feature.encoder, checked, Path(folder), cards)
            for card in cards.values():
                upload_model(objects, Path(folder) / card.digest)
    jobs, recipes = {}, {}
    for name, feature in spec.features.items():
        jobs[name], recipes[name] = _job(name, feature, spec, checked[feature.encoder], cards[feature.encoder])
    indexes = {
        name: index.model_copy(update={"output": index.output or _default_output(jobs[index.feature])})
        for name, index in spec.indexes.items()
    }
    return Resolved(jobs, recipes, indexes)


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
    from transforms.media import sampling, scale

    source = spec.sources[feature.source]
    outputs = {output: card.outputs[output].dim for output in feature_outputs(feature, encoder)}
    stereo = source.stereo or ""
    values = {
        "sample": feature.sample.model_dump(mode="json") if feature.sample is not None else None,
        "model": card.digest,
        "outputs": sorted(outputs),
        "stereo": stereo,
        "revisions": {"sampling": sampling.REVISION, "pixels": scale.REVISION},
    }
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
    for key in ("sample", "outputs", "stereo", "revisions"):
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
