"""One thing found out, and all of them as text that fits the terminal."""

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
    """One thing found out.

    Attributes:
        section: heading that it stands below.
        name: of the thing.
        state: ``ok``, ``note`` (works, with a limit worth knowing) or ``problem``.
        said: what was found.
        fix: command or setting that helps; empty where nothing needs to.
    """

    section: str
    name: str
    state: State
    said: str
    fix: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def findings_text(findings: Sequence[Finding], width: int | None = None) -> str:
    """All findings below their headings.

    Args:
        findings: of one section after the other.
        width: columns; by default those of the terminal, 80 where there is none.
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
    yield "All is well." if not problems else f"{problems} {'thing needs' if problems == 1 else 'things need'} fixing."


def wrapped(text: str, lead: str, columns: int, hang: int | None = None) -> list[str]:
    """Lines of at most ``columns``.

    Args:
        text: what is said.
        lead: before the first line.
        columns: width.
        hang: spaces before the other lines; as many as the lead is long by default.
    """
    return textwrap.wrap(
        text,
        columns,
        initial_indent=lead,
        subsequent_indent=" " * (len(lead) if hang is None else hang),
        break_long_words=True,
        break_on_hyphens=False,
    )
