"""The process that decodes and encodes files for the page server: reads tasks and writes events as JSON lines.

It is a separate process so that an uploaded file cannot crash the web server, and so that its memory is limited.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from cliploom.schemas.errors import CliploomError, ItemError, SpecError, UnreadableError
from cliploom.transforms.inputs.addresses import clean_address, is_public, shown

Report = Callable[[dict[str, Any]], None]
TOP = 10
DOWNLOADING, EXTRACTING, PREDICTING = "downloading", "extracting", "predicting"


def main(arguments: list[str] | None = None) -> int:
    """Process tasks until stdin is closed."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    # Output printed by libraries must not mix with the events.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def report(event: dict[str, Any]) -> None:
        out.write(json.dumps(event) + "\n")
        out.flush()

    refuse_private_networks()
    for line in sys.stdin:
        task = json.loads(line)
        report(answer(task, report))
    return 0


def refuse_private_networks() -> None:
    """Make this process resolve names to public addresses only, regardless of redirects and DNS answers."""
    resolve = socket.getaddrinfo

    def public_only(host: Any, *arguments: Any, **options: Any) -> Any:
        found = resolve(host, *arguments, **options)
        public = [place for place in found if is_public(str(place[4][0]).partition("%")[0])]
        if not public:
            raise socket.gaierror(socket.EAI_NONAME, "the host is in a private network, which is not allowed")
        return public

    socket.getaddrinfo = public_only


def answer(task: dict[str, Any], report: Report) -> dict[str, Any]:
    """Run one task; its last event is ``{"done": ...}`` or ``{"error": a sentence}``."""
    try:
        path = Path(task["path"])
        if task.get("url"):
            report({"stage": DOWNLOADING, "text": shown(task["url"])})
            download(task["url"], path, int(task["max_bytes"]), report)
        if task["kind"] == "search":
            report({"stage": EXTRACTING, "text": ""})
            return {"done": search(task, path)}
        return {"done": predict(task, path, report)}
    except (CliploomError, ItemError) as error:
        return {"error": str(error).replace(str(task["path"]), task.get("name") or "the file")}
    except MemoryError:
        return {"error": "The file exceeds the memory limit of a prediction."}
    except Exception as error:
        return {"error": f"The file cannot be processed ({type(error).__name__}); see the server's log."}


def download(address: str, target: Path, max_bytes: int, report: Report) -> None:
    """Download a link within limits: a file with the built-in downloader, a page with a video through yt-dlp.

    Raises:
        SpecError: it is not an http(s) URL, contains a secret, or points into a private network.
        MissingExtraError: the page shows a video, and yt-dlp is not installed.
        ItemError: the download failed.
    """
    from cliploom.serving.video_sites import download_page, is_video_site

    def tell(text: str) -> None:
        report({"stage": DOWNLOADING, "text": text})

    from cliploom.schemas.sources import HttpSpec
    from cliploom.transforms.inputs.http import Fetcher

    clean = clean_address(address, "the link")
    if is_video_site(clean):
        download_page(clean, target, max_bytes, tell)
        return
    spec = HttpSpec.model_validate(
        {
            "connect_timeout": "5s",
            "read_timeout": "15s",
            "timeout": "2m",
            "max_size": f"{max_bytes}B",
            "attempts": 2,
            "rate": 10,
            "redirects": 5,
        }
    )
    fetcher = Fetcher(clean, spec, target.parent, "download")
    try:
        fetcher.download(target, fetcher.look())
    except UnreadableError as error:
        if "HTML page" not in str(error):
            raise
        download_page(clean, target, max_bytes, tell)


@lru_cache(maxsize=2)
def _store(uri: str, release: int) -> Any:
    """Return the open release; if its files were deleted, the newest one."""
    from cliploom.schemas.errors import StoreError
    from cliploom.transforms.search.searching import Store
    from cliploom.transforms.store.object_store import existing_store
    from cliploom.transforms.store.releases import read_releases

    objects = existing_store(uri)
    releases = read_releases(objects)
    try:
        return Store(objects, releases, releases.get(release))
    except StoreError:
        return Store(objects, releases, releases.get(None))


def search(task: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return hits that are like a file."""
    store = _store(task["store"], task["release"])
    hits = store.search(like=str(path), top=task["top"], rank=task["rank"], index=task.get("index"))
    return {"release": store.release.release, "hits": [hit.to_dict() for hit in hits]}


def predict(task: dict[str, Any], path: Path, report: Report) -> dict[str, Any]:
    """Return the ten most probable labels of a file; for a file in the store, its stored predictions."""
    from cliploom.pipelines.training.predict import predict_any, score_kind
    from cliploom.schemas.digests import digest_file
    from cliploom.schemas.heads import PREDICTED

    store = _store(task["store"], task["release"])
    report({"stage": EXTRACTING, "text": ""})
    known = known_item(store, digest_file(path))
    if known is not None:
        labels = store.item_labels([known["item_no"]], [known["uid"]]).get((known["source"], known["uid"]), ())
        wanted = f"{PREDICTED}{task['head']}"
        entries = {f"{PREDICTED}{name}" for name, entry in store.release.heads.items() if entry.head == task["head"]}
        mine = [each for each in labels if each.origin in {wanted, *entries}][:TOP]
        if mine:
            found = [{"name": each.name, "score": each.score} for each in mine]
            scores = score_kind(store.objects, task["head"])
            place = {"known": known["uid"], "source": known["source"], "head": task["head"]}
            return {"labels": found, "scores": scores} | place

    def on_stage(text: str) -> None:
        report({"stage": EXTRACTING if text.startswith(("reading", "decoding")) else PREDICTING, "text": ""})

    made = predict_any(task["store"], task["head"], str(path), on_stage)
    found = [{"name": each.name, "score": each.score} for each in made.labels[:TOP]]
    uid, source = (known["uid"], known["source"]) if known else (None, None)
    return {"labels": found, "scores": made.scores, "known": uid, "source": source, "head": task["head"]}


def known_item(store: Any, digest: str) -> dict[str, Any] | None:
    """Return the item of the release that has these bytes."""
    import polars as pl

    found = store.collected(store.items.filter(pl.col("digest") == digest).head(1))
    rows: list[dict[str, Any]] = found.to_dicts()
    return rows[0] if rows else None


def heads_of(objects: Any) -> list[str]:
    """Return the names of the heads trained on a store."""
    from cliploom.transforms.heads.published import CURRENT

    prefix = "models/head-"
    return sorted(
        {
            entry.path.removeprefix(prefix).partition("/")[0]
            for entry in objects.list("models")
            if entry.path.startswith(prefix) and entry.path.endswith(f"/{CURRENT}")
        }
    )


def check_link(address: str) -> str:
    """Return the link if its text is that of a permitted URL.

    Raises:
        SpecError: the link is not permitted.
    """
    if len(address) > 2000:
        raise SpecError("The link is longer than 2,000 characters; send a shorter one.")
    return clean_address(address.strip(), "the link")


if __name__ == "__main__":
    sys.exit(main())
