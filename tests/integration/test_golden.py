"""Stores that older versions wrote: they open, nothing of them is computed again, and they go on from there.

Another golden store is one more name in ``STORES``. It needs the files that ``CHANGES`` and the renaming change, or its
own entries there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from golden_store import GOLDEN, Golden, differences, observe, observe_release
from golden_words import words_on_path
from media_factory import write_video

import cliploom
from cliploom.pipelines.running.publish import rollback
from cliploom.schemas.records import ORDINAL_BITS
from cliploom.schemas.tfrecords import Yt8mFrames
from cliploom.transforms.tfrecords.framing import write_records
from cliploom.transforms.tfrecords.write import encode_frames
from cliploom.transforms.upkeep.verifying import verify_release

STORES = ["v1"]


@pytest.fixture(scope="module", autouse=True)
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with words_on_path(tmp_path_factory.mktemp("packages") / "offered"):
        yield


@pytest.fixture(scope="module", params=STORES)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Golden:
    """A copy in another place, its files as new as after a checkout. Only read it."""
    return copied(GOLDEN / request.param, tmp_path_factory.mktemp("golden") / request.param)


@pytest.fixture
def golden(shared: Golden, tmp_path: Path) -> Golden:
    """A copy to be changed."""
    return copied(shared.folder, tmp_path / "project")


def copied(source: Path, folder: Path) -> Golden:
    shutil.copytree(source, folder)
    for path in folder.rglob("*"):
        os.utime(path)
    return Golden(folder)


def rows_of(release: dict[str, Any], feature: str, item_no: int) -> list[dict[str, Any]]:
    """The rows of one item in an observed release."""
    return [row for row in release["features"][feature]["rows"] if row["row_id"] >> ORDINAL_BITS == item_no]


def test_committed_files_are_few_and_small() -> None:
    files = [path for path in GOLDEN.rglob("*") if path.is_file()]
    for name in STORES:
        assert sum(path.stat().st_size for path in files if path.is_relative_to(GOLDEN / name)) < 1_000_000


def test_every_release_verifies(shared: Golden) -> None:
    for release in cliploom.open(shared.store).releases:
        assert verify_release(shared.store, release.release) == []


def test_readers_see_what_they_saw(shared: Golden) -> None:
    assert differences(observe(shared.folder), shared.expected) == []


def test_plan_computes_nothing(golden: Golden) -> None:
    plan = cliploom.plan(golden.spec)
    newest = cliploom.open(golden.store).release
    assert {feature: set(verdicts) for feature, verdicts in plan["verdicts"].items()} == {
        feature: {"unchanged"} for feature in newest.features
    }
    assert (plan["compute_items"], plan["rows"], plan["shards"], plan["reasons"]) == (0, 0, 0, [])
    assert plan["items"] == newest.counts["items"]


def test_night_without_changes_computes_nothing(golden: Golden) -> None:
    result = golden.run()
    assert result.counters.get("rows", 0) == 0
    found = observe_release(golden.folder, result.release.release)
    expected = golden.newest | {"exports": with_readable_names(golden.newest["exports"])}
    assert differences(found | {"counts": {}}, expected | {"counts": {}}) == []
    assert verify_release(golden.store) == []


def with_readable_names(exports: dict[str, Any]) -> dict[str, Any]:
    """Exports as a version since 0.2 writes them again: datasets of a master or single file are named by uid."""
    made = {}
    for name, files in exports.items():
        made[name] = dict(files)
        for file in ("master.h5", "single.h5"):
            if file in files:
                made[name][file] = {unquote(dataset): value for dataset, value in files[file].items()}
    return made


def change_clip(folder: Path) -> None:
    write_video(folder / "media" / "videos" / "clip-a.mp4", 10, fps=10, size=(64, 64))


def change_narration(folder: Path) -> None:
    path = folder / "narration.json"
    path.write_text(path.read_text().replace("#C C cuts an onion", "#C C peels an onion"))


def change_subtitle(folder: Path) -> None:
    path = folder / "subtitles" / "clip-a.srt"
    path.write_text(path.read_text().replace("a red cup", "a blue cup"))


def change_features(folder: Path) -> None:
    path = folder / "features" / "clip-a.npy"
    np.save(path, np.load(path) + np.float32(1))


def change_records(folder: Path) -> None:
    codes = np.full((3, 8), 7, np.uint8)
    record = encode_frames(Yt8mFrames("id04", (1,), codes, codes[:, :4]))
    with (folder / "records" / "one.tfrecord").open("wb") as stream:
        write_records(stream, [record])


CHANGES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "clips": ("videos/clip-a", change_clip),
    "spoken": ("clip-a", change_narration),
    "subtitles": ("clip-a", change_subtitle),
    "given": ("clip-a", change_features),
    "shards": ("one", change_records),
}


@pytest.mark.parametrize("source", CHANGES)
def test_night_computes_the_one_item_that_changed(golden: Golden, source: str) -> None:
    uid, change = CHANGES[source]
    change(golden.folder)
    result = golden.run()
    features = {name for name, entry in result.release.features.items() if entry.source == source}
    for name, verdicts in result.verdicts.items():
        said = {verdict: count for verdict, count in verdicts.items() if verdict != "unchanged"}
        assert said == ({"content_changed": 1} if name in features else {}), name
    before, after = golden.newest, observe_release(golden.folder, result.release.release)
    number = next(row["item_no"] for row in before["items"] if (row["source"], row["uid"]) == (source, uid))
    computed = {name: rows_of(after, name, number) for name in features}
    assert result.counters["items_done"] == 1
    assert result.counters["rows"] == sum(map(len, computed.values())) > 0
    for name in after["features"]:
        others = [row for row in after["features"][name]["rows"] if row not in computed.get(name, [])]
        gone = rows_of(before, name, number) if name in features else []
        assert differences(others, [row for row in before["features"][name]["rows"] if row not in gone]) == [], name
    assert verify_release(golden.store) == []


def test_renamed_item_is_not_computed(golden: Golden) -> None:
    videos = golden.folder / "media" / "videos"
    (videos / "clip-d.mkv").rename(videos / "clip-z.mkv")
    result = golden.run()
    assert result.counters.get("rows", 0) == result.counters.get("frames_decoded", 0) == 0
    before, after = golden.newest, observe_release(golden.folder, result.release.release)
    numbers = [
        next(row["item_no"] for row in release["items"] if row["uid"] == uid)
        for release, uid in ((before, "videos/clip-d"), (after, "videos/clip-z"))
    ]
    for name, entry in result.release.features.items():
        if entry.source == "clips":
            assert result.verdicts[name]["moved"] == 1
            old, new = (rows_of(*each) for each in zip((before, after), (name, name), numbers, strict=True))
            drop = ("row_id", "uid")
            plain = [[{key: row[key] for key in row if key not in drop} for row in rows] for rows in (old, new)]
            assert differences(plain[1], plain[0]) == []
            assert len(old) > 0
        else:
            assert set(result.verdicts[name]) == {"unchanged"}
    assert verify_release(golden.store) == []


def test_rollback_gives_the_first_release_again(golden: Golden) -> None:
    made = rollback(golden.store, 1)
    found, first = observe_release(golden.folder, made.release), golden.expected["releases"]["1"]
    assert differences(found, first) == []
    assert verify_release(golden.store) == []
