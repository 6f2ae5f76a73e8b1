"""A finding of the doctor, and all findings as text for the terminal."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "note", "problem"]
_MARKS = {"ok": "ok", "note": "note", "problem": "FIX"}
_WIDEST = 100


@dataclass(frozen=True)
class Finding:
    """A finding of the doctor.

    Attributes:
        section: the heading of its section.
        name: the name of the checked thing.
        state: ``ok``, ``note`` (works, with a limitation) or ``problem``.
        said: the finding in words.
        fix: a command or setting that helps; empty if none is needed.
    """

    section: str
    name: str
    state: State
    said: str
    fix: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def findings_text(findings: Sequence[Finding], width: int | None = None) -> str:
    """Yield all findings below their headings.

    Args:
        findings: the findings, grouped by section.
        width: the line width; by default that of the terminal, or 80.
    """
    columns = min(_WIDEST, width or shutil.get_terminal_size().columns)
    return "\n".join(_lines(findings, columns))


def _lines(findings: Sequence[Finding], columns: int) -> Iterator[str]:
    section = ""
    for finding in findings:
        if finding.section != section:
            if section:
                yield ""
            section = finding.section
            yield section
        text = f"{finding.name}: {finding.said}"
        yield from wrapped(text, f"  {_MARKS[finding.state]:<4}  ", columns)
        if finding.fix:
            yield from wrapped(finding.fix, f"{'':<8}-> ", columns)
    problems = sum(finding.state == "problem" for finding in findings)
    yield ""
    yield "No problems found." if not problems else f"{problems} {'problem' if problems == 1 else 'problems'} found."


def wrapped(text: str, lead: str, columns: int, hang: int | None = None) -> list[str]:
    """Yield lines of at most ``columns`` characters.

    Args:
        text: what is said.
        lead: the prefix of the first line.
        columns: the line width.
        hang: the indentation of the other lines; by default the length of the prefix.
    """
    return textwrap.wrap(
        text,
        columns,
        initial_indent=lead,
        subsequent_indent=" " * (len(lead) if hang is None else hang),
        break_long_words=True,
        break_on_hyphens=False,
    )
