"""Quantised encoders of a spec: which have to be prepared, with samples of which items, and the gate for all of them.

The samples of an encoder are chosen once, on the first night, and kept in the store as ``calibrations/<digest>.json``,
so that its vectors stay the same while media come and go; ``--recalibrate`` chooses anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from cliploom.pipelines.planning.check import CheckedEncoder, check_encoders
from cliploom.pipelines.planning.preparing import prepare_safely, quantise_safely
from cliploom.schemas.errors import SpecError
from cliploom.schemas.models import CARD_FILE, ModelCard
from cliploom.schemas.precision import AgreementSpec, Calibration
from cliploom.schemas.spec import Spec
from cliploom.transforms.encoders.base import EncoderOptions, PreparedText
from cliploom.transforms.encoders.custom_code import code_in_digest
from cliploom.transforms.encoders.figures import check_figures, figures_text
from cliploom.transforms.encoders.prepare import model_digest
from cliploom.transforms.encoders.quantised_options import needs_calibration, original_options, quantised
from cliploom.transforms.encoders.registry import load_text_tower, read_card
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.work.calibration import CALIBRATING, MOST_ITEMS, DrawingRequest, SampledItem, in_digest_order

FOLDER = "calibrations"
_SHARE_OF_TIME = 0.4
_ITEMS = dict.fromkeys(("source", "uri", "signature", "digest", "facts"), pl.String)


@dataclass(frozen=True)
class Models:
    """Where models are prepared.

    Attributes:
        objects: the store.
        folder: local, of prepared models: the store's own, or the cache of a bucket's.
    """

    objects: ObjectStore
    folder: Path

    @classmethod
    def of(cls, objects: ObjectStore) -> Models:
        """Of a store."""
        if objects.root is not None:
            return cls(objects, objects.root / "models")
        from cliploom.transforms.work.models import model_cache

        return cls(objects, model_cache())


def calibration_path(encoder: CheckedEncoder, text_digest: str) -> str:
    """Where the samples of an encoder are kept in the store: by the digest of its float32 model."""
    return f"{FOLDER}/{model_digest(encoder.family, original_options(encoder.options), text_digest)}.json"


def stored_calibration(objects: ObjectStore, encoder: CheckedEncoder, text_digest: str) -> Calibration | None:
    """The samples of an encoder, when they were chosen before."""
    try:
        return Calibration.from_dict(json.loads(objects.get(calibration_path(encoder, text_digest))))
    except FileNotFoundError:
        return None


def prepared_digest(objects: ObjectStore, encoder: CheckedEncoder, text_digest: str) -> str | None:
    """Digest of the quantised model of an encoder; None when its samples have not been chosen yet."""
    code = code_in_digest(objects, encoder.family, encoder.options, text_digest)
    if not needs_calibration(encoder.options):
        return model_digest(encoder.family, encoder.options, text_digest, code)
    calibration = stored_calibration(objects, encoder, text_digest)
    if calibration is None:
        return None
    return model_digest(encoder.family, encoder.options, text_digest, code, calibration=calibration.digest)


def is_prepared(models: Models, digest: str | None) -> bool:
    """Whether a quantised model is there; one of a bucket is fetched."""
    if digest is None:
        return False
    if models.objects.root is None and models.objects.size(f"models/{digest}/{CARD_FILE}") is not None:
        from cliploom.transforms.work.models import local_model

        local_model(models.objects, f"models/{digest}")
    return (models.folder / digest / CARD_FILE).exists()


def encoders_in_order(spec: Spec, checked: Mapping[str, CheckedEncoder]) -> list[str]:
    """Encoders that features use, each after its text encoder."""
    found: list[str] = []
    for feature in spec.computed.values():
        if feature.encoder is not None:
            text = checked[feature.encoder].spec.text_encoder
            found += [text] if text is not None else []
            found.append(feature.encoder)
    return list(dict.fromkeys(found))


def wants_samples(spec: Spec, base: Path, objects: ObjectStore, *, recalibrate: bool) -> bool:
    """Whether a quantised encoder has to be prepared, which takes samples of probed items.

    The float32 models are prepared meanwhile, so that what is wrong with their weights is said before probing.
    """
    checked = check_encoders(spec, base)
    if not any(quantised(encoder.options) for encoder in checked.values()):
        return False
    models, wants = Models.of(objects), False
    texts: dict[str, PreparedText] = {}
    for name in encoders_in_order(spec, checked):
        encoder = checked[name]
        text = texts.get(encoder.spec.text_encoder or "")
        if not quantised(encoder.options):
            folder, card = _prepare_plain(spec, encoder, encoder.options, models, text)
        else:
            anew = recalibrate and needs_calibration(encoder.options)
            digest = prepared_digest(objects, encoder, text.card.digest if text else "")
            if not anew and digest is not None and is_prepared(models, digest):
                folder, card = models.folder / digest, read_card(models.folder / digest)
            else:
                wants = True
                folder, card = _prepare_plain(spec, encoder, original_options(encoder.options), models, text)
        if card.modality == "text":
            texts[name] = _as_text(folder, card)
    return wants


def _prepare_plain(
    spec: Spec, encoder: CheckedEncoder, options: EncoderOptions, models: Models, text: PreparedText | None
) -> tuple[Path, ModelCard]:
    """The model of an encoder that is not quantised, prepared where it is not yet."""
    code = code_in_digest(models.objects, encoder.family, options, text.card.digest if text else "")
    return prepare_safely(encoder.name, encoder.spec.kind, options, models.folder, text, spec.limits, code)


def _as_text(folder: Path, card: ModelCard) -> PreparedText:
    return PreparedText(folder, card, lambda texts: load_text_tower(folder)(texts))


def prepare_quantised_encoders(
    spec: Spec,
    base: Path,
    objects: ObjectStore,
    items: pl.DataFrame,
    on_stage: Callable[[str], None],
    *,
    recalibrate: bool,
) -> None:
    """Choose samples for the quantised encoders that are not prepared yet, and prepare these.

    Args:
        spec: checked.
        base: folder that the spec's relative paths start from.
        objects: the store.
        items: source, uri, signature, digest, facts of the items.
        on_stage: called with what is measured.
        recalibrate: choose anew where samples were chosen before.

    Raises:
        CliploomError: when there are too few samples, or a model agrees too little with float32.
    """
    checked, models = check_encoders(spec, base), Models.of(objects)
    texts: dict[str, PreparedText] = {}
    for name in encoders_in_order(spec, checked):
        encoder = checked[name]
        text = texts.get(encoder.spec.text_encoder or "")
        text_digest = text.card.digest if text else ""
        if not quantised(encoder.options):
            folder, card = _prepare_plain(spec, encoder, encoder.options, models, text)
        else:
            digest = prepared_digest(objects, encoder, text_digest)
            anew = recalibrate and needs_calibration(encoder.options)
            if anew or digest is None or not is_prepared(models, digest):
                on_stage(f"preparing {name} in {encoder.options.precision}, with samples")
                known = None if anew else stored_calibration(objects, encoder, text_digest)
                folder, card = _prepare_one(spec, encoder, models, text, items, known)
                if card.figures is not None:
                    on_stage(f"{name}: {_samples_text(card)}: {figures_text(card.figures)}")
            else:
                folder, card = models.folder / digest, read_card(models.folder / digest)
            check_gate(spec, encoder, card)
        if card.modality == "text":
            texts[name] = _as_text(folder, card)


def quantised_model(
    spec: Spec, encoder: CheckedEncoder, models: Models, text: PreparedText | None
) -> tuple[Path, ModelCard]:
    """The quantised model of an encoder, with figures that pass the gate.

    A text encoder without a prepared model is measured with sentences of the program.

    Raises:
        CliploomError: when it is not there, or agrees too little with float32.
    """
    digest = prepared_digest(models.objects, encoder, text.card.digest if text else "")
    if digest is not None and is_prepared(models, digest):
        folder, card = models.folder / digest, read_card(models.folder / digest)
    elif encoder.family.modality(encoder.options) == "text":
        folder, card = _prepare_one(spec, encoder, models, text, pl.DataFrame(schema=_ITEMS), None)
    else:
        raise SpecError(
            f"encoders.{encoder.name}: a model of precision {encoder.options.precision} is prepared with samples of "
            "the sources; `cliploom run` does so."
        )
    check_gate(spec, encoder, card)
    return folder, card


def _samples_text(card: ModelCard) -> str:
    figures = card.figures
    if figures is None or not figures.calibrated:
        return f"{card.precision}"
    few = f" (fewer than {CALIBRATING}; more media make it better)" if figures.calibrated < CALIBRATING else ""
    return f"{card.precision}, calibrated with {figures.calibrated} samples{few}, measured with {figures.held_back}"


def check_gate(spec: Spec, encoder: CheckedEncoder, card: ModelCard) -> None:
    """Refuse figures below what the spec asks for, of the outputs that its features keep.

    Raises:
        CliploomError: with the figures and what to do.
    """
    used: set[str] = set()
    for feature in spec.computed.values():
        if feature.encoder == encoder.name:
            used |= set(feature.outputs or card.outputs)
    check_figures(encoder.name, card, encoder.options.agreement or AgreementSpec(), used or None)


def _prepare_one(
    spec: Spec,
    encoder: CheckedEncoder,
    models: Models,
    text: PreparedText | None,
    items: pl.DataFrame,
    known: Calibration | None,
) -> tuple[Path, ModelCard]:
    text_digest = text.card.digest if text else ""
    request = DrawingRequest(
        items=tuple(items_of(spec, encoder, items)),
        calibrate=needs_calibration(encoder.options),
        known=known,
        seconds=_SHARE_OF_TIME * spec.limits.prepare_time,
        limits=spec.limits.media.to_limits(),
    )
    if request.calibrate and not request.items:
        raise SpecError(
            f"encoders.{encoder.name}: int8 is calibrated with samples of media, and no feature of media uses it; "
            "use precision: f32 or int8_weights."
        )
    plain = original_options(encoder.options)
    original = _prepare_plain(spec, encoder, plain, models, text)
    codes = {
        "code": code_in_digest(models.objects, encoder.family, encoder.options, text_digest),
        "original_code": code_in_digest(models.objects, encoder.family, plain, text_digest),
    }
    folder, card, calibration = quantise_safely(encoder, original, models.folder, text, spec.limits, request, codes)
    if calibration is not None:
        path = calibration_path(encoder, text_digest)
        models.objects.put(path, json.dumps(calibration.to_dict()).encode())
    if models.objects.root is None:
        from cliploom.transforms.work.models import upload_model

        upload_model(models.objects, folder)
    return folder, card


def items_of(spec: Spec, encoder: CheckedEncoder, items: pl.DataFrame) -> Iterator[SampledItem]:
    """Items of all features that use an encoder, in the order in which samples are drawn from them."""
    found: list[SampledItem] = []
    for feature in spec.computed.values():
        source = spec.sources[feature.source]
        if feature.encoder != encoder.name or source.own_vectors:
            continue
        sampling = feature.sample.model_dump_json(exclude_none=True) if feature.sample is not None else ""
        texts = source.content == "texts"
        settings = "{}" if texts else source.model_dump_json()
        usable = items.filter((pl.col("source") == feature.source) & pl.col("digest").is_not_null())
        # By their digests, so that of millions of items only a few are ever handled one by one.
        few = usable.select("digest", "uri", "signature", "facts").unique("digest").sort("digest").head(MOST_ITEMS)
        found += [
            SampledItem(digest, uri, signature, facts if texts else "", settings, sampling)
            for digest, uri, signature, facts in few.iter_rows()
        ]
    return iter(in_digest_order(found)[:MOST_ITEMS])
