"""``cliploom evaluate``: measures a trained head on the labelled videos of the newest release."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cliploom.pipelines.launching.runner import job_name, run_graph
from cliploom.pipelines.launching.target import choose_target, new_run_id, open_store
from cliploom.pipelines.planning.head_jobs import input_columns
from cliploom.schemas.errors import SpecError
from cliploom.schemas.spec import Target
from cliploom.schemas.spec_file import load_spec
from cliploom.schemas.vector_heads import DEVISE
from cliploom.transforms.evaluation.results import shown
from cliploom.transforms.heads.plain import read_head
from cliploom.transforms.heads.published import trained_model
from cliploom.transforms.heads.towers import is_vector_head, read_vector_card
from cliploom.transforms.heads.truths import classes_of, read_truths
from cliploom.transforms.metrics.intervals import Figure
from cliploom.transforms.metrics.labels import LabelMetrics
from cliploom.transforms.metrics.segments import SegmentMetrics
from cliploom.transforms.store.object_store import ObjectStore, existing_store
from cliploom.transforms.store.releases import read_releases
from cliploom.transforms.store.uris import absolute


@dataclass(frozen=True)
class Evaluation:
    """The figures of a head.

    Attributes:
        head: the name of the head; ``model`` is its folder in the store.
        release: the release of ``source`` that was used.
        labels: the metrics over whole videos.
        segments: the metrics over rated segments, if there are any.
        figures: flat hit@k and mean average precision over all classes, with intervals and chance levels; the latter
            over ``sample`` videos.
    """

    head: str
    model: str
    release: int
    source: str
    labels: LabelMetrics
    segments: SegmentMetrics
    figures: dict[str, Figure] = field(default_factory=dict)
    sample: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def evaluate_head(
    target: str, name: str, *, everything: bool = False, on_stage: Callable[[str], None] = lambda text: None
) -> Evaluation:
    """Measure the most recently trained head.

    Args:
        target: a store, or a spec file, whose first target then does the work.
        name: the name of the head.
        everything: whether to include the videos that it was trained on.
        on_stage: a callback that receives progress messages.

    Raises:
        SpecError: there is no such head, nothing to measure on, or the store's vectors are no longer those that the
            head was trained on.
        StoreError: the store does not exist or is damaged.
    """
    from cliploom.transforms.heads.scoring import Scoring, build_scoring

    objects, runner = opened(target)
    release = read_releases(objects).get(None)
    model = trained_model(objects, name)
    if is_vector_head(objects, model):
        kind = read_vector_card(objects, model).kind
        how = "--kind words" if kind == DEVISE else "--kind retrieval --truth captions.csv"
        raise SpecError(
            f"Head {name!r} is of kind {kind} and returns vectors; measure a feature computed with it: "
            f"`cliploom evaluate STORE --feature FEATURE {how}`."
        )
    card = read_head(objects, model).card
    if card.zero_shot is not None:
        raise SpecError(
            f"Head {name!r} is of kind zero_shot; measure the labels that it predicts, by their names: "
            "`cliploom evaluate STORE --kind labels --feature FEATURE`."
        )
    spec = card.spec
    inputs = input_columns(
        (None if everything else spec.validation) or spec.inputs,
        {feature: entry.columns for feature, entry in release.features.items()},
    )
    was, now = ([(each.dim, "" if spec.validation else each.space) for each in side] for side in (card.inputs, inputs))
    if was != now:
        raise SpecError(
            f"Head {name!r} was trained on other vectors than release {release.release} has; train it again."
        )
    source = release.features[inputs[0].feature].source
    classes = {each.label for each in (*card.classes, *classes_of([read_truths(objects, release, source)], {}))}
    run = new_run_id()
    scoring = Scoring(
        store=objects.uri,
        release=release.release,
        model=model,
        inputs=inputs,
        source=source,
        held_out=0.0 if everything else spec.held_out,
        seed=spec.seed,
        classes=len(classes),
        result=f"runs/{run}/figures.json",
    )
    on_stage(f"scoring the videos of {source} in release {release.release}")
    run_graph(lambda pipeline: build_scoring(pipeline, scoring), runner, (), job_name(run))
    figures = json.loads(objects.get(scoring.result))
    objects.delete([scoring.result])
    labels, segments = LabelMetrics(**figures["labels"]), SegmentMetrics(**figures["segments"])
    if not labels.videos and not segments.rated:
        raise SpecError(
            f"Release {release.release} has no labelled video of {source!r} that head {name!r} was not trained on; "
            "measure with --all."
        )
    more = {key: Figure(**value) for key, value in figures["figures"].items()}
    return Evaluation(name, model, release.release, source, labels, segments, more, figures["sample"])


def opened(target: str) -> tuple[ObjectStore, Target]:
    """Return the store that is given directly or by its spec, and where to run."""
    path = Path(target).expanduser()
    if "://" in target or not path.is_file():
        return existing_store(target), Target()
    spec = load_spec(path)
    return existing_store(open_store(spec, absolute(path).parent).uri), choose_target(spec, None)


def evaluation_text(found: Evaluation) -> str:
    """Return the figures as text."""
    labels, segments = found.labels, found.segments
    lines = [
        f"Head {found.head} on {labels.videos} videos of {found.source}, release {found.release}:",
        f"  Hit@1 {labels.hit_at_1:.4f}, PERR {labels.perr:.4f}, GAP@20 {labels.gap:.4f}, MAP {labels.map:.4f} "
        f"({labels.classes} classes)",
        f"  above .5: precision {labels.precision:.4f}, recall {labels.recall:.4f}, {labels.predicted:.2f} classes a "
        f"video (true: {labels.labels:.2f})",
    ]
    for key, figure in found.figures.items():
        of = f", of a sample of {found.sample} videos" if key == "mAP" and found.sample < labels.videos else ""
        lines.append(f"  {key:8} {shown(key, figure)}{of}")
    if segments.rated:
        lines.append(
            f"  segments: MAP@{segments.top:,} {segments.map:.4f} ({segments.classes} classes, {segments.rated} rated "
            "pairs)"
        )
    return "\n".join(lines)
