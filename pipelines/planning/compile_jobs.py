"""From a checked spec to jobs: encoder options checked by their families, models prepared, config digests made."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cliploom.pipelines.planning.check import CheckedEncoder, check_encoders, output_names
from cliploom.pipelines.planning.head_jobs import head_jobs
from cliploom.pipelines.planning.projection_jobs import projection_jobs
from cliploom.schemas.devices import DeviceJob, graphs_digest
from cliploom.schemas.digests import SHORT, digest_of
from cliploom.schemas.errors import PrecisionError, SpecError
from cliploom.schemas.evaluations import Evaluation
from cliploom.schemas.exports import Export, PairsExport, TfrecordExport
from cliploom.schemas.heads import HeadJob
from cliploom.schemas.jobs import FeatureJob
from cliploom.schemas.models import ModelCard
from cliploom.schemas.sources import SourceNode
from cliploom.schemas.spec import FeatureSpec, IndexSpec, Spec
from cliploom.schemas.vector_heads import DeviseSpec, ProjectionJob
from cliploom.transforms.encoders.base import PLACE_OPTIONS, PreparedText
from cliploom.transforms.encoders.custom_code import changed_code, code_in_digest, code_of, noted_code
from cliploom.transforms.encoders.quantised_options import quantised
from cliploom.transforms.encoders.registry import load_text_tower
from cliploom.transforms.sources.registry import named_errors, source_kind
from cliploom.transforms.store.object_store import ObjectStore

_COMPARED = (
    *("sample", "window", "rules", "order", "key", "outputs", "stereo", "deinterlace", "tone_map"),
    *("revisions", "records"),
)
"""Values of a recipe whose changes are said by name."""


@dataclass(frozen=True)
class CompiledSpec:
    """A spec made ready to plan.

    Attributes:
        jobs: by feature.
        recipes: by feature, what its config digest was made from.
        indexes: with their outputs filled in.
        exports: with the files that they name kept in the store.
        heads: by feature, how labels are predicted.
        projections: by feature, how a head makes its rows from those of another feature.
        notes: features that have to wait for their head, with their indexes and exports, and what should be known of
            encoders.
        evaluations: of what the spec computes now, with the files that they name kept in the store.
    """

    jobs: dict[str, FeatureJob]
    recipes: dict[str, dict[str, Any]]
    indexes: dict[str, IndexSpec]
    exports: dict[str, Export]
    heads: dict[str, HeadJob] = field(default_factory=dict)
    projections: dict[str, ProjectionJob] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    evaluations: dict[str, Evaluation] = field(default_factory=dict)


def compile_jobs(spec: Spec, objects: ObjectStore, base: Path = Path()) -> CompiledSpec:
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
    if not spec.computed:
        raise SpecError("features is empty: nothing to compute; add one, such as frames: {source: ..., encoder: ...}.")
    cards: dict[str, ModelCard] = {}
    codes: dict[str, dict[str, str]] = {}
    encoders = [feature.encoder for feature in spec.computed.values() if feature.encoder is not None]
    encoders += [head.text_encoder for head in spec.heads.values() if isinstance(head, DeviseSpec)]
    if objects.root is not None:
        models = objects.root / "models"
        for encoder in encoders:
            _prepare(encoder, checked, models, cards, spec, objects)
    else:
        from cliploom.transforms.work.models import model_cache, upload_model

        cache = model_cache()
        for encoder in encoders:
            _prepare(encoder, checked, cache, cards, spec, objects)
        for card in cards.values():
            upload_model(objects, cache / card.digest)
    devices = _device_jobs(spec, checked, cards, objects)
    remarks = [f"encoder {name}: {card.note}" for name, card in cards.items() if card.note]
    for name, card in cards.items():
        codes[name], changed = _code(checked[name], card, objects)
        remarks += changed
    jobs, recipes = {}, {}
    for name, feature in spec.computed.items():
        source = spec.sources[feature.source]
        used = feature.encoder
        encoding = None if used is None else _Encoding(checked[used], cards[used], codes[used])
        jobs[name], recipes[name] = _job(name, feature, source, base, encoding)
        if used is not None:
            jobs[name] = replace(jobs[name], device=devices.get(used))
    projections, waiting = projection_jobs(spec, jobs, recipes, objects)
    outputs: dict[str, Collection[str]] = {name: job.outputs for name, job in (jobs | projections).items()}
    indexes = {
        name: index.model_copy(update={"output": index.output or _default_output(outputs[index.feature])})
        for name, index in spec.indexes.items()
        if index.feature in outputs
    }
    exports = {
        name: export
        for name, export in _stored_exports(spec, base, objects).items()
        if export.feature in outputs and (not isinstance(export, PairsExport) or export.text in outputs)
    }
    heads, untrained = head_jobs(spec, {**jobs, **projections}, objects, base)
    notes = (*untrained, *waiting, *remarks)
    measured = stored_evaluations(spec, base, objects, {*outputs, *heads})
    return CompiledSpec(jobs, recipes, indexes, exports, heads, projections, notes, measured)


def _device_jobs(
    spec: Spec, checked: Mapping[str, CheckedEncoder], cards: Mapping[str, ModelCard], objects: ObjectStore
) -> dict[str, DeviceJob]:
    """How the encoders that features use are computed on devices, their ONNX graphs written; none in most specs."""
    used = dict.fromkeys(feature.encoder for feature in spec.computed.values() if feature.encoder is not None)
    wanted = [name for name in used if checked[name].options.device != "cpu" and cards[name].precision == "f32"]
    if not wanted:
        return {}
    from cliploom.pipelines.planning.preparing import graphs_safely
    from cliploom.transforms.work.models import MODELS, model_cache, upload_model

    models = objects.root / MODELS if objects.root is not None else model_cache()
    found = {}
    for name in wanted:
        options, digest = checked[name].options, graphs_digest(cards[name].digest)
        graphs_safely(name, models, cards[name])
        if objects.root is None:
            upload_model(objects, models / digest)
        found[name] = DeviceJob(options.device == "cuda", f"{MODELS}/{digest}", options.on_device_loss)
    return found


def prepared_text_encoder(spec: Spec, base: Path, name: str, objects: ObjectStore) -> tuple[str, PreparedText]:
    """An encoder of texts, prepared: its folder relative to the store, and itself.

    Args:
        spec: checked.
        base: folder that the spec's relative paths start from.
        name: of the encoder.
        objects: the store.
    """
    from cliploom.transforms.work.models import MODELS, model_cache, upload_model

    models = objects.root / MODELS if objects.root is not None else model_cache()
    cards: dict[str, ModelCard] = {}
    found = _prepare(name, check_encoders(spec, base), models, cards, spec, objects)
    if found is None:
        raise SpecError(f"encoders.{name} does not encode text; name one that does, such as an encoder of kind minilm.")
    if objects.root is None:
        upload_model(objects, found.folder)
    return f"{MODELS}/{cards[name].digest}", found


def stored_evaluations(
    spec: Spec, base: Path, objects: ObjectStore, features: Collection[str]
) -> dict[str, Evaluation]:
    """Copy the files that evaluations name into the store.

    Args:
        spec: checked.
        base: folder that the spec's relative paths start from.
        objects: the store.
        features: that there are; an evaluation of labels waits for its head to be trained.
    """
    from cliploom.transforms.evaluation.truths import with_stored_truth

    return {
        name: with_stored_truth(node, base, objects, f"evaluations.{name}")
        for name, node in spec.evaluations.items()
        if node.feature in features
    }


def _stored_exports(spec: Spec, base: Path, objects: ObjectStore) -> dict[str, Export]:
    exports: dict[str, Export] = dict(spec.exports)
    for name, export in spec.exports.items():
        if isinstance(export, PairsExport):
            from cliploom.transforms.narrations.pairs_export import with_stored_lists

            exports[name] = with_stored_lists(export, base, objects, f"exports.{name}")
        if isinstance(export, TfrecordExport):
            from cliploom.transforms.tfrecords.export import with_stored_matrices

            exports[name] = with_stored_matrices(export, base, objects, name)
    return exports


def _default_output(outputs: Collection[str]) -> str:
    return "semantic" if "semantic" in outputs else next(iter(outputs))


def _prepare(
    name: str,
    checked: Mapping[str, CheckedEncoder],
    models: Path,
    cards: dict[str, ModelCard],
    spec: Spec,
    objects: ObjectStore,
) -> PreparedText | None:
    """Prepare one encoder after its text encoder; returns it as a text encoder where another needs it as such."""
    from cliploom.pipelines.planning.preparing import prepare_safely

    encoder = checked[name]
    text = None
    if encoder.spec.text_encoder is not None:
        text = _prepare(encoder.spec.text_encoder, checked, models, cards, spec, objects)
    code = code_in_digest(objects, encoder.family, encoder.options, text.card.digest if text else "")
    try:
        if quantised(encoder.options):
            from cliploom.pipelines.planning.calibrating import Models, quantised_model

            folder, cards[name] = quantised_model(spec, encoder, Models(objects, models), text)
        else:
            kind, declared = encoder.spec.kind, encoder.spec.options
            folder, cards[name] = prepare_safely(name, kind, encoder.options, models, text, spec.limits, code, declared)
    except PrecisionError:
        raise PrecisionError(
            f"encoders.{name}.precision: this processor can't compute in {encoder.options.precision}; "
            f"use precision: f32 (--set encoders.{name}.precision=f32), or a processor that has it."
        ) from None
    if cards[name].modality != "text":
        return None
    # Opened only when something is prepared with it: on most nights every model is there already.
    return PreparedText(folder, cards[name], lambda texts: load_text_tower(folder)(texts))


def _code(encoder: CheckedEncoder, card: ModelCard, objects: ObjectStore) -> tuple[dict[str, str], list[str]]:
    """The code of a custom encoder, and what is to say where it changed and its declared revision did not."""
    code = code_of(encoder.family, encoder.options)
    if not code:
        return {}, []
    changed = changed_code(noted_code(objects, card.digest, code), code)
    if not changed:
        return code, []
    verb = "has" if len(changed) == 1 else "have"
    return code, [
        f"encoder {encoder.name}: {' and '.join(changed)} {verb} changed since its model was prepared, but REVISION is "
        f"still {encoder.family.REVISION}, so nothing is computed again; raise REVISION if its vectors change"
    ]


@dataclass(frozen=True)
class _Encoding:
    """An encoder with its prepared model.

    Attributes:
        code: digests of a custom encoder's modules by name.
    """

    encoder: CheckedEncoder
    card: ModelCard
    code: Mapping[str, str]

    def recipe(self) -> dict[str, Any]:
        """Return the encoder as recipes of features describe it."""
        spec = self.encoder.spec
        return (
            {"name": self.encoder.name, "kind": spec.kind, "text_encoder": spec.text_encoder}
            | self.encoder.options.model_dump(mode="json", exclude=set(PLACE_OPTIONS))
            | ({"code": dict(self.code)} if self.code else {})
        )


def _job(
    name: str, feature: FeatureSpec, source: SourceNode, base: Path, encoding: _Encoding | None
) -> tuple[FeatureJob, dict[str, Any]]:
    """Return the job of a feature, and what its config digest was made from.

    Args:
        name: name of the feature.
        feature: the feature.
        source: its source.
        base: folder that relative paths start from.
        encoding: its encoder; None if the source brings vectors.
    """
    with named_errors(source.kind, f"describe feature {name}"):
        made = source_kind(source.kind).recipe(source, feature, base)
        values, outputs = dict(made.values), dict(made.outputs)
        digest_of(values)  # values that are not JSON are an error of the kind
    if encoding is not None:
        card = encoding.card
        outputs = {output: card.outputs[output].dim for output in feature.outputs or output_names(encoding.encoder)}
        values |= {"model": card.digest, "outputs": sorted(outputs)}
    config = digest_of(values)
    job = FeatureJob(
        name=name,
        source=feature.source,
        kind=source.kind,
        settings=made.settings,
        config=config,
        table=f"features/{name}/{config[:SHORT]}",
        model=f"models/{encoding.card.digest}" if encoding is not None else "",
        card=encoding.card if encoding is not None else None,
        outputs=outputs,
        sampling=feature.sample,
        compact=made.compact,
        texts=made.texts,
        types=dict(made.types),
        records=made.records,
    )
    return job, values | ({"encoder": encoding.recipe()} if encoding is not None else {})


def describe_change(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Sentence that says how a feature's config differs from the last release's, for reasons a person reads.

    >>> encoder = {"name": "lite0", "precision": "f32"}
    >>> describe_change({"encoder": encoder}, {"encoder": encoder | {"precision": "bf16"}})
    'encoder lite0: precision f32 -> bf16'
    """
    changes = []
    before, after = old.get("encoder", {}), new.get("encoder", {})
    if before.get("name") != after.get("name") and before.get("kind") != after.get("kind"):
        changes.append(f"encoder {before.get('name')} -> {after.get('name')}")
    else:
        changes += [
            f"encoder {after.get('name')}: {key} {_text(before.get(key))} -> {_text(after.get(key))}"
            for key in sorted({*before, *after} - {"name", "code"})
            if before.get(key) != after.get(key)
        ]
        if before.get("code") and after.get("code"):
            changed = changed_code(before["code"], after["code"])
            changes += [f"encoder {after.get('name')}: the code of {' and '.join(changed)} changed"] if changed else []
    changes += [
        f"{key} {_text(old.get(key))} -> {_text(new.get(key))}" for key in _COMPARED if old.get(key) != new.get(key)
    ]
    if not changes and old.get("model") != new.get("model"):
        changes.append("the model's weights or revision changed")
    return "; ".join(changes)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key} {_text(inner)}" for key, inner in value.items() if inner is not None)
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return "none" if value in (None, "") else str(value)
