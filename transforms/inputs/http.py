"""Files at http(s) URLs: requests their metadata, and downloads them with retries, limits and resumption.

The response determines the kind of failure: 404, 410 and other rejections are permanent; time-outs, broken connections,
5xx, 408, 425 and 429 are transient and retried, after the time in ``Retry-After`` if there is one. Messages never
contain parts of a URL that may be secret. Credentials come from ``~/.netrc``, proxies from the environment.
"""

from __future__ import annotations

import netrc
import random
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import (
    HTTPError,
    InvalidHeader,
    LocationParseError,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
    TimeoutError,
)

from cliploom.schemas.errors import ItemError, TooLargeError, UnreadableError
from cliploom.schemas.sources import HttpSpec
from cliploom.transforms.inputs.addresses import Validators, next_address, shown
from cliploom.transforms.inputs.http_headers import coding, content_range, number, retry_after
from cliploom.transforms.inputs.pace import take_turn
from cliploom.transforms.inputs.timed_http import connections, waiting
from cliploom.transforms.watchdog import alive

T = TypeVar("T")
CHUNK = 1 << 18
FIRST_WAIT_S = 0.5
MOST_WAIT_S = 30.0
AGENT = "cliploom"
_LEAST_S = 0.001
_REASON = 80
_PASSING = (408, 425, 429)
_NO_HEAD = (400, 403, 405, 501)
_PAGE = (b"<!doctype html", b"<html", b"<head")


@dataclass
class _RefusedError(Exception):
    """The reason why an attempt failed.

    Attributes:
        wait_s: the wait time that the server requested, in seconds.
        again: whether another attempt in this run may help.
    """

    reason: str
    transient: bool
    wait_s: float | None = None
    again: bool = True


@dataclass(frozen=True)
class Fetcher:
    """Requests one URL.

    Attributes:
        address: an absolute http or https URL.
        spec: the limits.
        folder: the folder of the rate limiter shared by the machine's processes.
        stage: the stage, for failures.
        sleep: a function that waits the given number of seconds.
    """

    address: str
    spec: HttpSpec
    folder: Path
    stage: str
    sleep: Callable[[float], None] = time.sleep

    def look(self) -> Validators:
        """Return the file's validators without reading the file.

        Raises:
            UnreadableError: the file does not exist, or the server is unreachable.
        """
        return self._persist(self._look)

    def download(self, target: Path, wanted: Validators) -> None:
        """Download the file to ``target``, resuming from its current content.

        Args:
            target: the content of an earlier attempt, or nothing; kept after a transient failure.
            wanted: the expected validators; a file that differs has changed.

        Raises:
            UnreadableError: the download failed, the file has changed, or it is an HTML page.
            TooLargeError: it is larger than ``max_size``.
        """
        self._persist(lambda deadline: self._download(target, wanted, deadline))

    def _persist(self, attempt: Callable[[float], T]) -> T:
        deadline = time.monotonic() + self.spec.timeout
        for failed in range(self.spec.attempts):
            try:
                return attempt(deadline)
            except _RefusedError as refused:
                wait = _backoff(failed) if refused.wait_s is None else refused.wait_s
                late = time.monotonic() + wait > deadline
                if refused.transient and refused.again and failed + 1 < self.spec.attempts and not late:
                    self.sleep(wait)
                    continue
                tried = f" ({failed + 1} attempts)" if failed else ""
                raise self._failure(f"{refused.reason}{tried}", refused.transient) from None
        raise AssertionError("a spec has at least one attempt")

    def _failure(self, reason: str, transient: bool) -> ItemError:
        return UnreadableError(self.stage, f"{shown(self.address)}: {reason}.", transient=transient)

    def _look(self, deadline: float) -> Validators:
        with self._opened("HEAD", {}, deadline) as response:
            if response.status not in _NO_HEAD:
                return self._seen(response)
        with self._opened("GET", {}, deadline) as response:
            return self._seen(response)

    def _seen(self, response: urllib3.BaseHTTPResponse) -> Validators:
        if response.status != 200:
            raise _refusal(response)
        return Validators.of(response.headers, number(response.headers.get("Content-Length")))

    def _download(self, target: Path, wanted: Validators, deadline: float) -> None:
        have = target.stat().st_size if target.exists() and wanted.strong else 0
        headers = {"Range": f"bytes={have}-", "If-Range": wanted.strong} if have else {}
        with self._opened("GET", headers, deadline) as response:
            if response.status == 416 and have:
                target.unlink()
                raise _RefusedError("the server has fewer bytes than it sent before", transient=True, wait_s=0.0)
            if response.status not in (200, 206):
                raise _refusal(response)
            total = number(response.headers.get("Content-Length"))
            if response.status == 206:
                begin, total = content_range(response.headers.get("Content-Range", ""))
                if begin != have:
                    target.unlink(missing_ok=True)
                    reason = "the server sent a different range than requested"
                    raise _RefusedError(reason, transient=True, wait_s=0.0)
            else:
                have = 0
            if packed := coding(response.headers):
                raise _RefusedError(f"the server compresses the file ({packed}) although asked not to", transient=False)
            found = Validators.of(response.headers, total)
            if not wanted.agrees(found):
                target.unlink(missing_ok=True)
                reason = "it changed since it was listed, or the server contradicts itself; the next run retries it"
                raise _RefusedError(f"{reason} ({_difference(wanted, found)})", transient=True, again=False)
            if total is not None:
                self._check_size(total)
            with target.open("r+b" if target.exists() else "wb") as file:
                file.truncate(have)
                file.seek(have)
                size = self._copy(response, file)
        expected = wanted.length if total is None else total
        if expected is not None and size != expected:
            raise _RefusedError(f"the connection was cut after {size} of {expected} bytes", transient=True)

    def _copy(self, response: urllib3.BaseHTTPResponse, file: BinaryIO) -> int:
        """Write the response body; return the size of the file."""
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        while chunk := response.read1(CHUNK):
            alive()
            if file.tell() == 0 and (kind in ("text/html", "application/xhtml+xml") or _is_page(chunk)):
                raise _RefusedError("the server sent an HTML page instead of a file", transient=False)
            self._check_size(file.tell() + len(chunk))
            file.write(chunk)
        return file.tell()

    def _check_size(self, size: int) -> None:
        if size > self.spec.max_size:
            limit = f"more than http.max_size ({self.spec.max_size} bytes)"
            raise TooLargeError(self.stage, f"{shown(self.address)} has {size} bytes or more, {limit}.")

    @contextmanager
    def _opened(self, method: str, headers: dict[str, str], deadline: float) -> Iterator[urllib3.BaseHTTPResponse]:
        """Return the response after redirects; the caller reads its body."""
        address = self.address
        for _ in range(self.spec.redirects + 1):
            with self._asked(method, address, headers, deadline) as response:
                location = response.get_redirect_location()
                if not location:
                    yield response
                    return
            try:
                address = next_address(self.address, address, location)
            except ValueError as error:
                reason = f"it redirects to {shown(location)}, {error}; not followed"
                raise _RefusedError(reason, transient=False) from None
        raise _RefusedError(f"it redirects more than {self.spec.redirects} times", transient=False)

    @contextmanager
    def _asked(
        self, method: str, address: str, headers: dict[str, str], deadline: float
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """Send one request; convert errors while its response is read to ``_RefusedError``."""
        parts, spec = urlsplit(address), self.spec
        if (wait := take_turn(self.folder, parts.netloc, spec.rate)) > 0:
            self.sleep(wait)
        left = max(_LEAST_S, deadline - time.monotonic())
        response = None
        try:
            with waiting(deadline, spec.read_timeout):
                response = connections(_proxy(parts.scheme, parts.hostname or "")).request(
                    method,
                    address,
                    headers={"User-Agent": AGENT, "Accept-Encoding": "identity"}
                    | _login(parts.hostname or "")
                    | headers,
                    timeout=urllib3.Timeout(left, connect=spec.connect_timeout, read=spec.read_timeout),
                    preload_content=False,
                    decode_content=False,
                    redirect=False,
                    retries=False,
                )
                yield response
                if response.length_remaining is not None and response.length_remaining <= CHUNK:
                    # The rest is short, such as an error page; after reading it the connection can be reused.
                    response.drain_conn()
                    response.release_conn()
        except HTTPError as error:
            if time.monotonic() >= deadline:
                raise _RefusedError(f"it was not complete after {spec.timeout:g} s", transient=True) from None
            if response is None and isinstance(error, ReadTimeoutError):
                reason = f"the server did not send all headers of its answer within {spec.read_timeout:g} s"
                raise _RefusedError(reason, transient=True) from None
            raise _trouble(error) from None
        finally:
            if response is not None:
                response.close()


def _trouble(error: Exception) -> _RefusedError:
    """Return the meaning of a failed request; the library's own message may quote the whole URL."""
    if isinstance(error, NameResolutionError):
        return _RefusedError("the name of its host is not known", transient=True)
    if isinstance(error, NewConnectionError):
        return _RefusedError("no connection to its host", transient=True)
    if isinstance(error, TimeoutError):
        return _RefusedError("the server did not respond in time", transient=True)
    if isinstance(error, SSLError):
        return _RefusedError("no secure connection, e.g. because of an untrusted certificate", transient=False)
    if isinstance(error, InvalidHeader):
        return _RefusedError("the headers of the response contradict each other", transient=True)
    if isinstance(error, LocationParseError):
        return _RefusedError("not a URL that can be requested", transient=False)
    return _RefusedError("the connection was cut", transient=True)


def _refusal(response: urllib3.BaseHTTPResponse) -> _RefusedError:
    status = response.status
    transient = status >= 500 or status in _PASSING
    wait = retry_after(response.headers.get("Retry-After", "")) if transient else None
    reason = "".join(filter(str.isprintable, response.reason or ""))[:_REASON]
    return _RefusedError(f"the server answered {status} {reason}".rstrip(), transient, wait)


def _backoff(failed: int) -> float:
    """Return the delay before the next attempt: exponential backoff in seconds, with up to 50% jitter."""
    wait: float = min(MOST_WAIT_S, FIRST_WAIT_S * 2**failed)
    return wait * random.uniform(1, 1.5)  # noqa: S311


def _difference(wanted: Validators, found: Validators) -> str:
    if None not in (wanted.length, found.length) and wanted.length != found.length:
        return f"{wanted.length} bytes then, {found.length} now"
    return "another entity tag" if wanted.etag and found.etag else "another time of change"


def _is_page(chunk: bytes) -> bool:
    return chunk.lstrip(b"\xef\xbb\xbf \t\r\n")[:32].lower().startswith(_PAGE)


def _proxy(scheme: str, host: str) -> str | None:
    if urllib.request.proxy_bypass(host):
        return None
    return urllib.request.getproxies().get(scheme)


def _login(host: str) -> dict[str, str]:
    """Return the authorization header for exactly this host from ``~/.netrc``."""
    try:
        found = netrc.netrc().hosts.get(host)
    except FileNotFoundError:
        return {}
    except (netrc.NetrcParseError, OSError, UnicodeDecodeError):
        raise _RefusedError("~/.netrc can't be read; correct it", transient=False) from None
    return urllib3.make_headers(basic_auth=f"{found[0]}:{found[2]}") if found else {}
