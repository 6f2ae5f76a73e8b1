"""Predictions of the page server by heads of other kinds, and of files that links name."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from commands import command
from page_server import PageServer, page_server
from stores import SmallStore
from test_heads_zero_shot import NAMES, with_names
from test_serve_api import events_of
from vector_heads import put_towers
from web_server import Page, web_server

from cliploom.pipelines.training.predict import predict_any
from cliploom.schemas.errors import MissingExtraError, SpecError
from cliploom.schemas.vector_heads import CLIP, TEXT, TowerInput, TwoTowerSpec
from cliploom.serving.worker import download
from cliploom.transforms.heads.towers import Tower
from cliploom.transforms.search.searching import open_store

SAID = ["a cat looks at you", "a cup of coffee on a table", "a rocket starts", "a page of a book"]
NODE = {"kind": "two_tower", "clip": {"feature": "frames"}, "text": {"feature": "said"}}
JOINT = (
    "heads.joint={kind: two_tower, clip: {feature: frames, output: semantic}, text: {feature: said}}",
    "encoders.joined={kind: head, head: joint}",
    "features.joint_clips={source: clips, encoder: joined}",
    "features.joint_texts={source: talk, encoder: joined}",
)
INDEX = "indexes.joint_texts={feature: joint_texts}"


@pytest.fixture(scope="module")
def project(built_store: SmallStore, tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    """A store with the zero-shot head ``names``, and ``joint``: two towers that change nothing."""
    folder = tmp_path_factory.mktemp("heads") / "project"
    shutil.copytree(built_store.folder, folder, symlinks=True)
    found = with_names(SmallStore(folder))
    rows = "".join(f"talk,{text},{5 * row},{5 * row + 5}\n" for row, text in enumerate(SAID))
    (folder / "said.csv").write_text("uid,text,start_s,end_s\n" + rows)
    text = found.spec.read_text()
    text = text.replace("encoders:\n", "  talk: {kind: narrations, format: csv, path: said.csv}\nencoders:\n")
    text = text.replace("features:\n", "features:\n  said: {source: talk, encoder: minilm}\n")
    found.spec.write_text(text)
    found.run()
    features = open_store(str(found.store)).release.features
    same = Tower(((np.eye(384, dtype=np.float32), np.zeros(384, np.float32)),), None, True)

    def given(feature: str, source: str) -> TowerInput:
        entry = features[feature]
        output = "semantic" if feature == "frames" else next(iter(entry.outputs))
        return TowerInput(feature, output, source, 384, entry.outputs[output].space, entry.model)

    put_towers(
        found.store,
        folder / "joint",
        {CLIP: same, TEXT: same},
        {CLIP: given("frames", "clips"), TEXT: given("said", "talk")},
        TwoTowerSpec.model_validate(NODE).model_dump(mode="json"),
        text_model=features["said"].model,
    )
    found.run((*JOINT, INDEX))
    return found


@pytest.fixture(scope="module")
def server(project: SmallStore) -> Iterator[PageServer]:
    with page_server(project.store) as found:
        yield found


def predicted(server: PageServer, project: SmallStore, head: str, name: str = "rocket.mp4") -> dict[str, object]:
    """What the server says of a file that the store does not know."""
    data = (project.media / "videos" / name).read_bytes() + b"\0" * 9
    made = server.post("/api/predict", files={"file": (name, data)}, data={"head": head}).json()
    done = events_of(server, made["job"])[-1]["done"]
    assert isinstance(done, dict)
    return done | {"page": server.get(f"/predict/{made['job']}").text}


def test_a_zero_shot_head_predicts_its_names(server: PageServer, project: SmallStore) -> None:
    done = predicted(server, project, "names")
    assert done["scores"] == "probability"
    names = [label["name"] for label in done["labels"]]  # type: ignore[attr-defined]
    assert (names[0], sorted(names)) == ("rocket", sorted(NAMES))
    assert sum(label["score"] for label in done["labels"]) == pytest.approx(1, abs=1e-4)  # type: ignore[attr-defined]


def test_two_towers_find_the_nearest_sentences(server: PageServer, project: SmallStore) -> None:
    done = predicted(server, project, "joint")
    assert (done["scores"], done["known"]) == ("similarity", None)
    names = [label["name"] for label in done["labels"]]  # type: ignore[attr-defined]
    assert names[0] == "a rocket starts"
    assert set(names) <= set(SAID)
    assert "Most similar" in str(done["page"])
    assert "a rocket starts" in str(done["page"])


def test_the_command_line_predicts_the_same(project: SmallStore, capsys: pytest.CaptureFixture[str]) -> None:
    video, call = project.media / "videos" / "cat.mp4", command(capsys)
    ended = call("predict", project.store, video, "--head", "joint")
    assert ended.code == 0, ended
    assert ended.out.splitlines()[0].startswith("a cat looks at you: 0.")
    ended = call("predict", project.store, video, "--head", "joint", "--json")
    assert json.loads(ended.out)[0]["name"] == "a cat looks at you"


YT_DLP = """
class YoutubeDL:
    def __init__(self, options):
        self.options = options
    def __enter__(self):
        return self
    def __exit__(self, *_):
        pass
    def download(self, addresses):
        (address,) = addresses
        if "gone" in address:
            raise Exception("\x1b[0;31mERROR:\x1b[0m [youtube] gone: Video unavailable\\nmore")
        if "playlist" in address:
            return
        size = 10**9 if "huge" in address else 50
        for hook in self.options["progress_hooks"]:
            hook({"downloaded_bytes": size, "total_bytes": 2 * size})
        import shutil
        shutil.copyfile(VIDEO, self.options["outtmpl"]["default"].replace("%%", "%"))
"""


def test_video_sites_are_fetched_through_yt_dlp(
    project: SmallStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "yt_dlp.py").write_text(f"VIDEO = {str(project.media / 'videos' / 'rocket.mp4')!r}\n{YT_DLP}")
    monkeypatch.syspath_prepend(tmp_path)  # the worker process looks there, too
    with page_server(project.store) as server:
        made = server.post("/api/predict", json={"url": "https://youtu.be/some%20one?t=1", "head": "names"})
        events = events_of(server, made.json()["job"])
        assert {"stage": "downloading", "text": "50 %"} in events
        assert events[-1]["done"]["labels"][0]["name"] == "rocket"  # type: ignore[index]
        for name, said in (
            ("gone", "[youtube] gone: Video unavailable"),
            ("huge", "larger than"),
            ("playlist", "has no video"),
        ):
            url = f"https://www.youtube.com/watch?v={name}"
            made = server.post("/api/predict", json={"url": url, "head": "names"})
            error = str(events_of(server, made.json()["job"])[-1]["error"])
            assert said in error
            assert "\x1b" not in error


def test_a_page_without_yt_dlp_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yt_dlp", None)
    for address in ("https://vimeo.com/1", "https://www.youtube.com/shorts/1"):
        with pytest.raises(MissingExtraError, match=r"pip install 'cliploom\[youtube\]'"):
            download(address, tmp_path / "file", 1000, lambda event: None)


def test_a_link_to_a_page_of_another_site_goes_to_yt_dlp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yt_dlp", None)
    with web_server() as web:
        web.pages |= {"/page": Page(b"\n<!DOCTYPE html><title>a</title>", kind="text/html"), "/a.mp4": Page(b"x")}
        download(web.url("/a.mp4"), tmp_path / "file", 1000, lambda event: None)
        assert (tmp_path / "file").read_bytes() == b"x"
        with pytest.raises(MissingExtraError, match="/page"):
            download(web.url("/page"), tmp_path / "page", 1000, lambda event: None)


def test_two_towers_without_texts_compare_with_given_labels(project: SmallStore, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    shutil.copytree(project.folder, folder, symlinks=True)
    copy = SmallStore(folder)
    copy.run(JOINT[:3])
    video = str(project.media / "videos" / "coffee.mp4")
    found = predict_any(str(copy.store), "joint", video, lambda text: None)
    assert found.scores == "similarity"
    assert {label.name for label in found.labels} == set(NAMES)
    assert found.labels[0].name == "cup of coffee"
    copy.run()
    with pytest.raises(SpecError, match="applies head 'joint' to media"):
        predict_any(str(copy.store), "joint", video, lambda text: None)
    with pytest.raises(SpecError, match="download it first"):
        predict_any(str(copy.store), "joint", "https://example.org/a.mp4", lambda text: None)
