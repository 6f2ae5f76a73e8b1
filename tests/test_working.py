"""On a terminal a command shows a sign of life before it loads anything heavy; its output is as without one."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from cliploom.pipelines.cli.working import WORD, working

ROOT = Path(__file__).parents[1]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_the_word_is_cleared_before_the_first_output(stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with working():
        assert err.getvalue() == WORD
        print("an answer", file=getattr(sys, stream))
        print("another", file=getattr(sys, stream))
        assert (sys.stdout, sys.stderr) == (out, err)
    cleared = f"{WORD}\r{' ' * len(WORD)}\r"
    assert err.getvalue() == cleared + ("an answer\nanother\n" if stream == "stderr" else "")
    assert out.getvalue() == ("an answer\nanother\n" if stream == "stdout" else "")


def test_the_word_is_cleared_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    err = Terminal()
    monkeypatch.setattr(sys, "stderr", err)
    with pytest.raises(ValueError, match="odd"), working():
        raise ValueError("odd")
    assert err.getvalue().endswith("\r")
    assert sys.stderr is err


def test_nothing_is_shown_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with working():
        print("an answer")
    assert capsys.readouterr() == ("an answer\n", "")


def test_a_command_on_a_terminal_says_so_before_it_loads_anything_heavy(tmp_path: Path) -> None:
    spied = "import polars, sys; sys.stderr.write('loaded'); sys.exit(3)"
    (tmp_path / "deltalake.py").write_text(spied, encoding="utf-8")
    ours, theirs = pty.openpty()
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-m", "cliploom", "releases", str(tmp_path)]
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment, cwd=tmp_path)
    os.close(theirs)
    screen = b""
    while True:
        try:
            found = os.read(ours, 4096)
        except OSError:
            break
        if not found:
            break
        screen += found
    process.wait()
    os.close(ours)
    assert screen.decode().startswith(WORD)
    assert screen.decode().endswith("\rloaded")
