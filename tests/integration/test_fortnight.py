"""Fourteen nights of whatever happens to a corpus; after each the store is as if it had been made from scratch."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from forks import PLACES, Forks, Kill, forks
from nights import BLUE, SPEC, Project, Snapshot, age, assert_sound, draw, encoder_on_path, paint

from cliploom.pipelines.running.publish import rollback
from cliploom.schemas.release import Release
from cliploom.transforms.store.parts import read_record
from cliploom.transforms.upkeep.vacuuming import vacuum_store

pytestmark = pytest.mark.slow
NIGHTS = 14
SEEDS = (1,)


@pytest.fixture(scope="module")
def forker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """The process that forks, with the encoder on its path and on this one's."""
    folder = tmp_path_factory.mktemp("fortnight")
    with encoder_on_path(folder / "encoder") as encoder, forks(encoder, folder) as process:
        yield process


@dataclass
class Life:
    """A corpus and its spec, changing by a seeded dice.

    Attributes:
        numbers: item number -> the uid that it was given to first.
        story: what happened, for the message of a failure.
    """

    project: Project
    rng: random.Random
    shade: float = 1.0
    second: bool = False
    kind: str = "flat"
    drawn: int = 0
    numbers: dict[int, str] = field(default_factory=dict)
    story: list[str] = field(default_factory=list)

    def files(self) -> list[Path]:
        return sorted(path for path in self.project.media.rglob("*") if path.is_file())

    def some(self) -> Path:
        return self.rng.choice(self.files())

    def new_picture(self, path: Path) -> Path:
        self.drawn += 1
        return draw(path, 10_000 + self.drawn)

    def new_path(self) -> Path:
        self.drawn += 1
        folder = self.rng.choice(["", "a", "a/b"])
        suffix = self.rng.choice([".png", ".png", ".gif"])
        return self.project.media / folder / f"clip{self.drawn}{suffix}"

    def add(self) -> None:
        self.new_picture(self.new_path())

    def edit(self) -> None:
        self.new_picture(path := self.some())
        age(path, 10)

    def rename(self) -> None:
        old = self.some()
        new = self.new_path().with_suffix(old.suffix)
        new.parent.mkdir(parents=True, exist_ok=True)
        old.rename(new)

    def swap(self) -> None:
        one, other = self.some(), self.some()
        if one.suffix == other.suffix and one != other:
            one.rename(spare := self.project.folder / "spare")
            other.rename(one)
            spare.rename(other)

    def copy(self) -> None:
        old = self.some()
        new = self.new_path().with_suffix(old.suffix)
        new.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(old, new)

    def delete(self) -> None:
        if len(self.files()) > 5:
            self.some().unlink()

    def touch(self) -> None:
        age(self.some(), 3600)

    def damage(self) -> None:
        path = self.some()
        path.write_bytes(self.rng.randbytes(50))
        age(path, 10)

    def poison(self) -> None:
        self.drawn += 1
        path = self.project.media / f"blue{self.drawn}.png"
        paint(path, (BLUE[0], BLUE[1], 252 + self.drawn % 4))

    def change_spec(self) -> None:
        match self.rng.randrange(4):
            case 0:
                self.shade = self.rng.choice([1.0, 0.5, 0.25])
            case 1:
                self.second = not self.second
            case _:
                self.kind = self.rng.choice(["flat", "hnsw"])
        self.write_spec()

    def write_spec(self) -> None:
        features: dict[str, Any] = dict(SPEC["features"])
        if self.second:
            features["second"] = {"source": "clips", "sample": {"uniform": 2}, "encoder": "tiny"}
        self.project.write_spec(
            {
                "encoders": {"tiny": {"kind": "shaded_colour", "shade": self.shade}},
                "features": features,
                "indexes": {"frames": {"feature": "frames", "metric": "l2", "kind": self.kind}},
                "limits": {"max_failed": "100%", "max_deleted": "100%"},
            }
        )

    def day(self) -> None:
        """What happens before a night."""
        acts = [self.add, self.add, self.edit, self.rename, self.swap, self.copy, self.delete, self.touch, self.damage]
        acts += [self.poison] if self.rng.random() < 0.3 else []
        for _ in range(self.rng.randint(0, 5)):
            act = self.rng.choice(acts)
            act()
            self.story.append(act.__name__)
        if self.rng.random() < 0.35:
            self.change_spec()
            self.story.append(f"spec {self.shade} {self.second} {self.kind}")


def contents_on_disk(project: Project) -> set[tuple[str, str, str, bool]]:
    """(feature's config, digest, uid, has rows) of every part in the store, named by a release or not."""
    found = set()
    for entry in project.objects.list("features"):
        table, _, name = entry.path.rpartition("/")
        if name.startswith("part-"):
            record = read_record(project.objects, table, name, hashed=False)
            assert record is not None
            found |= {(record.config, c.digest, c.uid, c.rows > 0) for c in record.contents}
    return found


def needed(release: Release, after: Snapshot, there: set[tuple[str, str, str, bool]]) -> int:
    """How many files have to be read: bytes that no part holds for some feature; equal bytes once."""
    good = {(config, digest) for config, digest, _, rows in there if rows}
    bad = {(config, digest, uid) for config, digest, uid, rows in there if not rows}
    wanted: set[tuple[str, tuple[str, ...]]] = set()
    for _, _, uid, digest in after.items:
        missing = tuple(
            name
            for name, entry in release.features.items()
            if digest and (entry.config, digest) not in good and (entry.config, digest, uid) not in bad
        )
        if missing:
            wanted.add((digest, missing))
    return len(wanted)


def assert_like_scratch(life: Life, before: Snapshot | None, after: Snapshot, scratch: Snapshot) -> None:
    """Equal rows by uid and ordinal; an item whose new bytes fail has its old rows, or none."""
    failed = {(feature, uid) for feature, uid, _, _, partial in after.failures if not partial}
    old, new, fresh = (before.by_name() if before else {}), after.by_name(), scratch.by_name()
    assert set(new) == set(fresh)
    for feature in new:
        lost = {uid for name, uid in failed if name in ("", feature)}
        assert [row for row in new[feature] if row[0] not in lost] == fresh[feature]
        kept = [row for row in new[feature] if row[0] in lost]
        assert all(row in old.get(feature, []) for row in kept)
        assert after.indexes.get(feature, [row[0] for row in after.rows[feature]]) == [
            row[0] for row in after.rows[feature]
        ]
    assert set(after.exports["h5"]) == {row[1] for row in after.rows["frames"]}
    assert sorted({(f[1], f[2]) for f in after.failures}) == sorted({(f[1], f[2]) for f in scratch.failures})
    assert [(uid, digest) for _, _, uid, digest in sorted(after.items, key=lambda item: item[2])] == [
        (uid, digest) for _, _, uid, digest in sorted(scratch.items, key=lambda item: item[2])
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_each_of_fourteen_nights_ends_like_a_store_made_from_scratch(seed: int, forker: Forks, tmp_path: Path) -> None:
    life = Life(Project(tmp_path / "p"), random.Random(seed))
    life.write_spec()
    for _ in range(8):
        life.add()
    before: Snapshot | None = None
    for night in range(NIGHTS):
        life.story.append(f"-- night {night}")
        if night:
            life.day()
        releases = life.project.releases()
        if len(releases) > 1 and life.rng.random() < 0.2:
            back = life.rng.choice(releases[:-1])
            rollback(str(life.project.store), back)
            life.story.append(f"rollback to {back}")
            before = life.project.snapshot()
        if night == NIGHTS // 2:
            vacuum_store(str(life.project.store), 2, older_than=0)
            life.story.append("vacuum")
        if life.rng.random() < 0.5:
            kill = Kill(life.rng.choice(list(PLACES)), life.rng.randint(1, 8), "before")
            known = life.project.releases()
            life.story.append(f"killed {kill}: {forker.run(life.project.spec, kill).code}")
            # Some points are never reached, or only when all is published.
            before = before if life.project.releases() == known else life.project.snapshot()
        there = contents_on_disk(life.project)
        result = life.project.run()
        after = life.project.snapshot()
        life.story.append(str(result.verdicts))
        scratch = Project(tmp_path / "p")
        scratch_store = tmp_path / f"scratch{night}"
        scratch.run([f"store={scratch_store}"])
        made = _at(scratch_store)
        try:
            assert result.counters.get("items_done", 0) == needed(result.release, after, there)
            assert_like_scratch(life, before, after, made)
            for number, _, uid, _ in after.items:
                assert life.numbers.setdefault(number, uid) == uid, "a number was given to another item"
            if before is not None:
                ids = {uid: number for number, _, uid, _ in before.items}
                assert all(ids.get(uid, number) == number for number, _, uid, _ in after.items)
            assert_sound(life.project)
        except AssertionError as error:
            raise AssertionError("\n".join(life.story)) from error
        before = after


def _at(store: Path) -> Snapshot:
    from nights import snapshot

    from cliploom.transforms.store.object_store import ObjectStore
    from cliploom.transforms.store.releases import read_releases

    objects = ObjectStore(store)
    return snapshot(objects, read_releases(objects).get(None))
