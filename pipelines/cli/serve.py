"""``cliploom serve``: a web page over stores."""

from __future__ import annotations

from typing import Annotated

import typer

from cliploom.pipelines.cli.app import app
from cliploom.pipelines.cli.where import find_store


@app.command()
def serve(
    stores: Annotated[
        list[str] | None,
        typer.Argument(help="Stores or their specs; by default the store of ./cliploom.yaml.", show_default=False),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="The address to listen on; 0.0.0.0 for other machines.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The port; 0 for any free one.")] = 8080,
    token: Annotated[
        str,
        typer.Option("--token", envvar="CLIPLOOM_TOKEN", help="A secret that every request must send.", metavar="TEXT"),
    ] = "",
    allow_host: Annotated[
        list[str] | None, typer.Option("--allow-host", help="A further host name of the server; may be repeated.")
    ] = None,
    max_upload: Annotated[int, typer.Option("--max-upload", min=1, help="Maximum megabytes of an upload.")] = 200,
    no_convert: Annotated[
        bool, typer.Option("--no-convert", help="Show stills of videos that browsers do not play.")
    ] = False,
    no_links: Annotated[bool, typer.Option("--no-links", help="Do not predict labels of links.")] = False,
) -> None:
    """Serve stores as a web page: search, watch, predict, releases, runs.

    Read-only; a new release is served as soon as it is published.
    """
    from cliploom.schemas.errors import MissingExtraError, SpecError

    try:
        import fastapi  # noqa: F401
        import jinja2  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError:
        raise MissingExtraError("serve", "The page server") from None
    from cliploom.serving.playback import ConversionLimits
    from cliploom.serving.server import serve as serve_stores
    from cliploom.serving.settings import ServeSettings

    if token and len(token) < 8:
        raise SpecError("The token is shorter than 8 characters; make one with: openssl rand -hex 16.")
    settings = ServeSettings(
        host=host,
        port=port,
        token=token,
        allowed_hosts=tuple(name.lower() for name in allow_host or ()),
        max_upload=max_upload * 1_000_000,
        links=not no_links,
        conversion=ConversionLimits(running=0 if no_convert else 1),
    )
    named = [find_store(store, "serve") for store in stores] if stores else [find_store(None, "serve")]
    serve_stores(named, settings)
