"""``cliploom inspect``: describes a file or a store by its content, never by its name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cliploom.pipelines.cli.inspecting_media import inspect_media, is_media, media_text
from cliploom.pipelines.console import counted, human_bytes
from cliploom.schemas.errors import SpecError, StoreError
from cliploom.schemas.release import Release
from cliploom.transforms.store.object_store import ObjectStore

_PARQUET, _HDF5 = b"PAR1", b"\x89HDF\r\n\x1a\n"
SURE = 0.5
SHOWN = 3
"""Number of values shown of a vector, and of items of a list."""


def inspect(
    target: str,
    limit: int = 100,
    release: int | None = None,
    samples: Sequence[str] = (),
    *,
    decoded: bool = False,
) -> dict[str, Any]:
    """Describe ``target`` as plain values.

    ``kind`` says which of ``store``, ``parquet``, ``hdf5``, ``tfrecord``, ``video``, ``gif``, ``image``.

    Args:
        target: a file, or a store's folder or URI.
        limit: maximum records of a TFRecord to read, and items of an HDF5 file and rows of a sampling to list.
        release: release of a store; the newest by default.
        samples: samplings of media whose rows are counted; see ``inspecting_media.parse_sample``.
        decoded: whether to decode the frames that the samplings take.

    Raises:
        SpecError: if ``target`` does not exist.
        StoreError: for a folder that is not a store.
    """
    path = Path(target).expanduser()
    if "://" in target or path.is_dir():
        return _store(target if "://" in target else str(path), release)
    try:
        with path.open("rb") as stream:
            head = stream.read(64)
    except FileNotFoundError:
        raise SpecError(f"There is no file or store {target!r}.") from None
    except OSError as error:
        raise SpecError(f"{target} can't be read: {error.strerror}.") from None
    if head[:4] == _PARQUET:
        return _parquet(path)
    if head[:8] == _HDF5:
        return _hdf5(path, limit)
    if is_media(head):
        return inspect_media(path, samples, limit, decoded=decoded)
    try:
        return _tfrecord(path, limit)
    except SpecError as error:
        try:
            # Some kinds of video have no magic bytes.
            return inspect_media(path, samples, limit, decoded=decoded)
        except SpecError as other:
            reason = f"{str(error).rstrip('.')}; as media: {other}" if head else str(error)
            raise SpecError(reason) from None


def _tfrecord(path: Path, limit: int) -> dict[str, Any]:
    from cliploom.transforms.tfrecords.framing import compression_of
    from cliploom.transforms.tfrecords.inspect import describe

    with path.open("rb") as stream:
        compression = compression_of(stream.read(12))
        stream.seek(0)
        summary = describe(stream, str(path), limit=limit)
    if not summary.records and not summary.kinds and (summary.bad or ".tfrecord" not in path.name.lower()):
        reason = summary.bad[0].reason if summary.bad else "it is empty"
        raise SpecError(f"{path} is not a TFRecord, Parquet or HDF5 file: {reason}.")
    return {"kind": "tfrecord", "path": str(path), "size": path.stat().st_size, "compression": compression} | asdict(
        summary
    )


def _parquet(path: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq

    from cliploom.transforms.store.parts import FOOTER, footer_of, read_rows

    try:
        metadata = pq.read_metadata(path)
    except Exception as error:
        raise StoreError(f"{path} is a damaged Parquet file ({type(error).__name__}).") from None
    schema = metadata.schema.to_arrow_schema()
    found: dict[str, Any] = {
        "kind": "parquet",
        "path": str(path),
        "size": path.stat().st_size,
        "rows": metadata.num_rows,
        "row_groups": metadata.num_row_groups,
        "columns": {field.name: str(field.type) for field in schema},
    }
    if FOOTER in (metadata.metadata or {}):
        footer = footer_of(path)
        contents = footer["contents"]
        found["part"] = {
            "feature": footer["feature"],
            "config": footer["config"],
            "run": footer.get("run", ""),
            "items": len({content["item_no"] for content in contents}),
            "uids": [content["uid"] for content in contents[:SHOWN]],
            "failures": [failure["message"] for failure in footer["failures"]],
        }
    first = next((table for table in read_rows(path) if table.num_rows), None)
    found["first"] = [_shortened(row) for row in first.slice(0, SHOWN).to_pylist()] if first is not None else []
    return found


def _hdf5(path: Path, limit: int) -> dict[str, Any]:
    import h5py

    with h5py.File(path, "r") as file:
        names = list(_arrays(file))
        items: list[dict[str, Any]] = []
        for name in names[:limit]:
            node = file.get(name)
            if node is None:
                items.append({"name": name, "problem": "links to a file that does not exist"})
                continue
            if not isinstance(node, h5py.Dataset):
                items.append({"name": name, "problem": "links to a group, which is not followed"})
                continue
            shape = f"{node.dtype}{list(node.shape or ())}"
            items.append({"name": name, "array": shape, "attributes": {k: _plain(v) for k, v in node.attrs.items()}})
        return {"kind": "hdf5", "path": str(path), "size": path.stat().st_size, "arrays": len(names), "items": items}


def _arrays(top: Any) -> Iterator[str]:
    """Return the names of all datasets and links below a group, including dangling links; each group once."""
    import h5py

    pending, seen = [(top, "")], set()
    while pending:
        group, prefix = pending.pop()
        where = h5py.h5o.get_info(group.id).addr
        if where in seen:
            continue
        seen.add(where)
        for name in group:
            link = group.get(name, getlink=True)
            kind = group.get(name, getclass=True) if isinstance(link, h5py.HardLink) else None
            if kind is h5py.Group:
                pending.append((group[name], f"{prefix}{name}/"))
            elif kind is not h5py.Datatype:
                yield prefix + name


def _store(uri: str, release: int | None) -> dict[str, Any]:
    from cliploom.transforms.store.releases import read_releases
    from cliploom.transforms.store.tables import read_table

    objects = ObjectStore(uri)
    releases = read_releases(objects)
    if not releases.rows:
        hint = f"`cliploom init {uri}` writes a spec for the media in it, `cliploom inspect FILE` looks at one"
        raise StoreError(f"{uri} is not a store with a release; {hint}.")
    found = releases.get(release)
    return {
        "kind": "store",
        "path": objects.uri,
        "releases": len(releases.rows),
        "release": found.release,
        "created_at": found.created_at.isoformat(),
        "program": found.program,
        "counts": found.counts,
        "tables": {name: read_table(objects, name, version).height for name, version in found.tables.items()},
        "features": {
            name: {
                "source": entry.source,
                "encoder": entry.encoder,
                "rows": entry.rows,
                "parts": entry.parts,
                "size": entry.size,
                "outputs": {output: each.dim for output, each in entry.outputs.items()},
                "texts": entry.texts,
            }
            for name, entry in found.features.items()
        },
        "indexes": {
            name: {"feature": entry.feature, "kind": entry.kind, "metric": entry.metric, "rows": entry.rows}
            for name, entry in found.indexes.items()
        },
        "heads": {name: {"head": entry.head, "model": entry.model} for name, entry in found.heads.items()},
        "labels": _labels(objects, found),
        "exports": {
            name: {"kind": entry.kind, "files": len(entry.files), "size": sum(file.size for file in entry.files)}
            for name, entry in found.exports.items()
        },
    }


def _labels(objects: ObjectStore, release: Release) -> list[dict[str, Any]]:
    """Summarise labels by source and origin: numbers of items and classes, and the most frequent classes."""
    import polars as pl

    from cliploom.transforms.store.tables import read_table

    if "labels" not in release.tables:
        return []
    # A head labels every segment; the labels of whole items are enough here.
    telling = pl.col("start_s").is_null() | (pl.col("origin") == "rated")
    labels = read_table(objects, "labels", release.tables["labels"], telling)
    # A head predicts labels for every item; only confident ones are counted.
    sure = labels.filter(pl.col("score").is_null() | (pl.col("score") > SURE))
    named = pl.coalesce("name", pl.format("class {}", "label"))
    common = (
        sure.group_by("source", "origin", named.alias("name"))
        .agg(pl.col("uid").n_unique().alias("items"))
        .sort("items", "name", descending=[True, False])
        .group_by("source", "origin", maintain_order=True)
        .agg(pl.struct("name", "items").head(SHOWN).alias("common"))
    )
    counts = labels.group_by("source", "origin").agg(
        pl.len().alias("rows"), pl.col("uid").n_unique().alias("items"), pl.col("label").n_unique().alias("classes")
    )
    return counts.join(common, on=["source", "origin"], how="left").sort("source", "origin").to_dicts()


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)


def _shortened(value: Any) -> Any:
    """Shorten the values of a row for printing: first numbers of a vector, first characters of a string."""
    if isinstance(value, dict):
        return {key: _shortened(inner) for key, inner in value.items()}
    if isinstance(value, bytes):
        value = list(value[: SHOWN + 1])
    if isinstance(value, list):
        kept = [_shortened(inner) for inner in value[:SHOWN]]
        return [*kept, "..."] if len(value) > SHOWN else kept
    return round(value, 6) if isinstance(value, float) else value


def inspect_text(found: dict[str, Any]) -> str:
    """Return the description as lines for the terminal."""
    writers = {"tfrecord": _tfrecord_text, "parquet": _parquet_text, "hdf5": _hdf5_text, "store": _store_text}
    writers |= dict.fromkeys(("video", "gif", "image"), media_text)
    return "\n".join(writers[found["kind"]](found))


def _tfrecord_text(found: dict[str, Any]) -> Iterator[str]:
    from cliploom.schemas.tfrecords import BadRecord
    from cliploom.transforms.tfrecords.inspect import FeatureSummary, ShardSummary, lines

    features = tuple(FeatureSummary(**feature) for feature in found["features"])
    bad = tuple(BadRecord(**each) for each in found["bad"])
    packed = "" if found["compression"] == "none" else f", {found['compression']}"
    yield f"{found['path']}: TFRecord{packed}, {found['size']} bytes"
    yield from lines(ShardSummary(found["records"], found["kinds"], found["bytes"], features, found["complete"], bad))


def _parquet_text(found: dict[str, Any]) -> Iterator[str]:
    groups = found["row_groups"]
    yield f"{found['path']}: Parquet, {found['size']} bytes, {found['rows']} rows in {groups} row groups"
    part = found.get("part")
    if part:
        uids = ", ".join(part["uids"]) + (", ..." if part["items"] > len(part["uids"]) else "")
        yield f"  part of feature {part['feature']} (config {part['config'][:12]}), {part['items']} items: {uids}"
        for message in part["failures"]:
            yield f"  failure: {message}"
    for name, kind in found["columns"].items():
        yield f"  {name}: {kind}"
    for row in found["first"]:
        yield f"  {json.dumps(row, default=str, ensure_ascii=False)}"


def _hdf5_text(found: dict[str, Any]) -> Iterator[str]:
    yield f"{found['path']}: HDF5, {found['size']} bytes, {found['arrays']} arrays"
    for item in found["items"]:
        if "problem" in item:
            yield f"  {item['name']}: {item['problem']}"
            continue
        attributes = ", ".join(f"{name} {value}" for name, value in item["attributes"].items())
        yield f"  {item['name']}: {item['array']}" + (f" ({attributes})" if attributes else "")
    if found["arrays"] > len(found["items"]):
        yield f"  ... and {found['arrays'] - len(found['items'])} more"


def _store_text(found: dict[str, Any]) -> Iterator[str]:
    made = f"{found['created_at'][:16].replace('T', ' ')}Z"
    yield f"{found['path']}: store, release {found['release']} of {found['releases']}, made {made}"
    for name, entry in found["features"].items():
        outputs = ", ".join(f"{output} [{dim}]" for output, dim in entry["outputs"].items())
        made = f"of {entry['source']}" + (f" by {entry['encoder']}" if entry["encoder"] else "")
        parts = counted(entry["parts"], "part")
        size = f"{counted(entry['rows'], 'row')} in {parts}, {human_bytes(entry['size'])}"
        yield f"  feature {name} {made}: {size}; {outputs}"
    for name, entry in found["indexes"].items():
        rows = counted(entry["rows"], "row")
        yield f"  index {name} of {entry['feature']}: {rows}, {entry['kind']}, {entry['metric']}"
    for name, entry in found["heads"].items():
        yield f"  labels {name} by head {entry['head']}: {entry['model']}"
    for entry in found["labels"]:
        common = ", ".join(f"{each['name']} ({each['items']})" for each in entry["common"] or ())
        counts = f"{entry['items']} items, {entry['classes']} classes"
        yield f"  labels of {entry['source']}, {entry['origin']}: {counts}" + (f"; {common}" if common else "")
    for name, entry in found["exports"].items():
        yield f"  export {name}: {entry['kind']}, {counted(entry['files'], 'file')}, {human_bytes(entry['size'])}"
    for name, rows in found["tables"].items():
        yield f"  table {name}: {counted(rows, 'row')}"
