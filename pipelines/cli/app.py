"""The Typer application, and arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="cliploom",
    help="Videos, GIFs and images in; published feature stores and searchable indexes out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

SpecArgument = Annotated[Path, typer.Argument(help="The spec, a YAML file.", show_default=False)]
SpecOrHereArgument = Annotated[
    Path | None, typer.Argument(metavar="SPEC", help="The spec; ./cliploom.yaml by default.", show_default=False)
]
StoreArgument = Annotated[str, typer.Argument(help="The store, or its spec.", show_default=False)]
StoreOrHereArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="STORE",
        help="The store (a folder, s3:// or gs://) or its spec; that of ./cliploom.yaml by default.",
        show_default=False,
    ),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Override a value: key.path=value. May be repeated.")
]
TargetOption = Annotated[str | None, typer.Option("--target", help="Where to run; the spec's first target by default.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="Take a seeded subset of N items.")]
ReleaseOption = Annotated[int | None, typer.Option("--release", help="An older release; the newest by default.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        from cliploom.pipelines.console import show
        from cliploom.pipelines.version import program_version

        show(f"cliploom {program_version()}")
        raise typer.Exit(0)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Videos, GIFs and images in; published feature stores and searchable indexes out."""
