"""Sources in a spec: named sets of inputs, by kind."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticKnownError

from cliploom.schemas.errors import CliploomError
from cliploom.schemas.media import MEDIA_TYPES
from cliploom.schemas.spec_base import KeepSpec, Model, Name, Text, UidLaw, one_or_many
from cliploom.schemas.units import Bytes, Count, NonNegativeSeconds, PositiveSeconds


def _check_type(value: str) -> str:
    if value in ("media", *MEDIA_TYPES) or _EXTENSION.fullmatch(value):
        return value
    raise ValueError(
        f"{value!r} is not a type of file; write media, {', '.join(MEDIA_TYPES)}, or an extension such as .mp4"
    )


_EXTENSION = re.compile(r"\.[^./\s]+")
FileType = Annotated[str, AfterValidator(_check_type)]


class LabelColumn(Model):
    """Labels from a column of the source's table: a text, several separated by ``;``, or a list.

    Attributes:
        column: the name of the column.
    """

    column: str


class LabelFile(Model):
    """Labels from a CSV with the columns ``uid`` (or ``path``) and ``labels``, several separated by ``;``.

    Attributes:
        csv: the path relative to the spec's folder; an item may have several lines. A uid without its extension refers
            to the only item whose uid has one.
        encoding: the encoding of the file; UTF-8 by default.
    """

    csv: str
    encoding: str | None = None


class FolderTexts(Model):
    """Labels from names of folders that are ids, such as WordNet's ``n02123045``: ``{folder, texts: words.txt}``.

    The label of a file is that of the nearest parent folder whose name is in the list. Files without such a folder have
    no label.

    Attributes:
        folder: no value, or ``true``: says that the ids are folder names.
        texts: a file with an id, a tab and words on each line, synonyms separated by commas, as in ImageNet's
            ``words.txt``; the words become the label's name.
        ids: a file with one id per line, such as ``wnids.txt``: the classes, numbered from 0 in this order. Without it
            all ids in ``texts`` are classes, in the order of that file.
    """

    folder: Literal[True] | None
    texts: Text
    ids: Text | None = None


class HttpSpec(Model):
    """Settings for downloading files at http(s) URLs; ``bandwidth`` also applies to objects in buckets.

    Attributes:
        connect_timeout: the time limit for opening a connection, whatever number of IP addresses the host has.
        read_timeout: the longest silence of a server, and the time limit for all headers of a response.
        timeout: the time limit for a whole file, including retries and waiting.
        max_size: the maximum size of a file; larger ones are failures.
        attempts: the number of attempts after time-outs, broken connections, 5xx, 408, 425 and 429; honours
            Retry-After.
        rate: the requests per second to one host, by all workers on a machine together.
        bandwidth: the bytes per second from one host or bucket, by all workers on a machine together and across files,
            such as ``20MB``; unlimited by default.
        redirects: the maximum number; never to another scheme than http(s), from https to http, or into a private
            network.
    """

    connect_timeout: PositiveSeconds = 10.0
    read_timeout: PositiveSeconds = 30.0
    timeout: PositiveSeconds = 1800.0
    max_size: Bytes = 4_000_000_000
    attempts: Annotated[Count, Field(le=100)] = 4
    rate: Annotated[float, Field(gt=0, le=10_000, strict=False)] = 10.0
    bandwidth: Bytes | None = None
    redirects: Annotated[NonNegativeInt, Field(le=50)] = 5


Content = Literal["media", "texts", "vectors"]


class SourceNode(Model):
    """Base of the models of sources; an installed package's kind extends it with keys of its own.

    Attributes:
        content: what an item holds: ``media`` to sample and encode, ``texts`` to encode, or ``vectors`` to store.
        records: an item is a file of records, and rows belong to the records.
        about_media: texts whose uids name items of media.
        on_grid: rows of vectors lie at equal distances in time.
    """

    content: ClassVar[Content] = "media"
    records: ClassVar[bool] = False
    about_media: ClassVar[bool] = False
    on_grid: ClassVar[bool] = False
    kind: str

    @property
    def own_vectors(self) -> bool:
        """Whether rows come from the source, without an encoder."""
        return self.content == "vectors"

    @property
    def timed(self) -> bool:
        """Whether texts have times; otherwise each is about a whole video."""
        return True

    @property
    def downloads(self) -> HttpSpec | None:
        """How files at http(s) addresses are fetched; None if the source has none."""
        return None


class MediaSource(SourceNode):
    """Videos, GIFs and images found by globs, or listed by a table.

    Attributes:
        glob: patterns relative to the spec's folder, or URIs; ``**`` matches any depth of folders.
        types: the types of files to use from ``glob``, in any letter case: ``media`` (all below), ``videos``, ``gifs``,
            ``images``, or extensions such as ``.mp4``; one or a list.
        table: a CSV, TSV, Parquet or JSONL file with a ``uri`` column (a path, an object in a bucket or an http(s)
            URL), optionally ``uid``, and any columns kept as metadata; the cells of a CSV are texts.
        encoding: the encoding of a CSV or JSONL table; UTF-8 by default.
        format: ``tgif``: the table is a list of URLs, one per line, each optionally followed by a tab and a caption,
            like TGIF's list and its splits; a repeated URL is the same file.
        http: settings for downloading files at http(s) URLs.
        allow_parameters: names of parameters in the table's URLs that are not secret although they sound like it, such
            as ``code``; URLs with other such parameters are rejected, since the store keeps URLs.
        uid: ``path`` (relative to the glob's root, without extension; for a URL host and path, then the query),
            ``file`` (the same with the extension, so that ``a.jpg`` and ``a.mov`` are two items), ``stem`` (the file
            name without extension), or ``{regex: ...}``.
        stereo: ``left`` keeps the left half of side-by-side stereo pictures.
        deinterlace: whether to deinterlace interlaced pictures (default); ``false`` keeps both fields in a picture.
        tone_map: whether to convert high dynamic range (PQ, HLG) and the wide gamut of BT.2020 to ordinary video
            (default); ``false`` uses the stored values.
        labels: the labels of items for the table ``labels``: ``folder`` (the name of a file's folder), ``{folder,
            texts: words.txt}`` (the same for folders named by ids such as WordNet's), ``{column: ...}`` of the table,
            or ``{csv: ...}``.
        vocabulary: a CSV of classes with the columns Index and Name, which gives labels their numbers; without it they
            are numbered in the order of their names.
    """

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

    @property
    def downloads(self) -> HttpSpec:
        """How files at http(s) addresses are fetched."""
        return self.http

    @model_validator(mode="after")
    def _one_listing(self) -> MediaSource:
        if (self.glob is None) == (self.table is None):
            raise ValueError("give exactly one of 'glob' (patterns) and 'table' (a file that lists uris)")
        if self.types is not None and self.glob is None:
            raise ValueError("'types' selects files of a 'glob'; remove it, since a table lists the files")
        if self.format is not None and self.table is None:
            raise ValueError(f"'format: {self.format}' is the format of a 'table'; add the table")
        if isinstance(self.labels, FolderTexts) and self.vocabulary is not None:
            raise ValueError("'labels.texts' names and numbers the classes; remove 'vocabulary'")
        if self.encoding is not None and (self.table is None or self.format is not None):
            raise ValueError("'encoding' applies to a CSV or JSONL 'table'; remove it")
        return self


_ROW_COLUMNS = {"row_id", "uid", "start_s", "end_s", "frame", "item_digest", "labels"}


class ExampleFieldSpec(Model):
    """A feature of tf.train.Example that becomes an output of the source, or a column of texts.

    Attributes:
        width: the number of values; omitted for ``text``.
        type: ``float32``; ``int64``, stored as float32, which is exact up to 16,777,216; ``uint8``: one string of raw
            bytes, quantised as in YouTube-8M; or ``text``: one UTF-8 string, which heads can read.
    """

    width: Count | None = None
    type: Literal["float32", "int64", "uint8", "text"] = "float32"

    @model_validator(mode="after")
    def _numbers_have_a_width(self) -> ExampleFieldSpec:
        if self.type == "text" and self.width is not None:
            raise ValueError("a text has no width; remove it")
        if self.type != "text" and self.width is None:
            raise ValueError(f"type {self.type} needs the number of values, such as width: 512")
        return self


class TfrecordSource(SourceNode):
    """TFRecord shards, compressed or not; rows get the ids of their records.

    Attributes:
        format: ``yt8m_video`` (one row per record), ``yt8m_frame`` and ``yt8m_segment`` (one row per second), or
            ``example``: tf.train.Example with the features named in ``fields``.
        glob: patterns relative to the spec's folder, or URIs; ``**`` matches any depth of folders.
        rgb, audio: the widths of the outputs ``rgb`` and ``audio`` of YouTube-8M; ``audio: 0`` omits it.
        vocabulary: a CSV of classes with the columns Index and Name; labels get names, unknown ones are rejected.
        fields: for ``example``: maps the name of a feature to its width and type; each becomes an output, or a column
            of texts.
        id: for ``example``: the feature that identifies a record, unique in its shard.
        labels: for ``example``: an int64 feature with class indices.
        quantized: ``decode`` stores 8-bit codes as the float32 numbers that they represent, ``keep`` stores the codes,
            in a binary column of a quarter of the size.
        uid: the uid of a shard: ``path`` (relative to the glob's root, no extension), ``file`` (with it), ``stem``, or
            ``{regex: ...}``.
    """

    content: ClassVar[Content] = "vectors"
    records: ClassVar[bool] = True
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
    """The columns (CSV) or keys (JSONL) of each value; an empty name means that it does not exist.

    Attributes:
        uid: the uid of the video.
        text: the sentence.
        start, end: the times in seconds; without ``start`` the texts are about whole videos.
        pass: the number of the annotation pass.
        annotation_uid: the id of the annotator.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)
    uid: Annotated[str, Field(min_length=1)] = "uid"
    text: Annotated[str, Field(min_length=1)] = "text"
    start: str = "start_s"
    end: str = ""
    pass_: str = Field("", alias="pass")
    annotation_uid: str = ""


class NarrationsSource(SourceNode):
    """Timed texts about videos; the texts of one video are one item, with the uid of the video.

    Attributes:
        format: ``ego4d`` (both versions), ``tgif`` (URL, tab, sentence), ``csv``, ``jsonl``, ``srt``, ``vtt``.
        path: a single file.
        glob: patterns relative to the spec's folder, or URIs.
        rows: the rows of Ego4D's files: the narrations of moments, or the summaries of stretches.
        columns: the columns of CSV and JSONL.
        delimiter: the delimiter of CSV.
        encoding: the encoding of CSV and subtitles; UTF-8 by default.
        urls: whether the uid column of CSV or JSONL has URLs.
        allow_parameters: names of parameters in those URLs that are not secret although they sound like it.
        uid: how the uid is derived from a subtitle file's path, or from a URL.
        offset: a narration is usable if its time plus this is not negative.
        rules: replacements in the text before encoding; by default those of Ego4D for ``ego4d`` (#C, #O, #unsure), else
            none.
        order: the order of a video's narrations: ``tutorial`` (pass, position in the file) or ``research`` (time).
        keep: filters for narrations.
        limit: the number of videos to use, chosen by a hash with ``seed``.
        seed: the seed of that choice.
        uids: the videos to use; a list, or a file with one uid per line.
    """

    content: ClassVar[Content] = "texts"
    about_media: ClassVar[bool] = True
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
        """Whether the texts have times; otherwise each is about a whole video."""
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
                raise ValueError(f"{name!r} is for {' and '.join(formats)}; remove it for {self.format}")
        if self.rules is not None and "" in self.rules:
            raise ValueError("rules: cannot replace an empty text")
        return self


class LabelsSource(SourceNode):
    """Class names inserted into prompts, as texts to encode; each class is one item, with its name as the uid.

    Attributes:
        labels: the class names.
        path: a text file with one name per line.
        templates: texts with ``{label}`` at the position of the name.
    """

    content: ClassVar[Content] = "texts"
    kind: Literal["labels"]
    labels: Annotated[list[str], Field(min_length=1)] | None = None
    path: str | None = None
    templates: Annotated[list[Text], BeforeValidator(one_or_many), Field(min_length=1)] = ["{label}"]

    @model_validator(mode="after")
    def _one_list(self) -> LabelsSource:
        if (self.labels is None) == (self.path is None):
            raise ValueError("give exactly one of 'labels' (a list) and 'path' (a file with one per line)")
        for template in self.templates:
            if "{label}" not in template:
                raise ValueError(f"the template {template!r} has no {{label}}; write it where the class name goes")
        return self


class WindowLawSpec(Model):
    """The sliding windows of precomputed rows, in frames at ``fps``; for Ego4D's Omnivore features 30, 32, 16.

    Attributes:
        fps: the frames per second.
        window: the length of a window, in frames.
        stride: the distance between the starts of consecutive windows, in frames.
    """

    fps: Annotated[float, Field(gt=0, le=1000, strict=False)]
    window: Count
    stride: Count


class PrecomputedSource(SourceNode):
    """Precomputed feature files: ``<uid>.pt``, ``.npy``, ``.npz``, or HDF5 with one dataset per uid.

    Attributes:
        glob: patterns relative to the spec's folder, or URIs; files of other kinds are ignored.
        window: the windows that the rows were computed on, which give their times.
        dim: the length of a row.
        output: the name of the vector column.
        key: the name of the array in ``.npz`` files with several.
        group: the group of the datasets in HDF5 files.
        uid: how the uid is derived from a file's path.
    """

    content: ClassVar[Content] = "vectors"
    on_grid: ClassVar[bool] = True
    kind: Literal["precomputed"]
    glob: Annotated[list[Text], BeforeValidator(one_or_many), Field(min_length=1)]
    window: WindowLawSpec
    dim: Count
    output: Name = "features"
    key: str | None = None
    group: str = "/"
    uid: UidLaw = "stem"


BuiltIn = MediaSource | TfrecordSource | NarrationsSource | LabelsSource | PrecomputedSource

GROUP = "cliploom.sources"
"""Entry point group in which installed packages offer kinds of sources."""
BUILT_IN = tuple(str(get_args(model.model_fields["kind"].annotation)[0]) for model in get_args(BuiltIn))


def offered_node(kind: str) -> type[SourceNode] | None:
    """Return the model of a kind that an installed package offers, or None if none offers it.

    Raises:
        CliploomError: if the package can't be loaded, or the class has no attribute ``Node`` that is such a model.
    """
    from cliploom.schemas.plugins import load_offered

    found = load_offered(GROUP, kind, "source kind")
    if found is None:
        return None
    node = getattr(found, "Node", None)
    if not (isinstance(node, type) and issubclass(node, SourceNode)):
        raise CliploomError(f"The source kind '{kind}' has no class 'Node' that extends SourceNode.")
    return node


def is_about_media(kind: str) -> bool:
    """Return whether uids of a kind's texts name items of media; False for kinds that are not installed."""
    for model in get_args(BuiltIn):
        if kind in get_args(model.model_fields["kind"].annotation):
            return bool(model.about_media)
    try:
        node = offered_node(kind) if kind else None
    except CliploomError:
        return False  # a store is searched without the package that listed its sources
    return node is not None and node.about_media


def source_kinds() -> list[str]:
    """Return the names of all kinds that a spec may name."""
    from cliploom.schemas.plugins import offered_kinds

    return sorted({*BUILT_IN, *offered_kinds(GROUP)})


def _by_kind(value: Any, validate_built_in: Callable[[Any], Any]) -> Any:
    """Validate a node with the model of its kind."""
    if isinstance(value, SourceNode) and value.kind not in BUILT_IN:
        return value
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind in BUILT_IN:
        return validate_built_in(value)
    node = offered_node(kind)
    if node is not None:
        return node.model_validate(value)
    expected = ", ".join(map(repr, source_kinds()))
    raise PydanticKnownError("union_tag_invalid", {"discriminator": "'kind'", "tag": kind, "expected_tags": expected})


Source = Annotated[BuiltIn, Field(discriminator="kind"), WrapValidator(_by_kind)]
"""A source of any kind: a built-in one by its own model, others by the model of the package that offers the kind."""
