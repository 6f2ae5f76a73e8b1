"""The spec: what is wanted, as pydantic models that mirror the YAML file.

Models are strict and refuse unknown keys. References between nodes are checked by ``Spec`` itself; what needs the
registry of encoders (their options, modality, outputs) is checked by ``transforms.encoders``. Values never hold
secrets: credentials come from the environment of the process.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, model_validator

from schemas.media import MediaLimits
from schemas.sampling import Sampling
from schemas.units import Bytes, PositiveSeconds, Share

_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")


def _check_name(value: str) -> str:
    if not _NAME.match(value):
        raise ValueError(f"{value!r} is not a name: a letter, then letters, digits, _ or -, 64 at the most")
    return value


Name = Annotated[str, AfterValidator(_check_name)]


class Model(BaseModel):
    """Base of all spec models: frozen, strict, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class UidRegex(Model):
    """uid = the first group (or the group named ``uid``) of a search in the path relative to the glob's root."""

    regex: str

    @model_validator(mode="after")
    def _compiles(self) -> UidRegex:
        try:
            groups = re.compile(self.regex).groups
        except re.error as error:
            raise ValueError(f"{self.regex!r} is not a regular expression: {error}") from error
        if groups == 0:
            raise ValueError(f"{self.regex!r} has no group: put the part that is the uid in parentheses")
        return self


class MediaSource(Model):
    """Videos, GIFs and images found by globs, or listed by a table.

    Attributes:
        glob: patterns relative to the spec's folder, or URIs; ``**`` crosses folders.
        table: CSV, Parquet or JSONL with a ``uri`` column, optionally ``uid``, and any columns kept as metadata.
        uid: ``path`` (relative to the glob's root, no extension), ``stem``, or ``{regex: ...}``.
        stereo: ``left`` keeps the left half of side-by-side stereo pictures.
    """

    kind: Literal["media"]
    glob: Annotated[list[str], BeforeValidator(_one_or_many), Field(min_length=1)] | None = None
    table: str | None = None
    uid: Literal["path", "stem"] | UidRegex = "path"
    stereo: Literal["left"] | None = None

    @model_validator(mode="after")
    def _one_listing(self) -> MediaSource:
        if (self.glob is None) == (self.table is None):
            raise ValueError("give exactly one of 'glob' (patterns) and 'table' (a file that lists uris)")
        return self


Source = MediaSource


class EncoderSpec(Model):
    """A model by registry kind; further keys are its family's own options and checked by the registry."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    kind: str
    text_encoder: Name | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The family's own options, ``precision`` among them."""
        return dict(self.model_extra or {})


class FeatureSpec(Model):
    """What an encoder makes of a source.

    Attributes:
        outputs: names of the encoder's outputs to keep; all by default.
    """

    source: Name
    encoder: Name
    sample: Sampling | None = None
    outputs: Annotated[list[str], Field(min_length=1)] | None = None


class IndexSpec(Model):
    """An ANN index over one output of a feature.

    Attributes:
        output: may be left out when the feature has one vector output.
        nprobe: fixes what is otherwise set to reach recall@10 of .95 on a held-back sample.
        shards: number of index files; by default one for each 2,000,000 rows.
    """

    feature: Name
    output: str | None = None
    metric: Literal["cosine", "dot", "l2"] = "cosine"
    kind: Literal["auto", "flat", "ivf_sq8", "hnsw"] = "auto"
    nprobe: PositiveInt | None = None
    shards: PositiveInt | None = None


class Hdf5Export(Model):
    """One dataset a uid, in parts linked by a master file, or in one self-contained file (``single``)."""

    kind: Literal["hdf5"]
    feature: Name
    output: str | None = None
    single: bool = False


Export = Hdf5Export


class Target(Model):
    """Where a run is executed; keys other than ``runner`` and ``workers`` are Beam pipeline options."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    runner: str = "local"
    workers: PositiveInt | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Beam pipeline options by name."""
        return dict(self.model_extra or {})


class MediaLimitsSpec(Model):
    """Files beyond these are failures, not work."""

    max_bytes: Bytes = MediaLimits.max_bytes
    max_pixels: PositiveInt = MediaLimits.max_pixels
    max_duration: PositiveSeconds = MediaLimits.max_seconds
    max_frames: PositiveInt = MediaLimits.max_frames

    def to_limits(self) -> MediaLimits:
        """As the record that the prober takes."""
        return MediaLimits(self.max_bytes, self.max_pixels, self.max_duration, self.max_frames)


class Limits(Model):
    """Guards that stop a run before it publishes, and what is refused as absurd.

    Attributes:
        max_failed, max_deleted, max_recompute: shares of the items; beyond them the run ends with exit code 3.
        max_attempts: nights on which a transient failure is tried again.
        segment: files longer than this are split in time where the sampling allows.
    """

    max_failed: Share = 0.1
    max_deleted: Share = 0.1
    max_recompute: Share = 1.0
    max_attempts: PositiveInt = 3
    segment: PositiveSeconds = 600.0
    media: MediaLimitsSpec = MediaLimitsSpec()


class Spec(Model):
    """A whole spec, each part valid by itself; ``spec_file.load_spec`` also checks the references between parts."""

    version: Literal[1]
    name: Name
    store: Annotated[str, Field(min_length=1)]
    sources: Annotated[dict[Name, Source], Field(min_length=1)]
    encoders: dict[Name, EncoderSpec] = {}
    features: dict[Name, FeatureSpec] = {}
    indexes: dict[Name, IndexSpec] = {}
    exports: dict[Name, Export] = {}
    targets: Annotated[dict[Name, Target], Field(min_length=1)] = {"local": Target()}
    limits: Limits = Limits()
