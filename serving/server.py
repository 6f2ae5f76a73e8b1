"""Start and stop the page server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

import faiss
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from cliploom.pipelines.console import say
from cliploom.schemas.errors import CliploomError
from cliploom.serving.app import create_app
from cliploom.serving.catalog import Catalog
from cliploom.serving.settings import ServeSettings
from cliploom.serving.telemetry import log_to_stderr

_MOST_HEADERS = 32 << 10
_MOST_CONNECTIONS = 500
_STOP_S = 10


def serve(stores: Sequence[str], settings: ServeSettings) -> None:
    """Serve stores until a signal arrives; running requests are finished first.

    Raises:
        CliploomError: a store cannot be opened, or the address is not available.
    """
    log_to_stderr()
    # Concurrent requests share the cores; a query that used all of them would only wait for the others.
    faiss.omp_set_num_threads(1)
    listener = _listen(settings)
    with listener:
        catalog = Catalog(stores, settings.refresh_s)
        server = make_server(catalog, settings)
        for line in welcome(catalog, settings, listener.getsockname()[1]):
            say(line)
        server.run(sockets=[listener])


def make_server(catalog: Catalog, settings: ServeSettings) -> uvicorn.Server:
    """Create a server that is not started yet."""
    config = uvicorn.Config(
        create_app(catalog, settings),
        http=_protocol(settings.header_s),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=_STOP_S,
        limit_concurrency=_MOST_CONNECTIONS,
        h11_max_incomplete_event_size=_MOST_HEADERS,
    )
    return uvicorn.Server(config)


def welcome(catalog: Catalog, settings: ServeSettings, port: int) -> list[str]:
    """Return lines that say what is served, where, and who can reach it."""
    named = ", ".join(f"{name} (release {slot.store.release.release})" for name, slot in catalog.slots.items())
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    lines = [f"Serving {named} at http://{host}:{port}/ (stop it with Ctrl-C)."]
    if not settings.is_local:
        reach = f"Everyone who can reach {settings.host} port {port}"
        if settings.token:
            lines.append(f"{reach} and has the token sees these stores; the token is sent unencrypted without https.")
        else:
            lines.append(f"Warning: {reach} sees these stores and their media; add --token or use --host 127.0.0.1.")
    return lines


def _listen(settings: ServeSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # With an explicit protocol number, asyncio sets TCP_NODELAY on every connection; otherwise a client with delayed
    # acknowledgements would wait 40 ms for each response.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise CliploomError(
            f"Port {settings.port} of {settings.host} is not available ({error.strerror}); choose another --port."
        ) from None
    return listener


def _protocol(header_s: float) -> Any:
    """Return the HTTP protocol with a time limit for the headers of the first request."""

    class TimedProtocol(H11Protocol):
        """Closes connections that do not send a complete request in time."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.header_clock = self.loop.call_later(header_s, self._too_late)

        def connection_lost(self, exc: Exception | None) -> None:
            self.header_clock.cancel()
            super().connection_lost(exc)

        def _too_late(self) -> None:
            if self.cycle is None and not self.transport.is_closing():
                self.transport.write(b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
                self.transport.close()

    return TimedProtocol
