"""Commands as a person gives them, run in the test's process, and how they ended."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from bounded import by_rights

from cliploom.pipelines.cli.main import main

ROOT = Path(__file__).resolve().parent.parent

SPEC = """\
version: 1
name: demo
store: ./store
sources:
  clips: {kind: media, glob: "media/*.mp4"}
encoders:
  lite0: {kind: efficientnet_lite0}
features:
  frames: {source: clips, sample: {every: 1s}, encoder: lite0, outputs: [pooled]}
"""


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
    assert "internal error" not in ended.err
    assert len(lines[0]) < 500
    for fragment in said:
        assert fragment in lines[0], lines[0]


def python_without_override(*arguments: object) -> Ended:
    """Run Python with these arguments in a process that files' rights bind, also when the tests run as root."""
    command = by_rights([sys.executable, *map(str, arguments)])
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return Ended(done.returncode, done.stdout, done.stderr)
