"""A store of a version that showed pictures otherwise: only the items that are shown differently are computed again."""

from __future__ import annotations

import os
import shutil

import numpy as np
import polars as pl
import pytest
from golden_store import GOLDEN, Golden

import cliploom
from cliploom.schemas.media import PROBE_REVISION
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.releases import read_releases
from cliploom.transforms.store.tables import read_table
from cliploom.transforms.upkeep.verifying import verify_release

PLAIN = {"plain.gif", "plain.jpg", "plain.mkv", "plain.mp4", "plain.mpg", "plain.tif"}
CORRECTED = {
    "aspect.mkv": "aspect",
    "cleared.gif": "canvas",
    "clock.ts": "clock",
    "delays.png": "canvas",
    "fields.ts": "fields.interlaced",
    "float.tif": "tone",
    "interlaced.mpg": "interlaced",
    "pq.mp4": "pq",
}


@pytest.fixture(scope="module")
def upgraded(tmp_path_factory: pytest.TempPathFactory) -> Golden:
    """A copy over which the version of today has run."""
    folder = tmp_path_factory.mktemp("golden") / "pictures"
    shutil.copytree(GOLDEN / "pictures", folder)
    golden = Golden(folder)
    objects = ObjectStore(folder / "store")
    items = read_table(objects, "items", read_releases(objects).latest.tables["items"])  # type: ignore[union-attr]
    for uid, signature in items.select("uid", "signature").rows():
        # The times of files are part of what the store knows of them; a checkout has others.
        changed = int(signature.split(":")[1])
        os.utime(folder / "media" / uid, ns=(changed, changed))
    result = golden.run()
    assert result.verdicts["frames"] == {"unchanged": len(PLAIN), "config_changed": len(CORRECTED)}
    # All but the JPEG, of which a newer prober finds no more.
    assert result.counters["probed"] == len(PLAIN) - 1 + len(CORRECTED)
    return golden


def rows_of(golden: Golden, release: int) -> dict[str, pl.DataFrame]:
    table = cliploom.open(golden.store, release).table("frames").collect().sort("row_id")
    return {str(uid): rows for (uid,), rows in table.group_by("uid", maintain_order=True)}


def test_only_items_that_are_shown_otherwise_are_computed_again(upgraded: Golden) -> None:
    before, after = (rows_of(upgraded, number) for number in (1, 2))
    for uid in PLAIN:
        assert after[uid].equals(before[uid])
    for uid, corrections in CORRECTED.items():
        assert after[uid]["item_digest"].str.ends_with(f"+{corrections}").all()
    assert after["clock.ts"].height < before["clock.ts"].height / 10
    assert "fields.ts" not in before
    for uid in ("float.tif", "pq.mp4", "cleared.gif"):
        old, new = (np.stack(rows[uid]["look"].to_list()) for rows in (before, after))
        assert not np.allclose(old, new)


def test_the_next_night_probes_and_computes_nothing(upgraded: Golden) -> None:
    release = cliploom.open(upgraded.store).release
    assert release.prober == PROBE_REVISION
    result = upgraded.run()
    assert result.counters.get("probed", 0) == 0
    assert not result.changed
    assert verify_release(upgraded.store) == []
