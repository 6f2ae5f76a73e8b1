"""Write docs/api.md, the page of the Python API, from the docstrings and signatures of what is public.

python docs/write_api.py           # write the page
python docs/write_api.py --check   # exit 1 when the page is out of date
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "api.md"
sys.path.insert(0, str(ROOT))

import cliploom  # noqa: E402
import cliploom.beam  # noqa: E402
import cliploom.encoders  # noqa: E402
import cliploom.errors  # noqa: E402
import cliploom.sources  # noqa: E402
from cliploom.schemas import release as releases  # noqa: E402
from cliploom.schemas.table_notes import FEATURE_TABLE, STORE_TABLES, TableNote  # noqa: E402
from cliploom.transforms.readers.release_tables import ItemLabel  # noqa: E402

HEAD = """\
# Python API

Generated from the docstrings by `python docs/write_api.py`. Public are `cliploom`, `cliploom.beam`,
`cliploom.encoders`, `cliploom.sources` and `cliploom.errors`; everything else may change without notice
([policy](store-format.md)). `import cliploom` loads nothing else; each call loads what it needs.

```python
import cliploom

store = cliploom.open("demo/store")
store.tables  # names that store.table takes
store.items.select("uid", "source", "size").collect()  # polars
store.table("frames").select("uid", "start_s", "pooled").collect()
store.failures.select("uid", "type", "message").collect()
store.labels(["videos/cat"])  # {(source, uid): labels}
hits = store.search("a cup of coffee", top=3, moments=2)
hits[0].uid, hits[0].start_s, hits[0].moments

plan = cliploom.plan("demo/demo.yaml")  # what a run would do
print(plan)
result = cliploom.run("demo/demo.yaml")
result.release
```

A store stays at the release that it was opened at. Its text encoder is loaded by the first search by words and kept as
long as the store is: on the demo's models the first search takes 0.6 CPU seconds, each further one 0.01.

An unknown name (of a table, index, column, item, output, export, ...) raises `UnknownNameError`, an unknown number of a
release `UnknownReleaseError`; both are a `CliploomError` and a `KeyError`.
"""
FUNCTIONS = ("open", "plan", "run", "torch_dataset", "tf_dataset")
# Classes with the members that are described; None stands for all public ones.
CLASSES: dict[str, tuple[str, ...] | None] = {
    "Store": (
        *("uri", "releases", "features", "tables", "table", "items", "failures", "labels"),
        *("search", "ask", "curve", "query_parts"),
    ),
    "Hit": None,
    "Moment": None,
    "Answer": None,
    "Query": None,
    "QueryPart": None,
    "Plan": (),
    "RunResult": None,
    "Pairs": None,
    "ClipWindows": None,
}
BEAM_TRANSFORMS = ("EncodeMedia", "EncodeTexts", "DecodeFrames", "EncodeFrames")
BEAM_ROWS = ("MediaFile", "Frame", "Failure", "Results")
RECORDS = (ItemLabel, releases.Release, releases.FeatureEntry, releases.IndexEntry, releases.ExportEntry)
# Classes of cliploom.sources that are described; of the first two all methods.
SOURCE_CLASSES = (
    *("SourceKind", "VectorItems", "MediaItems", "SourceNode"),
    *(
        "TextItems",
        "FeatureRecipe",
        "Found",
        "KnownListing",
        "ListContext",
        "Listed",
        "VectorRows",
        "SpooledText",
        "TextItem",
    ),
)
MOST_COLUMNS = 100
SECTIONS = ("Args", "Returns", "Raises", "Attributes")


def page() -> str:
    """Return the page."""
    lines = [HEAD, "## Functions", ""]
    for name in FUNCTIONS:
        lines += [f"### cliploom.{name}", "", *_callable(f"cliploom.{name}", getattr(cliploom, name))]
    lines += ["## Classes", ""]
    for name, members in CLASSES.items():
        lines += _class(name, getattr(cliploom, name), members)
    lines += ["## What a store's properties hold", ""]
    for kind in RECORDS:
        lines += _class(kind.__name__, kind, ())
    lines += ["## Tables", "", "`store.table(name)` is a polars `LazyFrame`; `.collect()` reads it.", ""]
    lines += ["### a feature", "", *_table(FEATURE_TABLE)]
    for name, note in STORE_TABLES.items():
        lines += [f"### {name}", "", *_table(note)]
    lines += ["## cliploom.beam", "", *_text(cliploom.beam), ""]
    for name in BEAM_TRANSFORMS:
        kind = getattr(cliploom.beam, name)
        lines += [f"### beam.{name}", "", *_text(kind), "", *_callable(f"beam.{name}", kind)]
    for name in BEAM_ROWS:
        lines += _class(f"beam.{name}", getattr(cliploom.beam, name), ())
    lines += ["### beam.pixels_of", "", *_callable("beam.pixels_of", cliploom.beam.pixels_of)]
    lines += ["### Metrics on Beam", "", "| transform | |", "| --- | --- |"]
    for name in cliploom.beam.__all__:
        if name not in (*BEAM_TRANSFORMS, *BEAM_ROWS, "pixels_of"):
            lines.append(f"| `{name}` | {' '.join(_text(getattr(cliploom.beam, name))[0].split())} |")
    lines += ["", "## cliploom.encoders", "", *_text(cliploom.encoders), ""]
    for name in cliploom.encoders.__all__:
        kind = getattr(cliploom.encoders, name)
        if not issubclass(kind, Exception):
            lines += _class(f"encoders.{name}", kind, None)
    lines += ["## cliploom.sources", "", *_text(cliploom.sources), ""]
    for name in cliploom.sources.__all__:
        found = getattr(cliploom.sources, name)
        if inspect.isfunction(found):
            lines += [f"### sources.{name}", "", *_callable(f"sources.{name}", found)]
        elif name in SOURCE_CLASSES:
            lines += _class(f"sources.{name}", found, None if name in SOURCE_CLASSES[:2] else ())
    lines += ["## cliploom.errors", "", *_text(cliploom.errors), "", "| error | exit code | |", "| --- | --- | --- |"]
    for name in cliploom.errors.__all__:
        kind = getattr(cliploom.errors, name)
        code = getattr(kind, "exit_code", "")
        bases = ", ".join(f"`{base.__name__}`" for base in kind.__bases__)
        lines.append(f"| `{name}` ({bases}) | {code} | {' '.join(_text(kind)[0].split())} |")
    return "\n".join(lines).rstrip() + "\n"


def _class(name: str, kind: type, members: tuple[str, ...] | None) -> Iterator[str]:
    """A class with its attributes and the members that are described."""
    yield from (f"### {name}", "", *_text(kind), "")
    if members is None:
        members = tuple(member for member in vars(kind) if not member.startswith("_"))
        if "__init__" in vars(kind) and inspect.getdoc(kind.__init__):
            yield from _callable(name, kind)
    for member in members:
        found = inspect.getattr_static(kind, member, None)
        if isinstance(found, property) and found.fget is not None:
            yield from (f"#### {name}.{member}", "", f"`{member}: {_annotation(found.fget)}`", "", *_text(found), "")
        elif isinstance(found, classmethod) or inspect.isfunction(found):
            yield from (f"#### {name}.{member}", "", *_callable(member, getattr(kind, member)))


def _annotation(function: Any) -> str:
    return str(function.__annotations__.get("return", "Any"))


def _callable(name: str, found: Any) -> Iterator[str]:
    """A signature and what the docstring says; of a dataclass only the signature, as its attributes are described."""
    function = found.__init__ if inspect.isclass(found) else found
    signature = inspect.signature(function)
    parts: list[str] = []
    previous = None
    for each in signature.parameters.values():
        if each.kind is each.KEYWORD_ONLY and previous is not each.KEYWORD_ONLY:
            parts.append("*")
        previous = each.kind
        if each.name not in ("self", "cls"):
            parts.append(_parameter(each))
    returned = "" if inspect.isclass(found) else f" -> {signature.return_annotation}"
    line = f"{name}({', '.join(parts)}){returned}"
    if len(line) > MOST_COLUMNS:
        line = "\n    ".join([f"{name}(", *(f"{part}," for part in parts)]) + f"\n){returned}"
    text = [] if is_dataclass(found) else [*_text(function), ""]
    yield from ("```python", line, "```", "", *text)


def _parameter(each: inspect.Parameter) -> str:
    named = f"{each.name}: {each.annotation}"
    if each.default is each.empty:
        return named
    # The default of a dataclass's field that is created for each object.
    default = "..." if repr(each.default) == "<factory>" else repr(each.default)
    return f"{named} = {default}"


def _text(found: Any) -> list[str]:
    """A docstring as Markdown: prose, then its sections as lists."""
    prose: list[str] = []
    sections: dict[str, list[str]] = {}
    current = prose
    for line in (inspect.getdoc(found) or "").splitlines():
        name = line.removesuffix(":")
        if line.endswith(":") and name in SECTIONS:
            current = sections.setdefault(name, [])
        else:
            current.append(line)
    lines = ["\n".join(_fenced(prose)).strip()]
    for name, body in sections.items():
        text = "\n".join(line.removeprefix("    ") for line in body).strip()
        if name == "Returns":
            lines += ["", f"Returns: {_joined(text)}"]
            continue
        lines += ["", f"{'Arguments' if name == 'Args' else name}:", ""]
        for entry in re.split(r"\n(?=\S)", text):
            names, _, note = entry.partition(":")
            lines.append(f"- {', '.join(f'`{each.strip()}`' for each in names.split(','))}: {_joined(note)}")
    return [_code(line) for line in lines]


def _fenced(prose: list[str]) -> list[str]:
    """Prose with its blocks of code and its doctests in fences."""
    lines: list[str] = []
    inside = False
    for number, line in enumerate(prose):
        code = line.startswith((">>>", "...", "    ")) or (
            inside and bool(line) and prose[number - 1].startswith(">>>")
        )
        if inside and not line and any(rest.startswith("    ") for rest in prose[number + 1 : number + 3]):
            code = True
        if code != inside:
            lines.append("```python" if code else "```")
            inside = code
        lines.append(line.removeprefix("    ") if code else line)
    return [*lines, "```"] if inside else lines


def _joined(text: str) -> str:
    return " ".join(text.split())


def _code(text: str) -> str:
    """Two backticks, as docstrings have them, become one."""
    return re.sub(r"``([^`]+)``", r"`\1`", text)


def _table(note: TableNote) -> Iterator[str]:
    """The columns of a table."""
    yield from (note.about, "", "| column | type | |", "| --- | --- | --- |")
    for field in note.schema:
        kind = str(field.type).replace("list<element: float>", "list<float32>").replace("timestamp[us, tz=UTC]", "time")
        yield f"| `{field.name}` | {kind} | {note.columns[field.name]} |"
    yield ""


def main() -> int:
    """Write the page, or check it."""
    text = page()
    if "--check" in sys.argv:
        current = PAGE.exists() and PAGE.read_text(encoding="utf-8") == text
        if not current:
            print("docs/api.md is out of date: python docs/write_api.py", file=sys.stderr)
        return int(not current)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
