"""Arguments of the public transforms, checked as the nodes of a spec that they are, and models prepared for them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions
from pydantic import TypeAdapter, ValidationError

from cliploom.pipelines.planning.check import check_encoders
from cliploom.pipelines.planning.compile_jobs import compile_jobs
from cliploom.schemas.errors import CliploomError, SpecError
from cliploom.schemas.heads import HEAD
from cliploom.schemas.jobs import FeatureJob
from cliploom.schemas.media import Preprocess
from cliploom.schemas.precision import QUANTISED
from cliploom.schemas.sources import MediaSource
from cliploom.schemas.spec import Spec
from cliploom.schemas.spec_errors import explain
from cliploom.schemas.spec_file import parse_document
from cliploom.transforms.beam.media import Reading
from cliploom.transforms.beam.model import ModelRef
from cliploom.transforms.encoders.registry import kinds
from cliploom.transforms.media.decode import Request
from cliploom.transforms.store.local_folder import private_folder
from cliploom.transforms.store.object_store import ObjectStore

Encoder = str | Mapping[str, Any]
"""Kind of an encoder, or its kind and options as in a spec; ``text_encoder`` is an encoder, too."""

_SOURCE_KEYS = ("http", "stereo", "deinterlace", "tone_map")
_LARGEST_SIDE = 4096
_PREPROCESS = TypeAdapter(Preprocess)
_ANY_SAMPLE = {"first": {"frames": 1}}
"""Suits encoders of pictures and of clips."""
_INPUT, _ROWS, _ENCODER = "input", "rows", "encoder"


def media_spec(
    sample: object,
    encoder: Encoder,
    outputs: Sequence[str] | None = None,
    source: Mapping[str, Any] | None = None,
    limits: Mapping[str, Any] | None = None,
) -> Spec:
    """Return a spec with one feature of media.

    Raises:
        SpecError: with each argument that is wrong.
    """
    node = {"kind": "media", "glob": "*", **_keys("source", source, _SOURCE_KEYS)}
    return _spec(node, encoder, {"sample": sample}, outputs, limits)


def frames_spec(encoder: Encoder, outputs: Sequence[str] | None = None) -> Spec:
    """Return a spec with one feature of pictures or clips that are decoded already.

    Raises:
        SpecError: with each argument that is wrong.
    """
    return media_spec(_ANY_SAMPLE, encoder, outputs)


def text_spec(encoder: Encoder, outputs: Sequence[str] | None = None) -> Spec:
    """Return a spec with one feature of texts.

    Raises:
        SpecError: with each argument that is wrong.
    """
    return _spec({"kind": "labels", "labels": ["text"]}, encoder, {}, outputs, None)


def _spec(
    source: Mapping[str, Any],
    encoder: Encoder,
    feature: Mapping[str, Any],
    outputs: Sequence[str] | None,
    limits: Mapping[str, Any] | None,
) -> Spec:
    node: dict[str, Any] = {"source": _INPUT, "encoder": _ENCODER, **feature}
    if outputs is not None:
        node["outputs"] = list(outputs)
    document: dict[str, Any] = {
        "version": 1,
        "name": "beam",
        "store": "beam",
        "sources": {_INPUT: dict(source)},
        "encoders": _encoders(encoder, _ENCODER),
        "features": {_ROWS: node},
    }
    if limits is not None:
        document["limits"] = {"media": dict(limits)}
    try:
        spec = parse_document(document, os.environ)
        check_encoders(spec, Path.cwd())
    except SpecError as error:
        raise SpecError(_plain(str(error))) from None
    for name, each in spec.encoders.items():
        place = _plain(f"encoders.{name}")
        if each.options.get("precision") in QUANTISED:
            raise SpecError(
                f"{place}.precision: {each.options['precision']} is measured on samples of a spec's sources; use f32 "
                "or bf16 here, or compute the feature with `cliploom run`."
            )
    return spec


def _encoders(encoder: object, name: str) -> dict[str, Any]:
    """Return an encoder and its text encoder as nodes of a spec."""
    if isinstance(encoder, str):
        return {name: {"kind": encoder}}
    if not isinstance(encoder, Mapping):
        raise SpecError(
            f"encoder: {encoder!r:.80} is neither a kind ({', '.join(kinds())}) nor a mapping such as "
            "{'kind': 'minilm'}."
        )
    node = {str(key): value for key, value in encoder.items()}
    if node.get("kind") == HEAD:
        raise SpecError("encoder.kind: a head is part of a store; use `cliploom run` or `cliploom predict`.")
    text = node.pop("text_encoder", None)
    if text is None:
        return {name: node}
    inner = f"{name}_text"
    return {name: node | {"text_encoder": inner}} | _encoders(text, inner)


def _keys(place: str, given: Mapping[str, Any] | None, known: Sequence[str]) -> dict[str, Any]:
    found = dict(given or {})
    for key in found:
        if key not in known:
            raise SpecError(f"{place}.{key}: unknown key; known: {', '.join(known)}.")
    return found


def _plain(message: str) -> str:
    """Return a message about a node of the spec as one about an argument."""
    text = message.replace(f"features.{_ROWS}.", "").replace(f"encoders.{_ENCODER}_text", "encoder.text_encoder")
    text = text.replace(f"encoders.{_ENCODER}", "encoder").replace(f"sources.{_INPUT}", "source")
    return text.replace("limits.media", "limits")


def prepared_job(spec: Spec, place: str) -> FeatureJob:
    """Prepare the encoder of a spec, or find it prepared, and return how it is used.

    Args:
        spec: with one feature.
        place: folder or bucket prefix that holds ``models/<digest>/``.

    Raises:
        CliploomError: if weights are missing, or the model cannot be prepared.
    """
    try:
        jobs = compile_jobs(spec, ObjectStore(place), Path.cwd()).jobs
    except CliploomError as error:
        raise type(error)(_plain(str(error))) from None
    return jobs[_ROWS]


def frames_job(spec: Spec, place: str) -> FeatureJob:
    """Prepare the encoder of frames that are decoded already, see ``prepared_job``."""
    job = prepared_job(spec, place)
    single = job.card is not None and job.card.modality == "frame"
    return replace(job, sampling=None) if single else job


def place_of(models: str | None) -> str:
    """Return the folder or bucket prefix for prepared models; without ``models`` a folder of this user."""
    return ObjectStore(models if models is not None else private_folder("beam")).uri


def model_ref(job: FeatureJob, place: str, pipeline: beam.Pipeline, threads: int | None) -> ModelRef:
    """Return how the workers of a pipeline use a prepared model.

    Args:
        job: of ``prepared_job``.
        place: where the model is.
        pipeline: to which the step is added.
        threads: of a worker process that use the model at the same time; None for those of Beam's local runner, else 1.
    """
    return ModelRef(
        job,
        place,
        threads if threads is not None else _local_threads(pipeline),
        # Other runners would start another process for each step with hints.
        hints=type(pipeline.runner).__name__ == "DataflowRunner",
    )


def _local_threads(pipeline: beam.Pipeline) -> int:
    """Return how many threads of one process Beam's local runner starts."""
    options = pipeline.options.view_as(DirectOptions)
    if options.direct_running_mode != "multi_threading":
        return 1
    return options.direct_num_workers or len(os.sched_getaffinity(0))


def reading_of(spec: Spec, preprocess: Preprocess) -> Reading:
    """Return how the files of a feature of media are read."""
    source, sampling = spec.sources[_INPUT], spec.features[_ROWS].sample
    assert isinstance(source, MediaSource)  # noqa: S101 - ``media_spec`` makes no other
    assert sampling is not None  # noqa: S101 - the same
    request = Request(
        sampling, preprocess, source.stereo or "", deinterlace=source.deinterlace, tone_map=source.tone_map
    )
    return Reading(request, spec.limits.media.to_limits(), source.http)


def preprocess_of(values: Mapping[str, Any]) -> Preprocess:
    """Return how pictures are scaled and cut.

    Raises:
        SpecError: with each value that is wrong.
    """
    try:
        found = _PREPROCESS.validate_python(_keys("preprocess", values, [each.name for each in fields(Preprocess)]))
    except ValidationError as error:
        raise SpecError("\n".join(explain(each, values, None, "preprocess") for each in error.errors())) from None
    if not (0 < found.width <= _LARGEST_SIDE and 0 < found.height <= _LARGEST_SIDE):
        raise SpecError(f"preprocess: {found.width} x {found.height} pixels; give sides from 1 to {_LARGEST_SIDE}.")
    if not 0 < found.crop <= 1:
        raise SpecError(f"preprocess.crop: {found.crop} is not in (0, 1].")
    if found.fit == "patches" and found.patch < 1:
        raise SpecError("preprocess.patch is missing; fit: patches needs the side of the patches, such as 16.")
    return found
