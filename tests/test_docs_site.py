"""The site's navigation names every page; CI builds it with what the extra ``docs`` installs."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_page_stands_in_the_navigation_once() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    named = re.findall(r"([\w/-]+\.md)$", navigation, flags=re.MULTILINE)
    generated = {"index.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"}
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert len(named) == len(set(named))
    assert set(named) == pages | generated


def test_ci_builds_the_site_with_the_package_of_the_extra() -> None:
    (requirement,) = re.findall(r'"docs": \["(.*)"\]', (ROOT / "setup.py").read_text(encoding="utf-8"))
    assert f'--from "{requirement}" mkdocs build' in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
