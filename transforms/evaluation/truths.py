"""Ground truth: texts and the items that they describe, labels that items share."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cliploom.schemas.digests import digest_of
from cliploom.schemas.errors import SpecError, nearest
from cliploom.schemas.evaluations import Evaluation, TextTruth
from cliploom.schemas.release import Release
from cliploom.transforms.evaluation.gallery import FeatureRows
from cliploom.transforms.inputs.joins import join_uids
from cliploom.transforms.inputs.tables import read_table as read_input_table
from cliploom.transforms.narrations.select import seeded_place
from cliploom.transforms.narrations.uids import read_uid_list
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.tables import read_table

_SPOOLS = "spools"
_SCHEMA = {"uid": pl.String, "text": pl.String, "start_s": pl.Float64, "end_s": pl.Float64}


@dataclass(frozen=True)
class DescribedThings:
    """Texts, and the thing of a gallery that each describes.

    Attributes:
        texts: the texts, one per query.
        things: the position of the described thing, int64 [texts].
        start_s, end_s: float64 [texts], NaN if a text describes the whole thing.
        notes: what was excluded.
    """

    texts: list[str]
    things: NDArray[np.int64]
    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    notes: tuple[str, ...] = ()

    @property
    def timed(self) -> bool:
        """Whether any text describes a time range."""
        return bool(np.isfinite(self.start_s).any())


def with_stored_truth(node: Evaluation, base: Path, objects: ObjectStore, place: str) -> Evaluation:
    """Return the evaluation with its files copied into the store, where workers can read them.

    Args:
        node: the evaluation as declared in the spec.
        base: the folder that its paths are relative to.
        objects: the store.
        place: the location of the evaluation in the spec, for messages.

    Raises:
        SpecError: a file cannot be read.
    """
    update: dict[str, str] = {}
    if node.only is not None:
        path = _file(node.only, base, f"{place}.only")
        uids = sorted(read_uid_list(path))
        update["only"] = f"{_SPOOLS}/{digest_of(uids)}/uids.txt"
        objects.put_new(update["only"], "".join(f"{uid}\n" for uid in uids).encode())
    if isinstance(node, TextTruth) and node.truth is not None:
        frame = read_truth_table(_file(node.truth, base, f"{place}.truth"), f"{place}.truth")
        update["truth"] = f"{_SPOOLS}/{digest_of(frame.rows())}/truth.parquet"
        buffer = io.BytesIO()
        frame.write_parquet(buffer)
        objects.put_new(update["truth"], buffer.getvalue())
    return node.model_copy(update=update)


def _file(path: str, base: Path, place: str) -> Path:
    found = (base / Path(path).expanduser()).absolute()
    if not found.is_file():
        raise SpecError(f"{place}: there is no file {str(found)!r}.")
    return found


def read_truth_table(path: Path, place: str) -> pl.DataFrame:
    """Read a table with the columns uid, text, start_s and end_s.

    Raises:
        SpecError: a column is missing, or a value is invalid.
    """
    table = read_input_table(path, place, tuple(_SCHEMA))
    missing = [name for name in ("uid", "text") if name not in table.columns]
    if missing:
        raise SpecError(
            f"{place}: {path.name} has no column {missing[0]!r}{nearest(missing[0], table.columns)}; it needs uid and "
            "text, and may have start_s and end_s."
        )
    rows = []
    for where, values in table.rows:
        uid, text = values.get("uid"), values.get("text")
        if not uid or not str(text or "").strip():
            raise SpecError(f"{place}: {path.name}, {where}: the {'text' if uid else 'uid'} is empty; fill it in.")
        times = [_seconds(values.get(name), f"{place}: {path.name}, {where}: {name}") for name in ("start_s", "end_s")]
        if times[0] is not None and times[1] is not None and times[1] < times[0]:
            raise SpecError(
                f"{place}: {path.name}, {where}: end_s {times[1]:g} is before start_s {times[0]:g}; swap them."
            )
        rows.append((str(uid), str(text), *times))
    if not rows:
        raise SpecError(f"{place}: {path.name} has no rows; there is nothing to measure.")
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row")


def _seconds(value: object, what: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        found = float(str(value))
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise SpecError(f"{what} is {value!r}, not a number of seconds; correct it.")
    return found


def described_things(
    objects: ObjectStore, release: Release, node: TextTruth, rows: FeatureRows, source: str
) -> DescribedThings:
    """Find the texts of an evaluation and the things that they describe.

    Args:
        objects: the store.
        release: a published release, or the draft of one.
        node: the evaluation with its files in the store (``with_stored_truth``).
        rows: the gallery.
        source: the source of the gallery's feature.

    Raises:
        SpecError: no text describes a thing of the gallery.
    """
    if node.truth is not None:
        frame = pl.read_parquet(io.BytesIO(objects.get(node.truth)))
        what = "the truth table"
    else:
        frame, what = _narrations(objects, release, str(node.texts)), f"source {node.texts!r}"
    total = frame.height
    notes = []
    asked = frame["uid"].unique(maintain_order=True).to_list()
    joined = join_uids([(uid, "") for uid in asked], _known(objects, release, source, rows))
    place = {uid: number for number, uid in enumerate(rows.uids)}
    means = {uid: place[item] for uid, item in joined.found.items() if item in place}
    frame = frame.filter(pl.col("uid").is_in(list(means)))
    if frame.height < total:
        notes.append(f"{total - frame.height} of {total} texts are about no item with rows in the feature")
    notes += joined.problems(what, source)
    if node.only is not None:
        # Lists name items by the texts' uids or by the items' own.
        wanted = read_uid_list(io.BytesIO(objects.get(node.only)))
        before = frame.height
        keep = [uid for uid, thing in means.items() if uid in wanted or rows.uids[thing] in wanted]
        frame = frame.filter(pl.col("uid").is_in(keep))
        notes.append(f"{before - frame.height} of {before} texts are about items that the list of uids leaves out")
    if frame.is_empty():
        examples = ", ".join(map(repr, asked[:3]))
        raise SpecError(
            f"No text of {what} is about an item of source {source!r} that has rows; its uids are such as {examples}, "
            f"the items' such as {', '.join(map(repr, rows.uids[:3]))}."
        )
    start_s, end_s = (frame[name].fill_null(math.nan).to_numpy() for name in ("start_s", "end_s"))
    moment = np.isfinite(start_s) & ~np.isfinite(end_s)
    return DescribedThings(
        texts=frame["text"].to_list(),
        things=np.array([means[uid] for uid in frame["uid"].to_list()], np.int64),
        start_s=np.where(moment, start_s - node.around, start_s),
        end_s=np.where(moment, start_s + node.around, end_s),
        notes=tuple(notes),
    )


def subset(found: DescribedThings, most: int | None, seed: int) -> DescribedThings:
    """Return a seeded subset of at most ``most`` texts in their original order."""
    if most is None or len(found.texts) <= most:
        return found
    places = [seeded_place(f"{number}\0{text}", seed) for number, text in enumerate(found.texts)]
    chosen = np.sort(np.argsort(places, kind="stable")[:most])
    return replace(
        found,
        texts=[found.texts[number] for number in chosen.tolist()],
        things=found.things[chosen],
        start_s=found.start_s[chosen],
        end_s=found.end_s[chosen],
        notes=(*found.notes, f"a seeded subset of {most} of {len(found.texts)} texts is measured"),
    )


def _narrations(objects: ObjectStore, release: Release, source: str) -> pl.DataFrame:
    version = release.tables.get("narrations")
    columns = ["row_id", "source", "uid", "start_s", "end_s", "encoded"]
    found = None if version is None else read_table(objects, "narrations", version, pl.col("source") == source, columns)
    if found is None or found.is_empty():
        raise SpecError(f"Release {release.release} has no texts of source {source!r}; name a source of narrations.")
    return found.sort("row_id").select("uid", pl.col("encoded").alias("text"), "start_s", "end_s")


def _known(objects: ObjectStore, release: Release, source: str, rows: FeatureRows) -> list[tuple[str, str]]:
    """Return the uid and URI of the things; records of shards have no file of their own."""
    mine = pl.col("source") == source
    items = read_table(objects, "items", release.tables["items"], mine, ["source", "uid", "uri"])
    uris = dict(items.select("uid", "uri").iter_rows())
    return [(uid, uris.get(uid) or "") for uid in rows.uids]


def shared_labels(objects: ObjectStore, release: Release, source: str, uids: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the given labels of each uid, by name or number; empty if it has none.

    Raises:
        SpecError: the release has no labels of the source.
    """
    version = release.tables.get("labels")
    given = (pl.col("source") == source) & (pl.col("origin") == "given")
    found = None if version is None else read_table(objects, "labels", version, given)
    if found is None or found.is_empty():
        raise SpecError(
            f"Release {release.release} has no given labels of source {source!r}; add labels: folder to the source, or "
            "name 'texts' or 'truth' for captions that items share."
        )
    named = found.select("uid", pl.coalesce("name", pl.col("label").cast(pl.String)).alias("name"))
    labels = dict(named.group_by("uid", maintain_order=True).agg("name").iter_rows())
    return [tuple(sorted(set(labels.get(uid, ())))) for uid in uids]
