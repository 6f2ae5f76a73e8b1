"""The pages: search, item, store, runs, predict and login; rendered on the server, usable without JavaScript."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from cliploom.pipelines.console import human_bytes, human_seconds
from cliploom.schemas.errors import CliploomError, SpecError
from cliploom.serving import drawings, views
from cliploom.serving.api import job_of, known, queue_prediction
from cliploom.serving.asking import SearchRequest, check_request, search
from cliploom.serving.catalog import ServedRelease
from cliploom.serving.guard import COOKIE, same_token
from cliploom.serving.media_files import moments_of
from cliploom.serving.request_parts import Source, StoreName, UnknownThingError, state_of
from cliploom.serving.served_store import ServedStore
from cliploom.serving.state import ServerState
from cliploom.transforms.search.thumbnails import media_facts

pages = APIRouter(include_in_schema=False)
_STATIC = {"page.js": "text/javascript", "style.css": "text/css", "icon.svg": "image/svg+xml"}
_TOP = 24
_STILLS = 8
_SURE = 0.5


@cache
def _files() -> dict[str, tuple[bytes, str]]:
    """Return the static files with their ETags, read once; paths in requests are never opened."""
    folder = Path(__file__).parent / "static"
    found = {name: (folder / name).read_bytes() for name in _STATIC}
    return {name: (data, hashlib.blake2b(data, digest_size=8).hexdigest()) for name, data in found.items()}


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("cliploom.serving"), autoescape=select_autoescape(), undefined=StrictUndefined
    )
    environment.filters |= {
        "bytes": human_bytes,
        "seconds": human_seconds,
        "clock": clock,
        "path": lambda text: quote(str(text), safe="/"),
    }
    environment.globals |= {"static": lambda name: f"/static/{name}?v={_files()[name][1]}", "link": link}
    return environment


def clock(seconds: float | None) -> str:
    """Return a duration in seconds in the form h:mm:ss.

    >>> clock(0), clock(75.25), clock(3661), clock(None)
    ('0:00', '1:15.2', '1:01:01', '')
    """
    if seconds is None:
        return ""
    minutes, rest = divmod(max(0.0, seconds), 60)
    hours, minutes = divmod(int(minutes), 60)
    tenth = f"{rest:04.1f}" if rest % 1 >= 0.05 else f"{rest:02.0f}"
    return f"{hours}:{minutes:02d}:{tenth}" if hours else f"{minutes}:{tenth}"


def link(path: str, **parameters: Any) -> str:
    """Return a URL path of this server; parameters that are None or empty are omitted.

    >>> link("/item/a b", t=1.5, q="", store=None)
    '/item/a%20b?t=1.5'
    """
    given = {name: value for name, value in parameters.items() if value not in (None, "", [])}
    return quote(path, safe="/") + (f"?{urlencode(given, doseq=True)}" if given else "")


def _page(request: Request, name: str, slot: ServedRelease, status: int = 200, **values: Any) -> HTMLResponse:
    state = state_of(request)
    several = len(state.catalog.slots) > 1
    whole = {
        "slot": slot.name,
        "store_param": slot.name if several else None,
        "stores": list(state.catalog.slots),
        "release": slot.store.release.release,
        "path": request.url.path,
        "page": name,
        **values,
    }
    return HTMLResponse(_environment().get_template(f"{name}.html").render(whole), status_code=status)


@pages.get("/static/{name}")
async def static(request: Request, name: str) -> Response:
    """Return the script, the style sheet or the icon."""
    if name not in _STATIC:
        raise UnknownThingError(f"There is no file {name[:40]!r}.")
    data, tag = _files()[name]
    forever = request.query_params.get("v") == tag
    caching = "public, max-age=31536000, immutable" if forever else "no-cache"
    headers = {"ETag": f'"{tag}"', "Cache-Control": caching}
    if request.headers.get("if-none-match") == f'"{tag}"':
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=_STATIC[name], headers=headers)


@pages.get("/")
async def home(
    request: Request,
    q: str = "",
    like: str = "",
    index: Annotated[list[str] | None, Query()] = None,
    rank: str = "max",
    where: str = "",
    top: int = _TOP,
    store: StoreName = None,
) -> HTMLResponse:
    """Show the search page, with hits as a grid of moments."""
    state = state_of(request)
    slot = state.catalog.get(store)
    found: dict[str, Any] | None = None
    message = ""
    index = [name for name in index or () if name]
    if q.strip() or like.strip():
        try:
            asked = SearchRequest(
                text=None if like.strip() else q, like=like or None, index=index or None, top=max(1, top),
                rank=rank, where=where or None,  # type: ignore[arg-type]
            )  # fmt: skip
            check_request(asked, state.settings)
            found = await state.searches.run(lambda: slot.answer(lambda each: search(each, asked)))
        except (SpecError, ValueError) as error:
            message = (
                str(error) if isinstance(error, SpecError) else "There is no such ranker; use max, mean or bimatch."
            )
    release = slot.store.release
    chosen = {"q": q, "like": like, "index": index, "rank": rank, "where": where}
    return _page(
        request, "search", slot, found=found, message=message, chosen=chosen, indexes=sorted(release.indexes),
        items=release.counts.get("items", 0), examples=_examples(slot.store),
    )  # fmt: skip


def _examples(store: ServedStore) -> list[dict[str, Any]]:
    """Return a few items to show before the first search."""
    rows = store.listed.filter(_has_facts()).head(400)
    frame = store.collected(rows)
    step = max(1, frame.height // 12)
    found = []
    for row in frame.gather_every(step).head(12).to_dicts():
        facts = media_facts(row["facts"])
        if facts is not None and facts.frames:
            found.append({"uid": row["uid"], "source": row["source"], "duration_s": facts.duration_s})
    return found


def _has_facts() -> Any:
    import polars as pl

    return pl.col("facts").is_not_null() & pl.col("digest").is_not_null()


@pages.get("/item/{uid:path}")
async def item(
    request: Request,
    uid: str,
    t: float | None = None,
    q: str = "",
    store: StoreName = None,
    source: Source = None,
) -> HTMLResponse:
    """Show an item: the player at a moment, scores over time, narrations and labels."""
    state = state_of(request)
    slot = state.catalog.get(store)
    text = q.strip()[: state.settings.max_text]

    def answer(each: ServedStore) -> tuple[dict[str, Any], list[Any]]:
        points = each.scores_over_time(uid, text, source) if text else []
        return known(each, uid, source, state.settings.conversion), points

    found, points = await state.searches.run(lambda: slot.answer(answer))
    facts = found["facts"]
    duration = facts["duration_s"] if facts else 0.0
    if text and t is None and points:
        t = max(points, key=lambda point: point.score).start_s
    moment = min(max(0.0, t or 0.0), duration) if duration else 0.0
    parsed = media_facts(_facts_text(facts)) if facts else None
    stills = list(moments_of(parsed, _STILLS)) if parsed and parsed.frames > 1 else []
    drawn = Markup(drawings.curve_svg(points, duration)) if len(points) > 1 else ""  # noqa: S704 - escaped there
    return _page(request, "item", slot, item=found, moment=moment, q=text, curve=drawn, stills=stills)


def _facts_text(facts: dict[str, Any]) -> str:
    import json

    return json.dumps({name: value for name, value in facts.items() if name != "duration_s"})


@pages.get("/store")
async def store_page(
    request: Request, store: StoreName = None, release: int | None = None, against: int | None = None
) -> HTMLResponse:
    """Show a store: the DAG, its releases with metrics over time, differences between two releases, failures."""
    state = state_of(request)
    slot = state.catalog.get(store)
    rows = slot.store.releases
    chosen = slot.store.release if release is None else views.release_of(rows, release)
    older = [row for row in rows if row.release < chosen.release]
    previous = older[-1] if older else None
    difference = None
    if against is not None:
        difference = views.release_difference(views.release_of(rows, against), chosen)
    elif previous is not None:
        difference = views.release_difference(previous, chosen)
    figures = views.release_rows(rows)
    failures = await state.listings.run(lambda: slot.answer(views.failure_summary))
    run = (await state.listings.run(lambda: state.runs(slot)))["newest"]
    drawn = Markup(drawings.dag_svg(views.dag_view(chosen, previous)))  # noqa: S704 - escaped there
    return _page(
        request, "store", slot, dag=drawn, plots=_plots(figures[::-1]), releases=figures, chosen=chosen.release,
        difference=difference, failures=failures, run=run,
    )  # fmt: skip


def _plots(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return plots of metrics over the last releases if there are at least two."""
    rows = rows[-60:]
    labels = [f"release {row['release']}" for row in rows]
    wanted: list[tuple[str, list[float], str]] = [
        ("Items", [row["items"] for row in rows], f"{rows[-1]['items']:,}"),
        ("Rows", [row["rows"] for row in rows], f"{rows[-1]['rows']:,}"),
        ("Failed", [row["failed"] for row in rows], f"{rows[-1]['failed']:,}"),
        ("Seconds", [row["seconds"] for row in rows], human_seconds(rows[-1]["seconds"])),
    ]
    for name in rows[-1]["recall"]:
        values = [row["recall"].get(name, 0.0) for row in rows]
        wanted.append((f"recall@10 of {name}", values, f"{values[-1]:.3f}"))
    return [
        {"name": name, "last": last, "svg": Markup(drawings.line_svg(values, labels, name))}  # noqa: S704
        for name, values, last in wanted
    ]


@pages.get("/runs")
async def runs(request: Request, store: StoreName = None) -> HTMLResponse:
    """Show the newest run, updated live, and the runs that published."""
    state = state_of(request)
    slot = state.catalog.get(store)
    found = await state.listings.run(lambda: state.runs(slot))
    return _page(request, "runs", slot, run=found["newest"], releases=views.release_rows(slot.store.releases))


@pages.get("/predict")
async def predict_page(request: Request, store: StoreName = None) -> HTMLResponse:
    """Show the form for a file or link."""
    return await _predict_page(request, state_of(request), store, "")


async def _predict_page(
    request: Request, state: ServerState, store: str | None, message: str, status: int = 200
) -> HTMLResponse:
    slot = state.catalog.get(store)
    heads = await state.listings.run(lambda: state.heads(slot))
    return _page(
        request, "predict", slot, status=status, heads=heads, message=message, links=state.settings.links,
        waiting=state.jobs.length, max_upload=state.settings.max_upload,
    )  # fmt: skip


@pages.post("/api/predict/form", response_model=None)
async def predict_form(request: Request) -> Response:
    """Queue a submitted form and redirect to its page."""
    state = state_of(request)
    try:
        job = await queue_prediction(request, state)
    except CliploomError as error:
        return await _predict_page(request, state, None, str(error), 400)
    return RedirectResponse(f"/predict/{job.id}", status_code=303)


@pages.get("/predict/{job_id}")
async def prediction(request: Request, job_id: str) -> HTMLResponse:
    """Show the state of a prediction, and its labels."""
    state = state_of(request)
    job = job_of(request, job_id)
    done = job.events[-1].get("done") if job.events else None
    error = job.events[-1].get("error", "") if job.events else ""
    labels = done["labels"] if done else []
    similar = done is not None and done["scores"] == "similarity"
    sure = [] if similar else [each for each in labels if each["score"] > _SURE]
    rest = [] if similar else [each for each in labels if each["score"] <= _SURE]
    slot = next((each for each in state.catalog.slots.values() if each.store.uri == job.task["store"]), None)
    return _page(
        request, "prediction", slot or state.catalog.get(None), job=job, done=done, error=error, sure=sure, rest=rest,
        nearest=labels if similar else [],
        stage=job.events[-1].get("stage", "") if job.events else "",
    )  # fmt: skip


@pages.get("/login")
async def login(request: Request) -> HTMLResponse:
    """Show the login form for the token."""
    return _page(request, "login", state_of(request).catalog.get(None), message="")


@pages.post("/login", response_model=None)
async def logged_in(request: Request, token: Annotated[str, Form(max_length=1000)] = "") -> Response:
    """Store the token in a cookie that scripts cannot read."""
    settings = state_of(request).settings
    if not settings.token or not same_token(token, settings.token):
        slot = state_of(request).catalog.get(None)
        return _page(request, "login", slot, 401, message="The token is wrong; copy it from the command `serve`.")
    answer = RedirectResponse("/", status_code=303)
    secure = request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"
    answer.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=secure, max_age=30 * 24 * 3600)
    return answer


def error_page(request: Request, code: int, sentence: str) -> HTMLResponse:
    """Render an error as a page."""
    return _page(request, "error", state_of(request).catalog.get(None), code, code=code, sentence=sentence)
