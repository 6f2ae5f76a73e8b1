"""What MkDocs calls while it builds the site: pages from the root of the repository, links, and Markdown twins."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page as SitePage

sys.path.insert(0, str(Path(__file__).parent))

from site_pages import ROOT_PAGES, llms_list, page_markdown, pages, with_unlisted


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List every page of docs/ in the navigation."""
    config.nav = with_unlisted(config.nav)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie at the root of the repository."""
    for source, path in ROOT_PAGES.items():
        files.append(File.generated(config, path, content=page_markdown(source)))
    return files


def on_page_markdown(markdown: str, page: SitePage, **_: Any) -> str:
    """Let links that leave docs/ lead to pages of the site."""
    if page.file.src_uri in ROOT_PAGES.values():
        return markdown
    return page_markdown(f"docs/{page.file.src_uri}")


def on_post_build(config: MkDocsConfig) -> None:
    """Write the Markdown of each page beside its HTML, and the list of pages."""
    site = Path(config.site_dir)
    for page in pages():
        twin = site / page.path
        twin.parent.mkdir(parents=True, exist_ok=True)
        twin.write_text(page_markdown(page.source), encoding="utf-8")
    (site / "llms.txt").write_text(llms_list(), encoding="utf-8")
