"""``cliploom evaluate``: runs evaluations from the spec, or one given on the command line, on a release."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cliploom.pipelines.planning.compile_jobs import stored_evaluations
from cliploom.pipelines.training.evaluate import opened
from cliploom.schemas.errors import SpecError, UnknownNameError, nearest
from cliploom.schemas.evaluations import Evaluation
from cliploom.schemas.spec_file import load_spec
from cliploom.transforms.evaluation.measure import measure
from cliploom.transforms.evaluation.picture import bars
from cliploom.transforms.evaluation.results import Evaluated
from cliploom.transforms.evaluation.truths import with_stored_truth
from cliploom.transforms.store.releases import read_releases
from cliploom.transforms.store.uris import absolute

_NODE: TypeAdapter[Evaluation] = TypeAdapter(Evaluation)


def evaluate_declared(
    target: str, name: str | None, release: int | None, on_stage: Callable[[str], None]
) -> dict[str, Evaluated]:
    """Run the evaluations of a spec on a release.

    Args:
        target: a spec file.
        name: the name of one evaluation; None for all.
        release: the number of the release; None for the newest.
        on_stage: a callback that receives progress messages.

    Raises:
        SpecError: there is no such evaluation, or nothing to measure.
        StoreError: the store does not exist or is damaged.
    """
    path = Path(target).expanduser()
    if "://" in target or not path.is_file():
        raise SpecError(
            f"{target!r} is not a spec file with evaluations; give --feature, or --head for a trained head."
        )
    spec = load_spec(path)
    if not spec.evaluations:
        raise SpecError(
            f"{target} declares no evaluations; add some, such as\n"
            "evaluations:\n  search: {kind: retrieval, feature: FEATURE, truth: captions.csv}\n"
            "or give --head for a trained head."
        )
    if name is not None and name not in spec.evaluations:
        raise UnknownNameError(f"There is no evaluation {name!r}{nearest(name, spec.evaluations)}")
    objects, _ = opened(target)
    found = read_releases(objects).get(release)
    wanted = spec.model_copy(
        update={"evaluations": {key: node for key, node in spec.evaluations.items() if name in (None, key)}}
    )
    nodes = stored_evaluations(wanted, absolute(path).parent, objects, {*found.features, *found.heads, *spec.features})
    results = {}
    for key, node in nodes.items():
        on_stage(f"measuring {key} on release {found.release}")
        results[key] = measure(objects, found, node, key)
    return results


def evaluate_given(
    target: str, settings: Mapping[str, Any], release: int | None, on_stage: Callable[[str], None]
) -> Evaluated:
    """Run an evaluation that is not declared in a spec.

    Args:
        target: a store or a spec file.
        settings: the settings of the evaluation, as in a spec; paths are relative to the working folder.
        release: the number of the release; None for the newest.
        on_stage: a callback that receives progress messages.

    Raises:
        SpecError: the settings are invalid, or there is nothing to measure.
        StoreError: the store does not exist or is damaged.
    """
    try:
        node = _NODE.validate_python(dict(settings))
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise SpecError(f"These options are not a valid evaluation: {message}.") from None
    objects, _ = opened(target)
    found = read_releases(objects).get(release)
    on_stage(f"measuring {settings['kind']} on release {found.release}")
    return measure(objects, found, with_stored_truth(node, Path.cwd(), objects, "--truth"))


def write_figures(found: Mapping[str, Evaluated], folder: Path) -> list[Path]:
    """Write a JSON file and a picture for each evaluation; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, each in found.items():
        written += [folder / f"{name}.json", folder / f"{name}.png"]
        written[-2].write_text(json.dumps(each.to_dict(), indent=1) + "\n", encoding="utf-8")
        bars(each).save(written[-1])
    return written
