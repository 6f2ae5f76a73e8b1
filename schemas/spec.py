"""The spec: what is wanted, as pydantic models that mirror the YAML file.

Models are strict and refuse unknown keys. References between nodes are checked by ``Spec`` itself; what needs the
registry of encoders (their options, modality, outputs) is checked by ``cliploom.transforms.encoders``. Values never
hold secrets: credentials come from the environment of the process.
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
"""Runners that Beam knows by a plain name; others are named with their module."""


class EncoderSpec(Model):
    """A model by its kind; each kind has keys of its own, see "Kinds of encoders".

    Attributes:
        kind: such as ``efficientnet_lite0``; a head that was trained on the store is of kind ``head``.
        preset: name of a public model's settings, see ``cliploom models list``; keys beside it override them.
        text_encoder: another encoder, whose space the kind's ``semantic`` output is in.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    kind: str
    preset: str | None = None
    text_encoder: Name | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The family's own options, ``precision`` among them."""
        return dict(self.model_extra or {})


class FeatureSpec(Model):
    """What an encoder makes of a source.

    Attributes:
        source: name of a source.
        sample: which frames or windows; for media.
        encoder: name of an encoder; left out where the source brings vectors of its own.
        outputs: names of the encoder's (or the source's) outputs to keep; all by default.
    """

    source: Name
    encoder: Name | None = None
    sample: Sampling | None = None
    outputs: Annotated[list[str], Field(min_length=1)] | None = None


class IndexSpec(Model):
    """An ANN index over one output of a feature.

    Attributes:
        feature: name of a feature.
        output: may be left out when the feature has one vector output.
        metric: larger scores are better with all of them; ``l2`` shows distances.
        kind: ``flat`` compares with every row; ``ivf_sq8`` and ``hnsw`` are approximate and quicker; ``ivf_rabitq`` is
            ``ivf_sq8`` with a bit a number in memory, which finds the candidates that the bytes then score; ``auto``
            takes ``flat`` up to 20,000 rows, ``ivf_sq8`` up to ``memory``, else ``ivf_rabitq``.
        memory: what ``auto`` may keep busy when it is searched, such as ``2GB``; without it, any amount.
        nprobe: fixes what is otherwise set to reach recall@10 of .95 on a held-back sample.
        d_miss: what a miss costs when hits are ranked by ``bimatch``; by default 2 for cosine, else 2000.
        shards: number of index files, of nearly equal rows; by default one for each 2,000,000 rows.
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
        workers: processes of a local run; by default one for each core.
        accelerator: on Dataflow, the device of workers that compute with ``device: cuda``, as Beam writes it.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    runner: str = "local"
    workers: Count | None = None
    accelerator: Annotated[str, Field(pattern=ACCELERATOR)] = DEFAULT_ACCELERATOR

    @field_validator("runner")
    @classmethod
    def _known(cls, runner: str) -> str:
        if "." not in runner and runner.lower() not in {name.lower() for name in RUNNERS}:
            raise ValueError(f"Beam has no runner {runner!r}{nearest(runner, RUNNERS)}")
        return runner

    @property
    def options(self) -> dict[str, Any]:
        """Beam pipeline options by name."""
        return dict(self.model_extra or {})


class MediaLimitsSpec(Model):
    """Files beyond these are failures, not work.

    Attributes:
        max_bytes: of a file.
        max_pixels: of a frame, width times height.
        max_duration: of a video.
        max_frames: of a video.
    """

    max_bytes: Bytes = MediaLimits.max_bytes
    max_pixels: LargeCount = MediaLimits.max_pixels
    max_duration: PositiveSeconds = MediaLimits.max_seconds
    max_frames: LargeCount = MediaLimits.max_frames

    def to_limits(self) -> MediaLimits:
        """As the record that the prober takes."""
        return MediaLimits(self.max_bytes, self.max_pixels, self.max_duration, self.max_frames)


class Limits(Model):
    """Guards that stop a run before it publishes, and what is refused as absurd.

    Attributes:
        max_failed, max_deleted, max_recompute: shares of the items that failed and did not before, are gone, or are
            computed again; beyond them the run ends with exit code 3.
        max_failed_first: instead of ``max_failed``, where it is more, until there is a release of a run without
            ``--limit``: a folder that is new may hold junk.
        max_attempts: nights on which a transient failure is tried again.
        segment: files longer than this are split in time where the sampling allows.
        prepare_time, prepare_memory: of preparing one model of files that the spec names (kinds ``onnx`` and
            ``sentence_transformer``); memory by default 4 GB and eight times the size of the files.
        stall: an item that makes no progress for so long takes its worker process down; when it does so again, alone,
            it is a failure `Stalled`.
        media: which files are refused as absurd.
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
    """A whole spec. References between its parts are checked when the file is read.

    Attributes:
        version: of the spec's format.
        name: of the project, for messages and job names.
        store: folder, ``s3://...`` or ``gs://...``; relative to the spec's folder.
        sources: what is read.
        encoders: models.
        features: what an encoder makes of a source.
        indexes: for search, each over one output of a feature.
        exports: files for training code, made from features.
        heads: small models that are trained on the store, or zero-shot labels.
        evaluations: figures that each release is measured by.
        targets: where runs are executed; the first one by default, another by ``--target``.
        limits: what stops a run, and what is refused.
    """

    version: Literal[1]
    name: Name
    store: Text
    sources: Annotated[dict[Name, Annotated[Source, Field(discriminator="kind")]], Field(min_length=1)]
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
        """Features without rows, which an encoder of kind ``head`` makes: they fill the table ``labels``."""
        heads, vectors = self._heads(), self._vector_heads()
        return {name: feature for name, feature in self.features.items() if feature.encoder in heads - vectors}

    @property
    def projections(self) -> dict[str, FeatureSpec]:
        """Features whose rows an encoder of kind ``head`` makes from those of another feature."""
        vectors = self._vector_heads()
        return {name: feature for name, feature in self.features.items() if feature.encoder in vectors}

    @property
    def computed(self) -> dict[str, FeatureSpec]:
        """Features with rows, made by other encoders or brought by their sources."""
        heads = self._heads()
        return {name: feature for name, feature in self.features.items() if feature.encoder not in heads}

    @property
    def with_vectors(self) -> dict[str, FeatureSpec]:
        """Features with rows, however they are made."""
        return self.computed | self.projections

    def _heads(self) -> set[str]:
        return {name for name, encoder in self.encoders.items() if encoder.kind == HEAD}

    def _vector_heads(self) -> set[str]:
        """Encoders of kind ``head`` whose head gives vectors."""
        kinds = {name: head.kind for name, head in self.heads.items()}
        return {
            name for name in self._heads() if kinds.get(str(self.encoders[name].options.get("head"))) in VECTOR_KINDS
        }
