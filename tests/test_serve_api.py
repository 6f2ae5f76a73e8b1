"""The page server's API and its pages as they are sent: real requests to a real server over a real store."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from heads import card_of, put_head
from page_server import PageServer, page_server
from PIL import Image
from stores import SmallStore

import cliploom
from cliploom.pipelines.cli.main import main
from cliploom.schemas.heads import HeadClass, InputColumn


def publish_labels_head(project: SmallStore, folder: Path) -> None:
    """A head that tells the cat from the rest."""
    store = cliploom.open(project.store)
    rows = store.table("frames").select("uid", "pooled").collect()
    cat = np.mean([vector for uid, vector in rows.rows() if "cat" in uid], axis=0).astype(np.float32)
    kernel = np.stack([8 * cat / (cat @ cat), np.zeros_like(cat)], axis=1)
    output = store.features["frames"].outputs["pooled"]
    card = card_of(
        [InputColumn("frames", "pooled", "pooled", output.dim, output.space)], [HeadClass(0, "cat"), HeadClass(1, "x")]
    )
    put_head(project.store, card, kernel.astype(np.float32), np.array([-4, -9], np.float32), folder)


@pytest.fixture(scope="module")
def project(built_store: SmallStore, tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    folder = tmp_path_factory.mktemp("served") / "project"
    shutil.copytree(built_store.folder, folder, symlinks=True)
    found = SmallStore(folder)
    publish_labels_head(found, folder.parent / "head")
    return found


@pytest.fixture(scope="module")
def server(project: SmallStore) -> Iterator[PageServer]:
    with page_server(project.store) as found:
        yield found


def test_search_gives_what_the_store_gives(server: PageServer, project: SmallStore) -> None:
    wanted = cliploom.open(project.store).search("a cup of coffee", top=3, index=["frames"])
    found = server.get("/api/search", params={"q": "a cup of coffee", "top": 3, "index": "frames"}).json()
    assert found["release"] == 1
    assert [(hit["uid"], hit["start_s"]) for hit in found["hits"]] == [(hit.uid, hit.start_s) for hit in wanted]
    assert [hit["score"] for hit in found["hits"]] == pytest.approx([hit.score for hit in wanted])
    posted = server.post("/api/search", json={"text": "a cup of coffee", "top": 3, "index": ["frames"]}).json()
    assert posted["hits"] == found["hits"]


def test_search_by_a_vector(server: PageServer, project: SmallStore) -> None:
    row = cliploom.open(project.store).table("frames").select("uid", "semantic").collect().row(0)
    found = server.post("/api/search", json={"vector": row[1], "index": ["frames"], "top": 1}).json()
    assert found["hits"][0]["uid"] == row[0]
    wrong = server.post("/api/search", json={"vector": [1.0, 2.0], "index": ["frames"]})
    assert (wrong.status_code, "384" in wrong.json()["error"]) == (400, True)


def test_filters_pages_moments_and_facets(server: PageServer, project: SmallStore) -> None:
    asked = {"q": "a cat", "index": "frames", "top": 2}
    whole = server.get("/api/search", params=asked | {"top": 5}).json()
    assert whole["total"] == 6
    pages = [server.get("/api/search", params=asked | {"offset": at}).json()["hits"] for at in (0, 2)]
    assert [hit["uid"] for page in pages for hit in page] == [hit["uid"] for hit in whole["hits"][:4]]
    found = server.get(
        "/api/search", params=asked | {"where": "duration > 2 and uid like 'videos/%'", "moments": 2}
    ).json()
    assert {hit["uid"] for hit in found["hits"]} <= {"videos/cat", "videos/rocket"}
    assert found["hits"][0]["moments"]
    counted = server.get("/api/search", params=asked | {"facets": "source"}).json()["facets"]
    assert counted == {"source": [["clips", 6]]}
    wrong = server.get("/api/search", params=asked | {"where": "durations > 2"})
    assert (wrong.status_code, "duration" in wrong.json()["error"]) == (400, True)
    mixed = {"text": "a cat", "like": "videos/rocket", "weights": [1.0, 0.2], "not_text": [], "index": ["frames"]}
    assert server.post("/api/search", json=mixed).json()["hits"]


def test_search_tells_the_models_time_apart(server: PageServer) -> None:
    answer = server.get("/api/search", params={"q": "something never asked before"})
    assert re.fullmatch(r"model;dur=[\d.]+, search;dur=[\d.]+", answer.headers["server-timing"])


def test_search_by_an_item_leaves_it_out(server: PageServer) -> None:
    hits = server.get("/api/search", params={"like": "videos/cat", "index": "frames"}).json()["hits"]
    assert hits
    assert "videos/cat" not in {hit["uid"] for hit in hits}
    assert server.get("/api/search", params={"like": "videos/cat@1s", "index": "frames"}).json()["hits"]


def test_no_answer_names_a_path_of_the_machine(server: PageServer, project: SmallStore) -> None:
    for path in (
        "/api/search?q=cat",
        "/api/items/videos/cat",
        "/api/failures",
        "/api/releases/1",
        "/api/thumbnail/noise",
    ):
        assert str(project.folder.parent) not in server.get(path).text
        assert "/media/" not in server.get(path).text, path


def test_search_by_a_file_finds_the_same_picture(server: PageServer, project: SmallStore) -> None:
    data = (project.media / "page.png").read_bytes()
    answer = server.post("/api/search/file", files={"file": ("mine.png", data)}, data={"top": "2"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["hits"][0]["uid"].startswith("page")
    assert "uri" not in answer.json()["hits"][0]


def test_item_has_facts_rows_and_failures(server: PageServer) -> None:
    cat = server.get("/api/items/videos/cat").json()
    assert cat["facts"]["type"] == "video"
    assert cat["rows"] == {"frames": 3, "looks": 2}
    assert cat["plays"] is True
    noise = server.get("/api/items/noise").json()
    assert noise["facts"] is None
    assert noise["failures"][0]["stage"]


def test_curve_has_a_score_for_every_row(server: PageServer) -> None:
    points = server.get("/api/curve/both", params={"q": "a cat"}).json()["points"]
    assert [point["start_s"] for point in points] == [0.0, 1.0]
    assert points[0]["score"] > points[1]["score"]


def test_thumbnail_is_the_picture_of_the_moment(server: PageServer) -> None:
    first, second = (server.get(f"/api/thumbnail/both?at={at}&width=160") for at in (0, 1.5))
    assert first.headers["content-type"] == "image/webp"
    pictures = [np.asarray(Image.open(io.BytesIO(each.content)).convert("RGB"), np.int16) for each in (first, second)]
    assert pictures[0].shape == (120, 160, 3)
    assert np.abs(pictures[0] - pictures[1]).mean() > 20
    again = server.get("/api/thumbnail/both?at=0&width=160", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    ("header", "status", "part"),
    [
        (None, 200, slice(None)),
        ("bytes=0-99", 206, slice(0, 100)),
        ("bytes=100-", 206, slice(100, None)),
        ("bytes=-50", 206, slice(-50, None)),
        ("bytes=0-999999999", 206, slice(None)),
        ("bytes=5-2", 200, slice(None)),
        ("bytes=0-1,5-6", 200, slice(None)),
        ("lines=1-2", 200, slice(None)),
    ],
)
def test_media_has_byte_ranges(
    server: PageServer, project: SmallStore, built_store: SmallStore, header: str | None, status: int, part: slice
) -> None:
    data = (built_store.media / "videos" / "cat.mp4").read_bytes()
    answer = server.get("/api/media/videos/cat", headers={"Range": header} if header else {})
    assert answer.status_code == status
    assert answer.content == data[part]
    assert answer.headers["accept-ranges"] == "bytes"
    if status == 206:
        start, stop, _ = part.indices(len(data))
        assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(data)}"


def test_media_beyond_the_end_is_416(server: PageServer) -> None:
    answer = server.get("/api/media/videos/cat", headers={"Range": "bytes=99999999-"})
    assert answer.status_code == 416
    assert answer.headers["content-range"].startswith("bytes */")


def test_media_that_changed_or_vanished_is_not_sent(small_store: SmallStore) -> None:
    small_store.run()  # the copy's own files
    with page_server(small_store.store) as server:
        assert server.get("/api/media/videos/cat").status_code == 200
        shutil.copyfile(small_store.media / "videos" / "coffee.mp4", small_store.media / "videos" / "cat.mp4")
        (small_store.media / "videos" / "rocket.mp4").unlink()
        for uid in ("videos/cat", "videos/rocket"):
            for kind in ("media", "thumbnail"):
                answer = server.get(f"/api/{kind}/{uid}")
                assert answer.status_code == 404
                assert str(small_store.folder) not in answer.text


def test_releases_and_runs(server: PageServer) -> None:
    (row,) = server.get("/api/releases").json()
    assert (row["release"], row["items"], row["changed"]) == (1, 7, "first release")
    assert row["recall"]["frames"] == 1.0
    whole = server.get("/api/releases/1?against=1").json()
    kinds = {(node["kind"], node["name"]) for node in whole["nodes"]}
    assert {("source", "clips"), ("feature", "frames"), ("index", "lists"), ("export", "looks_h5")} <= kinds
    assert {"from": "feature:frames", "to": "index:frames"} in whole["edges"]
    assert whole["difference"]["changed"] == "no row changed"
    assert server.get("/api/releases/9").status_code == 404
    newest = server.get("/api/runs").json()["newest"]
    assert newest["state"] == "published"
    assert newest["parts"] == newest["parts_planned"]


def test_failures_by_reason(server: PageServer) -> None:
    found = server.get("/api/failures").json()
    assert found["total"] == len(found["failures"])
    assert {row["uid"] for row in found["failures"]} == {"noise"}
    assert found["groups"][0]["items"] == 1


def events_of(server: PageServer, job: str) -> list[dict[str, object]]:
    text = server.get(f"/api/predict/{job}/events").text
    return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]


def test_prediction_streams_its_stages_and_ends_with_labels(server: PageServer, project: SmallStore) -> None:
    data = (project.media / "videos" / "cat.mp4").read_bytes()
    made = server.post("/api/predict", files={"file": ("cat.mp4", data)})
    assert made.status_code == 202, made.text
    events = events_of(server, made.json()["job"])
    stages = list(dict.fromkeys(event["stage"] for event in events if "stage" in event))
    assert stages == ["waiting", "extracting", "predicting"]
    done = events[-1]["done"]
    assert isinstance(done, dict)
    assert done["known"] == "videos/cat"
    assert done["labels"][0]["name"] == "cat"
    assert done["labels"][0]["score"] > 0.5
    page = server.get(f"/predict/{made.json()['job']}").text
    assert re.search(r"cat: \d\d\.\d\d%", page)
    media = server.get(f"/api/predict/{made.json()['job']}/media", headers={"Range": "bytes=0-9"})
    assert (media.status_code, media.content) == (206, data[:10])


def test_prediction_of_a_damaged_file_says_why(server: PageServer) -> None:
    made = server.post("/api/predict", files={"file": ("clip.mp4", b"no video at all" * 100)}).json()
    last = events_of(server, made["job"])[-1]
    assert "clip.mp4" in str(last["error"])
    assert "/tmp" not in str(last["error"])


def test_prediction_form_works_without_javascript(server: PageServer, project: SmallStore) -> None:
    answer = server.post(
        "/api/predict/form", files={"file": ("page.png", (project.media / "page.png").read_bytes())}, data={"url": ""}
    )
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/predict/")


def test_health_metrics_and_openapi(server: PageServer) -> None:
    assert server.get("/healthz").json() == {"ok": True, "stores": {"project": 1}}
    server.get("/api/search?q=cat")
    text = server.get("/metrics").text
    assert 'cliploom_serve_requests_total{route="/api/search",method="GET",status="200"}' in text
    assert 'cliploom_serve_release{store="project"} 1' in text
    assert "cliploom_serve_request_seconds_bucket" in text
    described = server.get("/openapi.json").json()
    assert {"/api/search", "/api/media/{uid}", "/api/predict"} <= set(described["paths"])


def test_pages_work_without_javascript(server: PageServer) -> None:
    page = server.get("/", params={"q": "a cat", "index": "frames"}).text
    assert 'href="/item/videos/cat?' in page
    assert '<img src="/api/thumbnail/videos/cat?' in page
    item = server.get("/item/videos/cat?q=a+cat").text
    assert re.search(r'<video [^>]*src="/api/media/videos/cat\?source=clips#t=', item)
    assert '<svg class="curve"' in item
    store = server.get("/store").text
    assert '<svg class="dag"' in store
    assert "Failures by reason" in store
    assert "published" in server.get("/runs").text


def test_first_content_is_small_and_names_no_other_host(server: PageServer) -> None:
    total = 0
    for path in ("/?q=a+cat", "/static/page.js", "/static/style.css", "/static/icon.svg"):
        answer = server.get(path)
        total += len(answer.content)
        text = answer.text.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://(?!example\.org)", text), path
    assert total < 100_000
    assert "style=" not in server.get("/?q=a+cat").text


def test_item_without_pictures_and_unknown_addresses(server: PageServer) -> None:
    assert "could not be read" in server.get("/item/noise").text
    for path in ("/item/nothing", "/api/items/nothing", "/api/thumbnail/nothing", "/predict/nothing", "/nothing"):
        answer = server.get(path)
        assert answer.status_code in (400, 404), path
        assert "Traceback" not in answer.text


def test_several_stores_are_distinguished(built_store: SmallStore, project: SmallStore) -> None:
    with page_server(project.store, built_store.store) as server:
        first, second = (row["name"] for row in server.get("/api/stores").json())
        assert first == "project"
        assert server.get("/api/releases", params={"store": second}).status_code == 200
        assert f'href="/?store={second}"' in server.get("/").text
        wrong = server.get("/api/releases", params={"store": "other"})
        assert (wrong.status_code, "project" in wrong.json()["error"]) == (400, True)


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(SystemExit) as ended:
        main(["serve", "anywhere"])
    assert ended.value.code == 2
    assert "pip install 'cliploom[serve]'" in capsys.readouterr().err
