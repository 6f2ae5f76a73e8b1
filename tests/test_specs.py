"""``cliploom specs``, and the two published systems without training, with stand-ins for their models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from commands import Command, assert_one_sentence, command
from media_factory import busy, write_gif, write_video
from system_project import SystemProject

from cliploom.pipelines.cli.specs import FOLDER
from cliploom.pipelines.planning.check import check_encoders
from cliploom.schemas.spec_file import load_spec
from cliploom.transforms.encoders import registry, tensorflow_reference

MODELS = Path(__file__).with_name("saved_models")
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
D_MISS = 2000


@pytest.fixture(autouse=True)
def without_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without it; models are prepared in this process, where it is hidden."""
    monkeypatch.setattr(tensorflow_reference, "has_tensorflow", lambda: False)
    monkeypatch.setattr("cliploom.transforms.encoders.pixel_family.PixelFamily.foreign_bytes", lambda *_: None)


@pytest.fixture
def cliploom(capsys: pytest.CaptureFixture[str]) -> Command:
    return command(capsys)


def test_specs_are_listed_copied_and_valid(tmp_path: Path, cliploom: Command) -> None:
    listed = cliploom("specs").out
    assert {each["name"] for each in json.loads(cliploom("specs", "--json").out)} == set(NAMES)
    assert {"gif-search", "text-to-video", "ego4d", "youtube8m", "image-search-by-word"} < set(NAMES)
    for name in NAMES:
        assert f"{name}\n" in listed
        copy = tmp_path / f"{name}.yaml"
        assert cliploom("specs", name, "--to", copy).code == 0
        assert copy.read_bytes() == (FOLDER / copy.name).read_bytes()
        assert cliploom("specs", name).out.rstrip() == copy.read_text().rstrip()
        check_encoders(load_spec(copy), tmp_path)
    assert_one_sentence(cliploom("specs", "ego4d", "--to", copy), 2, ("is there already", "--force"))
    assert cliploom("specs", "ego4d", "--to", copy, "--force").code == 0
    assert_one_sentence(cliploom("specs", "egod4"), 2, ("no spec 'egod4'; did you mean 'ego4d'?",))
    assert_one_sentence(cliploom("specs", "--to", copy), 2, ("--to writes one spec",))
    assert_one_sentence(cliploom("specs", "ego4d", "--to", "/no/such/file"), 2, ("can't be written",))


def bimatch(query: np.ndarray, documents: dict[str, np.ndarray], top: int) -> dict[str, float]:
    """The published formula over all distances (docs/formats.md section 1).

    Args:
        query: float [q, d].
        documents: uid -> float [c, d].
        top: nearest rows that a query's row asks for.
    """
    uids = np.repeat(list(documents), [len(rows) for rows in documents.values()])
    places = np.concatenate([np.arange(len(rows)) for rows in documents.values()])
    distances = np.linalg.norm(query[:, None] - np.concatenate(list(documents.values()))[None], axis=2)
    near = np.argsort(distances, axis=1, kind="stable")[:, :top]
    found = {}
    for uid, rows in documents.items():
        by_query: dict[int, float] = {}
        by_row: dict[int, float] = {}
        for number, hits in enumerate(near):
            for hit in hits[uids[hits] == uid]:
                distance = float(distances[number, hit])
                by_query[number] = min(distance, by_query.get(number, np.inf))
                by_row[int(places[hit])] = min(distance, by_row.get(int(places[hit]), np.inf))
        if by_query:
            sides = ((by_query, len(query)), (by_row, len(rows)))
            found[uid] = float(
                np.mean([1 - (sum(d.values()) + D_MISS * (c - len(d))) / (D_MISS * c) for d, c in sides])
            )
    return found


def test_gif_search_ranks_gifs_by_the_frames_that_they_share(tmp_path: Path) -> None:
    project = SystemProject(tmp_path, "gif-search")
    (tmp_path / "bit_m-r50x1_1.tar.gz").write_bytes((MODELS / "bit.tar.gz").read_bytes())
    (tmp_path / "gifs").mkdir()
    for number in range(8):
        write_gif(tmp_path / "gifs" / f"{number}.gif", [100] * (5 + number % 3), size=(64 + 16 * number, 64))
    write_gif(tmp_path / "query.gif", [100] * 6, size=(72, 64))
    result = project.run()
    assert result.release.counts["failed"] == 0
    store = project.store()
    rows = store.table("frames").select("uid", "frame", "picture").collect().sort("uid", "frame")
    assert rows.filter(rows["uid"] == "1.gif")["frame"].to_list() == [0, 2, 4]
    documents = {
        str(uid): np.array(rows.filter(rows["uid"] == uid)["picture"].to_list()) for uid in rows["uid"].unique().sort()
    }
    index = result.release.indexes["frames"]
    assert len(index.shards) == 4
    model = tmp_path / "store" / result.release.features["frames"].model
    hits = store.search(like="3.gif", top=8, rank="bimatch")
    assert len(hits) >= 5
    assert model.exists()
    scores = {hit.uid: hit.score for hit in hits}
    # Every row is among the nearest: there are fewer than are asked for.
    wanted = bimatch(documents["3.gif"], {uid: rows for uid, rows in documents.items() if uid != "3.gif"}, len(rows))
    assert scores == pytest.approx({uid: wanted[uid] for uid in scores}, abs=1e-5)
    (best,) = store.search(like=str(tmp_path / "query.gif"), top=1, rank="bimatch")
    assert best.uid in documents


def test_text_to_video_scores_are_raw_dot_products_of_the_first_frames(tmp_path: Path) -> None:
    project = SystemProject(tmp_path, "text-to-video")
    (tmp_path / "s3d_1.tar.gz").write_bytes((MODELS / "s3d.tar.gz").read_bytes())
    (tmp_path / "videos" / "deep").mkdir(parents=True)
    write_video(tmp_path / "videos" / "short.mp4", 20, size=(96, 64))
    write_video(tmp_path / "videos" / "deep" / "long.mp4", 40, size=(64, 96), draw=busy)
    result = project.run()
    store = project.store()
    rows = store.table("clips").select("uid", "clip").collect()
    assert sorted(rows["uid"]) == ["deep/long.mp4", "short.mp4"]
    folder = tmp_path / "store" / result.release.features["clips"].model
    words = registry.load_text_tower(folder)(["playing guitar"])[0]
    wanted = {uid: float(np.array(vector, np.float32) @ words) for uid, vector in rows.iter_rows()}
    hits = store.search("playing guitar", top=2)
    assert [hit.uid for hit in hits] == sorted(wanted, key=wanted.__getitem__, reverse=True)
    assert {hit.uid: hit.score for hit in hits} == pytest.approx(wanted, rel=1e-4)
