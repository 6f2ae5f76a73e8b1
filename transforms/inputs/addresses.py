"""Addresses on the web: which are taken, how they are shown, what uid they give, what tells that a file is the same.

No user name, password or signature may stand in an address: addresses are written into tables and shown in hits and
messages.
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
"""Signature of an address whose server has not answered yet."""
ADDRESS = "address"
"""Kind of a row of a listing whose server is asked for a signature."""

MISSING = "missing"
"""Signature of an address where nothing stands."""

_PATH_PARAMETERS = re.compile(r";[^/]*")
_EMBEDDED = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("::/96"))
"""IPv6 networks whose last 32 bits are an IPv4 address: NAT64 (RFC 6052) and IPv4-compatible addresses."""
_LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")
"""Translation within a private network (RFC 8215)."""


def is_web(uri: str) -> bool:
    """The uri is an http(s) address.

    >>> is_web("https://example.org/a.gif"), is_web("s3://bucket/a.gif"), is_web("a.gif")
    (True, False, False)
    """
    return uri.lower().startswith(("http://", "https://"))


def parse_address(text: str) -> SplitResult:
    """The parts of an http(s) address.

    Raises:
        ValueError: saying what is wrong with it, when it is none.
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
    """The address without its fragment, as it is written into tables.

    Args:
        text: as a table gives it.
        place: where it stands, for messages.
        allowed: names of parameters that hold no secret, however they sound.

    Raises:
        SpecError: when it is no http(s) address, or holds a user name, password, signature or token.
    """
    try:
        parts = parse_address(text)
    except ValueError as error:
        raise SpecError(f"{place}: {shown(text)!r} is {error}; correct it.") from None
    if "@" in parts.netloc:
        raise SpecError(
            f"{place}: the address of {shown(text)!r} holds a user name or password, which tables and messages would "
            "show; put it into ~/.netrc on the machines that fetch, and leave it out here."
        )
    address = parts._replace(fragment="").geturl()
    if (name := secret_parameter(address, allowed)) is not None:
        raise SpecError(
            f"{place}: the address of {shown(text)!r} holds a secret by its parameter {name!r}, which tables would "
            "keep; name the object as s3:// or gs:// with credentials in the environment, fetch the file first, or, "
            f"if it holds no secret, add allow_parameters: [{name}] to the source."
        )
    return address


def shown(address: str) -> str:
    """The address as messages show it: without user name, password and parameters, which may hold a key.

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
    """The uid of what stands at an http(s) address, NFC.

    Args:
        address: percent escapes are decoded, the fragment is no part of what it names.
        rule: ``path`` (host and path without extension, then the query where there is one), ``file`` (the same with the
            extension) or ``stem`` (the last piece of the path without extension).

    >>> uid_of_address("https://38.media.tumblr.com/9ead028/tumblr_ni2l89_500.gif")
    '38.media.tumblr.com/9ead028/tumblr_ni2l89_500'
    >>> uid_of_address("https://38.media.tumblr.com/9ead028/tumblr_ni2l89_500.gif?s=1", "stem")
    'tumblr_ni2l89_500'

    Raises:
        ValueError: when the text is no http(s) address.
    """
    parts = parse_address(address)
    path = PurePosixPath(unquote(parts.path, errors="surrogateescape"))
    if rule == "stem":
        return unicodedata.normalize("NFC", path.stem)
    query = f"?{parts.query}" if parts.query else ""
    name = path.with_suffix("") if path.name and rule != "file" else path
    return unicodedata.normalize("NFC", f"{parts.hostname}{name}{query}")


def next_address(first: str, current: str, location: str) -> str:
    """Where a redirect leads.

    Args:
        first: the address that was asked for.
        current: the one that answered.
        location: what it said, absolute or not.

    Raises:
        ValueError: saying why it is not followed: another scheme, from https to http, or from a public host to one
            that is not public, where only the machines of a network can look.
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
    """All addresses of the host are of the public network; so is one whose name says nothing."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return True
    return all(is_public(str(place[4][0]).partition("%")[0]) for place in found)


def is_public(address: str) -> bool:
    """Whether anybody can reach an IP address, also where an IPv6 address stands for an IPv4 address.

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
    """What a server says of a file without sending it (RFC 9110, section 8.8).

    Attributes:
        etag: entity tag as sent; a weak one starts with ``W/``.
        modified: ``Last-Modified`` as sent.
        length: bytes; None when it does not say.
    """

    etag: str = ""
    modified: str = ""
    length: int | None = None

    @classmethod
    def of(cls, headers: Mapping[str, str], length: int | None) -> Validators:
        """From an answer's headers; ``length`` is that of the whole file."""
        return cls(headers.get("ETag", "").strip()[:500], headers.get("Last-Modified", "").strip()[:100], length)

    def signature(self, address: str) -> str:
        """What the items table keeps; it changes with the address and whenever the file may have changed.

        >>> Validators('"a"', length=3).signature("http://h/a.gif") == Validators('"b"', length=3).signature("http://h/a.gif")
        False

        Returns:
            JSON text, empty when the server said nothing.
        """
        if not (self.etag or self.modified or self.length is not None):
            return ""
        said = {"etag": self.etag} if self.etag else {"modified": self.modified} if self.modified else {}
        return json.dumps(said | {"length": self.length, "of": digest_of(address)[:SHORT]}, sort_keys=True)

    @classmethod
    def read(cls, signature: str) -> Validators:
        """From a signature; of any other text, validators that say nothing."""
        try:
            said = json.loads(signature)
        except ValueError:
            return cls()
        if not isinstance(said, dict):
            return cls()
        return cls(said.get("etag", ""), said.get("modified", ""), said.get("length"))

    def agrees(self, other: Validators) -> bool:
        """Nothing that both say differs; entity tags, where both have one, are asked instead of times.

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
        """What may stand in ``If-Range``: a strong entity tag, or else a time; empty when there is neither."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified
