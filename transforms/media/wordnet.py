"""Folder names that are ids, such as WordNet's, and their words from a published list.

ImageNet's ``words.txt`` has lines like ``n02123045<TAB>tabby, tabby cat``, with synonyms separated by commas;
``wnids.txt`` has an id per line, in the order of the classes (docs/formats.md section 5).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from cliploom.schemas.errors import SpecError
from cliploom.transforms.inputs.listing import clean_uid
from cliploom.transforms.store.uris import absolute

MOST_BYTES = 64_000_000


def read_words(path: str, base: Path, place: str) -> dict[str, str]:
    """Read the words of ids, in the order of the file.

    Args:
        path: the path of a file like ``words.txt``.
        base: the folder that it is relative to.
        place: the location in the spec, for messages.

    Raises:
        SpecError: the file does not exist, is not such a list, or exceeds 64 MB.
    """
    found: dict[str, str] = {}
    for where, line in _lines(path, base, place):
        name, _, words = line.partition("\t")
        if not words.strip():
            raise SpecError(
                f"{place}: {where} is {line[:60]!r}; it needs an id, a tab and words, such as n02084071\\tdog."
            )
        name = clean_uid(name.strip())
        if found.setdefault(name, words.strip()) != words.strip():
            raise SpecError(f"{place}: {where} has other words for {name!r} than an earlier line; remove one of them.")
    if not found:
        raise SpecError(f"{place}: {path} is empty; it needs an id, a tab and words on each line.")
    return found


def read_ids(path: str, base: Path, place: str) -> list[str]:
    """Read a list of unique ids, one per line.

    Raises:
        SpecError: the file does not exist, or an id occurs twice.
    """
    found: dict[str, str] = {}
    for where, line in _lines(path, base, place):
        name = clean_uid(line.strip())
        if name in found:
            raise SpecError(f"{place}: {where} repeats {name!r}; remove it.")
        found[name] = where
    return list(found)


def _lines(path: str, base: Path, place: str) -> Iterable[tuple[str, str]]:
    """Yield each nonblank line and its location."""
    local = absolute(base / Path(path).expanduser())
    if not local.is_file():
        raise SpecError(f"{place}: there is no file '{local}'.")
    if local.stat().st_size > MOST_BYTES:
        raise SpecError(f"{place}: {local} has {local.stat().st_size:,} bytes; a list of words has less than 64 MB.")
    try:
        text = local.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise SpecError(f"{place}: {local} is not UTF-8; convert it.") from None
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield f"line {number} of {local.name}", line


def folder_labels(
    items: Iterable[tuple[str, str]], words: Mapping[str, str], ids: Iterable[str] | None, place: str
) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Find each item's id: the name of the nearest parent folder that is an id.

    Args:
        items: the uid and URI of each item.
        words: the words of all ids.
        ids: the ids that are classes, in the order of their numbers; None for all of ``words``.
        place: the location in the spec, for messages.

    Returns:
        The ids of each item by uid (none or one), and the number of each id.

    Raises:
        SpecError: a class has no words.

    >>> folder_labels([("a", "file:///t/n1/images/a.jpg"), ("b", "file:///t/x/b.jpg")], {"n1": "dog"}, None, "labels")
    ({'a': ['n1'], 'b': []}, {'n1': 0})
    """
    numbers = {name: number for number, name in enumerate(words if ids is None else ids)}
    silent = [name for name in numbers if name not in words]
    if silent:
        more = f" (and {len(silent) - 1} more)" if len(silent) > 1 else ""
        raise SpecError(
            f"{place}.ids: {silent[0]!r}{more} has no words in the list of texts; correct it, or add it to the list."
        )
    found = {}
    for uid, uri in items:
        above = (clean_uid(part) for part in reversed(PurePosixPath(uri).parent.parts))
        found[uid] = [name for name in above if name in numbers][:1]
    return found, numbers
