"""``cliploom report``: the content of a release and the course of its run, as text, JSON or one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cliploom.pipelines.cli.app import JsonOption, ReleaseOption, StoreOrHereArgument, app
from cliploom.pipelines.cli.where import find_store


@app.command()
def report(
    store: StoreOrHereArgument = None,
    release: ReleaseOption = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write the report with pictures to this file, one HTML page.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Report on a release: counts, failures, figures, time."""
    from cliploom.pipelines.console import fit, say, short_paths, show, show_json
    from cliploom.pipelines.release_report import release_report
    from cliploom.pipelines.report_page import report_page, report_text

    store = find_store(store, "report")
    found = release_report(store, release)
    if html is not None:
        from cliploom.transforms.search.html_page import write_page
        from cliploom.transforms.search.searching import open_store

        write_page(html, report_page(found, open_store(store, found["release"])))
        say(f"The report of release {found['release']} is written to {html}; open it in a browser.")
    if as_json:
        show_json(found)
    elif html is None:
        show(fit(short_paths(report_text(found))))
