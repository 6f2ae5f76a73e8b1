"""``cliploom specs``: whole systems as specs, to copy and change."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cliploom.pipelines.cli.app import JsonOption, app

FOLDER = Path(__file__).parent.parent / "specs"


@app.command()
def specs(
    name: Annotated[str | None, typer.Argument(help="Which to print; without it all are listed.")] = None,
    to: Annotated[Path | None, typer.Option("--to", help="Write it to this file instead.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List specs of whole systems, or copy one.

    For example: cliploom specs text-to-video > cliploom.yaml
    """
    from cliploom.pipelines.console import say, show, show_json
    from cliploom.schemas.errors import SpecError, nearest

    found = {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}
    if name is None:
        if to is not None:
            raise SpecError(f"--to writes one spec; name it: {', '.join(found)}.")
        about = {each: _about(path) for each, path in found.items()}
        if as_json:
            show_json([{"name": each, "about": text} for each, text in about.items()])
            return
        for each, text in about.items():
            show(f"{each}\n  {text}")
        show("\n`cliploom specs NAME --to cliploom.yaml` copies one.")
        return
    if name not in found:
        raise SpecError(f"There is no spec {name!r}{nearest(name, found)}")
    text = found[name].read_text(encoding="utf-8")
    if to is None:
        if as_json:
            show_json({"name": name, "about": _about(found[name]), "yaml": text})
        else:
            show(text.rstrip())
        return
    if to.exists() and not force:
        raise SpecError(f"{to} is there already; choose another name, or replace it with --force.")
    try:
        to.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SpecError(f"{to} can't be written ({error.strerror}); choose another place.") from None
    say(f"Wrote {to}; its first lines say what comes next.")


def _about(path: Path) -> str:
    """Return the first line of a spec."""
    return path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
