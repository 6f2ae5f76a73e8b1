"""Files at http(s) addresses: asked about without reading them, and downloaded with retries, limits and resumption.

What a server answers decides what a failure is: 404, 410 and other refusals last, time-outs, cuts, 5xx, 408, 425 and
429 may pass and are tried again, after the time that ``Retry-After`` asks for where it is given. Messages never hold
what an address may keep secret. Names and passwords come from ``~/.netrc``; proxies from the environment.
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
    """Why an attempt came to nothing.

    Attributes:
        wait_s: what the server asks for.
        again: whether another attempt of this run may help.
    """

    reason: str
    transient: bool
    wait_s: float | None = None
    again: bool = True


@dataclass(frozen=True)
class Fetcher:
    """Asks for one address.

    Attributes:
        address: absolute, http or https.
        spec: limits.
        folder: where the machine's processes keep their pace.
        stage: for failures.
        sleep: waits so many seconds.
    """

    address: str
    spec: HttpSpec
    folder: Path
    stage: str
    sleep: Callable[[float], None] = time.sleep

    def look(self) -> Validators:
        """What the server says of the file, which is not read.

        Raises:
            UnreadableError: when it is not there, or the server can't be asked.
        """
        return self._persist(self._look)

    def download(self, target: Path, wanted: Validators) -> None:
        """Write the file to ``target``, going on from what is there already.

        Args:
            target: what an earlier attempt left, or nothing; after a failure that may pass it is left for the next.
            wanted: what the server said when it was asked; a file that disagrees is another one.

        Raises:
            UnreadableError: when it can't be had, is another file by now, or is a page of HTML.
            TooLargeError: when it is larger than ``max_size``.
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
                raise _RefusedError("the server has less than it sent before", transient=True, wait_s=0.0)
            if response.status not in (200, 206):
                raise _refusal(response)
            total = number(response.headers.get("Content-Length"))
            if response.status == 206:
                begin, total = content_range(response.headers.get("Content-Range", ""))
                if begin != have:
                    target.unlink(missing_ok=True)
                    reason = "the server sent another part than it was asked for"
                    raise _RefusedError(reason, transient=True, wait_s=0.0)
            else:
                have = 0
            if packed := coding(response.headers):
                raise _RefusedError(f"the server packs the file ({packed}) though asked not to", transient=False)
            found = Validators.of(response.headers, total)
            if not wanted.agrees(found):
                target.unlink(missing_ok=True)
                reason = "it changed since it was asked about, or the server contradicts itself; the next run takes it"
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
        """Write the answer's body; returns the size of the file."""
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        while chunk := response.read1(CHUNK):
            alive()
            if file.tell() == 0 and (kind in ("text/html", "application/xhtml+xml") or _is_page(chunk)):
                raise _RefusedError("the server sent a page of HTML instead of a file", transient=False)
            self._check_size(file.tell() + len(chunk))
            file.write(chunk)
        return file.tell()

    def _check_size(self, size: int) -> None:
        if size > self.spec.max_size:
            limit = f"more than http.max_size ({self.spec.max_size} bytes)"
            raise TooLargeError(self.stage, f"{shown(self.address)} has {size} bytes or more, {limit}.")

    @contextmanager
    def _opened(self, method: str, headers: dict[str, str], deadline: float) -> Iterator[urllib3.BaseHTTPResponse]:
        """The answer after redirects; its body is read by the caller."""
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
        """One request; what can go wrong while its answer is read becomes ``_RefusedError``."""
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
                    # What is left is little, such as a page that says why; then the connection can be used again.
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
    """What a failed request means; the library's own words may quote the whole address."""
    if isinstance(error, NameResolutionError):
        return _RefusedError("the name of its host is not known", transient=True)
    if isinstance(error, NewConnectionError):
        return _RefusedError("no connection to its host", transient=True)
    if isinstance(error, TimeoutError):
        return _RefusedError("the server kept silent for too long", transient=True)
    if isinstance(error, SSLError):
        return _RefusedError("no secure connection, such as for a certificate that is not trusted", transient=False)
    if isinstance(error, InvalidHeader):
        return _RefusedError("the headers of the server's answer contradict each other", transient=True)
    if isinstance(error, LocationParseError):
        return _RefusedError("not an address that can be asked", transient=False)
    return _RefusedError("the connection was cut", transient=True)


def _refusal(response: urllib3.BaseHTTPResponse) -> _RefusedError:
    status = response.status
    transient = status >= 500 or status in _PASSING
    wait = retry_after(response.headers.get("Retry-After", "")) if transient else None
    reason = "".join(filter(str.isprintable, response.reason or ""))[:_REASON]
    return _RefusedError(f"the server answered {status} {reason}".rstrip(), transient, wait)


def _backoff(failed: int) -> float:
    """Seconds before the next attempt: doubling, and by chance up to half more, so that workers come apart."""
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
    """The header with name and password that ``~/.netrc`` has for this very host."""
    try:
        found = netrc.netrc().hosts.get(host)
    except FileNotFoundError:
        return {}
    except (netrc.NetrcParseError, OSError, UnicodeDecodeError):
        raise _RefusedError("~/.netrc can't be read; correct it", transient=False) from None
    return urllib3.make_headers(basic_auth=f"{found[0]}:{found[2]}") if found else {}
