"""A feature's rows sorted by id, on local disk, so that memory does not grow with the corpus."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cliploom.schemas.errors import SpecError, UnknownNameError, nearest
from cliploom.schemas.records import ORDINAL_BITS
from cliploom.schemas.release import FeatureEntry, Release
from cliploom.transforms.exports.base import feature_contents
from cliploom.transforms.index.vectors import prepare
from cliploom.transforms.metrics.ranks import Similarity
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.parts import arrow_to_vectors, part_path, read_rows

_COLUMNS = ["row_id", "uid", "start_s", "end_s"]


@dataclass(frozen=True)
class FeatureRows:
    """All rows of one output of a feature, sorted by row id, which keeps the rows of an item together.

    Attributes:
        vectors: float32 [rows, dim], a memory map.
        row_ids: int64 [rows], ascending.
        start_s, end_s: float64 [rows], NaN for rows without time.
        starts: int64 [things + 1], the first row of each item (or of each record, for shards of records).
        uids: the uids of the items or records.
    """

    vectors: NDArray[np.float32]
    row_ids: NDArray[np.int64]
    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    starts: NDArray[np.int64]
    uids: list[str]


def find_output(release: Release, feature: str, output: str | None, *, texts: bool = False) -> tuple[FeatureEntry, str]:
    """Find the entry of a feature and the output to measure.

    Args:
        release: a published release, or the draft of one.
        feature: the name of the feature.
        output: the output; None for the only one, ``semantic``, or the one that supports texts.
        texts: whether the output must share a space with the encoder's text encoder.

    Raises:
        SpecError: there is no such feature or output.
    """
    if feature not in release.features:
        raise UnknownNameError(
            f"Release {release.release} has no feature {feature!r}{nearest(feature, release.features)}"
        )
    entry = release.features[feature]
    able = [name for name, about in entry.outputs.items() if about.text] if texts else list(entry.outputs)
    if texts and not able:
        raise SpecError(
            f"Feature {feature!r} can't be compared with texts: its encoder {entry.encoder!r} has no text tower; give "
            "the encoder a text_encoder, or use an encoder with a text tower."
        )
    if output is None:
        if len(able) > 1 and "semantic" not in able:
            raise SpecError(f"Feature {feature!r} has the outputs {', '.join(able)}; choose one with 'output'.")
        return entry, able[0] if len(able) == 1 else "semantic"
    if output not in able:
        raise UnknownNameError(f"Feature {feature!r} has no such output {output!r}{nearest(output, able)}")
    return entry, output


def chosen_similarity(release: Release, feature: str, output: str, declared: Similarity | None) -> Similarity:
    """Return the declared similarity, else the metric of an index over the output, else ``cosine``."""
    if declared is not None:
        return declared
    for index in release.indexes.values():
        if (index.feature, index.output) == (feature, output):
            return index.metric  # type: ignore[return-value]
    return "cosine"


def read_feature_rows(
    objects: ObjectStore, release: Release, feature: str, output: str, folder: Path, *, unit: bool
) -> FeatureRows:
    """Copy a feature's vectors into a file, sorted by id.

    Args:
        objects: the store.
        release: a published release, or the draft of one.
        feature: the name of the feature.
        output: the name of one of its vector columns.
        folder: the folder for the file.
        unit: whether to scale each vector to length 1.
    """
    entry = release.features[feature]
    dim = entry.outputs[output].dim
    parts = feature_contents(objects, release, feature)["part"].unique().sort().to_list()
    tables = []
    for part in parts:
        with objects.local_copy(part_path(entry.table, part)) as local:
            tables += [rows.cast(rows.schema) for rows in read_rows(local, _COLUMNS)]
    if not tables:
        raise SpecError(f"Feature {feature!r} has no rows in release {release.release}; there is nothing to measure.")
    table = pa.concat_tables(tables).unify_dictionaries()
    row_ids = table["row_id"].to_numpy()
    order = np.argsort(row_ids, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    path = folder / "rows.f32"
    vectors = np.memmap(path, np.float32, "w+", shape=(len(order), dim))
    at = 0
    for part in parts:
        with objects.local_copy(part_path(entry.table, part)) as local:
            for rows in read_rows(local, [output]):
                block = arrow_to_vectors(rows[output], dim)
                vectors[place[at : at + len(block)]] = prepare(block, "cosine" if unit else "dot")
                at += len(block)
    uids = table["uid"].combine_chunks().dictionary_encode()
    codes = uids.indices.to_numpy(zero_copy_only=False)[order]
    items = row_ids[order] >> ORDINAL_BITS
    first = np.flatnonzero(np.concatenate(([True], (np.diff(items) != 0) | (np.diff(codes) != 0))))
    names = uids.dictionary.to_pylist()
    return FeatureRows(
        vectors=vectors,
        row_ids=row_ids[order],
        start_s=_seconds(table["start_s"])[order],
        end_s=_seconds(table["end_s"])[order],
        starts=np.append(first, len(order)).astype(np.int64),
        uids=[names[code] for code in codes[first].tolist()],
    )


def _seconds(column: pa.ChunkedArray) -> NDArray[np.float64]:
    return np.asarray(column.to_numpy().astype(np.float64), np.float64)
