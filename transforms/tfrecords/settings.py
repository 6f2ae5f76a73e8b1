"""Settings of a ``tfrecord`` source: from the declaration in the spec to those of workers and features."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from cliploom.schemas.digests import digest_of
from cliploom.schemas.errors import SpecError
from cliploom.schemas.sources import MediaSource, TfrecordSource
from cliploom.schemas.tfrecords import ValueType
from cliploom.transforms.inputs.listing import list_source
from cliploom.transforms.tfrecords.vocabulary import Vocabulary, read_vocabulary

REVISION = 1
"""Increase it when the same shard gives other rows."""


@dataclass(frozen=True)
class OutputField:
    """A feature of tf.train.Example that becomes an output, or a column of texts (of width 1)."""

    width: int
    type: ValueType


@dataclass(frozen=True)
class ShardSettings:
    """The settings for reading the shards of one source.

    Attributes:
        fields: the outputs and texts of format ``example``.
        id, labels: the features of format ``example``; ``labels`` may be empty.
        compact: the outputs stored as 8-bit codes.
        names: maps a class index to its title; empty without a vocabulary.
    """

    format: str
    rgb: int
    audio: int
    fields: dict[str, OutputField]
    id: str
    labels: str
    compact: tuple[str, ...]
    names: dict[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, source: TfrecordSource, vocabulary: Vocabulary | None) -> ShardSettings:
        """Return the declared settings of a source."""
        fields = {name: OutputField(each.width or 1, each.type) for name, each in (source.fields or {}).items()}
        compact: list[str] = []
        if source.quantized == "keep":
            if source.format in ("yt8m_frame", "yt8m_segment"):
                compact = ["rgb", "audio"] if source.audio else ["rgb"]
            compact += [name for name, each in fields.items() if each.type == "uint8"]
        names = {index: each.title for index, each in vocabulary.classes.items()} if vocabulary else {}
        return cls(
            format=source.format,
            rgb=source.rgb,
            audio=source.audio,
            fields=fields,
            id=source.id or "",
            labels=source.labels or "",
            compact=tuple(compact),
            names=names,
        )

    @property
    def outputs(self) -> dict[str, int]:
        """The outputs with the lengths of their vectors."""
        if self.format == "example":
            return {name: each.width for name, each in self.fields.items() if each.type != "text"}
        return {"rgb": self.rgb} | ({"audio": self.audio} if self.audio else {})

    @property
    def types(self) -> dict[str, str]:
        """The types of outputs that records have in other types than floats, for format ``example``."""
        return {name: self.fields[name].type for name in self.outputs if self.format == "example"}

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns of texts."""
        return tuple(name for name, each in self.fields.items() if each.type == "text")

    def recipe(self) -> dict[str, Any]:
        """Return the settings that affect the rows and their labels; the vocabulary as a digest."""
        names = digest_of([[index, self.names[index]] for index in sorted(self.names)]) if self.names else ""
        return asdict(self) | {"names": names, "revision": REVISION}

    def to_json(self) -> str:
        """Return the settings as text, for jobs."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> ShardSettings:
        """Create settings from the result of ``to_json``."""
        value = json.loads(text)
        fields = {name: OutputField(**each) for name, each in value["fields"].items()}
        names = {int(index): name for index, name in value["names"].items()}
        return cls(**(value | {"fields": fields, "names": names, "compact": tuple(value["compact"])}))


def source_settings(source: TfrecordSource, base: Path, place: str) -> ShardSettings:
    """Return the settings of a source, including its vocabulary.

    Raises:
        SpecError: the vocabulary file does not exist, or is invalid.
    """
    vocabulary = read_vocabulary_file(source.vocabulary, base, place) if source.vocabulary else None
    return ShardSettings.of(source, vocabulary)


def read_vocabulary_file(name: str, base: Path, place: str) -> Vocabulary:
    """Return a vocabulary named in a spec.

    Args:
        name: the name of the file, relative to ``base``.
        base: the spec's folder.
        place: the location of the source in the spec, for errors.

    Raises:
        SpecError: the file does not exist, or is invalid.
    """
    path = (base / Path(name).expanduser()).absolute()
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            return read_vocabulary(lines, str(path))
    except FileNotFoundError:
        raise SpecError(f"{place}.vocabulary: there is no file {str(path)!r}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(
            f"{place}.vocabulary: {path} can't be read as UTF-8 text ({error}); save it as UTF-8."
        ) from None
    except csv.Error as error:
        raise SpecError(f"{place}.vocabulary: {path} is not a CSV file ({error}).") from None


def list_shards(name: str, source: TfrecordSource, base: Path) -> pl.DataFrame:
    """Return all shards of a source, in the format of ``cliploom.transforms.inputs.listing.list_source``.

    Raises:
        SpecError: two files share a uid, or a folder is missing.
    """
    return list_source(name, MediaSource(kind="media", glob=source.glob, uid=source.uid), base)
