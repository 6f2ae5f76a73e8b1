"""Http(s) URLs: which are accepted, how they are shown, their uids, and how to detect that a file is unchanged.

A URL must not contain a user name, password or signature: URLs are written to tables and shown in hits and messages.
"""

from __future__ import annotations

import ipaddress
import json
import re
import socket
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from cliploom.schemas.digests import SHORT, digest_of
from cliploom.schemas.errors import SpecError
from cliploom.schemas.secrets import secret_parameter

SCHEMES = ("http", "https")
UNASKED = "unasked"
"""Signature of a URL whose server has not answered yet."""
ADDRESS = "address"
"""Kind of a listing row whose signature must be requested from its server."""

MISSING = "missing"
"""Signature of a URL whose file does not exist."""

_PATH_PARAMETERS = re.compile(r";[^/]*")
_EMBEDDED = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("::/96"))
"""IPv6 networks that embed an IPv4 address in the last 32 bits: NAT64 (RFC 6052) and IPv4-compatible addresses."""
_LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")
"""Translation within a private network (RFC 8215)."""


def is_web(uri: str) -> bool:
    """Return whether the uri is an http(s) URL.

    >>> is_web("https://example.org/a.gif"), is_web("s3://bucket/a.gif"), is_web("a.gif")
    (True, False, False)
    """
    return uri.lower().startswith(("http://", "https://"))


def parse_address(text: str) -> SplitResult:
    """Return the parts of an http(s) URL.

    Raises:
        ValueError: it is invalid; the message says why.
    """
    address = text.strip()
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if host is None or parts.scheme not in SCHEMES or any(c.isspace() for c in address):
        raise ValueError("not an http or https address")
    return parts


def clean_address(text: str, place: str, allowed: Collection[str] = ()) -> str:
    """Return the URL without its fragment, as it is written to tables.

    Args:
        text: the text in a table.
        place: its location, for messages.
        allowed: the names of parameters that are not secret, however they sound.

    Raises:
        SpecError: it is not an http(s) URL, or contains a user name, password, signature or token.
    """
    try:
        parts = parse_address(text)
    except ValueError as error:
        raise SpecError(f"{place}: {shown(text)!r} is {error}; correct it.") from None
    if "@" in parts.netloc:
        raise SpecError(
            f"{place}: the address of {shown(text)!r} has a user name or password, which tables and messages would "
            "/.netrc~/.netrc on the machines that fetch, and leave it out here."
        )
    address = parts._replace(fragment="").geturl()
    if (name := secret_parameter(address, allowed)) is not None:
        raise SpecError(
            f"{place}: the address of {shown(text)!r} contains a secret in the parameter {name!r}, which tables would "
            "keep; name the object as s3:// or gs:// with credentials in the environment, fetch the file first, or, "
            f"if it is not secret, add allow_parameters: [{name}] to the source."
        )
    return address


def shown(address: str) -> str:
    """Return the URL for messages, without user name, password and parameters, which may contain secrets.

    >>> shown("https://me:secret@example.org/a;token=1/b.gif?key=1")
    'https://example.org/a;.../b.gif?...'
    """
    try:
        parts = urlsplit(address.strip())
    except ValueError:
        return "an address that can't be read"
    query = "..." if parts.query else ""
    path = _PATH_PARAMETERS.sub(";...", parts.path)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], path=path, query=query, fragment="").geturl()[:500]


def uid_of_address(address: str, rule: str = "path") -> str:
    """Return the uid of the file at an http(s) URL, in NFC.

    Args:
        address: the URL; percent escapes are decoded, the fragment is ignored.
        rule: ``path`` (host and path without extension, then the query if there is one), ``file`` (the same with the
            extension) or ``stem`` (the last component of the path without extension).

    >>> uid_of_address("https://38.media.tumblr.com/9ead028/tumblr_ni2l89_500.gif")
    '38.media.tumblr.com/9ead028/tumblr_ni2l89_500'
    >>> uid_of_address("https://38.media.tumblr.com/9ead028/tumblr_ni2l89_500.gif?s=1", "stem")
    'tumblr_ni2l89_500'

    Raises:
        ValueError: the text is not an http(s) URL.
    """
    parts = parse_address(address)
    path = PurePosixPath(unquote(parts.path, errors="surrogateescape"))
    if rule == "stem":
        return unicodedata.normalize("NFC", path.stem)
    query = f"?{parts.query}" if parts.query else ""
    name = path.with_suffix("") if path.name and rule != "file" else path
    return unicodedata.normalize("NFC", f"{parts.hostname}{name}{query}")


def next_address(first: str, current: str, location: str) -> str:
    """Return the target of a redirect.

    Args:
        first: the requested URL.
        current: the URL that responded.
        location: the value of ``Location``, absolute or relative.

    Raises:
        ValueError: the redirect is not followed; the message says why: another scheme, from https to http, or from a
            public host to a private one, which could expose an internal network.
    """
    target = urljoin(current, location)
    parts = parse_address(target)
    if parts.scheme == "http" and urlsplit(current).scheme == "https":
        raise ValueError("from https to http")
    asked = urlsplit(first).hostname
    if parts.hostname != asked and _public(asked) and not _public(parts.hostname):
        raise ValueError("from a public host into a private network")
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()


def _public(host: str | None) -> bool:
    """Return whether all IP addresses of the host are public, or its name does not tell."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return True
    return all(is_public(str(place[4][0]).partition("%")[0]) for place in found)


def is_public(address: str) -> bool:
    """Return whether an IP address is public, including IPv6 addresses that embed an IPv4 address.

    >>> is_public("93.184.216.34"), is_public("64:ff9b::7f00:1"), is_public("2002:7f00:1::")
    (True, False, False)
    """
    found = ipaddress.ip_address(address)
    if not found.is_global or found.is_multicast:
        return False
    if found.version == 4:
        return True
    inner = [found.ipv4_mapped, found.sixtofour, *(found.teredo or ())]
    inner += [ipaddress.IPv4Address(int(found) & 0xFFFFFFFF) for network in _EMBEDDED if found in network]
    return all(each is None or each.is_global for each in inner) and found not in _LOCAL_NAT64


@dataclass(frozen=True)
class Validators:
    """The validators of a file in a server's response (RFC 9110, section 8.8).

    Attributes:
        etag: the entity tag as sent; a weak one starts with ``W/``.
        modified: ``Last-Modified`` as sent.
        length: the length in bytes; None if unknown.
    """

    etag: str = ""
    modified: str = ""
    length: int | None = None

    @classmethod
    def of(cls, headers: Mapping[str, str], length: int | None) -> Validators:
        """Create validators from response headers; ``length`` is that of the whole file."""
        return cls(headers.get("ETag", "").strip()[:500], headers.get("Last-Modified", "").strip()[:100], length)

    def signature(self, address: str) -> str:
        """Return the signature for the items table, which changes with the URL and whenever the file may have changed.

        >>> Validators('"a"', length=3).signature("http://h/a.gif") == Validators('"b"', length=3).signature("http://h/a.gif")
        False

        Returns:
            JSON text, empty if the server sent no validator.
        """
        if not (self.etag or self.modified or self.length is not None):
            return ""
        said = {"etag": self.etag} if self.etag else {"modified": self.modified} if self.modified else {}
        return json.dumps(said | {"length": self.length, "of": digest_of(address)[:SHORT]}, sort_keys=True)

    @classmethod
    def read(cls, signature: str) -> Validators:
        """Parse a signature; any other text gives empty validators."""
        try:
            said = json.loads(signature)
        except ValueError:
            return cls()
        if not isinstance(said, dict):
            return cls()
        return cls(said.get("etag", ""), said.get("modified", ""), said.get("length"))

    def agrees(self, other: Validators) -> bool:
        """Return whether the common validators are equal; entity tags take precedence over times.

        >>> Validators('W/"a"', length=3).agrees(Validators('"a"')), Validators('"a"').agrees(Validators('"b"'))
        (True, False)
        """
        if None not in (self.length, other.length) and self.length != other.length:
            return False
        if self.etag and other.etag:
            return self.etag.removeprefix("W/") == other.etag.removeprefix("W/")
        return not (self.modified and other.modified) or self.modified == other.modified

    @property
    def strong(self) -> str:
        """Return the value for ``If-Range``: a strong entity tag, else a time, else an empty string."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified
