"""Media of items over HTTP: thumbnails, files, and converted copies, with byte ranges."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse

from cliploom.schemas.errors import SpecError
from cliploom.serving.conversions import Conversion
from cliploom.serving.media_files import OpenMedia, UnsatisfiableError, content_type, open_media, parse_range, stream
from cliploom.serving.playback import Playback, playback
from cliploom.serving.request_parts import Source, StoreName, UnknownThingError, check_uid, state_of
from cliploom.serving.served_store import ServedStore
from cliploom.serving.state import ServerState
from cliploom.transforms.search.thumbnails import find_media

media_api = APIRouter()

_WIDTHS = (160, 320, 640, 1280)
_EVENT_S = 0.1


@media_api.get("/api/thumbnail/{uid:path}", tags=["items"], response_class=Response)
async def thumbnail(
    request: Request,
    uid: str,
    at: Annotated[float, Query(ge=0, le=1e7, allow_inf_nan=False, description="Seconds from its start.")] = 0.0,
    width: Annotated[int, Query(description="160, 320, 640 or 1280.")] = 320,
    store: StoreName = None,
    source: Source = None,
) -> Response:
    """Return the frame shown at a given time, as WebP."""
    state = state_of(request)
    if width not in _WIDTHS:
        raise SpecError(f"The width of a thumbnail is {width}; use one of {', '.join(map(str, _WIDTHS))}.")
    slot = state.catalog.get(store)
    check_uid(uid)
    data = await state.pictures.run(
        lambda: slot.answer(lambda each: state.thumbnails.get(each, uid, round(at, 3), width, source))
    )
    tag = f'"{hashlib.blake2b(data, digest_size=12).hexdigest()}"'
    headers = {"ETag": tag, "Cache-Control": "private, max-age=300"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type="image/webp", headers=headers)


@media_api.head("/api/media/{uid:path}", include_in_schema=False)
@media_api.get("/api/media/{uid:path}", tags=["items"], response_class=Response)
async def media(request: Request, uid: str, store: StoreName = None, source: Source = None) -> Response:
    """Return an item's file, or one byte range of it."""
    state = state_of(request)
    slot = state.catalog.get(store)
    check_uid(uid)

    def opened(each: ServedStore) -> tuple[OpenMedia, str, str]:
        found = find_media(each, uid, source)
        return open_media(each, found), content_type(found.uri, found.facts), found.digest

    place = state.streams.place()
    await place.__aenter__()
    try:
        file, kind, digest = await anyio.to_thread.run_sync(lambda: slot.answer(opened), limiter=state.listings.limiter)
    except BaseException as error:
        await place.__aexit__(type(error), error, None)
        raise
    return await send_file(request, file, kind, f'"{digest}"', state, place)


async def _conversion_of(request: Request, uid: str, store: str | None, source: str | None) -> Conversion:
    """Return the conversion of an item; start it if necessary."""
    state = state_of(request)
    slot = state.catalog.get(store)
    check_uid(uid)
    return await state.listings.run(
        lambda: slot.answer(lambda each: state.conversions.request(each, find_media(each, uid, source)))
    )


@media_api.get("/api/playback/{uid:path}", tags=["items"])
async def playback_of(
    request: Request,
    uid: str,
    store: StoreName = None,
    source: Source = None,
    convert: Annotated[bool, Query(description="Convert the file even if most browsers play it.")] = False,
) -> dict[str, Any]:
    """Return how an item can be played, and start its conversion if browsers do not play the file."""
    state = state_of(request)
    slot = state.catalog.get(store)
    check_uid(uid)

    def decided(each: ServedStore) -> Playback:
        found = find_media(each, uid, source)
        return playback(found.facts, found.size, state.settings.conversion)

    chosen = await state.listings.run(lambda: slot.answer(decided))
    if chosen.how == "as_is" and not convert:
        return {"how": "as_is", "state": "ready", "share": 1.0, "message": ""}
    if chosen.how == "stills":
        return {"how": "stills", "state": "ready", "share": 1.0, "message": chosen.why}
    made = await _conversion_of(request, uid, store, source)
    how = "stills" if made.state == "failed" else "converted"
    return {"how": how, "state": made.state, "share": made.share, "message": made.message}


@media_api.head("/api/converted/{uid:path}", include_in_schema=False)
@media_api.get("/api/converted/{uid:path}", tags=["items"], response_class=Response)
async def converted(request: Request, uid: str, store: StoreName = None, source: Source = None) -> Response:
    """Return a video as MP4 for browsers, or one byte range of it; wait until it is converted."""
    state = state_of(request)
    made = await _conversion_of(request, uid, store, source)
    async with state.listeners.place():
        while not made.is_ended:
            await asyncio.sleep(_EVENT_S)
    if made.state == "failed":
        raise UnknownThingError(made.message)
    place = state.streams.place()
    await place.__aenter__()
    try:
        file = await anyio.to_thread.run_sync(state.conversions.open, made, limiter=state.listings.limiter)
    except BaseException as error:
        await place.__aexit__(type(error), error, None)
        raise
    size = os.fstat(file.fileno()).st_size
    return await send_file(request, OpenMedia(size, file), "video/mp4", f'"{made.name}-{size}"', state, place)


async def send_file(request: Request, file: OpenMedia, kind: str, tag: str, state: ServerState, place: Any) -> Response:
    """Respond with a file, or with the requested byte range."""
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": tag,
        "Cache-Control": "private, no-cache",
        "Content-Disposition": "inline",
    }
    leave = True
    try:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        wanted = request.headers.get("range")
        if request.headers.get("if-range", tag) != tag:
            wanted = None
        try:
            part = parse_range(wanted, file.size)
        except UnsatisfiableError:
            return Response(status_code=416, headers=headers | {"Content-Range": f"bytes */{file.size}"})
        start, end = (part.start, part.end) if part else (0, file.size)
        headers["Content-Length"] = str(end - start)
        if part:
            headers["Content-Range"] = part.header
        if request.method == "HEAD":
            return Response(status_code=206 if part else 200, headers=headers, media_type=kind)
        leave = False

        async def body() -> AsyncIterator[bytes]:
            try:
                async for block in stream(file, start, end, state.streams.limiter):
                    yield block
            finally:
                await place.__aexit__(None, None, None)

        return StreamingResponse(body(), status_code=206 if part else 200, headers=headers, media_type=kind)
    finally:
        if leave:
            file.close()
            await place.__aexit__(None, None, None)
