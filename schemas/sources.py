"""Sources of a spec: named sets of inputs, by kind."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, NonNegativeInt, model_validator

from cliploom.schemas.media import MEDIA_TYPES
from cliploom.schemas.spec_base import KeepSpec, Model, Name, Text, UidLaw, one_or_many
from cliploom.schemas.units import Bytes, Count, NonNegativeSeconds, PositiveSeconds


def _check_type(value: str) -> str:
    if value in ("media", *MEDIA_TYPES) or _EXTENSION.fullmatch(value):
        return value
    raise ValueError(
        f"{value!r} is no type of file; write media, {', '.join(MEDIA_TYPES)}, or an extension such as .mp4"
    )


_EXTENSION = re.compile(r"\.[^./\s]+")
FileType = Annotated[str, AfterValidator(_check_type)]


class LabelColumn(Model):
    """Labels from a column of the source's table: a text, several separated by ``;``, or a list.

    Attributes:
        column: name of the column.
    """

    column: str


class LabelFile(Model):
    """Labels from a CSV with the columns ``uid`` (or ``path``) and ``labels``, several separated by ``;``.

    Attributes:
        csv: relative to the spec's folder; an item may have several lines. A uid without its extension is that of the
            only item whose uid has one.
        encoding: of the file; UTF-8 by default.
    """

    csv: str
    encoding: str | None = None


class FolderTexts(Model):
    """Labels from the names of folders that are ids, such as WordNet's ``n02123045``: ``{folder, texts: words.txt}``.

    The label of a file is that of the nearest folder above it whose name is in the list. Files below no such folder
    have no label.

    Attributes:
        folder: no value, or ``true``: says where the ids stand.
        texts: a file with an id, a tab and words on each line, synonyms separated by commas, as ImageNet's
            ``words.txt``; the words become the label's name.
        ids: a file with one id a line, as ``wnids.txt``: the classes, numbered from 0 in this order. Without it all ids
            of ``texts`` are classes, in the order of that file.
    """

    folder: Literal[True] | None
    texts: Text
    ids: Text | None = None


class HttpSpec(Model):
    """How files at http(s) addresses, and with ``bandwidth`` also objects of buckets, are fetched.

    Attributes:
        connect_timeout: for a connection to open, whatever number of addresses its host has.
        read_timeout: longest silence of a server, and longest time for all headers of an answer.
        timeout: for one file as a whole, with all attempts and the waits between them.
        max_size: of one file; larger ones are failures.
        attempts: after time-outs, cuts, answers 5xx, 408, 425 and 429; a server's Retry-After is honoured.
        rate: requests a second to one host, by all workers of a machine together.
        bandwidth: most bytes a second from one host or bucket, by all workers of a machine together and over several
            files, such as ``20MB``; no limit by default.
        redirects: most to follow; never to another scheme than http(s), from https to http, or into a private network.
    """

    connect_timeout: PositiveSeconds = 10.0
    read_timeout: PositiveSeconds = 30.0
    timeout: PositiveSeconds = 1800.0
    max_size: Bytes = 4_000_000_000
    attempts: Annotated[Count, Field(le=100)] = 4
    rate: Annotated[float, Field(gt=0, le=10_000, strict=False)] = 10.0
    bandwidth: Bytes | None = None
    redirects: Annotated[NonNegativeInt, Field(le=50)] = 5


class MediaSource(Model):
    """Videos, GIFs and images found by globs, or listed by a table.

    Attributes:
        glob: patterns relative to the spec's folder, or URIs; ``**`` crosses folders.
        types: of the files that ``glob`` finds, take only those with these extensions, in capitals or not: ``media``
            (all below), ``videos``, ``gifs``, ``images``, or extensions such as ``.mp4``; one or a list.
        table: CSV, TSV, Parquet or JSONL with a ``uri`` column (a path, an object in a bucket or an http(s) address),
            optionally ``uid``, and any columns kept as metadata; the cells of a CSV are texts.
        encoding: of a CSV or JSONL table; UTF-8 by default.
        format: ``tgif``: the table is a list of addresses, one a line, each followed by a tab and a caption or by
            nothing, as TGIF's list and its splits are; an address that comes again is the same file.
        http: how files at http(s) addresses are fetched.
        allow_parameters: names of parameters in the table's addresses that hold no secret though they sound like it,
            such as ``code``; addresses with other such parameters are refused, since the store keeps addresses.
        uid: ``path`` (relative to the glob's root, no extension; of an address host and path, then the query),
            ``file`` (the same with the extension, so that ``a.jpg`` and ``a.mov`` are two items), ``stem`` (the file's
            name without extension), or ``{regex: ...}``.
        stereo: ``left`` keeps the left half of side-by-side stereo pictures.
        deinterlace: make progressive pictures of interlaced ones (default); ``false`` leaves both fields in a picture.
        tone_map: show high dynamic range (PQ, HLG) and the wide colours of BT.2020 as ordinary video (default);
            ``false`` takes the values as they are stored.
        labels: what items are, into the table ``labels``: ``folder`` (the one that a file lies in),
            ``{folder, texts: words.txt}`` (the same, where folders are named by ids such as WordNet's),
            ``{column: ...}`` of the table, or ``{csv: ...}``.
        vocabulary: CSV of classes with the columns Index and Name, which gives labels their numbers; without it
            they are numbered in the order of their names.
    """

    own_vectors: ClassVar[bool] = False
    kind: Literal["media"]
    glob: Annotated[list[Text], BeforeValidator(one_or_many), Field(min_length=1)] | None = None
    types: Annotated[list[FileType], BeforeValidator(one_or_many), Field(min_length=1)] | None = None
    table: Text | None = None
    encoding: str | None = None
    format: Literal["tgif"] | None = None
    http: HttpSpec = HttpSpec()
    allow_parameters: list[Text] = []
    uid: UidLaw = "path"
    stereo: Literal["left"] | None = None
    deinterlace: bool = True
    tone_map: bool = True
    labels: Literal["folder"] | LabelColumn | LabelFile | FolderTexts | None = None
    vocabulary: str | None = None

    @model_validator(mode="after")
    def _one_listing(self) -> MediaSource:
        if (self.glob is None) == (self.table is None):
            raise ValueError("give exactly one of 'glob' (patterns) and 'table' (a file that lists uris)")
        if self.types is not None and self.glob is None:
            raise ValueError("'types' chooses among the files of a 'glob'; leave it out where a table lists them")
        if self.format is not None and self.table is None:
            raise ValueError(f"'format: {self.format}' is how a 'table' is written; name the table")
        if isinstance(self.labels, FolderTexts) and self.vocabulary is not None:
            raise ValueError("'labels.texts' names and numbers the classes; leave 'vocabulary' out")
        if self.encoding is not None and (self.table is None or self.format is not None):
            raise ValueError("'encoding' is of a 'table' that is CSV or JSONL; leave it out")
        return self


_ROW_COLUMNS = {"row_id", "uid", "start_s", "end_s", "frame", "item_digest", "labels"}


class ExampleFieldSpec(Model):
    """A feature of tf.train.Example that becomes an output of the source, or a column of texts.

    Attributes:
        width: numbers in it; left out for ``text``.
        type: ``float32``; ``int64``, kept as float32, which is exact up to 16,777,216; ``uint8``: one string of raw
            numbers, quantised as YouTube-8M does it; or ``text``: one UTF-8 string, which heads can read.
    """

    width: Count | None = None
    type: Literal["float32", "int64", "uint8", "text"] = "float32"

    @model_validator(mode="after")
    def _numbers_have_a_width(self) -> ExampleFieldSpec:
        if self.type == "text" and self.width is not None:
            raise ValueError("a text has no width; leave it out")
        if self.type != "text" and self.width is None:
            raise ValueError(f"type {self.type} needs the number of values, such as width: 512")
        return self


class TfrecordSource(Model):
    """TFRecord shards, compressed or not; rows get the ids of their records.

    Attributes:
        format: ``yt8m_video`` (one row a record), ``yt8m_frame`` and ``yt8m_segment`` (one row a second), or
            ``example``: tf.train.Example with the features named in ``fields``.
        glob: patterns relative to the spec's folder, or URIs; ``**`` crosses folders.
        rgb, audio: numbers a row in the outputs ``rgb`` and ``audio`` of YouTube-8M; ``audio: 0`` leaves it out.
        vocabulary: CSV of classes with the columns Index and Name; labels get names, others are refused.
        fields: for ``example``: name of the feature -> its width and type; each becomes an output, or a column of
            texts.
        id: for ``example``: the feature that names a record, unique in its shard.
        labels: for ``example``: an int64 feature with class indices.
        quantized: ``decode`` stores 8-bit codes as the float32 numbers they stand for, ``keep`` as they are, in a
            binary column of a quarter of the size.
        uid: of a shard: ``path`` (relative to the glob's root, no extension), ``file`` (with it), ``stem``, or
            ``{regex: ...}``.
    """

    own_vectors: ClassVar[bool] = True
    kind: Literal["tfrecord"]
    format: Literal["yt8m_video", "yt8m_frame", "yt8m_segment", "example"]
    glob: Annotated[list[Text], BeforeValidator(one_or_many), Field(min_length=1)]
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
        taken = sorted(set(self.fields or ()) & _ROW_COLUMNS)
        if taken:
            raise ValueError(f"'fields' names {taken[0]!r}, which is a column of every feature's table already")
        if self.fields and all(field.type == "text" for field in self.fields.values()):
            raise ValueError("'fields' are all texts; name a numeric one, too, such as {vector: {width: 512}}")
        return self


class TextColumns(Model):
    """Which columns (CSV) or keys (JSONL) hold what; an empty name means that there is none.

    Attributes:
        uid: what names the video.
        text: the sentence.
        start, end: seconds; without ``start`` the texts are about whole videos.
        pass: number of the annotation pass.
        annotation_uid: the annotator's id.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)
    uid: Annotated[str, Field(min_length=1)] = "uid"
    text: Annotated[str, Field(min_length=1)] = "text"
    start: str = "start_s"
    end: str = ""
    pass_: str = Field("", alias="pass")
    annotation_uid: str = ""


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
        allow_parameters: names of parameters in those addresses that hold no secret though they sound like it.
        uid: what names the video in a subtitle file's path, or in an address.
        offset: a narration is usable while its time plus this is not negative.
        rules: replacements in the text before it is encoded; those of Ego4D for ``ego4d`` (#C, #O, #unsure), else none.
        order: of a video's narrations: ``tutorial`` (pass, place in the file) or ``research`` (time).
        keep: which narrations stay.
        limit: take that many videos, chosen by a hash with ``seed``.
        seed: of that choice.
        uids: take these videos; a list, or a file with one a line.
    """

    own_vectors: ClassVar[bool] = False
    kind: Literal["narrations"]
    format: Literal["ego4d", "tgif", "csv", "jsonl", "srt", "vtt"]
    path: str | None = None
    glob: Annotated[list[Text], BeforeValidator(one_or_many), Field(min_length=1)] | None = None
    rows: Literal["narrations", "summaries"] = "narrations"
    columns: TextColumns | None = None
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    encoding: str | None = None
    urls: bool = False
    allow_parameters: list[Text] = []
    uid: UidLaw = "path"
    offset: NonNegativeSeconds = 2.0
    rules: dict[str, str] | None = None
    keep: KeepSpec = KeepSpec()
    order: Literal["tutorial", "research"] = "tutorial"
    limit: Count | None = None
    seed: int = 0
    uids: list[str] | str | None = None

    @property
    def timed(self) -> bool:
        """The texts have times; without, each is about a whole video."""
        if self.format in ("csv", "jsonl"):
            return self.columns is None or self.columns.start != ""
        return self.format != "tgif"

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
    templates: Annotated[list[Text], BeforeValidator(one_or_many), Field(min_length=1)] = ["{label}"]

    @model_validator(mode="after")
    def _one_list(self) -> LabelsSource:
        if (self.labels is None) == (self.path is None):
            raise ValueError("give exactly one of 'labels' (a list) and 'path' (a file with one a line)")
        for template in self.templates:
            if "{label}" not in template:
                raise ValueError(f"the template {template!r} has no {{label}}; write it where the class name goes")
        return self


class WindowLawSpec(Model):
    """The sliding windows that precomputed rows stand for, in frames at ``fps``; Ego4D's Omnivore: 30, 32, 16.

    Attributes:
        fps: frames a second.
        window: length of a window, in frames.
        stride: from the start of a window to that of the next, in frames.
    """

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
    glob: Annotated[list[Text], BeforeValidator(one_or_many), Field(min_length=1)]
    window: WindowLawSpec
    dim: Count
    output: Name = "features"
    key: str | None = None
    group: str = "/"
    uid: UidLaw = "stem"


Source = MediaSource | TfrecordSource | NarrationsSource | LabelsSource | PrecomputedSource
