"""The page server over a store and media in a bucket: search, thumbnails, byte ranges, conversions, a new release."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from media_factory import write_video
from page_server import PageServer, page_server
from s3_server import BUCKET, S3Server, missing, s3_server
from stores import pan, still
from waiting import wait_until

from cliploom.pipelines.demo.corpus import CAT, COFFEE, PAGE
from cliploom.pipelines.running.run import RunOptions, run_spec
from cliploom.schemas.spec_file import load_document, parse_document

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]
STORE = f"s3://{BUCKET}/store"
SPEC = f"""\
version: 1
name: bucket
store: {STORE}
sources:
  clips: {{kind: media, glob: "s3://{BUCKET}/media/*.*"}}
encoders:
  minilm: {{kind: minilm}}
  lite0: {{kind: efficientnet_lite0, text_encoder: minilm}}
features:
  frames: {{source: clips, sample: {{every: 1s}}, encoder: lite0, outputs: [semantic]}}
indexes:
  frames: {{feature: frames}}
targets: {{local: {{workers: 1}}}}
"""


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A bucket with media, and a store with one release."""
    folder = tmp_path_factory.mktemp("s3")
    with s3_server(folder) as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment().items():
            patch.setenv(name, value)
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))
        media = running.folder / BUCKET / "media"
        media.mkdir()
        pan(CAT, media / "cat.mp4", 15)
        pan(COFFEE, media / "coffee.mp4", 10)
        write_video(media / "old.avi", 20, "mpeg4", fps=10)
        run(folder)
        yield running


def run(folder: Path) -> None:
    spec = folder / "cliploom.yaml"
    spec.write_text(SPEC, encoding="utf-8")
    document = load_document(spec, [])
    run_spec(parse_document(document), document, folder, RunOptions(), lambda text: None)


def test_a_store_in_a_bucket_is_served(bucket: S3Server, tmp_path: Path) -> None:
    media = bucket.folder / BUCKET / "media"
    with page_server(STORE) as server:
        name = next(iter(server.get("/healthz").json()["stores"]))
        found = server.get("/api/search", params={"q": "a cup of coffee", "top": 1}).json()
        assert (found["release"], found["hits"][0]["uid"]) == (1, "coffee")
        assert server.get("/api/search", params={"like": "cat@1s"}).status_code == 200
        picture = server.get("/api/thumbnail/cat?at=1&width=160")
        assert (picture.status_code, picture.headers["content-type"]) == (200, "image/webp")
        data = (media / "cat.mp4").read_bytes()
        assert server.get("/api/media/cat").content == data
        part = server.get("/api/media/cat", headers={"Range": f"bytes={len(data) - 100}-"})
        assert (part.status_code, part.content) == (206, data[-100:])
        assert part.headers["content-range"] == f"bytes {len(data) - 100}-{len(data) - 1}/{len(data)}"
        converted = server.get("/api/converted/old", headers={"Range": "bytes=4-7"})
        assert (converted.status_code, converted.content) == (206, b"ftyp")
        assert server.get("/api/runs").json()["newest"]["stages"][-1]["state"] == "done"
        no_secret_in(server, bucket)

        still(PAGE, media / "page.png")
        run(tmp_path)
        wait_until(lambda: server.get("/healthz").json()["stores"][name] == 2, "the page's change to release 2")
        found = server.get("/api/search", params={"q": "a page of a book", "top": 1}).json()
        assert (found["release"], found["hits"][0]["uid"]) == (2, "page")
        assert server.get("/api/thumbnail/page").status_code == 200

        (media / "cat.mp4").write_bytes(data + b"changed")
        assert server.get("/api/media/cat").status_code == 404


def no_secret_in(server: PageServer, bucket: S3Server) -> None:
    for path in ("/", "/store", "/item/cat", "/api/items/cat", "/metrics", "/api/runs", "/api/releases/1"):
        text = server.get(path).text
        assert bucket.secret not in text
        assert bucket.address not in text, path
