"""Commands as a person gives them, run in the test's process, and how they ended."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.cli import main

NOBODY = 65534


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Ended]


def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """What runs ``cliploom`` with the arguments that it is given."""

    def call(*arguments: object) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Ended(int(ended.value.code or 0), out, err)

    return call


def assert_one_sentence(ended: Ended, code: int, said: tuple[str, ...]) -> None:
    """The right code, nothing on stdout, one line after the stages on stderr that says all of ``said``."""
    assert ended.code == code, ended
    assert ended.out == ""
    lines = [line for line in ended.err.splitlines() if not line.startswith("• ")]
    assert len(lines) == 1, ended.err
    assert re.match(r"cliploom: .*[.?]$", lines[0]), lines[0]
    assert "Traceback" not in ended.err
    assert "fault of cliploom" not in ended.err
    assert len(lines[0]) < 500
    for fragment in said:
        assert fragment in lines[0], lines[0]


@contextmanager
def without_rights() -> Iterator[None]:
    """Act as a user to whom nothing belongs; all threads of the process change with it. Needs root."""
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def let_all_enter(folder: Path) -> None:
    """Undo what pytest closes: its folders are for their owner only."""
    for above in (folder, *folder.parents):
        if above.stat().st_uid == os.geteuid() and above.stat().st_mode & 0o055 != 0o055:
            above.chmod(above.stat().st_mode | 0o055)
