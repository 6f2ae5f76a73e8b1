"""docs/api.md follows from the docstrings, and describes all that is public."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import cliploom
import cliploom.encoders
import cliploom.errors

ROOT = Path(__file__).parents[1]


def generator() -> ModuleType:
    place = importlib.util.spec_from_file_location("write_api", ROOT / "docs" / "write_api.py")
    assert place is not None
    assert place.loader is not None
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date_and_describes_everything_that_is_public() -> None:
    page = generator().page()
    assert (ROOT / "docs" / "api.md").read_text(encoding="utf-8") == page, "python docs/write_api.py"
    headings = {line.lstrip("# ") for line in page.splitlines() if line.startswith("#")}
    for name in cliploom.__all__:
        found = getattr(cliploom, name)
        if isinstance(found, type) and issubclass(found, Exception):
            assert f"| `{name}` (" in page
        else:
            assert {name, f"cliploom.{name}"} & headings, name
    assert {f"encoders.{name}" for name in cliploom.encoders.__all__ if name != "EncodeError"} <= headings
    assert all(f"| `{name}` (" in page for name in cliploom.errors.__all__)
    for member in ("items", "labels", "failures", "table", "tables", "search"):
        assert f"Store.{member}" in headings
    assert {"Moment", "a feature", "items", "narrations", "labels", "failures", "contents"} <= headings


def test_no_signature_or_docstring_is_left_raw() -> None:
    page = generator().page()
    assert "Initialize self" not in page
    assert "<factory>" not in page
    assert "``" not in page.replace("```", "")
    assert page.count("```") % 2 == 0
