"""The JSON API: search, items, releases, runs, failures, predictions, health and metrics."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import UploadFile

from cliploom.schemas.errors import SpecError
from cliploom.serving import views
from cliploom.serving.asking import SearchRequest, check_request, search
from cliploom.serving.jobs import FileJob
from cliploom.serving.media_api import send_file
from cliploom.serving.media_files import OpenMedia, content_type
from cliploom.serving.playback import ConversionLimits
from cliploom.serving.request_parts import Source, StoreName, UnknownThingError, check_uid, state_of
from cliploom.serving.served_store import ServedStore
from cliploom.serving.state import ServerState
from cliploom.serving.worker import check_link

api = APIRouter()

_EVENT_S = 0.1
_KEEP_ALIVE_S = 10.0


class LinkRequest(BaseModel):
    """A link to the file to predict labels for."""

    model_config = ConfigDict(extra="forbid", strict=True)

    url: Annotated[str, Field(max_length=4000)]
    head: Annotated[str, Field(max_length=200)] | None = None
    store: Annotated[str, Field(max_length=200)] | None = None


@api.get("/healthz", tags=["operation"])
async def health(request: Request) -> dict[str, Any]:
    """Report that the server is up, and which releases it serves."""
    slots = state_of(request).catalog.slots.values()
    return {"ok": True, "stores": {slot.name: slot.store.release.release for slot in slots}}


@api.get("/metrics", tags=["operation"], response_class=PlainTextResponse)
async def metrics(request: Request) -> PlainTextResponse:
    """Return metrics in the Prometheus text format."""
    state = state_of(request)
    return PlainTextResponse(state.metrics.text(state.gauges()), media_type="text/plain; version=0.0.4")


@api.get("/api/stores", tags=["releases"])
async def stores(request: Request) -> list[dict[str, Any]]:
    """List the served stores."""
    found = []
    for slot in state_of(request).catalog.slots.values():
        release = slot.store.release
        found.append(
            {
                "name": slot.name,
                "release": release.release,
                "created_at": release.created_at.isoformat(timespec="seconds"),
                "indexes": sorted(release.indexes),
                "text_indexes": slot.store.text_indexes,
            }
        )
    return found


@api.get("/api/search", tags=["search"])
async def search_by_address(
    request: Request,
    q: Annotated[str | None, Query(max_length=20_000, description="Words.")] = None,
    like: Annotated[str | None, Query(max_length=20_000, description="A uid, or uid@12.5s.")] = None,
    index: Annotated[list[str] | None, Query(max_length=50, description="Which index; may be repeated.")] = None,
    top: Annotated[int, Query(ge=1, le=100_000)] = 24,
    rank: Annotated[str, Query(pattern="^(max|mean|bimatch)$")] = "max",
    where: Annotated[str | None, Query(max_length=20_000, description="SQL expression over columns.")] = None,
    in_uid: Annotated[str | None, Query(max_length=20_000, description="Only rows of this item.")] = None,
    not_text: Annotated[list[str] | None, Query(max_length=10, description="Texts that hits should be unlike.")] = None,
    moments: Annotated[int, Query(ge=0, le=20, description="Moments of each hit.")] = 0,
    group: Annotated[str | None, Query(max_length=200, description="Metadata column to group by.")] = None,
    facets: Annotated[list[str] | None, Query(max_length=10, description="Columns whose values are counted.")] = None,
    offset: Annotated[int, Query(ge=0, le=10_000, description="Hits to skip.")] = 0,
    store: StoreName = None,
) -> JSONResponse:
    """Search by words, or by an item of the release."""
    asked = SearchRequest(
        text=q, like=like, index=index, top=top, rank=rank, store=store, where=where, in_uid=in_uid,  # type: ignore[arg-type]
        not_text=not_text, moments=moments, group=group, facets=facets, offset=offset,
    )  # fmt: skip
    return await _searched(state_of(request), asked)


@api.post("/api/search", tags=["search"])
async def search_by_body(request: Request, asked: SearchRequest) -> JSONResponse:
    """Search by words, or by an item of the release."""
    return await _searched(state_of(request), asked)


async def _searched(state: ServerState, asked: SearchRequest) -> JSONResponse:
    check_request(asked, state.settings)
    slot = state.catalog.get(asked.store)
    found = await state.searches.run(lambda: slot.answer(lambda store: search(store, asked)))
    timing = f"model;dur={found['model_ms']}, search;dur={found['took_ms']}"
    return JSONResponse(found, headers={"Server-Timing": timing})


@api.get("/api/items/{uid:path}", tags=["items"])
async def item(request: Request, uid: str, store: StoreName = None, source: Source = None) -> dict[str, Any]:
    """Return everything that the release knows about an item: facts, labels, narrations, rows, failures."""
    state = state_of(request)
    slot = state.catalog.get(store)
    check_uid(uid)
    limits = state.settings.conversion
    return await state.listings.run(lambda: slot.answer(lambda each: known(each, uid, source, limits)))


def known(store: ServedStore, uid: str, source: str | None, limits: ConversionLimits) -> dict[str, Any]:
    """Return the view of an item.

    Raises:
        UnknownThingError: there is no such item.
    """
    try:
        return views.item_view(store, uid, source, limits)
    except SpecError as error:
        raise UnknownThingError(str(error)) from None


@api.get("/api/curve/{uid:path}", tags=["search"])
async def curve(
    request: Request,
    uid: str,
    q: Annotated[str, Query(max_length=20_000)],
    store: StoreName = None,
    source: Source = None,
) -> dict[str, Any]:
    """Return the scores of an item's rows against a text, ordered by time."""
    state = state_of(request)
    check_request(SearchRequest(text=q), state.settings)
    slot = state.catalog.get(store)
    check_uid(uid)

    def answer(each: ServedStore) -> dict[str, Any]:
        points = each.scores_over_time(uid, q, source) if q.strip() else []
        return {"release": each.release.release, "points": [asdict(point) for point in points]}

    return await state.searches.run(lambda: slot.answer(answer))


@api.get("/api/releases", tags=["releases"])
async def releases(request: Request, store: StoreName = None) -> list[dict[str, Any]]:
    """List the releases, newest first."""
    return views.release_rows(state_of(request).catalog.get(store).store.releases)


@api.get("/api/releases/{number}", tags=["releases"])
async def release(
    request: Request, number: int, store: StoreName = None, against: Annotated[int | None, Query()] = None
) -> dict[str, Any]:
    """Return the DAG of a release with its counts, and its differences from another release."""
    rows = state_of(request).catalog.get(store).store.releases
    try:
        chosen = views.release_of(rows, number)
        older = [row for row in rows if row.release < number]
        previous = older[-1] if older else None
        found = views.dag_view(chosen, previous) | {"figures": views.release_row(chosen, previous)}
        if against is not None:
            found["difference"] = views.release_difference(views.release_of(rows, against), chosen)
    except SpecError as error:
        raise UnknownThingError(str(error)) from None
    return found


@api.get("/api/failures", tags=["releases"])
async def failures(request: Request, store: StoreName = None) -> dict[str, Any]:
    """Return the failures recorded in the release, grouped by reason and one by one."""
    state = state_of(request)
    slot = state.catalog.get(store)
    return await state.listings.run(lambda: slot.answer(views.failure_summary))


@api.get("/api/runs", tags=["runs"])
async def runs(request: Request, store: StoreName = None) -> dict[str, Any]:
    """Return the progress of the newest run, including runs on a cluster."""
    state = state_of(request)
    slot = state.catalog.get(store)
    return await state.listings.run(lambda: state.runs(slot))


@api.post("/api/search/file", tags=["search"])
async def search_by_file(request: Request) -> dict[str, Any]:
    """Search by a picture or clip: multipart form with ``file`` and, optionally, ``top``, ``rank`` and ``store``."""
    state = state_of(request)
    fields, job = await _uploaded(request, state, "search")
    del fields
    async with state.listeners.place():
        while not job.is_ended:
            await asyncio.sleep(_EVENT_S)
    last = job.events[-1]
    if "error" in last:
        raise SpecError(last["error"])
    hits = [{name: value for name, value in hit.items() if name != "uri"} for hit in last["done"]["hits"]]
    return {"release": last["done"]["release"], "hits": hits, "name": job.name}


@api.post("/api/predict", tags=["predict"], status_code=202)
async def predict(request: Request) -> dict[str, Any]:
    """Queue a file (multipart form with ``file``) or a link (JSON with ``url``) for label prediction."""
    state = state_of(request)
    job = await queue_prediction(request, state)
    return {"job": job.id, "events": f"/api/predict/{job.id}/events", "waiting": state.jobs.length}


async def queue_prediction(request: Request, state: ServerState) -> FileJob:
    """Queue the content of a request: JSON with a link, or a form with a file or a link."""
    if request.headers.get("content-type", "").partition(";")[0].strip() == "application/json":
        try:
            link = LinkRequest.model_validate_json(await request.body())
        except ValueError as error:
            raise SpecError(f"The request does not match /openapi.json: {str(error).splitlines()[0]}") from None
        return _queue_link(state, link.url, link.head, link.store)
    fields, job = await _uploaded(request, state, "predict")
    del fields
    return job


def _queue_link(state: ServerState, url: str, head: str | None, store: str | None) -> FileJob:
    if not state.settings.links:
        raise SpecError("This server does not download links; send the file.")
    slot = state.catalog.get(store)
    task = _prediction(state, slot.name, head) | {"url": check_link(url), "max_bytes": state.settings.max_upload}
    name = PurePosixPath(url.partition("?")[0]).name[:100] or "link"
    return state.jobs.add(task, state.jobs.new_file(), name, content_type(url, None))


def _prediction(state: ServerState, store: str | None, head: str | None) -> dict[str, Any]:
    slot = state.catalog.get(store)
    heads = state.heads(slot)
    if not heads:
        raise SpecError("This store has no trained head; train one with `cliploom train SPEC`.")
    if head and head not in heads:
        raise SpecError(f"There is no trained head {head[:60]!r}; known: {', '.join(heads)}.")
    return {
        "kind": "predict",
        "store": slot.store.uri,
        "release": slot.store.release.release,
        "head": head or heads[0],
    }


async def _uploaded(request: Request, state: ServerState, kind: str) -> tuple[dict[str, str], FileJob]:
    """Write the one file of a form to disk while it arrives, and queue it."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "multipart/form-data":
        raise SpecError("Send a form with the field 'file'; for a prediction, JSON with 'url' works too.")
    async with state.uploads.place(), request.form(max_files=1, max_fields=10, max_part_size=64 << 10) as form:
        fields = {name: value for name, value in form.multi_items() if isinstance(value, str)}
        file = next((value for _, value in form.multi_items() if isinstance(value, UploadFile)), None)
        if kind == "predict" and fields.get("url") and (file is None or not file.filename):
            job = _queue_link(state, fields["url"], fields.get("head"), fields.get("store"))
            return fields, job
        if file is None or not file.size:
            raise SpecError("The field 'file' of the form is missing or empty.")
        slot = state.catalog.get(fields.get("store"))
        if kind == "predict":
            task = _prediction(state, slot.name, fields.get("head"))
        else:
            top = fields.get("top", "24")
            if not top.isdecimal() or not 1 <= int(top[:9]) <= state.settings.max_top:
                raise SpecError(f"top is {top[:20]!r}; give 1 to {state.settings.max_top}.")
            rank = fields.get("rank", "max")
            if rank not in ("max", "mean", "bimatch"):
                raise SpecError(f"There is no ranker {rank[:20]!r}; there are max, mean and bimatch.")
            task = {
                "kind": "search",
                "store": slot.store.uri,
                "release": slot.store.release.release,
                "top": int(top),
                "rank": rank,
            }
        path = state.jobs.new_file()
        await anyio.to_thread.run_sync(_write, file, path)
        name = "".join(c for c in PurePosixPath(file.filename or "file").name if c.isprintable())[:100] or "file"
        return fields, state.jobs.add(task, path, name, content_type(name, None))


def _write(file: UploadFile, path: Any) -> None:
    import shutil

    with path.open("xb") as target:
        shutil.copyfileobj(file.file, target, 1 << 20)


def job_of(request: Request, job_id: str) -> FileJob:
    """Return a job that is still known.

    Raises:
        UnknownThingError: the job is unknown or has expired.
    """
    job = state_of(request).jobs.get(job_id)
    if job is None:
        raise UnknownThingError("This job is unknown or has expired; send the file again.")
    return job


@api.get("/api/predict/{job_id}", tags=["predict"])
async def prediction(request: Request, job_id: str) -> dict[str, Any]:
    """Return the state of a prediction."""
    job = job_of(request, job_id)
    return {"name": job.name, "ended": job.is_ended, "events": job.events}


@api.get("/api/predict/{job_id}/events", tags=["predict"], response_class=Response)
async def prediction_events(request: Request, job_id: str) -> StreamingResponse:
    """Stream status lines as server-sent events; the last event is ``done`` or ``error``."""
    state = state_of(request)
    job = job_of(request, job_id)
    place = state.listeners.place()
    await place.__aenter__()

    async def body() -> AsyncIterator[str]:
        seen, silent = 0, 0.0
        try:
            while True:
                for event in job.events[seen:]:
                    seen += 1
                    yield f"data: {json.dumps(event)}\n\n"
                    silent = 0.0
                if job.is_ended and seen == len(job.events):
                    return
                await asyncio.sleep(_EVENT_S)
                silent += _EVENT_S
                if silent >= _KEEP_ALIVE_S:
                    silent = 0.0
                    yield ": waiting\n\n"
        finally:
            await place.__aexit__(None, None, None)

    return StreamingResponse(body(), media_type="text/event-stream")


@api.head("/api/predict/{job_id}/media", include_in_schema=False)
@api.get("/api/predict/{job_id}/media", tags=["predict"], response_class=Response)
async def prediction_media(request: Request, job_id: str) -> Response:
    """Return the uploaded file of a prediction, so that the page can play it meanwhile."""
    state = state_of(request)
    job = job_of(request, job_id)
    place = state.streams.place()
    await place.__aenter__()
    try:
        file = job.path.open("rb")
    except OSError:
        await place.__aexit__(None, None, None)
        raise UnknownThingError("The file has not arrived yet.") from None
    size = os.fstat(file.fileno()).st_size
    return await send_file(request, OpenMedia(size, file), job.media_type, f'"{job.id[:8]}-{size}"', state, place)
