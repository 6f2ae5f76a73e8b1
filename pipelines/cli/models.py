"""``cliploom models``: public models by name, and what a file or folder of a model is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cliploom.pipelines.cli.app import JsonOption, app

models = typer.Typer(
    name="models",
    help="List public models; say what a model's files are.",
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(models)


@models.callback(invoke_without_command=True)
def models_command(context: typer.Context) -> None:
    """List public models; say what a model's files are."""
    if context.invoked_subcommand is None:
        list_models()


@models.command("list")
def list_models(as_json: JsonOption = False) -> None:
    """List the presets: public models that a spec can name."""
    from cliploom.pipelines.console import show, show_json
    from cliploom.pipelines.models.texts import list_text, preset_values
    from cliploom.transforms.encoders.presets import presets

    if as_json:
        show_json([preset_values(name, preset) for name, preset in presets().items()])
    else:
        show(list_text())


@models.command("show")
def show_model(
    name: Annotated[str, typer.Argument(help="A preset, see `cliploom models list`.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Say what to download for a preset, and how a spec names it."""
    from cliploom.pipelines.console import show, show_json
    from cliploom.pipelines.models.texts import preset_values, show_text
    from cliploom.transforms.encoders.presets import find_preset

    preset = find_preset(name)
    if as_json:
        show_json(preset_values(name, preset))
    else:
        show(show_text(name, preset))


@models.command("check")
def check_model(
    place: Annotated[
        str, typer.Argument(metavar="PLACE", help="A model's file or folder, or a preset.", show_default=False)
    ],
    files: Annotated[
        Path, typer.Option("--files", help="Of a preset: folder with its model and media.", show_default=False)
    ] = Path(),
    as_json: JsonOption = False,
) -> None:
    """Say what a model is and print a spec that uses it.

    Of a preset: compare the model here with what was published.
    """
    from cliploom.pipelines.console import say, show, show_json
    from cliploom.transforms.encoders.presets import presets

    if place in presets():
        from cliploom.pipelines.models.published import check_preset, check_text

        checked = check_preset(place, files, lambda text: say(f"• {text}"))
        if as_json:
            show_json(checked.to_dict())
        else:
            show(check_text(checked))
        if not checked.right:
            raise typer.Exit(1)
        return
    from cliploom.pipelines.models.texts import found_text
    from cliploom.schemas.errors import SpecError, nearest
    from cliploom.transforms.model_files.apart import look_apart

    path = Path(place).expanduser()
    if "/" not in place and not path.exists() and not path.is_symlink() and not path.suffix:
        raise SpecError(f"There is neither a file or folder nor a preset {place!r}{nearest(place, presets())}")
    found = look_apart(path, place)
    if as_json:
        show_json(found.to_dict())
    else:
        show(found_text(found))
