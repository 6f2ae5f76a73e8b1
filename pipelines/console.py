"""Terminal output: progress, summaries, listings. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

_LEAST_COLUMN = 8


# Control characters, and characters that change the writing direction.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_UNSEEN_BUT_LINES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


_log_fields: ContextVar[Mapping[str, Any] | None] = ContextVar("log_fields", default=None)


def log_as_json(**fields: Any) -> None:
    """Make ``say`` write JSON lines with these fields."""
    _log_fields.set({**(_log_fields.get() or {}), **fields})


def logs_json() -> bool:
    """Return whether ``say`` writes JSON lines."""
    return _log_fields.get() is not None


def say(text: str, level: str = "info", **fields: Any) -> None:
    """Write a message for a person to stderr, or a JSON line after ``log_as_json``.

    Args:
        text: the message.
        level: ``info``, ``warning`` or ``error``; only in JSON lines.
        fields: of the JSON line, such as stage, shard, item; not shown to persons.
    """
    common = _log_fields.get()
    if common is None:
        print(_escaped(_UNSEEN_BUT_LINES, text), file=sys.stderr, flush=True)
        return
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = {"time": now, "level": level, "message": text.removeprefix("• ").strip(), **common, **fields}
    print(json.dumps(line, default=str), file=sys.stderr, flush=True)


def show(text: str) -> None:
    """Print a line of the result to stdout."""
    print(_escaped(_UNSEEN_BUT_LINES, text), flush=True)


def visible(text: str) -> str:
    r"""Return a name with its control characters escaped, since file names may contain line breaks and terminal codes.

    >>> print(visible("line\nbreak\x1b[2J.mp4"))
    line\nbreak\x1b[2J.mp4
    """
    return _escaped(_UNSEEN, text)


def _escaped(pattern: re.Pattern[str], text: str) -> str:
    return pattern.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def show_json(value: Any) -> None:
    """Print the result as JSON to stdout."""
    print(json.dumps(value, indent=1, default=str), flush=True)


def counted(number: int, one: str, many: str = "") -> str:
    """Return a number and its noun.

    >>> counted(1, "shard"), counted(1200, "shard"), counted(2, "index", "indexes")
    ('1 shard', '1,200 shards', '2 indexes')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def human_bytes(size: float) -> str:
    """Return a size with a unit.

    >>> human_bytes(1_530_000)
    '1.5 MB'
    """
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def human_seconds(seconds: float) -> str:
    """Return a duration in the two largest units.

    >>> human_seconds(75.2), human_seconds(0.25), human_seconds(7260)
    ('1 min 15 s', '0.2 s', '2 h 1 min')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole, minutes = round(seconds), round(seconds / 60)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{minutes // 60} h {minutes % 60} min"


def clock(seconds: float) -> str:
    """Return a time as ``h:mm:ss``, with hundredths if there are any.

    >>> clock(75), clock(12.5), clock(7260.256)
    ('0:01:15', '0:00:12.5', '2:01:00.26')
    """
    hundredths = round(seconds * 100)
    whole, rest = divmod(hundredths, 100)
    fraction = f".{rest:02d}".rstrip("0") if rest else ""
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}{fraction}"


def width() -> int | None:
    """Return the width of stdout's terminal, or COLUMNS; None if neither is known."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def middle(text: str, columns: int) -> str:
    """Shorten a text to the given width by omitting its middle, the least informative part of paths.

    >>> middle("videos/holidays/2024/IMG_0001.mov", 20)
    'videos/ho…G_0001.mov'
    """
    from rich.cells import cell_len

    if cell_len(text) <= columns:
        return text
    left = right = ""
    start, end = 0, len(text)
    while start < end:
        if cell_len(left) < cell_len(right):
            left, start = left + text[start], start + 1
        else:
            right, end = text[end - 1] + right, end - 1
        if cell_len(left) + cell_len(right) > columns - 1:
            # The last character was too wide.
            if cell_len(left) >= cell_len(right) and left:
                left = left[:-1]
            else:
                right = right[1:]
            break
    return f"{left}…{right}"


def short_path(uri: str) -> str:
    """Return a path below the current folder relative to it, others unchanged; control characters are escaped.

    A ``file://`` URL, which stands for a name that is not UTF-8, keeps its percent codes.
    """
    path = uri.removeprefix("file://")
    if "://" in path or not os.path.isabs(path):
        return visible(uri)
    here = os.getcwd()
    below = path != here and path.startswith(here.rstrip("/") + "/")
    return visible(os.path.relpath(path, here) if below else uri)


def short_paths(text: str) -> str:
    """Return a sentence in which paths below the current folder are relative to it."""
    here = os.getcwd().rstrip("/") + "/"
    return text.replace(here, "") if len(here) > 1 else text


def short_hashes(path: str) -> str:
    """Return a path with each digest shortened to its first digits and a star, which the shell expands.

    >>> short_hashes("hdf5/h5/master-24ba782cc4d3e40205f9b65d90f56f3883ec9c10.h5")
    'hdf5/h5/master-24ba782c*.h5'
    """
    return re.sub(r"\b([0-9a-f]{8})[0-9a-f]{32}\b", r"\1*", path)


def fit(text: str) -> str:
    """Wrap lines to the terminal's width, indenting continuation lines; long words stay whole."""
    columns = width()
    if columns is None:
        return text
    lines = []
    for line in text.split("\n"):
        indent = line[: len(line) - len(line.lstrip())] + "  "
        wrapped = textwrap.wrap(
            line,
            columns,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
            drop_whitespace=True,
        )
        lines += wrapped or [""]
    return "\n".join(lines)


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], below: Sequence[str] = ()) -> str:
    """Return aligned plain text columns, numbers to the right. In a narrow terminal long cells lose their middles.

    >>> print(table([{"a": 1, "b": "x"}, {"a": 10, "b": "yy"}], ["a", "b"]))
     a  b
     1  x
    10  yy

    Args:
        rows: the rows, as dictionaries by column.
        columns: the columns to show, in order.
        below: columns that get a line of their own below each row if the terminal is too narrow.
    """
    from rich.cells import cell_len

    most = width()
    cells = [[visible(str(row.get(column, ""))) for column in columns] for row in rows]
    widths = [max(cell_len(column), *(cell_len(row[i]) for row in cells), 0) for i, column in enumerate(columns)]
    if most is not None and sum(widths) + 2 * (len(widths) - 1) > most:
        if below:
            return _table_with_lines_below(rows, [column for column in columns if column not in below], below)
        widths = _narrowed(widths, most - 2 * (len(widths) - 1))
    numeric = [all(isinstance(row.get(column), int | float) for row in rows) for column in columns]

    def line(values: Sequence[str]) -> str:
        padded = []
        for value, columns, right in zip(values, widths, numeric, strict=True):
            shown = middle(value, columns)
            space = " " * (columns - cell_len(shown))
            padded.append(space + shown if right else shown + space)
        return "  ".join(padded).rstrip()

    return "\n".join([line(list(columns)), *(line(row) for row in cells)])


def _narrowed(widths: Sequence[int], most: int) -> list[int]:
    """Return the widths of columns that fit, by taking from the widest."""
    found = list(widths)
    while sum(found) > most and max(found) > _LEAST_COLUMN:
        found[found.index(max(found))] -= 1
    return found


def _table_with_lines_below(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], below: Sequence[str]) -> str:
    head, *lines = table(rows, columns).split("\n")
    shown = [head]
    for line, row in zip(lines, rows, strict=True):
        shown.append(line)
        shown += [fit(f"    {row[column]}") for column in below if str(row.get(column, ""))]
    return "\n".join(shown)


def removed_lines(files: Sequence[tuple[str, int]]) -> list[str]:
    """Return lines that say what a vacuum removes: totals by folder, then each file with short digests.

    >>> removed_lines([("index/frames/shard-24ba782cc4d3e40205f9b65d90f56f3883ec9c10.faiss", 2000)])
    ['  1 file in index/frames, 2.0 KB', 'index/frames/shard-24ba782c*.faiss']
    """
    folders: dict[str, list[int]] = {}
    for path, size in files:
        folders.setdefault(path.rpartition("/")[0] or ".", []).append(size)
    totals = [
        f"  {counted(len(sizes), 'file')} in {folder}, {human_bytes(sum(sizes))}" for folder, sizes in folders.items()
    ]
    most = width()
    paths = [short_hashes(path) for path, _ in files]
    return totals + [path if most is None else middle(path, most) for path in paths]


def run_summary(result: Mapping[str, Any], store: str, failures: Sequence[Mapping[str, Any]]) -> str:
    """Return a summary of a run that can be read in ten seconds."""
    release, seconds = result["release"], result["seconds"]
    place = short_path(store)
    lines = []
    if result["changed"]:
        lines.append(f"Release {release['release']} is published in {place} (run {result['run']}).")
    else:
        lines.append(f"Nothing to do: release {release['release']} of {place} is up to date.")
    for name, counts in result["verdicts"].items():
        entry = release["features"].get(name, {})
        said = ", ".join(f"{number:,} {verdict.replace('_', ' ')}" for verdict, number in counts.items())
        if name in release.get("heads", {}):
            lines.append(f"  {name}: {said}; labels by head {release['heads'][name]['head']}")
            continue
        lines.append(f"  {name}: {said}; {counted(entry.get('rows', 0), 'row')}, {human_bytes(entry.get('size', 0))}")
    for name, index in release["indexes"].items():
        recall = f", recall@10 {index['recall']:.3f}" if index["rows"] and index.get("recall") is not None else ""
        shards = counted(len(index["shards"]), "shard")
        lines.append(f"  index {name}: {counted(index['rows'], 'row')}, {index['kind']}, {shards}{recall}")
    for name, export in release["exports"].items():
        first = f"open {place}/{short_hashes(export['files'][0]['path'])}" if export["files"] else "no files"
        # A single file stands alone; the parts that it was made from are kept for the next night.
        alone = bool(export["files"]) and "/single-" in export["files"][0]["path"]
        lines.append(f"  export {name}: {counted(1 if alone else len(export['files']), 'file')}, {first}")
    if failures:
        lines.append(f"{failed_text(release.get('counts', {}))}:")
        for row in failures:
            kept = " (part kept)" if row["partial"] else ""
            lines.append(
                f"  {row['items']:,} {row['type']}{kept}, e.g. {visible(row['uid'])}: {short_paths(row['message'])}"
            )
    if result["changed"]:
        lines.append(_pace(result["counters"], seconds))
    return "\n".join(lines)


def failed_text(counts: Mapping[str, int]) -> str:
    """Return the number of failed items, counted as in ``releases``.

    >>> failed_text({"items": 40, "failed": 3, "partial": 1})
    '3 of 40 items failed, 1 is kept in part'
    """
    failed, partial = counts.get("failed", 0), counts.get("partial", 0)
    said = f"{failed:,} of {counted(counts.get('items', 0), 'item')} failed"
    return said + (f", {partial:,} {'is' if partial == 1 else 'are'} kept in part" if partial else "")


def _pace(counters: Mapping[str, int], seconds: Mapping[str, float]) -> str:
    stages = ", ".join(f"{stage} {human_seconds(spent)}" for stage, spent in seconds.items() if spent >= 0.05)
    work = [
        f"{name} {human_seconds(counters[f'{name}_ms'] / 1000)}"
        for name in ("decode", "encode", "write")
        if counters.get(f"{name}_ms")
    ]
    rows, spent = counters.get("rows", 0), seconds.get("compute", 0.0)
    rate = f"; {counted(rows, 'row')} computed, {rows / spent:.0f}/s" if rows and spent else ""
    return f"Time: {stages}" + (f" (workers: {', '.join(work)})" if work else "") + rate + "."
