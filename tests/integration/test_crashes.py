"""A run that is killed anywhere: the old release answers, the next run finishes, nothing differs, little is lost."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from forks import PLACES, Forks, Kill, forks
from nights import SPEC, Project, Snapshot, assert_sound, draw, paint, write_encoder
from pipelines.plan import COMPUTED
from transforms.store.parts import read_record

pytestmark = pytest.mark.slow
SEED = 4
POINTS = 54
BLUE_ISH = (0, 0, 252)


@dataclass(frozen=True)
class Night:
    """A second night, about to run, and how it ends when nobody disturbs it.

    Attributes:
        project: its media are those of the second night, its store is put back before each try.
        store: the store after the first night.
        calls: how often an undisturbed run comes by each place.
        work: the (feature, item) pairs that it computes.
    """

    project: Project
    store: Path
    forks: Forks
    before: Snapshot
    after: Snapshot
    calls: dict[str, int]
    work: set[tuple[str, int]]

    def reset(self) -> None:
        """The evening before."""
        shutil.rmtree(self.project.store)
        shutil.copytree(self.store, self.project.store)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    """Adds, edits, renames, deletes, a failure, a second feature, another index: something for every stage."""
    folder = tmp_path_factory.mktemp("crashes")
    encoder = write_encoder(folder / "encoder")
    project = Project(folder / "project")
    project.write_spec()
    for number in range(5):
        draw(project.media / f"still{number}.png", number)
    draw(project.media / "moving.gif", 100)
    with forks(encoder, folder) as process:
        assert process.run(project.spec).code == 0
        before = project.snapshot()
        kept = folder / "kept"
        shutil.copytree(project.store, kept)
        second_night(project)
        undisturbed = process.run(project.spec)
        assert undisturbed.code == 0, undisturbed.error
        after = project.snapshot()
        plan = pl.read_parquet(next(project.store.glob(f"plans/{project.release().run}/verdicts.parquet")))
        work = set(plan.filter(pl.col("verdict").is_in(COMPUTED)).select("feature", "item_no").rows())
        yield Night(project, kept, process, before, after, undisturbed.calls, work)


def second_night(project: Project) -> None:
    for number in range(3):
        draw(project.media / f"added{number}.gif", 200 + number)
    draw(project.media / "still0.png", 300)
    (project.media / "still1.png").rename(project.media / "renamed.png")
    (project.media / "still2.png").unlink()
    paint(project.media / "poor.png", BLUE_ISH)
    changes: dict[str, Any] = {
        "features": SPEC["features"] | {"few": {"source": "clips", "sample": {"uniform": 1}, "encoder": "tiny"}},
        "indexes": SPEC["indexes"] | {"few": {"feature": "few", "kind": "hnsw"}},
    }
    project.write_spec(changes)


def all_points(calls: dict[str, int]) -> list[Kill]:
    """Every place before and after each of its calls; files of an index also half written."""
    points = []
    for place, count in calls.items():
        whens = ["before", "after", *(["within"] if place == "index_file" else [])]
        points += [Kill(place, call, when) for call in range(1, count + 1) for when in whens]
    return points


def chosen_points(calls: dict[str, int]) -> list[Kill]:
    """A seeded choice with all the stages in it, and every commit of a table."""
    rng = random.Random(SEED)
    points = all_points(calls)
    by_place = {place: [point for point in points if point.place == place] for place in PLACES}
    chosen = {point for place, all_of in by_place.items() for point in rng.sample(all_of, min(2, len(all_of)))}
    chosen |= {point for point in by_place["commit"] if point.when == "after"}
    chosen |= {point for place in ("publish", "index_file", "outcome") for point in by_place[place]}
    rest = sorted(set(points) - chosen, key=str)
    return sorted(chosen, key=str) + rng.sample(rest, max(0, POINTS - len(chosen)))


def finished(project: Project) -> set[tuple[str, int]]:
    """(feature, item) pairs in parts that the first release does not name: they must not be computed again."""
    objects, known = project.objects, project.parts(1)
    found = set()
    for entry in objects.list("features"):
        table, _, name = entry.path.rpartition("/")
        if name.startswith("part-") and name not in known:
            record = read_record(objects, table, name)
            assert record is not None
            found |= {(record.feature, content.item_no) for content in record.contents}
    return found


def test_the_points_cover_every_stage(night: Night) -> None:
    assert all(night.calls.values()), night.calls
    points = chosen_points(night.calls)
    assert len(points) >= 50
    assert {point.place for point in points} == set(PLACES)


def test_a_run_killed_at_any_point_harms_nothing_and_the_next_one_ends_alike(night: Night) -> None:
    for point in chosen_points(night.calls):
        night.reset()
        killed = night.forks.run(night.project.spec, point)
        assert killed.code == -signal.SIGKILL, (point, killed)
        releases = night.project.releases()
        assert releases in ([1], [1, 2]), point
        assert night.project.snapshot(1) == night.before, point
        assert_sound(night.project, 1)
        left = set() if 2 in releases else {item for _, item in night.work - finished(night.project)}
        next_run = night.forks.run(night.project.spec)
        assert next_run.code == 0, (point, next_run.error)
        assert next_run.counters.get("items_done", 0) == len(left), point
        assert night.project.releases() == [1, 2], point
        assert night.project.snapshot() == night.after, point
        assert_sound(night.project)
