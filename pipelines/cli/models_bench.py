"""``cliploom models bench``: the precisions of a spec's encoders, measured on its media."""

from __future__ import annotations

from typing import Annotated

import typer

from cliploom.pipelines.cli.app import JsonOption, SetOption, SpecOrHereArgument
from cliploom.pipelines.cli.models import models
from cliploom.pipelines.cli.where import find_spec


@models.command()
def bench(
    spec: SpecOrHereArgument = None,
    encoder: Annotated[str | None, typer.Option("--encoder", help="One encoder; all by default.")] = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure every precision of a spec's encoders.

    Speed on this machine, and agreement with f32 on the spec's own media. Nothing is written into the store.
    """
    from cliploom.pipelines.console import fit, say, show, show_json
    from cliploom.pipelines.running.model_bench import bench_encoders, bench_text
    from cliploom.schemas.spec_file import load_spec
    from cliploom.transforms.store.uris import absolute

    path = find_spec(spec, "models bench")
    loaded = load_spec(path, overrides or ())
    rows = bench_encoders(loaded, absolute(path).parent, encoder, lambda text: say(f"• {text}"))
    if as_json:
        show_json([row.to_dict() for row in rows])
    else:
        show(fit(bench_text(rows)))
