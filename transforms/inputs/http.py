"""Files at http(s) addresses: asked about without reading them, and downloaded with retries, limits and resumption.

What a server answers decides what a failure is: 404, 410 and other refusals last, time-outs, cuts, 5xx, 408, 425 and
429 may pass and are tried again, after the time that ``Retry-After`` asks for where it is given. Messages never hold
what an address may keep secret. Names and passwords come from ``~/.netrc``; proxies from the environment.
"""

from __future__ import annotations

import functools
import netrc
import random
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
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
    SSLError,
    TimeoutError,
)

from cliploom.schemas.errors import ItemError, TooLargeError, UnreadableError
from cliploom.schemas.sources import HttpSpec
from cliploom.transforms.inputs.addresses import Validators, next_address, shown
from cliploom.transforms.inputs.pace import take_turn

T = TypeVar("T")
CHUNK = 1 << 18
FIRST_WAIT_S = 0.5
MOST_WAIT_S = 30.0
AGENT = "cliploom"
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
        return self._persist(lambda deadline: self._look())

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
        for number in range(self.spec.attempts):
            try:
                return attempt(deadline)
            except _RefusedError as refused:
                wait = _backoff(number) if refused.wait_s is None else refused.wait_s
                late = time.monotonic() + wait > deadline
                if refused.transient and refused.again and number + 1 < self.spec.attempts and not late:
                    self.sleep(wait)
                    continue
                tried = f" ({number + 1} attempts)" if number else ""
                raise self._failure(f"{refused.reason}{tried}", refused.transient) from None
        raise AssertionError("a spec has at least one attempt")

    def _failure(self, reason: str, transient: bool) -> ItemError:
        return UnreadableError(self.stage, f"{shown(self.address)}: {reason}.", transient=transient)

    def _look(self) -> Validators:
        with self._opened("HEAD", {}) as response:
            if response.status not in _NO_HEAD:
                return self._seen(response)
        with self._opened("GET", {}) as response:
            return self._seen(response)

    def _seen(self, response: urllib3.BaseHTTPResponse) -> Validators:
        if response.status != 200:
            raise _refusal(response)
        return Validators.of(response.headers, _number(response.headers.get("Content-Length")))

    def _download(self, target: Path, wanted: Validators, deadline: float) -> None:
        have = target.stat().st_size if target.exists() and wanted.strong else 0
        headers = {"Range": f"bytes={have}-", "If-Range": wanted.strong} if have else {}
        with self._opened("GET", headers) as response:
            if response.status == 416 and have:
                target.unlink()
                raise _RefusedError("the server has less than it sent before", transient=True, wait_s=0.0)
            if response.status not in (200, 206):
                raise _refusal(response)
            total = _number(response.headers.get("Content-Length"))
            if response.status == 206:
                begin, total = _content_range(response.headers.get("Content-Range", ""))
                if begin != have:
                    target.unlink(missing_ok=True)
                    reason = "the server sent another part than it was asked for"
                    raise _RefusedError(reason, transient=True, wait_s=0.0)
            else:
                have = 0
            if (coding := response.headers.get("Content-Encoding", "identity").strip().lower()) != "identity":
                raise _RefusedError(f"the server packs the file ({coding[:20]}) though asked not to", transient=False)
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
                size = self._copy(response, file, deadline)
        expected = wanted.length if total is None else total
        if expected is not None and size != expected:
            raise _RefusedError(f"the connection was cut after {size} of {expected} bytes", transient=True)

    def _copy(self, response: urllib3.BaseHTTPResponse, file: BinaryIO, deadline: float) -> int:
        """Write the answer's body; returns the size of the file."""
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        while chunk := response.read1(CHUNK):
            if file.tell() == 0 and (kind in ("text/html", "application/xhtml+xml") or _is_page(chunk)):
                raise _RefusedError("the server sent a page of HTML instead of a file", transient=False)
            self._check_size(file.tell() + len(chunk))
            file.write(chunk)
            if time.monotonic() > deadline:
                raise _RefusedError(f"it was not complete after {self.spec.timeout:g} s", transient=True)
        return file.tell()

    def _check_size(self, size: int) -> None:
        if size > self.spec.max_size:
            limit = f"more than http.max_size ({self.spec.max_size} bytes)"
            raise TooLargeError(self.stage, f"{shown(self.address)} has {size} bytes or more, {limit}.")

    @contextmanager
    def _opened(self, method: str, headers: dict[str, str]) -> Iterator[urllib3.BaseHTTPResponse]:
        """The answer after redirects; its body is read by the caller."""
        address = self.address
        for _ in range(self.spec.redirects + 1):
            with self._asked(method, address, headers) as response:
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
    def _asked(self, method: str, address: str, headers: dict[str, str]) -> Iterator[urllib3.BaseHTTPResponse]:
        """One request; what can go wrong while its answer is read becomes ``_RefusedError``."""
        parts = urlsplit(address)
        if (wait := take_turn(self.folder, parts.netloc, self.spec.rate)) > 0:
            self.sleep(wait)
        response = None
        try:
            response = _pool(_proxy(parts.scheme, parts.hostname or "")).request(
                method,
                address,
                headers={"User-Agent": AGENT, "Accept-Encoding": "identity"} | _login(parts.hostname or "") | headers,
                timeout=urllib3.Timeout(connect=self.spec.connect_timeout, read=self.spec.read_timeout),
                preload_content=False,
                decode_content=False,
                redirect=False,
                retries=False,
            )
            yield response
            if (response.length_remaining or 0) <= CHUNK:
                # What is left is little, such as a page that says why; then the connection can be used again.
                response.drain_conn()
                response.release_conn()
        except HTTPError as error:
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
    if isinstance(error, LocationParseError | InvalidHeader):
        return _RefusedError("not an address that can be asked", transient=False)
    return _RefusedError("the connection was cut", transient=True)


def _refusal(response: urllib3.BaseHTTPResponse) -> _RefusedError:
    status = response.status
    transient = status >= 500 or status in _PASSING
    wait = _retry_after(response.headers.get("Retry-After", "")) if transient else None
    return _RefusedError(f"the server answered {status} {response.reason or ''}".rstrip(), transient, wait)


def _retry_after(text: str) -> float | None:
    """Seconds that a server asks to wait: a number or a date (RFC 9110, section 10.2.3); None for anything else.

    >>> _retry_after("120"), _retry_after("soon"), _retry_after("Wed, 21 Oct 2015 07:28:00 GMT")
    (120.0, None, 0.0)
    """
    if text.strip().isdecimal():
        return float(text)
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _backoff(number: int) -> float:
    """Seconds before the next attempt: doubling, and by chance up to half more, so that workers come apart."""
    wait: float = min(MOST_WAIT_S, FIRST_WAIT_S * 2**number)
    return wait * random.uniform(1, 1.5)  # noqa: S311


def _content_range(text: str) -> tuple[int, int | None]:
    """First byte and size of the whole, of ``bytes 5-9/10``; -1 for what says neither.

    >>> _content_range("bytes 5-9/10"), _content_range("bytes 5-9/*"), _content_range("")
    ((5, 10), (5, None), (-1, None))
    """
    unit, _, rest = text.strip().partition(" ")
    stretch, _, whole = rest.partition("/")
    begin = _number(stretch.partition("-")[0])
    return (-1, None) if unit.lower() != "bytes" or begin is None else (begin, _number(whole))


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.strip().isdecimal() else None


def _difference(wanted: Validators, found: Validators) -> str:
    if None not in (wanted.length, found.length) and wanted.length != found.length:
        return f"{wanted.length} bytes then, {found.length} now"
    return "another entity tag" if wanted.etag and found.etag else "another time of change"


def _is_page(chunk: bytes) -> bool:
    return chunk.lstrip(b"\xef\xbb\xbf \t\r\n")[:32].lower().startswith(_PAGE)


@functools.cache
def _pool(proxy: str | None) -> urllib3.PoolManager:
    """Connections of this process, kept open between files."""
    return urllib3.ProxyManager(proxy, maxsize=8) if proxy else urllib3.PoolManager(maxsize=8)


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
