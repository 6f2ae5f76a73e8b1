"""What the pages of docs/ show is true: marked blocks are run, commands and options exist, specs and code parse.

A block after the line ``<!-- run -->`` is run, in a folder with a small store named as in the demo. All blocks of a
page share that folder, one after the other.
"""

from __future__ import annotations

import ast
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
import yaml
from commands import ROOT, Command, command
from stores import SmallStore, still

from cliploom.pipelines.cli.main import app
from cliploom.pipelines.demo.corpus import PAGE
from cliploom.schemas.spec_file import parse_document

DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), ROOT / "README.md"])
_BLOCK = re.compile(r"^( *)(?:<!-- (run) -->\n\s*)?```(\w*)\n(.*?)^\1``` *$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    run: bool


def blocks(page: Path) -> list[Block]:
    return [Block(match[3], match[4], match[2] == "run") for match in _BLOCK.finditer(page.read_text(encoding="utf-8"))]


def command_lines(text: str) -> Iterator[list[str]]:
    """The words of each command of a shell block, without comments and prompts; lines end with a backslash to go on."""
    for line in text.replace("\\\n", " ").splitlines():
        line = line.removeprefix("$ ")
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # not a command, such as a line of output with an apostrophe
            continue
        single: list[str] = []
        for word in [*words, ";"]:
            if word not in ("&&", "||", "|", ";"):
                single.append(word)
            elif single:
                yield single
                single = []


RUN_PAGES = [page.name for page in PAGES if any(block.run for block in blocks(page))]


@pytest.mark.parametrize("name", RUN_PAGES)
def test_marked_blocks_run(
    name: str,
    built_store: SmallStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(built_store.folder, tmp_path / "demo", symlinks=True)
    (tmp_path / "demo" / "media" / "images").mkdir()
    still(PAGE, tmp_path / "demo" / "media" / "images" / "flower.jpg")
    monkeypatch.chdir(tmp_path)
    cliploom = command(capsys)
    for block in blocks(DOCS / name):
        if block.run and block.language == "python":
            exec(compile(block.text, name, "exec"), {})
        elif block.run:
            for words in command_lines(block.text):
                _run(words, cliploom, monkeypatch)


def _run(words: list[str], cliploom: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    if words[0] == "cliploom":
        ended = cliploom(*words[1:])
        assert ended.code == 0, f"{shlex.join(words)}: {ended.err}"
    elif words[0] == "cd":
        monkeypatch.chdir(words[1])
    else:
        subprocess.run(words, check=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_exist(page: Path) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for block in blocks(page):
        if block.language not in ("", "bash", "sh"):
            continue
        for words in command_lines(block.text):
            if words[:1] != ["cliploom"] or len(words) < 2 or words[1].startswith("-"):
                continue
            assert words[1] in commands, f"{page.name}: {shlex.join(words)}"
            own = words[2 : words.index("--")] if "--" in words else words[2:]
            command = commands[words[1]]
            # A group, such as ``models``, has commands of its own.
            command = getattr(command, "commands", {}).get(next(iter(own), ""), command)
            known = {name for each in command.params for name in each.opts} | {"--help", "--debug"}
            given = {word.partition("=")[0] for word in own if re.match(r"--[a-z]", word)}
            assert given <= known, f"{page.name}: {shlex.join(words)}: {sorted(given - known)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_parses_and_whole_specs_are_valid(page: Path) -> None:
    for block in blocks(page):
        # The page of the Python API shows signatures, which are not statements.
        if block.language == "python" and page.name != "api.md":
            ast.parse(block.text)
        elif block.language == "yaml" and block.text.lstrip().startswith("version: 1\n"):
            parse_document(yaml.safe_load(block.text))


@pytest.mark.parametrize("script", ["write_api.py", "write_cli.py", "site_pages.py"])
def test_generated_pages_are_current_and_links_lead_somewhere(script: str) -> None:
    done = subprocess.run(
        [sys.executable, str(DOCS / script), "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_page_has_a_title_and_a_first_sentence() -> None:
    sys.path.insert(0, str(DOCS))
    try:
        import site_pages
    finally:
        sys.path.remove(str(DOCS))
    found = list(site_pages.pages())
    assert {page.source for page in found} >= {f"docs/{page.name}" for page in DOCS.glob("*.md")}
    assert all(page.title and page.summary for page in found), [page.path for page in found if not page.summary]


def test_contributing_names_files_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:schemas|transforms|pipelines|serving|tests|docs|examples|benchmarks)/[\w./-]*)`", text)
    assert len(named) > 30
    assert [name for name in named if "NAME" not in name and not (ROOT / name).exists()] == []


def test_the_guard_of_words_finds_turns_in_prose_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    check = runpy.run_path(str(DOCS / "check_words.py"))
    monkeypatch.setitem(check["findings"].__globals__, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("It is told.\n```\nIt is told.\n```\n`told` stands for code; it stands there.\n")
    assert [line.split(": ")[0] for line in check["findings"](page)] == ["page.md:1", "page.md:5"]
    code = tmp_path / "code.py"
    code.write_text('told = 1  # what is told\nx = "held"\ny = "held"  # a quotation; words: ok\n')
    assert [line.split(": ")[0] for line in check["findings"](code)] == ["code.py:1", "code.py:2"]
