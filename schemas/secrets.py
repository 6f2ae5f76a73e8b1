"""Credentials belong into the environment of the process: they are refused in specs and masked in messages."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from cliploom.schemas.errors import SpecError

MASK = "***"
_LEAST_LENGTH = 8
_SECRET_VARIABLE = re.compile(
    r"SECRET|TOKEN|PASSW|CREDENTIAL|ACCESS_KEY|API_?KEY|_KEY(?:_|$)|CONNECTION_STRING|_SAS(?:_|$)"
)
# These name a file that holds the secret; the file's name is what a person must read.
_NAMES_A_FILE = re.compile(r"(?:_FILE|_PATH|GOOGLE_APPLICATION_CREDENTIALS)$")
_SECRET_OPTION = re.compile(r"secret|passw|session_token|access_key|account_key|connection_string", re.IGNORECASE)
_SECRET_MEMBER = re.compile(r"private_key$|secret|refresh_token")
_USER = re.compile(r"(?<=://)[^/@\s:]*:[^/@\s]*(?=@)")
_SIGNATURE = re.compile(
    r"(?<=[?&])(x-amz-signature|x-amz-credential|x-amz-security-token|x-goog-signature|x-goog-credential|"
    r"awsaccesskeyid|signature|sig|access_token|token)=[^&\s'\"]+",
    re.IGNORECASE,
)


def masked(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """The text without credentials: those of the environment, of URIs, and signatures of links.

    >>> masked("s3://me:word@bucket/a?X-Amz-Signature=12ab", {})
    's3://***@bucket/a?X-Amz-Signature=***'
    >>> masked("denied to abcd1234efgh", {"AWS_SECRET_ACCESS_KEY": "abcd1234efgh"})
    'denied to ***'
    """
    found = {
        form
        for name, value in environment.items()
        if _SECRET_VARIABLE.search(name.upper()) and not _NAMES_A_FILE.search(name)
        for form in _forms(value)
    }
    for value in sorted(found, key=len, reverse=True):
        text = text.replace(value, MASK)
    return _SIGNATURE.sub(rf"\1={MASK}", _USER.sub(MASK, text))


def _forms(value: str) -> Iterator[str]:
    """How a secret may stand in a text: as it is, percent-escaped in an address, or as a member of a JSON object."""
    inside: list[str] = []
    if value.lstrip().startswith("{"):
        with suppress(ValueError):
            inside = [text for place, text in _texts(json.loads(value), "") if _SECRET_MEMBER.search(place)]
    for text in (value, *inside):
        if len(text) >= _LEAST_LENGTH:
            yield from (text, quote(text, safe=""), json.dumps(text)[1:-1])


def carries_secret(uri: str) -> bool:
    """The URI has a password or a signature in it.

    >>> carries_secret("s3://key:word@bucket/a"), carries_secret("abfss://box@account.dfs.core.windows.net/a")
    (True, False)
    """
    return "://" in uri and (_USER.search(uri) is not None or _SIGNATURE.search(uri) is not None)


def refuse_secret(uri: str, place: str = "") -> None:
    """Refuse a URI that carries credentials: it would be kept in plans, tables and releases.

    Raises:
        SpecError: without the credentials.
    """
    if carries_secret(uri):
        raise SpecError(
            f"{place + ': ' if place else ''}{masked(uri)!r} carries credentials, which would be kept in the store; "
            "give them by the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS)."
        )


def refuse_secrets(document: Mapping[str, Any], resolved: Mapping[str, Any]) -> None:
    """Refuse credentials in a spec.

    Args:
        document: as written; options of a target may name a variable, but not hold what it holds.
        resolved: with variables filled in.

    Raises:
        SpecError: naming the place.
    """
    for place, text in _texts(resolved, ""):
        refuse_secret(text, place)
    for place, text in _texts(document.get("targets"), "targets"):
        if _SECRET_OPTION.search(place.rpartition(".")[2]) and "${" not in text:
            raise SpecError(
                f"{place} holds a credential, which would be kept in every release; leave it to the environment, "
                f"or write ${{VARIABLE}}."
            )


def _texts(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """(place, text) of all texts in nested mappings and lists."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _texts(inner, f"{place}[{number}]")
