"""Draw the imports between the folders of cliploom into docs/architecture.md.

python docs/draw_architecture.py           # write the picture
python docs/draw_architecture.py --check   # exit 1 when the page is out of date
"""

from __future__ import annotations

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- picture: begin -->\n", "<!-- picture: end -->\n"
PACKAGES = ("serving", "pipelines", "transforms", "schemas")


def room_of(parts: list[str]) -> str:
    """Return the folder that a module belongs to: ``transforms/media``, or ``schemas`` for a module without one."""
    package, *rest = parts
    folder = ROOT / package / rest[0] if rest else None
    return f"{package}/{rest[0]}" if folder is not None and folder.is_dir() else package


def imports() -> dict[str, set[str]]:
    """Return for each folder the folders that it imports."""
    used: dict[str, set[str]] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            room = room_of(list(path.relative_to(ROOT).with_suffix("").parts))
            mine = used.setdefault(room, set())
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cliploom."):
                    parts = f"{node.module}.{node.names[0].name}".split(".")[1:]
                    if parts[0] in PACKAGES:
                        mine.add(room_of(parts))
            mine.discard(room)
    return used


def reduced(used: dict[str, set[str]]) -> dict[str, set[str]]:
    """Leave out an import that follows from others, as ``a -> c`` does from ``a -> b -> c``."""
    order = tuple(TopologicalSorter(used).static_order())
    reach: dict[str, set[str]] = {}
    for room in order:
        reach[room] = used[room].union(*(reach[other] for other in used[room]))
    return {
        room: {other for other in others if not any(other in reach[third] for third in others - {other})}
        for room, others in used.items()
    }


def picture() -> str:
    """Return a Mermaid flow chart, top to bottom from the command line to the data models."""
    used = reduced(imports())
    lines = ["```mermaid", "flowchart TD"]
    for package in PACKAGES:
        lines.append(f"  subgraph {package}_ [{package}]")
        rooms = sorted(name for name in used if name.split("/")[0] == package)
        lines += [f"    {room.replace('/', '_')}[{room.rpartition('/')[2]}]" for room in rooms]
        lines.append("  end")
    lines += [
        f"  {room.replace('/', '_')} --> {other.replace('/', '_')}"
        for room in sorted(used)
        for other in sorted(used[room])
    ]
    return "\n".join([*lines, "```", ""])


def main() -> int:
    """Write the page, or check it."""
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    drawn = before + BEGIN + picture() + END + rest.split(END)[1]
    if "--check" in sys.argv:
        if drawn != page:
            print("docs/architecture.md is out of date: python docs/draw_architecture.py", file=sys.stderr)
        return int(drawn != page)
    PAGE.write_text(drawn, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
