"""Retrains heads inside a nightly run if enough of their data has changed.

Training uses the newest release, so today's new data is used on the next night. TensorFlow runs in a separate process:
its threads would not survive the forks of a run.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cliploom.pipelines.training.train import prepare_training, prepare_vectors, train_head
from cliploom.schemas.errors import CliploomError, LimitError, MissingExtraError, SpecError, StoreError
from cliploom.schemas.heads import HeadSpec, ZeroShotSpec
from cliploom.schemas.spec import Spec
from cliploom.schemas.spec_file import parse_document
from cliploom.schemas.units import format_duration
from cliploom.transforms.heads.plain import read_head
from cliploom.transforms.heads.published import current_model
from cliploom.transforms.heads.sketches import changed_share
from cliploom.transforms.heads.towers import is_vector_head, read_vector_card
from cliploom.transforms.python_child import python_command
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.releases import read_releases
from cliploom.transforms.work.inflight import die_with

_KINDS: dict[str, type[CliploomError]] = {
    kind.__name__: kind for kind in (CliploomError, LimitError, SpecError, StoreError)
}
_KINDS["MissingExtraError"] = SpecError


@dataclass(frozen=True)
class DueHead:
    """A head that is due for training, and the reason.

    Attributes:
        share: the share of its data that has changed.
        seconds: the duration of its last training; 0 if there was none.
    """

    name: str
    share: float
    seconds: float

    @property
    def reason(self) -> str:
        """The reason as a sentence."""
        if not self.seconds:
            return f"head {self.name} is trained for the first time"
        took = format_duration(max(1.0, round(self.seconds)))
        return f"head {self.name} is trained again: {self.share:.0%} of its data changed; the last training took {took}"


def due_heads(
    spec: Spec, base: Path, objects: ObjectStore, on_stage: Callable[[str], None] = lambda text: None
) -> list[DueHead]:
    """Return the heads that a run trains before planning, by their ``retrain`` settings.

    Args:
        spec: the checked spec.
        base: the folder that its relative paths are resolved against.
        objects: the store.
        on_stage: a callback that receives messages about heads that cannot be trained yet.
    """
    found = []
    if read_releases(objects).latest is None:
        return []
    for name, head in spec.heads.items():
        if isinstance(head, ZeroShotSpec) or head.retrain is None:
            continue
        labels = isinstance(head, HeadSpec)
        try:
            prepare = prepare_training if labels else prepare_vectors
            training = prepare(spec, base, name, objects).training
        except (SpecError, StoreError) as error:
            on_stage(f"head {name} can't be trained yet: {error}")
            continue
        model = current_model(objects, name)
        if model is None or is_vector_head(objects, model) == labels:
            found.append(DueHead(name, 1.0, 0.0))
            continue
        card = read_head(objects, model).card if labels else read_vector_card(objects, model)
        share = changed_share((card.items, card.sketch), training.sketch)
        if model != training.model and share > 0 and share >= head.retrain.after:
            found.append(DueHead(name, share, card.seconds or 1.0))
    return found


def retrain(
    spec: Spec,
    document: dict[str, Any],
    base: Path,
    objects: ObjectStore,
    on_stage: Callable[[str], None],
    *,
    accept_worse: bool,
) -> list[DueHead]:
    """Train the heads that are due, each in a separate process; return them.

    Args:
        spec: the checked spec.
        document: the spec as written.
        base: the folder that its relative paths are resolved against.
        objects: the store.
        on_stage: a callback that receives progress messages.
        accept_worse: whether to use a model that became worse.

    Raises:
        LimitError: a model became worse than ``retrain.margin`` allows; the previous one stays in use.
    """
    due = due_heads(spec, base, objects, on_stage)
    for each in due:
        on_stage(each.reason)
        _train_apart(
            {"document": document, "base": str(base), "head": each.name, "accept_worse": accept_worse}, on_stage
        )
    return due


def _train_apart(request: dict[str, Any], on_stage: Callable[[str], None]) -> None:
    with tempfile.TemporaryDirectory(prefix="cliploom-train-") as folder:
        answer, asked = Path(folder) / "answer.json", Path(folder) / "request.json"
        more = {"answer": str(answer), "parent": os.getpid()}
        asked.write_text(json.dumps(request | more), encoding="utf-8")
        command = python_command(__name__, str(asked))
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            try:
                for line in process.stdout or ():
                    on_stage(f"{request['head']}: {line.strip()}")
            except BaseException:
                process.kill()
                raise
            code = process.wait()
        found = json.loads(answer.read_text(encoding="utf-8")) if answer.exists() else {}
    if "error" in found:
        raise _KINDS.get(found["kind"], CliploomError)(found["error"])
    if code != 0 or not found:
        raise CliploomError(
            f"The training of head {request['head']!r} ended with exit code {code}, possibly for lack of memory; "
            f"`cliploom train SPEC --head {request['head']}` shows what happens."
        )


def main(arguments: list[str]) -> None:
    """Train the head in the request file, and write the result to the file that it names."""
    request = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    die_with(request["parent"])
    try:
        train_head(
            parse_document(request["document"]),
            Path(request["base"]),
            request["head"],
            lambda text: print(text, flush=True),
            accept_worse=request["accept_worse"],
        )
        answer: dict[str, Any] = {"done": True}
    except MissingExtraError as error:
        answer = {"error": str(error), "kind": "MissingExtraError"}
    except CliploomError as error:
        answer = {"error": str(error), "kind": type(error).__name__}
    Path(request["answer"]).write_text(json.dumps(answer), encoding="utf-8")
