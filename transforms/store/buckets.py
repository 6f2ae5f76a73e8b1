"""Object-store access: timeouts, retries with exponential backoff, and client options.

The clients of ``obstore`` and ``deltalake`` retry requests themselves where that is safe. That excludes a conditional
put whose response was lost, because it may have succeeded. ``with_retries`` retries these as well: a caller that then
finds the object uses it, because the name of an object determines its content.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    InvalidPathError,
    NotFoundError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
    UnknownConfigurationKeyError,
)
from obstore.store import ObjectStore, from_url

from cliploom.schemas.errors import SpecError
from cliploom.schemas.secrets import masked

Result = TypeVar("Result")
PATIENCE, REQUEST = "CLIPLOOM_STORE_PATIENCE_S", "CLIPLOOM_STORE_REQUEST_S"
_PATIENCE_S, _REQUEST_S = 180.0, 60.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 15.0
_BYTES_PER_S = 1_000_000
_JITTER = random.SystemRandom()
# How the clients name an error that is not about the object. deltalake only passes on the text.
_CLIENT = re.compile(r"Generic (?!LocalFileSystem)\w+ error")
# Permanent errors: rejected requests and invalid configuration.
_REFUSED = re.compile(
    r"status code: (?P<status>4(?!08|09|25|29)\d\d)|redirect without LOCATION|"
    r"Unable to open|Invalid Access Key|Error reading pem"
)
# S3 answers some transient errors with 400, too.
_STILL_PASSING = re.compile(r"<Code>(?:RequestTimeout|IncompleteBody|SlowDown)")
_ENDPOINTS = ("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
_SIGNS = {
    "169.254.169.254": "no credentials in the environment, and this machine has no role of a cloud",
    "timed out": "no answer in time",
    "timeout": "no answer in time",
    "connect": "no connection",
    "body error": "the answer broke off",
    "error sending request": "the connection broke off",
    "error decoding": "the answer broke off",
}
_LASTING = (
    AlreadyExistsError,
    InvalidPathError,
    NotFoundError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
    UnknownConfigurationKeyError,
)


class BusyError(OSError):
    """The server would not change an object while another request changed it or its neighbours (HTTP 409)."""


@dataclass(frozen=True)
class RetryBudget:
    """Time limits of requests.

    Attributes:
        total_s: seconds for which a failing request is retried.
        request_s: seconds for one request, plus one per MB of a large body.
    """

    total_s: float = _PATIENCE_S
    request_s: float = _REQUEST_S


def retry_budget() -> RetryBudget:
    """Return the limits set by ``CLIPLOOM_STORE_PATIENCE_S`` and ``CLIPLOOM_STORE_REQUEST_S``, or the defaults.

    Raises:
        SpecError: if a value is not a positive number.
    """
    return RetryBudget(_seconds(PATIENCE, _PATIENCE_S), _seconds(REQUEST, _REQUEST_S))


def _seconds(name: str, usual: float) -> float:
    text = os.environ.get(name, "")
    try:
        value = float(text) if text else usual
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise SpecError(f"{name} is {text!r}; give seconds, such as {usual:.0f}.")
    return value


def connect(uri: str, size: int = 0) -> ObjectStore:
    """Open a bucket.

    Args:
        uri: URI of the bucket, or of a prefix in it; credentials come from the environment.
        size: size in bytes of the largest request body.

    Raises:
        SpecError: if an endpoint in the environment is not a URL.
    """
    budget = retry_budget()
    check_endpoints(os.environ)
    return from_url(
        uri,
        client_options={
            "allow_http": _insecure(),
            "timeout": timedelta(seconds=budget.request_s + size / _BYTES_PER_S),
        },
        retry_config={"retry_timeout": timedelta(seconds=budget.total_s)},
    )


def check_endpoints(environment: Mapping[str, str]) -> None:
    """Refuse endpoints that are not URLs, on which the client panics, or that contain a password.

    Raises:
        SpecError: naming the variable.
    """
    for name in _ENDPOINTS:
        parts = re.fullmatch(
            r"https?://(?P<user>[^/@]*@)?[\w.:\[\]-]+(?:/\S*)?", environment.get(name) or "http://none"
        )
        if parts is None or parts["user"]:
            raise SpecError(f"{name} is not a plain address; give http://host:port or https://host without a password.")


def table_options() -> dict[str, str]:
    """Return the storage options for deltalake; credentials stay in the environment."""
    budget = retry_budget()
    options = {"timeout": f"{budget.request_s:g}s", "retry_timeout": f"{budget.total_s:g}s"}
    return options | ({"allow_http": "true"} if _insecure() else {})


def _insecure() -> bool:
    return any(os.environ.get(f"{cloud}_ALLOW_HTTP", "").lower() in ("1", "true") for cloud in ("AWS", "GOOGLE"))


def with_retries(request: Callable[[], Result]) -> Result:
    """Repeat a request until it succeeds, fails permanently, or the time limit is reached; raise the last error."""
    end = time.monotonic() + retry_budget().total_s
    pause = _FIRST_PAUSE_S
    while True:
        try:
            return request()
        except Exception as error:
            if not is_transient(error) or time.monotonic() + pause > end:
                raise
        time.sleep(pause * _JITTER.uniform(0.5, 1.0))
        pause = min(2 * pause, _LONGEST_PAUSE_S)


def is_transient(error: Exception) -> bool:
    """Return True for transient network or server errors."""
    if isinstance(error, BusyError):
        return True
    if isinstance(error, _LASTING) or refusal(error):
        return False
    return isinstance(error, BaseError) or _CLIENT.search(str(error)) is not None


def refusal(error: Exception) -> str:
    """Describe a rejected request in a few words; empty for any other error.

    >>> refusal(Exception("Generic S3 error: status code: 400 Bad Request: <Error><Code>ExpiredToken</Code></Error>"))
    'HTTP 400, ExpiredToken'
    """
    text = _told(error)
    found = _REFUSED.search(text)
    if found is None or _STILL_PASSING.search(text) or not (isinstance(error, BaseError) or _CLIENT.search(text)):
        return ""
    if found["status"] is None:
        return masked(next(iter(text.strip().splitlines())))[:200]
    code = re.search(r"<Code>(\w+)", text)
    return f"HTTP {found['status']}" + (f", {code[1]}" if code else "")


def _told(error: Exception) -> str:
    """Return the client's message without its dump of settings."""
    return re.sub(r"retry_timeout: \S+", "", str(error).partition("Debug source:")[0])


def retries_exhausted_message(error: Exception) -> str:
    """Return the beginning of a message about an error that persisted."""
    return f"the bucket can't be reached after {retry_budget().total_s:.0f} s of trying ({_why(error)})"


def _why(error: Exception) -> str:
    """Describe a transient error in a few words.

    >>> _why(Exception("Generic S3 error: Error performing GET http://a/b: status code: 503 Service Unavailable"))
    'HTTP 503'
    >>> _why(Exception("Generic S3 error: HTTP error: request or response body error"))
    'the answer broke off'
    """
    text = _told(error)
    found = re.search(r"status code: (\d{3})", text)
    if found:
        return f"HTTP {found[1]}"
    for sign, meaning in _SIGNS.items():
        if sign in text.lower():
            return meaning
    return masked(next(iter(text.strip().splitlines()), type(error).__name__))[:200]
