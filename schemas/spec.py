"""The spec: the desired state, as pydantic models that mirror the YAML file.

Models are strict and reject unknown keys. ``Spec`` checks references between nodes; checks that need the registry of
encoders (their options, modality, outputs) are in ``cliploom.transforms.encoders``. Values never contain secrets:
credentials come from the environment of the process.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator

from cliploom.schemas.devices import ACCELERATOR, DEFAULT_ACCELERATOR
from cliploom.schemas.errors import nearest
from cliploom.schemas.evaluations import Evaluation
from cliploom.schemas.exports import Export
from cliploom.schemas.heads import HEAD
from cliploom.schemas.media import MediaLimits
from cliploom.schemas.sampling import Sampling
from cliploom.schemas.sources import Source
from cliploom.schemas.spec_base import Model, Name, Text
from cliploom.schemas.units import Bytes, Count, LargeCount, PositiveSeconds, Share
from cliploom.schemas.vector_heads import VECTOR_KINDS, Head

RUNNERS = (
    "local",
    "direct",
    "DirectRunner",
    "FnApiRunner",
    "FlinkRunner",
    "DataflowRunner",
    "PortableRunner",
    "SparkRunner",
    "PrismRunner",
    "InteractiveRunner",
    "BundleBasedDirectRunner",
    "SwitchingDirectRunner",
    "KafkaStreamsRunner",
    "TestDirectRunner",
    "TestDataflowRunner",
)
"""Runners with a plain name in Beam; others are given with their module."""


class EncoderSpec(Model):
    """A model by its kind; each kind has further keys, see "Kinds of encoders".

    Attributes:
        kind: the kind, such as ``efficientnet_lite0``; ``head`` for a head that was trained on the store.
        preset: the name of a public model's settings, see ``cliploom models list``; other keys override them.
        text_encoder: the name of another encoder, in whose space the kind's ``semantic`` output is.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    kind: str
    preset: str | None = None
    text_encoder: Name | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The options of the encoder's kind, including ``precision``."""
        return dict(self.model_extra or {})


class FeatureSpec(Model):
    """The result of applying an encoder to a source.

    Attributes:
        source: the name of a source.
        sample: the frames or windows to use; for media.
        encoder: the name of an encoder; omitted if the source has vectors of its own.
        outputs: the names of the encoder's (or the source's) outputs to keep; all by default.
    """

    source: Name
    encoder: Name | None = None
    sample: Sampling | None = None
    outputs: Annotated[list[str], Field(min_length=1)] | None = None


class IndexSpec(Model):
    """An ANN index over one output of a feature.

    Attributes:
        feature: the name of a feature.
        output: the output; optional if the feature has one vector output.
        metric: the metric; larger scores are always better, ``l2`` also shows distances.
        kind: ``flat`` compares with every row; ``ivf_sq8`` and ``hnsw`` are approximate and faster; ``ivf_rabitq`` is
            ``ivf_sq8`` with one bit per number in memory, which selects the candidates to score; ``auto`` uses ``flat``
            up to 20,000 rows, ``ivf_sq8`` up to ``memory``, else ``ivf_rabitq``.
        memory: the most memory that searching may use before ``auto`` chooses ``ivf_rabitq``, such as ``2GB``; by
            default unlimited.
        nprobe: a fixed value; by default it is chosen to reach recall@10 of .95 on held-out rows.
        d_miss: the cost of a miss for the ranker ``bimatch``; by default 2 for cosine, else 2000.
        shards: the number of index files, of nearly equal size; by default one per 2,000,000 rows.
    """

    feature: Name
    output: str | None = None
    metric: Literal["cosine", "dot", "l2"] = "cosine"
    kind: Literal["auto", "flat", "ivf_sq8", "ivf_rabitq", "hnsw"] = "auto"
    memory: Bytes | None = None
    nprobe: Count | None = None
    shards: Count | None = None
    d_miss: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


class Target(Model):
    """Where a run is executed; keys other than ``runner`` and ``workers`` are Beam pipeline options.

    Attributes:
        runner: ``local``, or a Beam runner such as ``FlinkRunner`` or ``DataflowRunner``.
        workers: the number of workers of a local run; by default one per core.
        processes: run each worker of a local run as a process instead of a thread.
        accelerator: on Dataflow, the device of workers that compute with ``device: cuda``, as Beam writes it.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    runner: str = "local"
    workers: Count | None = None
    processes: bool = False
    accelerator: Annotated[str, Field(pattern=ACCELERATOR)] = DEFAULT_ACCELERATOR

    @field_validator("runner")
    @classmethod
    def _known(cls, runner: str) -> str:
        if "." not in runner and runner.lower() not in {name.lower() for name in RUNNERS}:
            raise ValueError(f"Beam has no runner {runner!r}{nearest(runner, RUNNERS)}")
        return runner

    @property
    def options(self) -> dict[str, Any]:
        """The Beam pipeline options by name."""
        return dict(self.model_extra or {})


class MediaLimitsSpec(Model):
    """Limits of media files; files beyond them become failures.

    Attributes:
        max_bytes: the maximum size of a file.
        max_pixels: the maximum number of pixels of a frame.
        max_duration: the maximum duration of a video.
        max_frames: the maximum number of frames of a video.
    """

    max_bytes: Bytes = MediaLimits.max_bytes
    max_pixels: LargeCount = MediaLimits.max_pixels
    max_duration: PositiveSeconds = MediaLimits.max_seconds
    max_frames: LargeCount = MediaLimits.max_frames

    def to_limits(self) -> MediaLimits:
        """Return the record for the prober."""
        return MediaLimits(self.max_bytes, self.max_pixels, self.max_duration, self.max_frames)


class Limits(Model):
    """Limits that stop a run before it publishes, and limits of files.

    Attributes:
        max_failed, max_deleted, max_recompute: the maximum shares of items that newly failed, were deleted, or are
            computed again; beyond them the run ends with exit code 3.
        max_failed_first: used instead of ``max_failed``, if larger, until there is a release of a run without
            ``--limit``: a new folder may contain junk.
        max_attempts: the number of runs that retry a transient failure.
        segment: files longer than this are split in time if the sampling allows it.
        prepare_time, prepare_memory: limits for preparing one model from files in the spec (kinds ``onnx`` and
            ``sentence_transformer``); the memory is by default 4 GB plus eight times the size of the files.
        stall: an item without progress for this time ends its worker process; if it does so again in isolation, it
            becomes a failure `Stalled`.
        media: limits of media files.
    """

    max_failed: Share = 0.1
    max_failed_first: Share = 0.5
    max_deleted: Share = 0.1
    max_recompute: Share = 1.0
    max_attempts: Count = 3
    segment: PositiveSeconds = 600.0
    prepare_time: PositiveSeconds = 600.0
    prepare_memory: Bytes | None = None
    stall: PositiveSeconds = 600.0
    media: MediaLimitsSpec = MediaLimitsSpec()


class Spec(Model):
    """A complete spec. References between its parts are checked when the file is read.

    Attributes:
        version: the version of the spec's format.
        name: the name of the project, for messages and job names.
        store: the folder, ``s3://...`` or ``gs://...``; relative to the spec's folder.
        sources: the inputs.
        encoders: the models.
        features: the results of applying encoders to sources.
        indexes: the search indexes, each over one output of a feature.
        exports: files for training code, made from features.
        heads: small models trained on the store, or zero-shot labels.
        evaluations: the measurements on each release.
        targets: where runs are executed; the first one by default, another with ``--target``.
        limits: limits that stop a run, and limits of files.
    """

    version: Literal[1]
    name: Name
    store: Text
    sources: Annotated[dict[Name, Source], Field(min_length=1)]
    encoders: dict[Name, EncoderSpec] = {}
    features: dict[Name, FeatureSpec] = {}
    indexes: dict[Name, IndexSpec] = {}
    exports: dict[Name, Annotated[Export, Field(discriminator="kind")]] = {}
    heads: dict[Name, Head] = {}
    evaluations: dict[Name, Evaluation] = {}
    targets: Annotated[dict[Name, Target], Field(min_length=1)] = {"local": Target()}
    limits: Limits = Limits()

    @property
    def tags(self) -> dict[str, FeatureSpec]:
        """Features without rows, computed by an encoder of kind ``head``: they fill the table ``labels``."""
        heads, vectors = self._heads(), self._vector_heads()
        return {name: feature for name, feature in self.features.items() if feature.encoder in heads - vectors}

    @property
    def projections(self) -> dict[str, FeatureSpec]:
        """Features whose rows are computed by an encoder of kind ``head`` from those of another feature."""
        vectors = self._vector_heads()
        return {name: feature for name, feature in self.features.items() if feature.encoder in vectors}

    @property
    def computed(self) -> dict[str, FeatureSpec]:
        """Features with rows, computed by other encoders or provided by their sources."""
        heads = self._heads()
        return {name: feature for name, feature in self.features.items() if feature.encoder not in heads}

    @property
    def with_vectors(self) -> dict[str, FeatureSpec]:
        """All features with rows."""
        return self.computed | self.projections

    def _heads(self) -> set[str]:
        return {name for name, encoder in self.encoders.items() if encoder.kind == HEAD}

    def _vector_heads(self) -> set[str]:
        """Return the encoders of kind ``head`` whose head returns vectors."""
        kinds = {name: head.kind for name, head in self.heads.items()}
        return {
            name for name in self._heads() if kinds.get(str(self.encoders[name].options.get("head"))) in VECTOR_KINDS
        }
