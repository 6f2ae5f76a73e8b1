"""The ASGI application: the routes behind the guard, and the response to each kind of error."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp

from cliploom.pipelines.version import program_version
from cliploom.schemas.errors import CliploomError, SpecError, StoreError
from cliploom.serving.api import api
from cliploom.serving.catalog import Catalog
from cliploom.serving.guard import Guard
from cliploom.serving.jobs import BusyQueueError
from cliploom.serving.lanes import BusyError
from cliploom.serving.media_api import media_api
from cliploom.serving.pages import error_page, pages
from cliploom.serving.request_parts import UnknownThingError
from cliploom.serving.settings import ServeSettings
from cliploom.serving.state import ServerState
from cliploom.serving.telemetry import LOGGER
from cliploom.transforms.search.thumbnails import MissingMediaError

_LOG = logging.getLogger(LOGGER)


def create_app(catalog: Catalog, settings: ServeSettings) -> ASGIApp:
    """Create the application for opened stores."""
    state = ServerState(catalog, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        catalog.start()
        yield
        state.close()

    app = FastAPI(
        title="cliploom",
        version=program_version(),
        description="Search, watch and predict over the published releases of feature stores. Read-only.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.server = state
    app.include_router(api)
    app.include_router(media_api)
    app.include_router(pages)
    _add_errors(app)
    return Guard(app, settings, state.metrics)


def _add_errors(app: FastAPI) -> None:
    def refuse(request: Request, status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
        if request.url.path.startswith(("/api/", "/openapi", "/metrics", "/healthz", "/static/")):
            return JSONResponse({"error": sentence}, status_code=status, headers=headers)
        answer = error_page(request, status, sentence)
        answer.headers.update(headers or {})
        return answer

    @app.exception_handler(CliploomError)
    async def known_error(request: Request, error: CliploomError) -> Response:
        if isinstance(error, UnknownThingError):
            return refuse(request, 404, str(error))
        if isinstance(error, MissingMediaError):
            # The full message may contain a path on the server's machine.
            _LOG.info("missing media", extra={"fields": {"error": str(error)}})
            return refuse(request, 404, "The picture or file was deleted, has changed, or cannot be read.")
        if isinstance(error, SpecError):
            return refuse(request, 400, str(error))
        _LOG.error("error", extra={"fields": {"error": str(error)}})
        if isinstance(error, StoreError):
            sentence = "The store cannot be read at the moment; see the server's log."
            return refuse(request, 503, sentence, {"Retry-After": "5"})
        return refuse(request, 500, "The request failed; see the server's log.")

    @app.exception_handler(BusyError)
    @app.exception_handler(BusyQueueError)
    async def busy(request: Request, error: Exception) -> Response:
        return refuse(request, 429, str(error), {"Retry-After": "2"})

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(each) for each in first["loc"][1:])[:100] or "the request"
        return refuse(request, 422, f"{place}: {str(first['msg'])[:200]}.")

    @app.exception_handler(StarletteHTTPException)
    @app.exception_handler(HTTPException)
    async def plain(request: Request, error: StarletteHTTPException) -> Response:
        sentence = "There is nothing at this address." if error.status_code == 404 else str(error.detail)[:300]
        return refuse(request, error.status_code, sentence, dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> Response:
        _LOG.error("fault", exc_info=error, extra={"fields": {"path": request.url.path[:300]}})
        return refuse(request, 500, "Internal server error; see the server's log.")
