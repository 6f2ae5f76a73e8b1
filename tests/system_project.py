"""A folder with one of the packaged specs, copied out by ``cliploom specs``, and stand-ins for what it names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cliploom.pipelines.cli.specs import FOLDER
from cliploom.pipelines.running.run import RunOptions, RunResult, run_spec
from cliploom.pipelines.training.train import Trained, train_head
from cliploom.schemas.spec_file import load_document, load_spec, parse_document
from cliploom.transforms.search.searching import Store, open_store


class SystemProject:
    """A packaged spec in a folder of its own; ``overrides`` are those of ``--set``."""

    def __init__(self, folder: Path, name: str, overrides: Sequence[str] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.overrides = folder, tuple(overrides)
        self.spec = folder / "cliploom.yaml"
        self.spec.write_bytes((FOLDER / f"{name}.yaml").read_bytes())
        self.said: list[str] = []

    def run(self) -> RunResult:
        document = load_document(self.spec, self.overrides)
        return run_spec(parse_document(document), document, self.folder, RunOptions(), self.said.append)

    def train(self, head: str) -> Trained:
        return train_head(load_spec(self.spec, self.overrides), self.folder, head, self.said.append)

    def store(self) -> Store:
        return open_store(str(self.folder / "store"))
