"""Lists the files of a media source: globs and tables, on disk and in buckets. No file is opened."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

import polars as pl

from cliploom.schemas.errors import CliploomError, SpecError
from cliploom.schemas.media import suffixes_of
from cliploom.schemas.records import Failure, Listed
from cliploom.schemas.secrets import carries_secret, refuse_secret
from cliploom.schemas.sources import MediaSource
from cliploom.schemas.spec_base import UidRegex
from cliploom.transforms.inputs.addresses import UNASKED, clean_address, is_web, shown, uid_of_address
from cliploom.transforms.inputs.clashes import clash_message
from cliploom.transforms.inputs.ids import id_text
from cliploom.transforms.inputs.tables import InputTable, read_table
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.uris import absolute, is_remote, path_to_uri, uri_to_path

LISTING = {
    "source": pl.String,
    "uid": pl.String,
    "uri": pl.String,
    "size": pl.Int64,
    "signature": pl.String,
    "metadata": pl.String,
}
LISTED_AT_ONCE = 100_000
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Found:
    """A listed file: path relative to the glob's root, absolute path or URI, size in bytes, signature."""

    relative: str
    uri: str
    size: int
    signature: str


@dataclass(frozen=True)
class KnownListing:
    """The content of a source whose listing includes digests, so that probing is unnecessary.

    Attributes:
        items: the columns of ``LISTING``, ``digest`` and ``facts``.
        failures: the items that cannot be used; ``item_no`` is still 0.
        notes: messages about the source for the user.
    """

    items: pl.DataFrame
    failures: tuple[Failure, ...] = ()
    notes: tuple[str, ...] = ()


def list_source(name: str, source: MediaSource, base: Path) -> pl.DataFrame:
    """Return all items of a source with the columns of ``LISTING``, sorted by uid.

    Args:
        name: the name of the source.
        source: the declaration of the source.
        base: the folder that relative patterns are resolved against (that of the spec).

    Raises:
        SpecError: two files share a uid, a folder or table is missing, or a table has no uris.
    """
    frame = listed_frame(_from_table(name, source, base) if source.table else _from_globs(name, source, base))
    if source.table is None and len(source.glob or ()) > 1:
        frame = frame.unique("uri", keep="first", maintain_order=True)
    frame = frame.sort("uid", "uri")
    doubled = frame.filter(pl.col("uid").is_duplicated())
    if doubled.height:
        clashes = dict(doubled.group_by("uid", maintain_order=True).agg("uri").iter_rows())
        advice = _advice(name, source, base, len(clashes))
        raise SpecError(clash_message(f"sources.{name}", clashes, advice))
    return frame


def _advice(name: str, source: MediaSource, base: Path, clashes: int) -> str:
    """Return advice on how to distinguish files that share a uid."""
    if source.table is not None:
        return "rename one in the table's column uid, or remove its row"
    rest = "narrow the glob, or choose another uid (uid: {regex: ...} or a table with a uid column)"
    if source.uid != "file":
        files = listed_frame(_from_globs(name, source.model_copy(update={"uid": "file"}), base)).unique("uri")
        still = files.filter(pl.col("uid").is_duplicated())["uid"].n_unique()
        if still < clashes:
            rest = f", which distinguishes all but {still}" if still else ", which keeps the extension"
            return f"rename one, or write `uid: file` below sources.{name}{rest}"
    return f"rename one, {rest}"


def listed_frame(items: Iterable[Listed]) -> pl.DataFrame:
    """Return listed inputs as a frame with the columns of ``LISTING``; few are Python objects at a time."""
    frames, left = [pl.DataFrame(schema=LISTING)], iter(items)
    while some := list(islice(left, LISTED_AT_ONCE)):
        columns = {name: [getattr(item, name) for item in some] for name in LISTING}
        frames.append(pl.DataFrame(columns, schema=LISTING))
    return pl.concat(frames)


def _from_globs(name: str, source: MediaSource, base: Path) -> Iterator[Listed]:
    suffixes = None if source.types is None else suffixes_of(source.types)
    for pattern in source.glob or ():
        for found in find(pattern, base, f"sources.{name}.glob"):
            if suffixes is not None and PurePosixPath(found.relative).suffix.lower() not in suffixes:
                continue
            uid = uid_of(found.relative, source.uid, f"sources.{name}.uid")
            yield Listed(name, uid, found.uri, found.size, found.signature)


def find(pattern: str, base: Path, place: str) -> Iterator[Found]:
    """Yield the files that match a glob; ``**`` matches any depth, hidden files need an explicit dot.

    Raises:
        SpecError: the folder at the start of the pattern does not exist.
    """
    root, rest = split_pattern(pattern)
    matcher = glob_regex(rest)
    if is_web(pattern):
        raise SpecError(
            f"{place}: {shown(pattern)!r} can't be listed, as web servers do not list files; write the URLs into a "
            "table (table: list.csv with the column uri)."
        )
    if is_remote(pattern):
        yield from _find_remote(root, matcher)
        return
    start = absolute(base / Path(root.removeprefix("file://")).expanduser())
    if not rest:
        if not start.exists():
            raise SpecError(f"{place}: there is no file {str(start)!r}.")
        yield _local(start.name, start)
        return
    if not start.is_dir():
        raise SpecError(f"{place}: there is no folder {str(start)!r} (pattern {pattern!r}).")
    folders_too = re.search(r"\.[A-Za-z0-9]+$", rest) is not None
    for relative, path, is_folder in walk_folder(start):
        if (not is_folder or folders_too) and matcher.match(relative):
            yield _local(relative, path)


def split_pattern(pattern: str) -> tuple[str, str]:
    """Return the longest folder prefix without wildcards, and the rest.

    >>> split_pattern("media/**/*.mp4")
    ('media', '**/*.mp4')
    >>> split_pattern("cat.gif")
    ('cat.gif', '')
    """
    steps = pattern.split("/")
    for number, step in enumerate(steps):
        if _WILD.search(step):
            return "/".join(steps[:number]) or ("/" if pattern.startswith("/") else "."), "/".join(steps[number:])
    return pattern, ""


def glob_regex(pattern: str) -> re.Pattern[str]:
    """Return the regular expression of a glob over ``/`` paths.

    >>> bool(glob_regex("**/*.mp4").match("a/b/c.mp4")), bool(glob_regex("*.mp4").match("a/c.mp4"))
    (True, False)

    Raises:
        SpecError: a range is reversed, such as ``[z-a]``.
    """
    out = ""
    steps = pattern.split("/")
    for number, step in enumerate(steps):
        last = number == len(steps) - 1
        if step == "**":
            out += r"(?:[^/.][^/]*/)*" if not last else r"(?:[^/.][^/]*/)*[^/.][^/]*"
            continue
        out += "" if step.startswith(".") else r"(?!\.)"
        out += _step_regex(step) + ("" if last else "/")
    try:
        return re.compile(f"^{out}$", re.DOTALL)
    except re.error as error:
        raise SpecError(f"{pattern!r} is not a glob pattern ({error}); a plain bracket is written [[].") from None


def _step_regex(step: str) -> str:
    out, position = "", 0
    while position < len(step):
        letter = step[position]
        position += 1
        if letter == "*":
            out += "[^/]*"
        elif letter == "?":
            out += "[^/]"
        elif letter == "[" and (end := step.find("]", position + 1)) > 0:
            body = step[position:end].replace("\\", r"\\").replace("[", r"\[")
            out += f"[{'^' + body[1:] if body.startswith('!') else body}]"
            position = end + 1
        else:
            out += re.escape(letter)
    return out


def walk_folder(root: Path) -> Iterator[tuple[str, Path, bool]]:
    """Yield all entries below ``root``; links to folders are followed once."""
    visited: set[tuple[int, int]] = set()
    pending: list[tuple[str, Path]] = [("", root)]
    while pending:
        prefix, folder = pending.pop()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                for entry in entries:
                    relative = f"{prefix}{entry.name}"
                    is_folder = _is_folder(entry)
                    yield relative, Path(entry.path), is_folder
                    if is_folder:
                        pending.append((f"{relative}/", Path(entry.path)))
        except OSError as error:
            # Continuing would treat the folder's items as deleted.
            raise CliploomError(f"{str(folder)!r} can't be listed: {error.strerror}; check its permissions.") from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether it is a folder; False for a link to itself, which becomes an item that fails."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _local(relative: str, path: Path) -> Found:
    try:
        status = path.stat()
    except OSError:
        return Found(relative, path_to_uri(path), 0, "missing")
    return Found(relative, path_to_uri(path), status.st_size, f"{status.st_size}:{status.st_mtime_ns}")


def _find_remote(root: str, matcher: re.Pattern[str]) -> Iterator[Found]:
    objects = ObjectStore(root)
    for entry in objects.list():
        if matcher.match(entry.path):
            signature = entry.tag or f"{entry.size}:{entry.modified_s}"
            yield Found(entry.path, objects.uri_of(entry.path), entry.size, signature)


def clean_uid(text: str) -> str:
    r"""Return the text in NFC; bytes that are not UTF-8 become percent escapes.

    >>> clean_uid("caf\u0065\u0301"), clean_uid("bad\udcff")
    ('café', 'bad%FF')
    """
    raw = text.encode("utf-8", "surrogateescape")
    out, position = "", 0
    while position < len(raw):
        try:
            out += raw[position:].decode("utf-8")
            break
        except UnicodeDecodeError as error:
            out += raw[position : position + error.start].decode("utf-8")
            out += "".join(f"%{byte:02X}" for byte in raw[position + error.start : position + error.end])
            position += error.end
    return unicodedata.normalize("NFC", out)


def uid_of(relative: str, rule: str | UidRegex, place: str) -> str:
    """Return the uid of a file by its path relative to the glob's root.

    Raises:
        SpecError: a regex rule does not match the path.
    """
    relative = clean_uid(relative)
    if isinstance(rule, UidRegex):
        return _by_regex(relative, rule.regex, place)
    path = PurePosixPath(relative)
    if rule == "file":
        return str(path)
    return path.stem if rule == "stem" else str(path.with_suffix(""))


def _by_regex(text: str, regex: str, place: str) -> str:
    match = re.search(regex, text)
    if match is None:
        raise SpecError(f"{place}: {regex!r} does not match {shown(text) if is_web(text) else text!r}.")
    return match.groupdict().get("uid") or match[1]


def _from_table(name: str, source: MediaSource, base: Path) -> Iterator[Listed]:
    place = f"sources.{name}.table"
    path = absolute(base / Path(str(source.table)).expanduser())
    allowed = source.allow_parameters
    table = read_addresses(path, place, allowed) if source.format == "tgif" else _table_of(source, path, place)
    if "uri" not in table.columns and (table.columns or path.suffix.lower() in (".csv", ".tsv")):
        raise SpecError(f"{place}: {path} has no column 'uri'; it has {', '.join(table.columns)}.")
    extra = [column for column in table.columns if column not in ("uri", "uid")]
    for where, row in table.rows:
        given = row["uri"]
        if not isinstance(given, str) or not given.strip() or "\0" in given:
            raise SpecError(f"{place}: {where} of {path} has no uri ({given!r}).")
        uri = given.strip()
        if is_web(uri):
            # Workers request its metadata; see transforms.inputs.http.
            address = clean_address(uri, f"{place}, {where}", allowed)
            found = Found(address, address, 0, UNASKED)
            derived = _uid_of_address(address, source.uid, place)
        elif is_remote(uri):
            refuse_secret(uri, f"{place}, {where}", allowed)
            bucket, _, key = uri.rpartition("/")
            try:
                size = ObjectStore(bucket).size(key)
            except ValueError as error:
                raise SpecError(f"{place}: {uri[:200]!r} in {where} of {path} is not a valid URL ({error}).") from None
            found = Found(key, uri, size or 0, "missing" if size is None else f"{size}:{uri}")
            derived = uid_of(uri.split("://")[-1].lstrip("/"), source.uid, place)
        else:
            found = _local(uri, path.parent / uri_to_path(uri))
            if found.signature == "missing" and uri != given:
                found = _local(given, path.parent / uri_to_path(given))  # a name that ends with a blank
            derived = uid_of(uri.split("://")[-1].lstrip("/"), source.uid, place)
        try:
            uid = clean_uid(id_text(row.get("uid"))) or derived
        except ValueError as error:
            raise SpecError(f"{place}: the uid in {where} of {path}, {row['uid']!r}, {error}.") from None
        _refuse_kept_secrets({column: row[column] for column in (*extra, "uid") if column in row}, source, where)
        metadata = json.dumps({column: row[column] for column in extra}, default=str, sort_keys=True)
        yield Listed(name, uid, found.uri, found.size, found.signature, metadata)


def _table_of(source: MediaSource, path: Path, place: str) -> InputTable:
    return read_table(path, place, ("uri", "uid"), source.encoding)


def _refuse_kept_secrets(row: Mapping[str, object], source: MediaSource, where: str) -> None:
    """Reject URLs with secrets in table columns that the store keeps."""
    for column, value in row.items():
        if isinstance(value, str) and carries_secret(value, source.allow_parameters):
            raise SpecError(
                f"{source.table}, {where}: the column {column!r} contains a URL with a secret in it "
                f"({shown(value)}), which tables would keep; remove the column, or, if it is not secret, add the "
                "parameter's name to the source's allow_parameters."
            )


def _uid_of_address(address: str, rule: str | UidRegex, place: str) -> str:
    """Return the uid that ``cliploom.transforms.narrations.uids`` gives the same URL, so that captions match."""
    if isinstance(rule, UidRegex):
        return _by_regex(address, rule.regex, place)
    return clean_uid(uid_of_address(address, rule))


def read_addresses(path: Path, place: str, allowed: Collection[str] = ()) -> InputTable:
    """Return the column ``uri`` of a list with a URL per line, optionally followed by a tab and a caption.

    Raises:
        SpecError: the file is missing, or a line does not start with an http(s) URL.
    """
    try:
        # Split at line feeds only: str.splitlines() would also split at other characters in captions.
        lines = re.split(r"\r\n|\r|\n", path.read_text(encoding="utf-8-sig", errors="surrogateescape"))
    except OSError as error:
        raise SpecError(f"{place}: {path} can't be read ({error.strerror}).") from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        address = line.partition("\t")[0].strip()
        if address:
            found.setdefault(clean_address(address, f"{place}, line {number}", allowed), f"line {number}")
    return InputTable(("uri",), [(where, {"uri": address}) for address, where in found.items()])
