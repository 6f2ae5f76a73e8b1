"""The vectors of a query, for each index that supports it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from cliploom.schemas.errors import ItemError, SpecError, UnknownNameError, nearest
from cliploom.transforms.search.indexes import IndexReader
from cliploom.transforms.search.mixing import mixture
from cliploom.transforms.search.query_model import QueryPart

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cliploom.schemas.release import FeatureEntry
    from cliploom.transforms.encoders.base import Encoder
    from cliploom.transforms.search.query import Like

_FEW_UIDS = 20


@dataclass(frozen=True)
class AskedIndex:
    """The query to one index.

    Attributes:
        queries: float32 [rows, dim].
        skips: the numbers of items that the query names; they are excluded from the hits.
    """

    queries: NDArray[np.float32]
    skips: frozenset[int] = field(default_factory=frozenset)

    def without_skips(self) -> AskedIndex:
        """Return the same query without excluded items."""
        return replace(self, skips=frozenset())


class QueryReader(IndexReader):
    """A store at one release that computes vectors of queries.

    Attributes:
        opens_files: whether a query may name files and URLs; a server sets it to False.
    """

    opens_files = True

    def like_part(self, name: str, weight: float = 1.0, *, negative: bool = False) -> QueryPart:
        """Return the query part for a name: a file, a URL, or a uid, with or without a moment.

        Local files take precedence over items, and items over URLs.

        Raises:
            SpecError: the name is none of these.
        """
        from cliploom.transforms.search.query import Like, parse_moment, split_moment

        if not isinstance(name, str) or not name.strip():
            raise SpecError(f"The value of like is empty ({name!r}); give a file, a URL or a uid.")
        candidates = [Like(name)]
        before, at, after = name.rpartition("@")
        if at and "://" in before and parse_moment(after) is not None:
            candidates.insert(0, split_moment(name))
        elif at and (self._local(before) or self.items_with(uid=before).height):
            candidates.append(split_moment(name))
        for candidate in candidates:
            asked = candidate.name
            if self._local(asked):
                return QueryPart("file", asked, candidate.at_s, weight, negative)
            if self.items_with(uid=asked).height:
                return QueryPart("uid", asked, candidate.at_s, weight, negative)
        found = candidates[0]
        if found.name.startswith(("http://", "https://")):
            return QueryPart("url", found.name, found.at_s, weight, negative)
        if "://" in found.name and not found.name.startswith("file://"):
            return QueryPart("file", found.name, found.at_s, weight, negative)
        raise UnknownNameError(self._unknown(candidates[-1].name))

    def _local(self, name: str) -> bool:
        """Return whether a name is that of a local file that queries may open."""
        from cliploom.transforms.search.query import local_file

        return self.opens_files and local_file(name.removeprefix("file://")) is not None

    def _asked(self, parts: Sequence[QueryPart], names: list[str], *, explicit: bool) -> dict[str, AskedIndex]:
        """Return the query for each index that supports all parts."""
        if len(parts) == 1:
            found, skips = self._part_vectors(parts[0], names, explicit=explicit)
            return {name: AskedIndex(rows, skips.get(name, frozenset())) for name, rows in found.items()}
        by_part = [self._part_vectors(part, names, explicit=explicit) for part in parts]
        shared = [name for name in names if all(name in found for found, _ in by_part)]
        if not shared:
            asked = "; ".join(
                f"{part.kind} {_named(part)!r}: {', '.join(found)}"
                for part, (found, _) in zip(parts, by_part, strict=True)
            )
            raise SpecError(f"No index supports all parts of the query ({asked}); remove a part.")
        mixed = {}
        for name in shared:
            metric = self.release.indexes[name].metric
            rows = [(part, found[name]) for part, (found, _) in zip(parts, by_part, strict=True)]
            named = [skips.get(name, frozenset()) for part, (_, skips) in zip(parts, by_part, strict=True)]
            mixed[name] = AskedIndex(mixture(rows, metric), frozenset[int]().union(*named))
        return mixed

    def _part_vectors(
        self, part: QueryPart, names: list[str], *, explicit: bool
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, frozenset[int]]]:
        """Return the query vectors by index, and the items to exclude from the hits by index."""
        from cliploom.transforms.search.query import Like

        if part.kind == "text":
            return self._by_text(str(part.value), names, explicit=explicit), {}
        if part.kind == "vector":
            return self._by_vector(part.value, names, explicit=explicit), {}  # type: ignore[arg-type]
        if part.kind == "uid":
            found = self._item_vectors(Like(str(part.value), part.at_s), names, explicit=explicit)
            if found is None:
                raise UnknownNameError(self._unknown(str(part.value)))
            vectors, skips = found
            return vectors, {name: frozenset([item]) for name, item in skips.items()}
        from cliploom.transforms.inputs.addresses import shown

        if part.kind in ("file", "url") and not self.opens_files:
            raise SpecError("Queries to this store cannot name files or URLs; give a uid, or the bytes of the file.")
        with media_file(part) as path:
            if path is None:
                raise UnknownNameError(self._unknown(str(part.value)))
            name = {"bytes": "the file", "url": shown(str(part.value))}.get(part.kind, str(part.value))
            return self._by_file(path, part.at_s, name, names, explicit=explicit), {}

    def text_vector(self, model: str, text: str) -> NDArray[np.float32]:
        """Return the vector of a text in the space of a model's text tower, float32 [1, dim]."""
        from cliploom.transforms.search.query import check_text, text_vectors

        check_text(text)
        return text_vectors(self._text_tower(model), text)

    def _text_tower(self, model: str) -> Callable[[list[str]], NDArray[np.float32]]:
        """Return a model's text tower, open as long as the store: models without references are closed."""
        if model not in self._towers:
            from cliploom.transforms.encoders.registry import load_text_tower
            from cliploom.transforms.work.models import local_model

            self._towers[model] = load_text_tower(local_model(self._objects, model))
        return self._towers[model]

    @cached_property
    def _towers(self) -> dict[str, Callable[[list[str]], NDArray[np.float32]]]:
        return {}

    @cached_property
    def _encoders(self) -> dict[str, Encoder]:
        """Encoders that were used to search by files; they stay open as long as the store."""
        return {}

    def _by_text(self, text: str, names: list[str], *, explicit: bool) -> dict[str, NDArray[np.float32]]:
        able = [name for name in names if self._takes_text(name)]
        if not able or (explicit and len(able) < len(names)):
            name = next(name for name in names if name not in able)
            raise SpecError(self._no_text(name))
        by_model: dict[str, NDArray[np.float32]] = {}
        for name in able:
            model = self._feature_of(name).model
            if model not in by_model:
                by_model[model] = self.text_vector(model, text)
        return {name: by_model[self._feature_of(name).model] for name in able}

    def _by_vector(
        self, vector: NDArray[np.float32] | Sequence[float], names: list[str], *, explicit: bool
    ) -> dict[str, NDArray[np.float32]]:
        import numpy as np

        try:
            rows = np.atleast_2d(np.asarray(vector, np.float32))
        except (TypeError, ValueError) as error:
            raise SpecError(f"The vector to search for is not a list of numbers ({error}).") from None
        if rows.ndim != 2 or not rows.size or not np.isfinite(rows).all():
            raise SpecError(f"The vector to search for has the shape {list(rows.shape)} or values that are not finite.")
        widths = {name: self._feature_of(name).outputs[self.release.indexes[name].output].dim for name in names}
        able = [name for name in names if widths[name] == rows.shape[1]]
        if not able or (explicit and len(able) < len(names)):
            name = next(name for name in names if name not in able)
            raise SpecError(
                f"The index {name!r} has vectors of {widths[name]} numbers; the given one has {rows.shape[1]}."
            )
        return dict.fromkeys(able, rows)

    def _by_file(
        self, path: Path, at_s: float | None, shown: str, names: list[str], *, explicit: bool
    ) -> dict[str, NDArray[np.float32]]:
        from cliploom.transforms.search.query import sampling_of

        able = names if explicit else [name for name in names if sampling_of(self._feature_of(name)) is not None]
        made: dict[tuple[str, str], NDArray[np.float32]] = {}
        entries = self.release.indexes
        for name in able:
            key = (entries[name].feature, entries[name].output)
            if key not in made:
                made[key] = self._file_rows(self._feature_of(name), key[1], path, at_s, shown)
        return {name: made[entries[name].feature, entries[name].output] for name in able}

    def _file_rows(
        self, feature: FeatureEntry, output: str, path: Path, at_s: float | None, shown: str
    ) -> NDArray[np.float32]:
        """Return the vectors of a file for a feature; for a head's feature, projected from that which it reads."""
        from cliploom.transforms.encoders.registry import load
        from cliploom.transforms.search.query import file_vectors, sampling_of
        from cliploom.transforms.work.models import local_model

        if "head" not in feature.recipe:
            if feature.model not in self._encoders and sampling_of(feature) is not None:
                self._encoders[feature.model] = load(local_model(self._objects, feature.model))
            return file_vectors(self._objects, feature, output, path, at_s, shown)
        from cliploom.transforms.heads.projection import open_projection

        name, read, _ = feature.recipe["input"]
        rows = self._file_rows(self.release.features[name], read, path, at_s, shown)
        return open_projection(local_model(self._objects, feature.model)).apply(rows)

    def _repeated_until(self, feature: FeatureEntry, uid: str) -> float:
        """Return an item's duration if the feature drops repeats, since its last row lasts until the end; else 0."""
        from cliploom.schemas.media import MediaFacts

        sample = feature.recipe.get("sample") or {}
        if not sample.get("distinct"):
            return 0.0
        facts = dict(self.items_with(uid=uid).select("source", "facts").rows()).get(feature.source)
        return MediaFacts.from_json(facts).duration_s if facts else 0.0

    def _item_vectors(
        self, like: Like, names: list[str], *, explicit: bool
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, int]] | None:
        """Return the vectors of an item of the store; None if no item has this uid."""
        from cliploom.transforms.search.query import rows_at
        from cliploom.transforms.store.parts import arrow_to_vectors

        items = dict(self.items_with(uid=like.name).select("source", "item_no").rows())
        if not items:
            return None
        vectors: dict[str, NDArray[np.float32]] = {}
        skips: dict[str, int] = {}
        for name in names:
            entry, feature = self.release.indexes[name], self._feature_of(name)
            if feature.source not in items:
                continue
            rows = self.rows_of(entry.feature, items[feature.source], entry.output)
            if rows.height:
                if like.at_s is not None:
                    rows = rows_at(rows, like.at_s, like.name, self._repeated_until(feature, like.name))
                skips[name] = items[feature.source]
                vectors[name] = arrow_to_vectors(rows[entry.output].to_arrow(), feature.outputs[entry.output].dim)
        if not vectors or (explicit and len(vectors) < len(names)):
            name = next(name for name in names if name not in vectors)
            raise SpecError(
                f"{like.name!r} has no rows in the index {name!r}, so it can't be searched by; `cliploom failures` may "
                "say why."
            )
        return vectors, skips

    def _unknown(self, name: str) -> str:
        uids = self.collected(self.items.select("uid"))["uid"].to_list()
        same = [uid for uid in uids if uid.rpartition("/")[2] == name.rpartition("/")[2].partition(".")[0]]
        hint = f"; did you mean {same[0]!r}?" if same else nearest(name, uids)
        # A list of all uids would be too long.
        hint = hint if "did you mean" in hint or len(uids) <= _FEW_UIDS else "; give another."
        return f"{name!r} is neither a file nor a uid of release {self.release.release}{hint}"


def _named(part: QueryPart) -> str:
    """Return a description of a query part, for messages."""
    from cliploom.transforms.inputs.addresses import shown

    if not isinstance(part.value, str):
        return "..."
    return shown(part.value)[:40] if part.kind == "url" else part.value[:40]


@contextmanager
def media_file(part: QueryPart) -> Iterator[Path | None]:
    """Return the media of a part as a local file, downloaded if necessary; None for other parts.

    Raises:
        SpecError: the download failed.
    """
    from cliploom.transforms.search.query import query_file

    if part.kind == "file":
        with query_file(str(part.value)) as path:
            yield path
        return
    with tempfile.TemporaryDirectory(prefix="cliploom-query-") as folder:
        path = Path(folder) / "query"
        if isinstance(part.value, bytes):
            path.write_bytes(part.value)
        else:
            _download(str(part.value), path)
        yield path


def _download(address: str, path: Path) -> None:
    from cliploom.schemas.sources import HttpSpec
    from cliploom.transforms.inputs.addresses import shown
    from cliploom.transforms.inputs.http import Fetcher

    spec = HttpSpec.model_validate({"attempts": 2, "timeout": "5m", "max_size": "1GB"})
    fetcher = Fetcher(address, spec, path.parent, "fetch")
    try:
        fetcher.download(path, fetcher.look())
    except ItemError as error:
        raise SpecError(f"{shown(address)!r} can't be used as a query: {error}") from None
