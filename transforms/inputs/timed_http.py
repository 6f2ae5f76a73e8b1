"""HTTP connections with a time limit on every wait: connecting, TLS, each byte of the headers and of the body.

A socket's time-out restarts with each byte, so a server that sends headers slowly would never exceed it. Here the
remaining time is set before every read, whichever layer reads: a proxy's response, 1xx responses, headers, chunk sizes,
trailers.
"""

from __future__ import annotations

import functools
import http.client
import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

KEPT_OPEN = 8


class _Clock(threading.local):
    """The deadlines of the calling thread's request.

    Attributes:
        until: the monotonic time of the deadline.
        silence: the longest wait for a single read, in seconds.
    """

    until = float("inf")
    silence: float | None = None


_CLOCK = _Clock()


@contextmanager
def waiting(until: float, silence: float) -> Iterator[None]:
    """Limit all reads of the calling thread within the block.

    Args:
        until: the monotonic time at which they fail with TimeoutError.
        silence: the longest wait for one read, in seconds.
    """
    before = _CLOCK.until, _CLOCK.silence
    _CLOCK.until, _CLOCK.silence = min(until, _CLOCK.until), silence
    try:
        yield
    finally:
        _CLOCK.until, _CLOCK.silence = before


class _TimedReader(io.RawIOBase):
    """Reads a socket within the clock's limits."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        """Read available bytes, or wait for the next ones.

        Raises:
            TimeoutError: the time is over.
        """
        left = _CLOCK.until - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        if left < float("inf") or _CLOCK.silence is not None:
            self._sock.settimeout(left if _CLOCK.silence is None else min(left, _CLOCK.silence))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        """Close the file, but not the socket, which belongs to the connection."""
        self._raw.close()
        super().close()


class _TimedSocket:
    """A socket for responses; only ``makefile`` is used."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def makefile(self, mode: str) -> io.BufferedReader:
        """Open the socket for reading."""
        return io.BufferedReader(_TimedReader(self._sock))


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(_TimedSocket(sock), *args, **options)  # type: ignore[arg-type]


class _Timed:
    """Tries all addresses of a host within one time-out together, and reads all headers within one time limit."""

    def _new_conn(self: Any) -> socket.socket:
        name, limit = self._dns_host, self.timeout
        until = min(_CLOCK.until, time.monotonic() + limit)
        try:
            found = socket.getaddrinfo(name, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return super()._new_conn()  # type: ignore[misc,no-any-return]  # says what is wrong with the name
        failed: Exception = ConnectTimeoutError(self, "timed out")
        for address in dict.fromkeys(str(place[4][0]) for place in found):
            if (left := until - time.monotonic()) <= 0:
                break
            self._dns_host, self.timeout = address, left
            try:
                return super()._new_conn()  # type: ignore[misc,no-any-return]
            except (NewConnectionError, ConnectTimeoutError) as error:
                failed = error
            finally:
                self._dns_host, self.timeout = name, limit
        raise failed

    def getresponse(self) -> Any:
        silence = _CLOCK.silence
        if silence is None:
            return super().getresponse()  # type: ignore[misc]
        with waiting(time.monotonic() + silence, silence):
            return super().getresponse()  # type: ignore[misc]


class _HttpConnection(_Timed, HTTPConnection):
    response_class = _Response


class _HttpsConnection(_Timed, HTTPSConnection):
    response_class = _Response


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection


@functools.cache
def connections(proxy: str | None) -> urllib3.PoolManager:
    """Return the HTTP connections of this process, which are kept open between files.

    Args:
        proxy: the URL of the proxy to use.
    """
    manager = urllib3.ProxyManager(proxy, maxsize=KEPT_OPEN) if proxy else urllib3.PoolManager(maxsize=KEPT_OPEN)
    manager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
    return manager
