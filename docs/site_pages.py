"""The pages of the documentation site: which there are, in which order, and their Markdown.

python docs/site_pages.py           # write docs/llms.txt, the list of pages for language models (llmstxt.org)
python docs/site_pages.py --check   # exit 1 when the list is out of date, or a link leads nowhere
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
LIST = DOCS / "llms.txt"
# Files at the root of the repository that are pages of the site, too.
ROOT_PAGES = {"CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md", "CHANGELOG.md": "changelog.md"}
_LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\[\]]*\])*\]\()([^()\s]+)(\))")
_FENCE = re.compile(r"^( *)(```|~~~).*?^\1\2 *$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Page:
    """A page of the site.

    Attributes:
        section: heading in the navigation.
        title: first heading of the page.
        path: of the page on the site, relative to its root.
        source: file in the repository, relative to its root.
        summary: first sentence of the page, as plain text.
    """

    section: str
    title: str
    path: str
    source: str
    summary: str


class _Tolerant(yaml.SafeLoader):
    """Reads mkdocs.yml without the Python objects that it names."""


_Tolerant.add_multi_constructor("", lambda loader, suffix, node: None)


def load_nav() -> list[dict[str, Any]]:
    """Return the navigation of mkdocs.yml, with pages that it does not list at the end of the section Reference."""
    nav: list[dict[str, Any]] = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Tolerant)["nav"]  # noqa: S506
    return with_unlisted(nav)


def with_unlisted(nav: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return ``nav`` with every page of docs/, whoever forgot to list it."""
    listed = set(_paths(nav))
    missing = [path.name for path in sorted(DOCS.glob("*.md")) if path.name not in listed]
    return [
        {name: [*entries, *missing]} if name == "Reference" else {name: entries}
        for section in nav
        for name, entries in section.items()
    ]


def _paths(nav: list[dict[str, Any]]) -> Iterator[str]:
    for section in nav:
        for entries in section.values():
            for entry in entries:
                yield entry if isinstance(entry, str) else next(iter(entry.values()))


def pages() -> Iterator[Page]:
    """Yield the pages in the order of the navigation, then the decision records."""
    originals = {page: source for source, page in ROOT_PAGES.items()}
    for section in load_nav():
        name, entries = next(iter(section.items()))
        for path in _paths([{name: entries}]):
            yield _page(name, path, originals.get(path, f"docs/{path}"))
    for record in sorted((DOCS / "adr").glob("0*.md")):
        yield _page("Decisions", f"adr/{record.name}", f"docs/adr/{record.name}")


def _page(section: str, path: str, source: str) -> Page:
    text = (ROOT / source).read_text(encoding="utf-8")
    title = next(line[2:].strip() for line in text.splitlines() if line.startswith("# "))
    return Page(section, title, path, source, _summary(text))


def _summary(text: str) -> str:
    """Return the first sentence of the first paragraph of prose."""
    body = _FENCE.sub("", text).split("\n", 1)[1]
    paragraphs = (" ".join(block.split()) for block in re.split(r"\n\s*\n", body))
    prose = next((block for block in paragraphs if re.match(r"[\w`\"]|\*\*", block)), "")
    plain = re.sub(r"[*`]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", prose))
    return re.split(r"(?<=[.:])\s", plain, maxsplit=1)[0].rstrip(":")


def page_markdown(source: str) -> str:
    """Return the Markdown of a page with links that work on the site.

    Args:
        source: file in the repository, relative to its root.
    """
    text = (ROOT / source).read_text(encoding="utf-8")
    folder = Path(source).parent

    def relink(match: re.Match[str]) -> str:
        target, hash_, anchor = match[2].partition("#")
        if not target or "://" in target or target.startswith("mailto:"):
            return match[0]
        found = (ROOT / folder / target).resolve()
        if not found.is_relative_to(ROOT):
            return match[0]
        inside = found.relative_to(ROOT).as_posix()
        if inside in ROOT_PAGES:
            new = ROOT_PAGES[inside]
        elif inside.startswith("docs/") and found.is_file():
            new = inside.removeprefix("docs/")
        elif inside == "docs/adr":
            new = "adr/README.md"
        else:  # a file of the repository that is not a page of the site; only its name is shown
            return f"`{inside}`"
        up = "" if source in ROOT_PAGES else "../" * (len(folder.parts) - 1)
        return f"{match[1]}{up}{new}{hash_}{anchor}{match[3]}"

    pieces, at = [], 0
    for fence in _FENCE.finditer(text):
        pieces += [_LINK.sub(relink, text[at : fence.start()]), fence[0]]
        at = fence.end()
    return "".join([*pieces, _LINK.sub(relink, text[at:])])


def broken_links() -> list[str]:
    """Return a sentence for each link of a page or of README.md to a file that does not exist."""
    found = []
    for source in ["README.md", *dict.fromkeys(page.source for page in pages())]:
        text = _FENCE.sub("", (ROOT / source).read_text(encoding="utf-8"))
        for match in _LINK.finditer(text):
            target = match[2].partition("#")[0]
            if target and "://" not in target and not target.startswith("mailto:"):
                path = (ROOT / source).parent / target
                if not path.exists() and path.name not in ROOT_PAGES.values():
                    found.append(f"{source}: there is no {target}")
    return found


def llms_list() -> str:
    """Return the text of docs/llms.txt."""
    lines = [
        "# cliploom",
        "",
        "> cliploom turns videos, GIFs, images, narrations and TFRecords into feature stores (Parquet in Delta tables,",
        "> HDF5) and search indexes with Apache Beam, from a YAML spec, incrementally. Command line and Python API.",
        "",
        "Each page is Markdown; on the site it lies beside the HTML page under the same name with `.md`.",
    ]
    section = ""
    for page in pages():
        if page.section != section:
            section = page.section
            lines += ["", f"## {section}", ""]
        lines.append(f"- [{page.title}]({page.path})" + (f": {page.summary}" if page.summary else ""))
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the list, or check it and all links."""
    if "--check" not in sys.argv:
        LIST.write_text(llms_list(), encoding="utf-8")
        return 0
    faults = broken_links()
    if not LIST.is_file() or LIST.read_text(encoding="utf-8") != llms_list():
        faults.append("docs/llms.txt is out of date: python docs/site_pages.py")
    print(*faults, sep="\n", file=sys.stderr, end="\n" if faults else "")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
