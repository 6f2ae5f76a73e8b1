"""Commands for small models over a store's features: train, measure, apply."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from cliploom.pipelines.cli.app import JsonOption, SetOption, SpecOrHereArgument, StoreArgument, app
from cliploom.pipelines.cli.where import find_spec, find_store

TargetOrHereArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="TARGET",
        help="A store, or a spec, whose target then does the work; ./cliploom.yaml by default.",
        show_default=False,
    ),
]


def _target(given: str | None, command: str) -> str:
    return str(find_spec(None, command)) if given is None else given


@app.command()
def train(
    head: Annotated[str, typer.Option("--head", help="Which of the spec's heads.", show_default=False)],
    spec: SpecOrHereArgument = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a head on the newest release of the store.

    The next run applies it. Needs cliploom[tensorflow].
    """
    from cliploom.pipelines.console import say, show, show_json
    from cliploom.pipelines.training.train import train_head, trained_text
    from cliploom.schemas.spec_file import load_spec
    from cliploom.transforms.store.uris import absolute

    spec = find_spec(spec, "train")
    found = train_head(load_spec(spec, overrides or ()), absolute(spec).parent, head, lambda text: say(f"• {text}"))
    if as_json:
        show_json({"store": found.store, "model": found.model, "fresh": found.fresh, "card": found.card.to_dict()})
    else:
        show(trained_text(found))
        say(f"Next: cliploom run {shlex.quote(str(spec))}")


@app.command()
def evaluate(
    head: Annotated[str, typer.Option("--head", help="Which trained head.", show_default=False)],
    target: TargetOrHereArgument = None,
    everything: Annotated[bool, typer.Option("--all", help="Also on videos that it learned from.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure a trained head on videos held back.

    These are the labelled videos of the newest release that it has not learned from.
    """
    from cliploom.pipelines.console import say, show, show_json
    from cliploom.pipelines.training.evaluate import evaluate_head, evaluation_text

    found = evaluate_head(
        _target(target, "evaluate"), head, everything=everything, on_stage=lambda text: say(f"• {text}")
    )
    if as_json:
        show_json(found.to_dict())
    else:
        show(evaluation_text(found))


@app.command("fit-pca")
def fit_pca(
    feature: Annotated[str, typer.Option("--feature", help="Whose rows to learn from.", show_default=False)],
    target: TargetOrHereArgument = None,
    output: Annotated[str | None, typer.Option("--output", help="Of the feature, if it has several.")] = None,
    components: Annotated[int | None, typer.Option("--components", min=1, help="How many to keep; all.")] = None,
    to: Annotated[Path, typer.Option("--to", help="The .npz file to write.")] = Path("pca.npz"),
    as_json: JsonOption = False,
) -> None:
    """Learn principal components of a feature.

    For an encoder of kind pca, or the pca of a tfrecord export. Needs cliploom[tensorflow].
    """
    from cliploom.pipelines.console import say, show, show_json
    from cliploom.pipelines.training.fit_pca import fit_pca as fit
    from cliploom.pipelines.training.fit_pca import fitted_text

    found = fit(
        _target(target, "fit-pca"),
        feature,
        to,
        output=output,
        components=components,
        on_stage=lambda text: say(f"• {text}"),
    )
    if as_json:
        show_json(found.to_dict())
    else:
        show(fitted_text(found))


@app.command()
def predict(
    store: StoreArgument,
    video: Annotated[str, typer.Argument(help="A video, GIF or image; a file or an object in a bucket.")],
    head: Annotated[str, typer.Option("--head", help="Which trained head.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """List the labels that a head gives one file.

    The ten most confident ones; * marks those above 50%.
    """
    from cliploom.pipelines.console import say, show, show_json
    from cliploom.pipelines.training.predict import predict_file, prediction_text

    found = predict_file(find_store(store, "predict"), head, video, lambda text: say(f"• {text}"))
    if as_json:
        show_json([{"label": each.label, "name": each.name, "score": each.score} for each in found])
    else:
        show(prediction_text(found))
