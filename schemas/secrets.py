"""Credentials belong in the environment of the process: they are rejected in specs and masked in messages."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import pairwise
from typing import Any
from urllib.parse import quote, unquote

from cliploom.schemas.errors import SpecError

MASK = "***"
_LEAST_LENGTH = 8
_SECRET_VARIABLE = re.compile(
    r"SECRET|TOKEN|PASSW|CREDENTIAL|ACCESS_KEY|API_?KEY|_KEY(?:_|$)|CONNECTION_STRING|_SAS(?:_|$)"
)
# These variables name a file with the secret; users need to see the file's name.
_NAMES_A_FILE = re.compile(r"(?:_FILE|_PATH|GOOGLE_APPLICATION_CREDENTIALS)$")
_SECRET_OPTION = re.compile(r"secret|passw|session_token|access_key|account_key|connection_string", re.IGNORECASE)
_SECRET_MEMBER = re.compile(r"private_key$|secret|refresh_token")
_USER = re.compile(r"(?<=://)(?:[^/\s?#@:\[]+:(?!\d+(?:[/\s?#]|$))[^\s@]*@|[^/\s?#]*@)")
"""User name or password before the host; a password may contain slashes, unlike ``//host:8080/a@b``."""
_CONTAINERS = ("abfs", "abfss", "wasb", "wasbs", "adl")
"""Schemes in which ``name@account`` is a container."""
_PARAMETER = re.compile(r"(?<=[?&;#])([^=?&;#\s]+)=([^?&;#\s]+)")
_IN_A_MESSAGE = re.compile(r"(?<=[?&;#])([^=?&;#\s'\"]+)=([^&;#\s'\"]+)")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_KINDS = (
    "token|key|secret|password|passwd|passphrase|passcode|pass|pwd|pw|signature|sig|sign|hmac|jwt|code|auth|"
    "authorization|authentication|credential|cred|bearer|otp|sas|sid|sessionid|jsessionid|phpsessid|hdnea|hdnts|hdntl|"
    "assertion|cookie"
)
_SECRET_WORD = re.compile(
    rf"(?:access|account|api|app|aws|client|goog|id|my|oauth|private|refresh|security|service|session|shared|"
    rf"subscription|user|x)*(?:{_KINDS}|oauth)s?(?:{_KINDS}|access|id|value)*"
)
_LONGEST_WORD = 64
_DEPTH = 3
"""Maximum depth of URLs nested in parameters of URLs."""


def masked(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return the text without credentials: those of the environment, of URIs, and signatures of links.

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
    text = _USER.sub(lambda found: found[0] if _is_container(found) else f"{MASK}@", text)
    return _IN_A_MESSAGE.sub(_masked_parameter, text)


def _masked_parameter(found: re.Match[str]) -> str:
    name, value = found[1], found[2]
    if names_secret(name) or _secret_parameter(f"?{unquote(value)}", (), _DEPTH):
        return f"{name}={MASK}"
    return f"{name}={_IN_A_MESSAGE.sub(_masked_parameter, value)}"


def _is_container(user: re.Match[str]) -> bool:
    """Return whether the part before the host is the name of an Azure container."""
    scheme = user.string[: user.start() - len("://")].lower()
    return ":" not in user[0] and re.search(rf"\b(?:{'|'.join(_CONTAINERS)})$", scheme) is not None


def _forms(value: str) -> Iterator[str]:
    """Return the forms of a secret in a text: unchanged, percent-escaped in a URL, or as a member of a JSON object."""
    inside: list[str] = []
    if value.lstrip().startswith("{"):
        with suppress(ValueError):
            inside = [text for place, text in _texts(json.loads(value), "") if _SECRET_MEMBER.search(place)]
    for text in (value, *inside):
        if len(text) >= _LEAST_LENGTH:
            yield from (text, quote(text, safe=""), json.dumps(text)[1:-1])


def names_secret(parameter: str) -> bool:
    """Return whether a parameter contains a secret, judging by the words in its name.

    >>> [names_secret(name) for name in ("api_key", "AccessKey", "clientsecret", "X-Amz-Signature", "auth[token]")]
    [True, True, True, True, True]
    >>> [names_secret(name) for name in ("%74oken", "%2574oken", "session_cookie")]
    [True, True, True]
    >>> [names_secret(name) for name in ("author", "keyframe", "zipcode", "width", "Keyword")]
    [False, False, False, False, False]
    """
    words = [word.lower()[:_LONGEST_WORD] for word in _WORD.findall(_decoded(parameter))]
    pairs = [first + second for first, second in pairwise(words)]
    return any(map(_SECRET_WORD.fullmatch, words)) or "sessionid" in pairs


def _decoded(name: str) -> str:
    """Return the name without percent escapes, even if it is escaped several times."""
    for _ in range(_DEPTH):
        name, before = unquote(name), name
        if name == before:
            break
    return name


def secret_parameter(uri: str, allowed: Iterable[str] = ()) -> str | None:
    """Return the name of the first parameter of a URI that contains a secret, in query, path or fragment, or None.

    Args:
        uri: the URI; values of its parameters may be URLs with parameters.
        allowed: the names of parameters that are not secret, however they sound; letter case is ignored.

    >>> secret_parameter("https://host/a.mp4?size=2&api_key=abc"), secret_parameter("https://host/a;token=abc/b.mp4")
    ('api_key', 'token')
    >>> secret_parameter("https://host/a.mp4?code=abc", ["code"])
    """
    return _secret_parameter(uri, frozenset(name.lower() for name in allowed), _DEPTH)


def _secret_parameter(uri: str, allowed: Collection[str], depth: int) -> str | None:
    for found in _PARAMETER.finditer(uri):
        name, value = found[1], found[2]
        if unquote(name).lower() not in allowed and names_secret(name):
            return unquote(name)
        inner = _secret_parameter(f"?{unquote(value)}", allowed, depth - 1) if depth and "%" in value else None
        if inner:
            return inner
    return None


def carries_secret(uri: str, allowed: Iterable[str] = ()) -> bool:
    """Return whether the URI contains a user name, a password, a key or a signature.

    Args:
        uri: any text; one without ``://`` is not a URI.
        allowed: the names of parameters that are not secret.

    >>> carries_secret("s3://key:word@bucket/a"), carries_secret("abfss://box@account.dfs.core.windows.net/a")
    (True, False)
    """
    if "://" not in uri:
        return False
    return not all(map(_is_container, _USER.finditer(uri))) or secret_parameter(uri, allowed) is not None


def refuse_secret(uri: str, place: str = "", allowed: Iterable[str] = ()) -> None:
    """Reject a URI with credentials, since it would be kept in plans, tables and releases.

    Raises:
        SpecError: the URI has credentials; the message masks them.
    """
    if carries_secret(uri, allowed):
        raise SpecError(
            f"{place + ': ' if place else ''}{masked(uri)!r} contains credentials, which would be kept in the store; "
            "give them by the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS)."
        )


def refuse_secrets(document: Mapping[str, Any], resolved: Mapping[str, Any]) -> None:
    """Reject credentials in a spec.

    Args:
        document: the spec as written; options of a target may refer to a variable, but not contain its value.
        resolved: the spec with variables filled in.

    Raises:
        SpecError: there is a credential; the message names its location.
    """
    for place, text in _texts(resolved, ""):
        refuse_secret(text, place)
    for place, text in _texts(document.get("targets"), "targets"):
        if _SECRET_OPTION.search(place.rpartition(".")[2]) and "${" not in text:
            raise SpecError(
                f"{place} contains a credential, which would be kept in every release; put it in the environment, "
                f"or write ${{VARIABLE}}."
            )


def _texts(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Yield (location, text) of all texts in nested mappings and lists."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _texts(inner, f"{place}[{number}]")
