"""What a person sees: progress, summaries, listings. Results go to stdout, all else to stderr."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from cliploom.transforms.work.progress import ProgressTally

_BAR = 20
_PLAIN_EVERY_S = 10.0


def say(text: str) -> None:
    """A line for a person, on stderr."""
    print(text, file=sys.stderr, flush=True)


def show(text: str) -> None:
    """A line of the answer, on stdout."""
    print(text, flush=True)


def show_json(value: Any) -> None:
    """The answer as JSON, on stdout."""
    print(json.dumps(value, indent=1, default=str), flush=True)


def counted(number: int, one: str, many: str = "") -> str:
    """A number and its noun.

    >>> counted(1, "shard"), counted(1200, "shard"), counted(2, "index", "indexes")
    ('1 shard', '1,200 shards', '2 indexes')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def human_bytes(size: float) -> str:
    """Bytes with a unit.

    >>> human_bytes(1_530_000)
    '1.5 MB'
    """
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def human_seconds(seconds: float) -> str:
    """A duration in the two largest units.

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


class LiveProgress:
    """Stage lines and a progress line: redrawn in place on a terminal, every ten seconds elsewhere."""

    def __init__(self) -> None:
        self._tty = sys.stderr.isatty()
        self._stage_began = time.monotonic()
        self._last = self._stage_began
        self._total = 0
        self._line = ""

    def on_stage(self, text: str) -> None:
        """A new stage."""
        self._clear()
        say(f"• {text}")
        self._stage_began = self._last = time.monotonic()
        if text.startswith("computing "):
            self._total = int(text.split()[1].replace(",", ""))

    def tick(self, tally: ProgressTally) -> None:
        """Show the tally, when it is time to."""
        now = time.monotonic()
        every = 0.2 if self._tty else _PLAIN_EVERY_S
        if now - self._last < every or not self._total:
            return
        self._last = now
        line = self._describe(tally, now - self._stage_began)
        if self._tty:
            self._clear()
            # A line that wraps could not be drawn over.
            self._line = line[: shutil.get_terminal_size().columns - 1]
            print(self._line, end="", file=sys.stderr, flush=True)
        else:
            say(line)

    def _describe(self, tally: ProgressTally, elapsed: float) -> str:
        done = tally.items
        rate = tally.rows / elapsed if elapsed > 0 else 0.0
        left = f", left about {human_seconds(elapsed / done * (self._total - done))}" if 0 < done < self._total else ""
        if done >= self._total:
            left = ", finishing"
        failed = f", {tally.failures} failed" if tally.failures else ""
        full = _BAR * min(done, self._total) // self._total
        bar = f"{'━' * full}{'╌' * (_BAR - full)} " if self._tty else ""
        return f"  {bar}{done}/{self._total} items, {tally.rows} rows ({rate:.0f}/s){failed}{left}"

    def _clear(self) -> None:
        if self._line:
            print("\r" + " " * len(self._line) + "\r", end="", file=sys.stderr, flush=True)
            self._line = ""

    def close(self) -> None:
        """End the line."""
        self._clear()


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Plain text columns, aligned; numbers to the right.

    >>> print(table([{"a": 1, "b": "x"}, {"a": 10, "b": "yy"}], ["a", "b"]))
     a  b
     1  x
    10  yy
    """
    cells = [[str(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(len(column), *(len(row[i]) for row in cells), 0) for i, column in enumerate(columns)]
    numeric = [all(isinstance(row.get(column), int | float) for row in rows) for column in columns]

    def line(values: Sequence[str]) -> str:
        padded = (v.rjust(w) if right else v.ljust(w) for v, w, right in zip(values, widths, numeric, strict=True))
        return "  ".join(padded).rstrip()

    return "\n".join([line(list(columns)), *(line(row) for row in cells)])


def run_summary(result: Mapping[str, Any], store: str, failures: Sequence[Mapping[str, Any]]) -> str:
    """The end of a run, to be read in ten seconds."""
    release, seconds = result["release"], result["seconds"]
    lines = []
    if result["changed"]:
        lines.append(f"Release {release['release']} is published in {store} (run {result['run']}).")
    else:
        lines.append(f"Nothing to do: release {release['release']} of {store} is up to date.")
    for name, counts in result["verdicts"].items():
        entry = release["features"].get(name, {})
        said = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
        if name in release.get("heads", {}):
            lines.append(f"  {name}: {said}; labels by head {release['heads'][name]['head']}")
            continue
        lines.append(f"  {name}: {said}; {entry.get('rows', 0)} rows, {human_bytes(entry.get('size', 0))}")
    for name, index in release["indexes"].items():
        recall = f", recall@10 {index['recall']:.3f}" if index["rows"] and index.get("recall") is not None else ""
        shards = counted(len(index["shards"]), "shard")
        lines.append(f"  index {name}: {index['rows']} rows, {index['kind']}, {shards}{recall}")
    for name, export in release["exports"].items():
        first = export["files"][0]["path"] if export["files"] else "no files"
        lines.append(f"  export {name}: {counted(len(export['files']), 'file')}, open {store}/{first}")
    if failures:
        lines.append("Failures:")
        for row in failures:
            kept = " (part kept)" if row["partial"] else ""
            lines.append(f"  {row['items']} {row['type']}{kept}, e.g. {row['uid']}: {row['message']}")
    if result["changed"]:
        lines.append(_pace(result["counters"], seconds))
    return "\n".join(lines)


def _pace(counters: Mapping[str, int], seconds: Mapping[str, float]) -> str:
    stages = ", ".join(f"{stage} {human_seconds(spent)}" for stage, spent in seconds.items() if spent >= 0.05)
    work = [
        f"{name} {human_seconds(counters[f'{name}_ms'] / 1000)}"
        for name in ("decode", "encode", "write")
        if counters.get(f"{name}_ms")
    ]
    rows, spent = counters.get("rows", 0), seconds.get("compute", 0.0)
    rate = f"; {rows} rows computed, {rows / spent:.0f}/s" if rows and spent else ""
    return f"Time: {stages}" + (f" (workers: {', '.join(work)})" if work else "") + rate + "."
