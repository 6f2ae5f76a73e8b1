"""Commands for small models over a store's features: train, evaluate, apply."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from cliploom.pipelines.cli.app import JsonOption, ReleaseOption, SetOption, SpecOrHereArgument, StoreArgument, app
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
    spec: SpecOrHereArgument = None,
    head: Annotated[str | None, typer.Option("--head", help="The head of the spec, if it has several.")] = None,
    accept_worse: Annotated[bool, typer.Option("--accept-worse", help="Use it even if it is worse.")] = False,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a head on the newest release of the store.

    The next run applies it. Needs cliploom[tensorflow].
    """
    from cliploom.pipelines.console import say, show, show_json
    from cliploom.pipelines.training.train import only_head, train_head, trained_text
    from cliploom.schemas.spec_file import load_spec
    from cliploom.transforms.store.uris import absolute

    spec = find_spec(spec, "train")
    loaded = load_spec(spec, overrides or ())
    found = train_head(
        loaded,
        absolute(spec).parent,
        only_head(loaded) if head is None else head,
        lambda text: say(f"• {text}"),
        accept_worse=accept_worse,
    )
    if as_json:
        show_json({"store": found.store, "model": found.model, "fresh": found.fresh, "card": found.card.to_dict()})
    else:
        show(trained_text(found))
        say(f"Next: cliploom run {shlex.quote(str(spec))}")


@app.command()
def evaluate(
    target: TargetOrHereArgument = None,
    head: Annotated[str | None, typer.Option("--head", help="Measure a trained head on held-out videos.")] = None,
    task: Annotated[str | None, typer.Option("--task", help="One of the spec's evaluations; all by default.")] = None,
    feature: Annotated[str | None, typer.Option("--feature", help="Measure this feature, without a spec.")] = None,
    output: Annotated[str | None, typer.Option("--output", help="The output, if there are several.")] = None,
    kind: Annotated[
        str, typer.Option("--kind", help="With --feature: retrieval, similar, labels, words.")
    ] = "retrieval",
    truth: Annotated[str | None, typer.Option("--truth", help="A table of uid, text, start_s, end_s.")] = None,
    texts: Annotated[str | None, typer.Option("--texts", help="A source of narrations, instead of --truth.")] = None,
    unit: Annotated[str | None, typer.Option("--unit", help="The unit to rank: item, moment or clip.")] = None,
    to: Annotated[Path | None, typer.Option("--to", help="A folder for JSON files and pictures.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Include a head's training videos.")] = False,
    release: ReleaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a release: search by text, similar items, labels.

    Without options all evaluations of the spec are run. Each figure has a 95% interval, its chance level and the number
    of queries.
    """
    from cliploom.pipelines.console import say, show, show_json
    from cliploom.schemas.errors import SpecError

    target = _target(target, "evaluate")
    if sum(each is not None for each in (head, task, feature)) > 1:
        raise SpecError("Give one of --head, --task and --feature.")
    if head is not None:
        from cliploom.pipelines.training.evaluate import evaluate_head, evaluation_text

        measured = evaluate_head(target, head, everything=everything, on_stage=lambda text: say(f"• {text}"))
        if as_json:
            show_json(measured.to_dict())
        else:
            show(evaluation_text(measured))
        return
    from cliploom.pipelines.training.measuring import evaluate_declared, evaluate_given, write_figures

    if feature is not None:
        given = {"output": output, "truth": truth, "texts": texts, "unit": unit, "everything": everything or None}
        settings = {"kind": kind, "feature": feature} | {key: each for key, each in given.items() if each is not None}
        found = {feature: evaluate_given(target, settings, release, lambda text: say(f"• {text}"))}
    else:
        found = evaluate_declared(target, task, release, lambda text: say(f"• {text}"))
    if as_json:
        show_json({name: each.to_dict() for name, each in found.items()})
    else:
        show(
            "\n".join(
                f"{name}: {line}" if not line.startswith(" ") else line
                for name, each in found.items()
                for line in each.lines()
            )
        )
    if to is not None:
        for path in write_figures(found, to):
            say(f"• wrote {path}")


@app.command()
def compare(
    store: StoreArgument,
    old: Annotated[int, typer.Argument(help="A release.")],
    new: Annotated[int, typer.Argument(help="Another one.")],
    as_json: JsonOption = False,
) -> None:
    """Compare the figures of two releases.

    Compares evaluations, trained heads and indexes.
    """
    from cliploom.pipelines.console import show, show_json
    from cliploom.pipelines.training.comparing import compare_releases, compared_text

    found = compare_releases(store, old, new)
    if as_json:
        show_json([each.to_dict() for each in found])
    else:
        show(compared_text(found, old, new))


@app.command("fit-pca")
def fit_pca(
    feature: Annotated[str, typer.Option("--feature", help="The feature to fit to.", show_default=False)],
    target: TargetOrHereArgument = None,
    output: Annotated[str | None, typer.Option("--output", help="The output, if there are several.")] = None,
    components: Annotated[int | None, typer.Option("--components", min=1, help="Number to keep; all.")] = None,
    to: Annotated[Path, typer.Option("--to", help="The .npz file to write.")] = Path("pca.npz"),
    as_json: JsonOption = False,
) -> None:
    """Fit principal components to a feature.

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
    head: Annotated[str, typer.Option("--head", help="The name of a trained head.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Predict the labels of a file with a head.

    Shows the ten most confident labels; * marks those above 50%. Heads of kind two_tower and devise show the ten
    nearest texts with their similarities.
    """
    from cliploom.pipelines.console import say, show, show_json
    from cliploom.pipelines.training.predict import predict_any, prediction_text

    found = predict_any(find_store(store, "predict"), head, video, lambda text: say(f"• {text}"))
    if as_json:
        show_json([{"label": each.label, "name": each.name, "score": each.score} for each in found.labels])
    else:
        show(prediction_text(found.labels, found.scores))
