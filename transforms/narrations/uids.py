"""Derives a video's uid from a URL, and reads lists of uids."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cliploom.schemas.errors import SpecError
from cliploom.schemas.secrets import secret_parameter
from cliploom.transforms.inputs.addresses import parse_address, shown, uid_of_address
from cliploom.transforms.narrations.rows import RowError, Source, checked_uid, name_of, opened


@dataclass(frozen=True)
class UrlRule:
    """The rule by which URLs become uids.

    Attributes:
        rule: ``path``, ``stem`` or a regular expression, see ``uid_of_url``.
        allowed: the names of parameters that are not secret, however they sound.
    """

    rule: str
    allowed: frozenset[str] = frozenset()


def uid_of_url(url: str, rule: str | UrlRule = "path") -> str:
    """Return the uid of the file at an http(s) URL.

    Args:
        url: the URL; percent escapes are decoded, the fragment is ignored.
        rule: ``path`` (host and path without extension, then the query if there is one), ``file`` (the same with the
            extension), ``stem`` (the last component of the path without extension) or a regular expression whose group
            ``uid``, or else first group, is the uid.

    >>> uid_of_url("https://38.media.tumblr.com/9ead028/tumblr_ni2l89_500.gif")
    '38.media.tumblr.com/9ead028/tumblr_ni2l89_500'
    >>> uid_of_url("https://38.media.tumblr.com/9ead028/tumblr_ni2l89_500.gif", "stem")
    'tumblr_ni2l89_500'

    Raises:
        RowError: the text is not an http(s) URL, the rule finds no uid in it, or the uid would contain a secret.
    """
    rule = rule if isinstance(rule, UrlRule) else UrlRule(rule)
    try:
        if rule.rule in ("path", "file", "stem"):
            uid = checked_uid(uid_of_address(url, rule.rule))
        else:
            parse_address(url)
            uid = uid_by_regex(url.strip(), rule.rule)
    except RowError as error:
        raise RowError(error.reason, shown(url)) from None
    except ValueError as error:
        raise RowError(str(error), shown(url)) from None
    if (name := secret_parameter(uid, rule.allowed)) is not None:
        reason = f"the parameter {name!r} sounds like a secret, and the store keeps uids; add uid: stem to the source"
        raise RowError(f"{reason}, or allow_parameters: [{name}] if it is none", shown(url))
    return uid


def uid_by_regex(text: str, pattern: str) -> str:
    """Return the match of the pattern's group ``uid``, or else its first group.

    >>> uid_by_regex("clips/P01_03.mp4", "(P[0-9]+_[0-9]+)")
    'P01_03'

    Raises:
        RowError: the pattern does not match.
        SpecError: it is not a regular expression with a group.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise SpecError(f"{pattern!r} is not a regular expression ({error}); correct the uid rule.") from error
    if not compiled.groups:
        raise SpecError(f"{pattern!r} has no group; put the part that is the uid in parentheses.")
    found = compiled.search(text)
    if found is None:
        raise RowError(f"the uid rule {pattern!r} finds nothing", text)
    return checked_uid(found["uid"] if "uid" in compiled.groupindex else found[1])


def read_uid_list(source: Source, rule: str | UrlRule | None = None) -> frozenset[str]:
    """Return the uids in a text file, one per line; blank lines and lines that start with ``#`` are ignored.

    Args:
        source: a path or binary file in UTF-8; TGIF's split files list URLs.
        rule: how URLs become uids (``uid_of_url``); None for lists of uids.

    Raises:
        SpecError: the file cannot be read, or a line is not a uid; a split must not lose members silently.
    """
    uids = set()
    with opened(source) as file:
        for number, raw in enumerate(file, 1):
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape").strip()
            if not line or line.startswith("#"):
                continue
            try:
                uids.add(checked_uid(line) if rule is None else uid_of_url(line, rule))
            except RowError as error:
                raise SpecError(
                    f"{name_of(source)}, line {number}: {error.reason}: {error.value}; correct it."
                ) from error
    return frozenset(uids)
