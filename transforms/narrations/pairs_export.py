"""Exports pairs of narrations and clip features for training: by split and shard, or in the format of Ego4D's tutorial.

The assignment of videos to files is decided from the release's small tables; each file is named by the digests of its
videos and the rules, so that a change to one video rewrites only that video's file.
"""

from __future__ import annotations

import io
import json
import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import polars as pl

from cliploom.schemas.digests import digest_of
from cliploom.schemas.errors import SpecError
from cliploom.schemas.exports import PairsExport, SplitSpec
from cliploom.schemas.narrations import Dropped, EvenlySpaced, FilterTally, KeepRules, Pool, SplitRule
from cliploom.schemas.plan import RunPlan
from cliploom.schemas.release import ExportEntry, FeatureEntry, Release
from cliploom.schemas.spec_base import KeepSpec
from cliploom.transforms.exports.base import Exporter, entries_of
from cliploom.transforms.inputs.joins import JoinedUids, join_uids
from cliploom.transforms.narrations import pair_files, pairs
from cliploom.transforms.narrations.ingest import SPOOLS
from cliploom.transforms.narrations.pair_files import PairLayout, PairsTask, VideoPairs, read_report, tutorial_names
from cliploom.transforms.narrations.splits import split_by_lists, split_by_shares, split_of
from cliploom.transforms.narrations.table import TABLE
from cliploom.transforms.narrations.uids import read_uid_list
from cliploom.transforms.store.hdf5_names import escape
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.ranges import ItemRows, rows_by_item
from cliploom.transforms.store.rates import rows_per_second
from cliploom.transforms.store.tables import contents_of, read_table, table_files

REVISION = 1
NO_TEXTS = "videos_without_texts"
AMBIGUOUS = "video of several items with features"
MOST_EXAMPLES = 3


def with_stored_lists(export: PairsExport, base: Path, objects: ObjectStore, place: str) -> PairsExport:
    """Return the export with its files of uids copied into the store, where workers can read them.

    Args:
        export: the export as declared in the spec.
        base: the folder that its paths are relative to.
        objects: the store.
        place: the location of the export in the spec, for messages.

    Raises:
        SpecError: a file cannot be read, or a video is in two splits.
    """

    def stored(path: str) -> str:
        found = (base / Path(path).expanduser()).absolute()
        if not found.is_file():
            raise SpecError(f"{place}: there is no file {str(found)!r}.")
        uids = sorted(read_uid_list(found))
        name = f"{SPOOLS}/{digest_of(uids)}/uids.txt"
        objects.put_new(name, "".join(f"{uid}\n" for uid in uids).encode())
        return name

    keep = export.keep.model_copy(update={"without": [stored(path) for path in export.keep.without]})
    splits = export.splits
    if splits.lists is not None:
        splits = splits.model_copy(update={"lists": {name: stored(path) for name, path in splits.lists.items()}})
    _split_rule(splits, objects)
    return export.model_copy(update={"keep": keep, "splits": splits})


def _uids(objects: ObjectStore, path: str) -> frozenset[str]:
    return read_uid_list(io.BytesIO(objects.get(path)))


def _split_rule(splits: SplitSpec, objects: ObjectStore) -> SplitRule:
    if splits.lists is not None:
        return split_by_lists({name: _uids(objects, path) for name, path in splits.lists.items()})
    return split_by_shares(splits.shares or {"train": 1.0}, splits.seed)


def _keep_rules(keep: KeepSpec, objects: ObjectStore) -> KeepRules:
    without: frozenset[str] = frozenset()
    for path in keep.without:
        without |= _uids(objects, path)
    return KeepRules(keep.min_tokens, keep.min_spacing, None, without)


def _pool(export: PairsExport) -> Pool:
    return "mean" if export.pool == "mean" else EvenlySpaced(export.pool.take)


@dataclass(frozen=True)
class _Side:
    """One of the two features."""

    entry: FeatureEntry
    output: str
    ranges: dict[str, ItemRows]

    @property
    def dim(self) -> int:
        return self.entry.outputs[self.output].dim

    def recipe(self) -> list[object]:
        return [self.entry.config, self.output, self.dim]


def _side(objects: ObjectStore, draft: Release, feature: str, output: str | None) -> _Side:
    entry = draft.features[feature]
    chosen = output or ("semantic" if "semantic" in entry.outputs else next(iter(entry.outputs)))
    items = rows_by_item(objects, entry.table, contents_of(objects, draft, feature))
    return _Side(entry, chosen, {item.uid: item for item in items})


def _items_of(objects: ObjectStore, draft: Release, side: _Side) -> list[tuple[str, str]]:
    """Return uid and URI of all items of a side's source, including items whose rows are kept from earlier releases.

    An item without rows may still be the one that a text refers to.
    """
    mine = pl.col("source") == side.entry.source
    found = read_table(objects, "items", draft.tables["items"], mine, columns=["source", "uid", "uri"])
    uris = dict.fromkeys(side.ranges, "") | dict(found.select("uid", "uri").iter_rows())
    return list(uris.items())


@dataclass(frozen=True)
class _Videos:
    """The features that belong to each video's texts, and the split of each video.

    Attributes:
        texts, clips: the uid and URI of the items.
        rule: the rule that assigns videos to splits; lists name videos by either uid.
    """

    texts: list[tuple[str, str]]
    clips: list[tuple[str, str]]
    rule: SplitRule

    @cached_property
    def joined(self) -> JoinedUids:
        """The item of clip features of each text's uid."""
        return join_uids(self.texts, self.clips)

    def split_of(self, uid: str) -> str | None:
        """Return the split of a text's uid, or None."""
        if not self.rule.lists:
            return split_of(uid, self.rule)
        owners = self._owners.get(uid, ())
        return owners[0] if len(owners) == 1 else None

    @cached_property
    def disputed(self) -> frozenset[str]:
        """The uids that several lists name, in different spellings."""
        return frozenset(uid for uid, owners in self._owners.items() if len(owners) > 1)

    @cached_property
    def _owners(self) -> dict[str, tuple[str, ...]]:
        owners: dict[str, tuple[str, ...]] = {}
        for name, uids in self.rule.lists:
            for uid in self.meant_by(uids, certain=True):
                owners[uid] = (*owners.get(uid, ()), name)
        return owners

    def meant_by(self, uids: frozenset[str], *, certain: bool = False) -> frozenset[str]:
        """Return the texts' uids that a list names, by their own uids or by those of their features.

        Args:
            uids: the uids in the list.
            certain: whether to exclude uids that may refer to several videos.
        """
        own = join_uids([(uid, "") for uid in sorted(uids)], self.texts)
        clips = join_uids([(uid, "") for uid in own.unmatched], self.clips)
        ours, theirs = (frozenset(each.found.values()) if certain else each.meant for each in (own, clips))
        return ours.union(uid for uid, clip in self.joined.found.items() if clip in theirs)


class PairsExporter(Exporter):
    """The exporter of pairs; see ``cliploom.transforms.exports.base``."""

    def __init__(
        self, plan: RunPlan | None, draft: Release, objects: ObjectStore, name: str, export: PairsExport
    ) -> None:
        self._objects, self._name, self._export = objects, name, export
        self._base = plan.base if plan is not None else None
        self._clips = _side(objects, draft, export.feature, export.output)
        self._texts = _side(objects, draft, export.text, export.text_output)
        self._rate = rows_per_second(self._clips.entry.recipe)
        self._keep = _keep_rules(export.keep, objects)
        self._videos = _Videos(
            texts=_items_of(objects, draft, self._texts),
            clips=_items_of(objects, draft, self._clips),
            rule=_split_rule(export.splits, objects),
        )
        self._without = self._videos.meant_by(self._keep.without)
        version = draft.tables.get(TABLE)
        self._narrations = tuple(table_files(objects, TABLE, version)) if version is not None else ()

    @property
    def recipe(self) -> str:
        """Return the digest of the files' names and of the reported remainder."""
        lost = [[drop.reason, drop.narrations, drop.videos] for drop in self._unmatched.dropped]
        ambiguous = [self._examples] if self._examples else []
        return digest_of([REVISION, [task.path for task in self.parts()], lost, self._only_clips, *ambiguous])

    @cached_property
    def _unmatched(self) -> FilterTally:
        """Return the counts of videos that are in no file, with reasons."""
        tally = FilterTally()
        for uid, texts in self._texts.ranges.items():
            if uid in self._videos.joined.ambiguous:
                tally += FilterTally(dropped=(Dropped(AMBIGUOUS, texts.rows, 1),))
            elif self._videos.joined.found.get(uid) not in self._clips.ranges:
                tally += FilterTally(dropped=(Dropped("video without features", texts.rows, 1),))
            elif uid in self._videos.disputed:
                tally += FilterTally(dropped=(Dropped("video in two splits", texts.rows, 1),))
            elif self._videos.split_of(uid) is None:
                tally += FilterTally(dropped=(Dropped("video in no split", texts.rows, 1),))
        return tally

    @property
    def _only_clips(self) -> int:
        texts = self._texts.ranges.keys()
        return len(self._clips.ranges.keys() - {self._videos.joined.found.get(uid) for uid in texts})

    @property
    def _examples(self) -> dict[str, list[str]]:
        """Return some of the videos with ambiguous features, and the items that they may refer to."""
        ambiguous = self._videos.joined.ambiguous
        return {uid: list(ambiguous[uid][:MOST_EXAMPLES]) for uid in sorted(ambiguous)[:MOST_EXAMPLES]}

    def _splits(self) -> list[str]:
        names = self._videos.rule.lists or self._videos.rule.shares
        return [name for name, _ in names]

    def parts(self) -> list[PairsTask]:
        """Return a file for each split and shard that has videos; one file for ``tutorial``."""
        return self._tasks

    @cached_property
    def _tasks(self) -> list[PairsTask]:
        whole = self._export.format == "tutorial"
        files: dict[tuple[str, int], list[VideoPairs]] = {}
        for uid in sorted(self._texts.ranges):
            clips = self._clips.ranges.get(self._videos.joined.found.get(uid, ""))
            split = self._videos.split_of(uid)
            if clips is not None and split is not None:
                shard = 0 if whole else zlib.crc32(uid.encode()) % self._export.shards
                video = VideoPairs(uid, clips, self._texts.ranges[uid])
                files.setdefault(("" if whole else split, shard), []).append(video)
        layout = PairLayout(
            format=self._export.format,
            rate=self._rate,
            around_s=self._export.around,
            pool=_pool(self._export),
            keep=replace(self._keep, without=self._without),
            clip_table=self._clips.entry.table,
            clip_output=self._clips.output,
            clip_dim=self._clips.dim,
            text_table=self._texts.entry.table,
            text_output=self._texts.output,
            text_dim=self._texts.dim,
            text_source=self._texts.entry.source,
        )
        return [
            PairsTask(self._name, split, shard, layout, tuple(videos), self._narrations, self._digest(videos))
            for (split, shard), videos in sorted(files.items())
        ]

    def _digest(self, videos: list[VideoPairs]) -> str:
        export = self._export.model_dump(mode="json", exclude={"splits", "shards", "feature", "text"})
        made_from = [[v.uid, v.clips.digest, v.texts.digest] for v in videos]
        sides = [self._clips.recipe(), self._texts.recipe()]
        # Names in the export's lists that differ from the videos' own uids, which the digest covers already.
        more: list[object] = [*sorted({v.uid for v in videos} & (self._without - self._keep.without))]
        if export["format"] == "tutorial":
            more.append(["tutorial", pair_files.TUTORIAL_REVISION])
            # Only files whose datasets were named by escaped uids are written again.
            names = tutorial_names(video.uid for video in videos)
            more += [name for uid, name in names.items() if name != escape(uid)]
        return digest_of([REVISION, pairs.REVISION, export, self._rate, sides, made_from, *more])

    def finish(self) -> ExportEntry:
        """Sum up the reports of the files, and write the manifest."""
        reports = [(task, read_report(self._objects, task)) for task in self._tasks]
        total = FilterTally.total([self._unmatched, *(report.tally for _, report in reports)])
        splits = {name: {"pairs": 0, "videos": 0, "files": []} for name in self._splits()}
        if self._export.format == "tutorial":
            splits = {"all": {"pairs": 0, "videos": 0, "files": []}}
        for task, report in reports:
            split = splits[task.split or "all"]
            split["pairs"] += report.tally.narrations  # type: ignore[operator]
            split["videos"] += report.tally.videos  # type: ignore[operator]
            split["files"].append({"name": Path(task.path).name, "pairs": report.tally.narrations})  # type: ignore[attr-defined]
        manifest = {
            "kind": "pairs",
            "format": self._export.format,
            "feature": self._export.feature,
            "text": self._export.text,
            "feature_dim": self._clips.dim,
            "text_dim": self._texts.dim,
            "take": 0 if self._export.pool == "mean" else self._export.pool.take,
            "around_s": self._export.around,
            "rows_per_second": self._rate,
            "pairs": total.narrations,
            "videos": total.videos,
            "splits": splits,
            "dropped": [
                {"reason": drop.reason, "narrations": drop.narrations, "videos": drop.videos} for drop in total.dropped
            ],
            NO_TEXTS: self._only_clips,
        } | ({"ambiguous": self._examples} if self._examples else {})
        path = f"pairs/{self._name}/manifest-{self.recipe}.json"
        self._objects.put_new(path, json.dumps(manifest, indent=1).encode())
        return ExportEntry(
            kind=self._export.kind,
            feature=self._export.feature,
            recipe=self.recipe,
            files=entries_of(self._objects, [path, *(task.path for task in self._tasks)], self._base, self._name),
        )
