"""Converts between uids and names of HDF5 datasets.

Parts use ``escape``: one flat name for any uid. Files that people open use ``readable``: paths in which a uid can be
looked up unchanged, ``file[uid]``, except for characters that HDF5 cannot use in names.
"""

from __future__ import annotations

import re

import polars as pl

UIDS = "uids"
"""Name of the dataset that lists the uids."""

_ESCAPED = re.compile("[/.%\x00\ud800-\udfff]")
_UNREADABLE = re.compile("[\x00\ud800-\udfff]|%(?=[0-9A-Fa-f]{2})|^/+|//+|/+$|(?<![^/])[.](?![^/])")
_RESERVED = re.compile(f"^{UIDS[0]}(?={UIDS[1:]}(/|$))")
_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})")
_VALID = re.compile("(?:[^/.%\x00\ud800-\udfff]|%[0-9A-Fa-f]{2})+")


def escape(uid: str) -> str:
    r"""Return the name of a uid's dataset; characters with a meaning in HDF5 are percent-escaped.

    Lone surrogates, which stand for undecodable bytes and are not valid UTF-8, are escaped by their three bytes.

    >>> escape("dir/clip.50%")
    'dir%2Fclip%2E50%25'

    Raises:
        ValueError: for an empty uid, which HDF5 can't name.
    """
    if not uid:
        raise ValueError("an empty uid can't name an HDF5 dataset; give the item a uid")
    return _ESCAPED.sub(_percent, uid)


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass"))


def readable(uid: str) -> str:
    r"""Return the path of a uid's dataset in files that people open: the uid itself where HDF5 allows it.

    Percent-escaped are slashes next to an empty name, names that are a single dot, NUL, lone surrogates, a percent sign
    before two hexadecimal digits, and the first letter of a leading ``uids``.

    >>> readable("dir/v1.5 50%"), readable("/a//b"), readable("a/./b"), readable("uids")
    ('dir/v1.5 50%', '%2Fa%2F%2Fb', 'a/%2E/b', '%75ids')

    Raises:
        ValueError: for an empty uid, which HDF5 can't name.
    """
    if not uid:
        raise ValueError("an empty uid can't name an HDF5 dataset; give the item a uid")
    return _RESERVED.sub(_percent, _UNREADABLE.sub(_percent, uid))


def unreadable(path: str) -> str:
    """Return the uid of a readable path; the inverse of ``readable``.

    Raises:
        ValueError: if no uid has this path.
    """
    data = _PERCENT.sub(lambda match: bytes.fromhex(match[1].decode("ascii")), path.encode("utf-8"))
    try:
        uid = data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path!r} is not the path of a uid") from error
    if not uid or readable(uid) != path:
        raise ValueError(f"{path!r} is not the path of a uid")
    return uid


def folder_clash(uids: pl.Series) -> tuple[str, str] | None:
    """Return a uid that is also a folder of another one, and that one; None if all have readable paths.

    >>> folder_clash(pl.Series(["a.b", "a", "b/c", "a/b"]))
    ('a', 'a/b')
    """
    odd = uids.str.contains(r"^/|//|/$|(^|/)\.(/|$)")
    if odd.any():
        uids = pl.concat([uids.filter(~odd), pl.Series([readable(uid) for uid in uids.filter(odd)], dtype=pl.String)])
    # A folder sorts right before what is in it when nothing sorts before the slash.
    ordered = uids.str.replace_all("/", "\0", literal=True).sort()
    name = pl.col("name")
    starts = name.str.starts_with(name.shift() + "\0").fill_null(value=False)
    inside = ordered.to_frame("name").select(starts)["name"]
    if not inside.any():
        return None
    at = inside.arg_true()[0]
    folder, other = (ordered[place].replace("\0", "/") for place in (at - 1, at))
    return folder, other


def unescape(name: str) -> str:
    """Return the uid of a dataset's name; the inverse of ``escape``.

    Raises:
        ValueError: if no uid has this name.
    """
    if not _VALID.fullmatch(name):
        raise ValueError(f"{name!r} is not an escaped uid")
    data = re.sub(rb"%(..)", lambda match: bytes.fromhex(match[1].decode("ascii")), name.encode("utf-8"))
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name!r} is not an escaped uid") from error
