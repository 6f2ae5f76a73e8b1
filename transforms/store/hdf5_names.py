"""How uids are spelled as names of HDF5 datasets."""

from __future__ import annotations

import re

_ESCAPED = re.compile("[/.%\x00\ud800-\udfff]")
_VALID = re.compile("(?:[^/.%\x00\ud800-\udfff]|%[0-9A-Fa-f]{2})+")


def escape(uid: str) -> str:
    r"""The name of a uid's dataset: what HDF5 gives a meaning to is percent-escaped.

    Half surrogates, which stand for undecodable bytes and are no UTF-8, are escaped by their three bytes.

    >>> escape("dir/clip.50%")
    'dir%2Fclip%2E50%25'

    Raises:
        ValueError: for an empty uid, which HDF5 can't name.
    """
    if not uid:
        raise ValueError("an empty uid can't name an HDF5 dataset; give the item a uid")
    return _ESCAPED.sub(
        lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass")), uid
    )


def unescape(name: str) -> str:
    """The uid of a dataset's name; undoes ``escape``.

    Raises:
        ValueError: for what no uid is escaped to.
    """
    if not _VALID.fullmatch(name):
        raise ValueError(f"{name!r} is not an escaped uid")
    data = re.sub(rb"%(..)", lambda match: bytes.fromhex(match[1].decode("ascii")), name.encode("utf-8"))
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name!r} is not an escaped uid") from error
