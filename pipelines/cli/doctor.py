"""``cliploom doctor``: checks this machine, the installed packages and a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cliploom.pipelines.cli.app import JsonOption, app


@app.command()
def doctor(
    target: Annotated[
        str | None,
        typer.Argument(help="A store or a spec; that of ./cliploom.yaml by default.", show_default=False),
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", help="Write a ZIP for a bug report, without secrets.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check this machine, the packages and a store.

    Exits with 1 if it finds a problem.
    """
    from cliploom.pipelines.console import fit, say, short_paths, show, show_json
    from cliploom.pipelines.health.bundle import write_bundle
    from cliploom.pipelines.health.doctor import diagnose, store_of
    from cliploom.pipelines.health.findings import findings_text
    from cliploom.schemas.errors import SpecError

    findings = diagnose(target)
    if as_json:
        show_json([finding.to_dict() for finding in findings])
    else:
        show(fit(short_paths(findings_text(findings))))
    if bundle is not None:
        try:
            store = store_of(target)
        except SpecError:
            store = None
        names = write_bundle(bundle, findings, store)
        say(f"Wrote {bundle}: {', '.join(names)}; look through it before you send it.")
    if any(finding.state == "problem" for finding in findings):
        raise typer.Exit(1)
