"""Checks on every request: who may send it, how large and how slow it may be; and the headers of every response."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cliploom.serving.settings import LOOPBACK_NAMES, ServeSettings
from cliploom.serving.telemetry import LOGGER, RequestMetrics

COOKIE = "cliploom_token"
_LOG = logging.getLogger(LOGGER)
_OPEN_PATHS = ("/healthz", "/login")
_UPLOADS = ("/api/predict", "/api/search/file")
_METHODS = ("GET", "HEAD", "POST")
_MOST_PATH = 4096
_MOST_FIELDS = 100
_MOST_HEADERS = 32 << 10
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class _BadBodyError(Exception):
    """The body is too large or too slow; status and sentence form the response."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


class Guard:
    """ASGI middleware that rejects invalid requests, counts all requests and logs them."""

    def __init__(self, app: ASGIApp, settings: ServeSettings, metrics: RequestMetrics) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._token = settings.token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        status = 500
        answered = False
        bad: list[_BadBodyError] = []

        async def answer(message: Message) -> None:
            nonlocal status, answered
            if bad and not answered:
                return  # ignore the application's response to an incomplete body
            if message["type"] == "http.response.start":
                status, answered = message["status"], True
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            refused = self._refusal(scope)
            if refused is not None and refused[0] == 401 and _wants_page(scope):
                await _redirect(answer, "/login")
            elif refused is not None:
                await _say(answer, *refused)
            else:
                await self._app(scope, self._bounded(scope, receive, bad), answer)
        except Exception:
            # The application has logged the error and responded where it could.
            if not answered and not bad:
                await _say(answer, 500, "Internal server error; see the server's log.")
        finally:
            if bad and not answered:
                first = bad.pop()
                bad.clear()
                await _say(answer, first.status, first.sentence)
            self._record(scope, status, time.perf_counter() - begun)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        if len(scope["headers"]) > _MOST_FIELDS or sum(map(_size, scope["headers"])) > _MOST_HEADERS:
            return 431, f"More than {_MOST_FIELDS} header fields or {_MOST_HEADERS:,} bytes of them; send fewer."
        if scope["method"] not in _METHODS:
            return 405, f"{scope['method'][:20]!r} is not supported; use GET or POST."
        if len(scope["raw_path"]) + len(scope["query_string"]) > _MOST_PATH + 4 * self._settings.max_text:
            return 414, "The URL is too long; send a shorter query."
        if not self._knows_host(headers.get("host", "")):
            name = headers.get("host", "")[:60]
            return 421, f"The host name {name!r} is not served; start with --allow-host to add it."
        is_open = scope["path"] in _OPEN_PATHS or scope["path"].startswith("/static/")
        if self._token and not is_open and not self._has_token(headers):
            return 401, "Send the token in the header 'Authorization: Bearer TOKEN', or at /login."
        if scope["method"] == "POST" and headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return 403, "Requests from other sites are rejected."
        length = headers.get("content-length")
        if length is not None:
            if not (length.isascii() and length.isdigit()):
                return 400, "The header Content-Length is not a number."
            if int(length[:20]) > self._limit(scope):
                return 413, f"The request is larger than {self._limit(scope):,} bytes; send a smaller one."
        return None

    def _knows_host(self, given: str) -> bool:
        """Whether the Host header names this server: otherwise a foreign page could reach it through DNS rebinding."""
        if self._token and not self._settings.allowed_hosts:
            return True
        name = given.rpartition(":")[0] if given.rpartition(":")[2].isdigit() else given
        name = name.strip("[]").lower()
        return name in {*LOOPBACK_NAMES, self._settings.host, *self._settings.allowed_hosts}

    def _has_token(self, headers: Headers) -> bool:
        given = [headers.get("authorization", "").removeprefix("Bearer ").strip()]
        try:
            cookie = SimpleCookie(headers.get("cookie", "")[:8192]).get(COOKIE)
        except CookieError:
            cookie = None
        if cookie is not None:
            given.append(cookie.value)
        # Compare all tokens without an early exit: the duration must not reveal which one matched best.
        same = [hmac.compare_digest(each.encode("utf-8", "replace"), self._token) for each in given]
        return any(same)

    def _limit(self, scope: Scope) -> int:
        return self._settings.max_upload if scope["path"] in _UPLOADS else self._settings.max_body

    def _bounded(self, scope: Scope, receive: Receive, bad: list[_BadBodyError]) -> Receive:
        """Return a ``receive`` that passes the body on; when it violates a limit, the error goes into ``bad``."""
        limit, seen = self._limit(scope), 0
        deadline = time.monotonic() + self._settings.body_s
        whole = False

        def refuse(status: int, sentence: str) -> _BadBodyError:
            bad.append(_BadBodyError(status, sentence))
            return bad[-1]

        async def bounded() -> Message:
            nonlocal seen, whole
            if whole:
                return await receive()  # waits until the client disconnects
            try:
                message = await asyncio.wait_for(receive(), max(0.01, deadline - time.monotonic()))
            except TimeoutError:
                sentence = f"The request did not arrive within {self._settings.body_s:g} s; try again."
                raise refuse(408, sentence) from None
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                whole = not message.get("more_body", False)
                if seen > limit:
                    raise refuse(413, f"The request is larger than {limit:,} bytes; send a smaller one.")
            return message

        return bounded

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", None) or "other"
        self._metrics.add(route, scope["method"] if scope["method"] in _METHODS else "other", status, seconds)
        query = urlencode(
            [(name, value) for name, value in parse_qsl(scope["query_string"].decode("latin-1")) if name != "token"]
        )
        _LOG.info(
            "request",
            extra={
                "fields": {
                    "method": scope["method"][:20],
                    "path": scope["path"][:300],
                    "query": query[:300],
                    "status": status,
                    "ms": round(1000 * seconds, 1),
                    "client": (scope.get("client") or ("",))[0],
                }
            },
        )


def _size(field: tuple[bytes, bytes]) -> int:
    return len(field[0]) + len(field[1])


async def _say(send: Send, status: int, sentence: str) -> None:
    body = json.dumps({"error": sentence}).encode()
    headers: list[tuple[bytes, bytes]] = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status in (408, 413):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _redirect(send: Send, where: str) -> None:
    headers = [(b"location", where.encode()), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _wants_page(scope: Scope) -> bool:
    """Whether the request comes from a browser's address bar, as opposed to a program that expects data."""
    return scope["method"] == "GET" and Headers(scope=scope).get("accept", "").startswith("text/html")


def same_token(given: str, token: str) -> bool:
    """Compare secrets in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())
