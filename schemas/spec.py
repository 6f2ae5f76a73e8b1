"""The spec: what is wanted, as pydantic models that mirror the YAML file.

Models are strict and refuse unknown keys. References between nodes are checked by ``Spec`` itself; what needs the
registry of encoders (their options, modality, outputs) is checked by ``transforms.encoders``. Values never hold
secrets: credentials come from the environment of the process.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeInt,
    Tag,
    model_validator,
)

from schemas.media import MediaLimits
from schemas.sampling import Sampling
from schemas.units import Bytes, Count, LargeCount, NonNegativeSeconds, PositiveSeconds, Share

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


def _check_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(f"{value!r} is not a name: a letter, then letters, digits, _ or -, 64 at the most")
    return value


Name = Annotated[str, AfterValidator(_check_name)]
Text = Annotated[str, Field(min_length=1)]


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


def _uid_law(value: Any) -> str:
    return "regex" if isinstance(value, dict | UidRegex) else "name"


UidLaw = Annotated[
    Annotated[Literal["path", "stem"], Tag("name")] | Annotated[UidRegex, Tag("regex")], Discriminator(_uid_law)
]


class LabelColumn(Model):
    """Labels from a column of the source's table: a text, several separated by ``;``, or a list."""

    column: str


class LabelFile(Model):
    """Labels from a CSV with the columns ``uid`` (or ``path``) and ``labels``, several separated by ``;``.

    Attributes:
        csv: relative to the spec's folder; an item may have several lines.
    """

    csv: str


class MediaSource(Model):
    """Videos, GIFs and images found by globs, or listed by a table.

    Attributes:
        glob: patterns relative to the spec's folder, or URIs; ``**`` crosses folders.
        table: CSV, Parquet or JSONL with a ``uri`` column, optionally ``uid``, and any columns kept as metadata.
        uid: ``path`` (relative to the glob's root, no extension), ``stem``, or ``{regex: ...}``.
        stereo: ``left`` keeps the left half of side-by-side stereo pictures.
        labels: what items are, into the table ``labels``: ``folder`` (the one that a file lies in),
            ``{column: ...}`` of the table, or ``{csv: ...}``.
        vocabulary: CSV of classes with the columns Index and Name, which gives labels their numbers; without it
            they are numbered in the order of their names.
    """

    own_vectors: ClassVar[bool] = False
    kind: Literal["media"]
    glob: Annotated[list[Text], BeforeValidator(_one_or_many), Field(min_length=1)] | None = None
    table: Text | None = None
    uid: UidLaw = "path"
    stereo: Literal["left"] | None = None
    labels: Literal["folder"] | LabelColumn | LabelFile | None = None
    vocabulary: str | None = None

    @model_validator(mode="after")
    def _one_listing(self) -> MediaSource:
        if (self.glob is None) == (self.table is None):
            raise ValueError("give exactly one of 'glob' (patterns) and 'table' (a file that lists uris)")
        return self


class ExampleFieldSpec(Model):
    """A numeric feature of tf.train.Example that becomes an output of the source.

    Attributes:
        width: numbers in it.
        type: ``float32``, or ``uint8``: one string of raw numbers, quantised as YouTube-8M does it.
    """

    width: Count
    type: Literal["float32", "uint8"] = "float32"


class TfrecordSource(Model):
    """TFRecord shards, compressed or not; rows get the ids of their records.

    Attributes:
        format: ``yt8m_video`` (one row a record), ``yt8m_frame`` and ``yt8m_segment`` (one row a second), or
            ``example``: tf.train.Example with the features named in ``fields``.
        glob: patterns relative to the spec's folder, or URIs; ``**`` crosses folders.
        rgb, audio: numbers a row in the outputs ``rgb`` and ``audio`` of YouTube-8M; ``audio: 0`` leaves it out.
        vocabulary: CSV of classes with the columns Index and Name; labels get names, others are refused.
        fields: for ``example``: name of the feature -> its width and type; each becomes an output.
        id: for ``example``: the feature that names a record, unique in its shard.
        labels: for ``example``: an int64 feature with class indices.
        quantized: ``decode`` stores 8-bit codes as the float32 numbers they stand for, ``keep`` as they are, in a
            binary column of a quarter of the size.
        uid: of a shard: ``path`` (relative to the glob's root, no extension), ``stem``, or ``{regex: ...}``.
    """

    own_vectors: ClassVar[bool] = True
    kind: Literal["tfrecord"]
    format: Literal["yt8m_video", "yt8m_frame", "yt8m_segment", "example"]
    glob: Annotated[list[Text], BeforeValidator(_one_or_many), Field(min_length=1)]
    rgb: Count = 1024
    audio: NonNegativeInt = 128
    vocabulary: str | None = None
    fields: dict[Name, ExampleFieldSpec] | None = None
    id: str | None = None
    labels: str | None = None
    quantized: Literal["decode", "keep"] = "decode"
    uid: UidLaw = "path"

    @model_validator(mode="after")
    def _fits_format(self) -> TfrecordSource:
        declared = [name for name in ("fields", "id", "labels") if getattr(self, name) is not None]
        if self.format != "example" and declared:
            raise ValueError(f"{declared[0]!r} is for format example; {self.format} knows its own features")
        if self.format == "example" and not (self.fields and self.id):
            raise ValueError("format example needs 'fields', such as {vector: {width: 512}}, and 'id', such as id: key")
        return self


class TextColumns(Model):
    """Which columns (CSV) or keys (JSONL) hold what; an empty name means that there is none.

    Attributes:
        start, end: seconds; without ``start`` the texts are about whole videos.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)
    uid: Annotated[str, Field(min_length=1)] = "uid"
    text: Annotated[str, Field(min_length=1)] = "text"
    start: str = "start_s"
    end: str = ""
    pass_: str = Field("", alias="pass")
    annotation_uid: str = ""


class KeepSpec(Model):
    """Which narrations stay.

    Attributes:
        min_tokens: fewest pieces between single spaces; Ego4D's research code takes 5.
        min_spacing: videos whose narrations follow each other closer on average are dropped; there ``100ms``.
        without: files of uids, one a line, whose videos are dropped, such as those of val and test.
    """

    min_tokens: NonNegativeInt = 0
    min_spacing: NonNegativeSeconds = 0.0
    without: Annotated[list[str], BeforeValidator(_one_or_many)] = []


class NarrationsSource(Model):
    """Timed texts about videos; one video's are one item, whose uid is the video's.

    Attributes:
        format: ``ego4d`` (both versions), ``tgif`` (address, tab, sentence), ``csv``, ``jsonl``, ``srt``, ``vtt``.
        path: the one file.
        glob: patterns relative to the spec's folder, or URIs.
        rows: of Ego4D's files: the narrations of moments, or the summaries of stretches.
        columns: of CSV and JSONL.
        delimiter: of CSV.
        encoding: of CSV and subtitles; UTF-8 by default.
        urls: the uid column of CSV or JSONL holds addresses.
        uid: what names the video in a subtitle file's path, or in an address.
        offset: a narration is usable while its time plus this is not negative.
        rules: replacements in the text before it is encoded; those of Ego4D for ``ego4d`` (#C, #O, #unsure), else none.
        order: of a video's narrations: ``tutorial`` (pass, place in the file) or ``research`` (time).
        limit: take that many videos, chosen by a hash with ``seed``.
        uids: take these videos; a list, or a file with one a line.
    """

    own_vectors: ClassVar[bool] = False
    kind: Literal["narrations"]
    format: Literal["ego4d", "tgif", "csv", "jsonl", "srt", "vtt"]
    path: str | None = None
    glob: Annotated[list[Text], BeforeValidator(_one_or_many), Field(min_length=1)] | None = None
    rows: Literal["narrations", "summaries"] = "narrations"
    columns: TextColumns | None = None
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    encoding: str | None = None
    urls: bool = False
    uid: UidLaw = "path"
    offset: NonNegativeSeconds = 2.0
    rules: dict[str, str] | None = None
    keep: KeepSpec = KeepSpec()
    order: Literal["tutorial", "research"] = "tutorial"
    limit: Count | None = None
    seed: int = 0
    uids: list[str] | str | None = None

    @model_validator(mode="after")
    def _fits_format(self) -> NarrationsSource:
        if (self.path is None) == (self.glob is None):
            raise ValueError("give exactly one of 'path' (a file) and 'glob' (patterns)")
        owners = {
            "rows": ("ego4d",),
            "columns": ("csv", "jsonl"),
            "urls": ("csv", "jsonl"),
            "delimiter": ("csv",),
            "encoding": ("csv", "srt", "vtt"),
        }
        for name, formats in owners.items():
            default = type(self).model_fields[name].default
            if getattr(self, name) != default and self.format not in formats:
                raise ValueError(f"{name!r} is for {' and '.join(formats)}; leave it out for {self.format}")
        if self.rules is not None and "" in self.rules:
            raise ValueError("rules: an empty text can't be replaced")
        return self


class LabelsSource(Model):
    """Class names put into prompts, as texts to encode; one class is one item, and its name is the uid.

    Attributes:
        labels: the names.
        path: a text file with one name a line.
        templates: texts with ``{label}`` where the name goes.
    """

    own_vectors: ClassVar[bool] = False
    kind: Literal["labels"]
    labels: Annotated[list[str], Field(min_length=1)] | None = None
    path: str | None = None
    templates: Annotated[list[Text], BeforeValidator(_one_or_many), Field(min_length=1)] = ["{label}"]

    @model_validator(mode="after")
    def _one_list(self) -> LabelsSource:
        if (self.labels is None) == (self.path is None):
            raise ValueError("give exactly one of 'labels' (a list) and 'path' (a file with one a line)")
        for template in self.templates:
            if "{label}" not in template:
                raise ValueError(f"the template {template!r} has no {{label}}; write it where the class name goes")
        return self


class WindowLawSpec(Model):
    """The sliding windows that precomputed rows stand for, in frames at ``fps``; Ego4D's Omnivore: 30, 32, 16."""

    fps: Annotated[float, Field(gt=0, le=1000, strict=False)]
    window: Count
    stride: Count


class PrecomputedSource(Model):
    """Feature files that others computed: ``<uid>.pt``, ``.npy``, ``.npz``, or HDF5 with one dataset a uid.

    Attributes:
        glob: patterns relative to the spec's folder, or URIs; files of other kinds are passed over.
        window: which second each row stands for.
        dim: numbers in a row.
        output: name of the vectors' column.
        key: name of the array in ``.npz`` files that hold several.
        group: where in HDF5 files the datasets lie.
        uid: what names the video in a file's path.
    """

    own_vectors: ClassVar[bool] = True
    kind: Literal["precomputed"]
    glob: Annotated[list[Text], BeforeValidator(_one_or_many), Field(min_length=1)]
    window: WindowLawSpec
    dim: Count
    output: Name = "features"
    key: str | None = None
    group: str = "/"
    uid: UidLaw = "stem"


Source = MediaSource | TfrecordSource | NarrationsSource | LabelsSource | PrecomputedSource


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
        encoder: left out where the source brings vectors of its own.
        outputs: names of the encoder's (or the source's) outputs to keep; all by default.
    """

    source: Name
    encoder: Name | None = None
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
    nprobe: Count | None = None
    shards: Count | None = None


class Hdf5Export(Model):
    """One dataset a uid, in parts linked by a master file, or in one self-contained file (``single``)."""

    kind: Literal["hdf5"]
    feature: Name
    output: str | None = None
    single: bool = False


class PcaSpec(Model):
    """A projection on principal components, ``(x - mean) @ vectors / sqrt(values + 1e-4)``, as YouTube-8M makes it.

    Attributes:
        path: an .npz file, or a folder of .npy files, with mean, eigenvectors and eigenvalues.
        components: how many are kept; all by default.
        rows: the matrix holds an eigenvector a row, as in YouTube-8M's published files.
    """

    path: str
    components: Count | None = None
    rows: bool = False


class TfrecordExport(Model):
    """Shards in YouTube-8M's formats, by hash of the id; labels are those of the feature's source.

    Attributes:
        feature: exported whole; its rows have to be in the order of time.
        format: ``yt8m_frame``: the rows of each uid (300 at the most) as 8-bit codes; ``yt8m_video``: their mean.
        rgb, audio: which output goes where; by default ``rgb`` and ``audio`` where the feature has them, else its
            only output as ``rgb``.
        pca: applied to each row of the output that becomes ``rgb``.
        shards: number of files.
        gzip: compress each file as a whole.
    """

    kind: Literal["tfrecord"]
    feature: Name
    format: Literal["yt8m_frame", "yt8m_video"]
    rgb: str | None = None
    audio: str | None = None
    pca: PcaSpec | None = None
    shards: Count = 1
    gzip: bool = False

    @property
    def output(self) -> str | None:
        """What ``hdf5`` calls the one output to export."""
        return self.rgb


class TakeSpec(Model):
    """Keep so many rows of each window, evenly spread."""

    take: Count


class SplitSpec(Model):
    """How videos are dealt out to splits; a video is never in two.

    Attributes:
        shares: split -> share of the videos, by a hash of the uid with ``seed``; they add up to 100%.
        lists: split -> file of uids, one a line; videos in no file are dropped.
    """

    shares: Annotated[dict[Name, Share], Field(min_length=1)] | None = None
    seed: int = 0
    lists: Annotated[dict[Name, str], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> SplitSpec:
        if (self.shares is None) == (self.lists is None):
            raise ValueError("give exactly one of 'shares' and 'lists'")
        if self.shares is not None and abs(sum(self.shares.values()) - 1) > 1e-9:
            raise ValueError(f"the shares add up to {sum(self.shares.values()):.4g}, not to 1; mend them")
        return self


class PairsExport(Model):
    """Narrations beside the clip features of their moments, for training.

    Attributes:
        feature: clip features on a grid (windows with ``fps``, ``every``, or precomputed).
        text: a feature of narrations.
        output, text_output: may be left out when the features have one output each.
        around: a moment stands for so much time to both sides.
        pool: ``mean`` of the rows in that time, or ``{take: n}`` of them.
        keep: filters, beside those of the source.
        splits: how videos are dealt out; all are ``train`` by default.
        format: ``parquet`` or ``hdf5``: files by split and shard; ``tutorial``: one self-contained HDF5 file with whole
            clip features, text vectors and a list of {uid, txt, ts, idx, pass}.
        shards: files a split.
    """

    kind: Literal["pairs"]
    feature: Name
    text: Name
    output: str | None = None
    text_output: str | None = None
    around: NonNegativeSeconds = 2.0
    pool: Literal["mean"] | TakeSpec = "mean"
    keep: KeepSpec = KeepSpec()
    splits: SplitSpec = SplitSpec.model_validate({"shares": {"train": "100%"}})
    format: Literal["parquet", "hdf5", "tutorial"] = "parquet"
    shards: Count = 1


Export = Hdf5Export | TfrecordExport | PairsExport


class Target(Model):
    """Where a run is executed; keys other than ``runner`` and ``workers`` are Beam pipeline options."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    runner: str = "local"
    workers: Count | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Beam pipeline options by name."""
        return dict(self.model_extra or {})


class MediaLimitsSpec(Model):
    """Files beyond these are failures, not work."""

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
        max_failed, max_deleted, max_recompute: shares of the items; beyond them the run ends with exit code 3.
        max_attempts: nights on which a transient failure is tried again.
        segment: files longer than this are split in time where the sampling allows.
    """

    max_failed: Share = 0.1
    max_deleted: Share = 0.1
    max_recompute: Share = 1.0
    max_attempts: Count = 3
    segment: PositiveSeconds = 600.0
    media: MediaLimitsSpec = MediaLimitsSpec()


class Spec(Model):
    """A whole spec, each part valid by itself; ``spec_file.load_spec`` also checks the references between parts."""

    version: Literal[1]
    name: Name
    store: Text
    sources: Annotated[dict[Name, Annotated[Source, Field(discriminator="kind")]], Field(min_length=1)]
    encoders: dict[Name, EncoderSpec] = {}
    features: dict[Name, FeatureSpec] = {}
    indexes: dict[Name, IndexSpec] = {}
    exports: dict[Name, Annotated[Export, Field(discriminator="kind")]] = {}
    targets: Annotated[dict[Name, Target], Field(min_length=1)] = {"local": Target()}
    limits: Limits = Limits()
