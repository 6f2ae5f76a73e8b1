"""Where a spec's work is done and kept: the target by its name, the store from the spec's folder, names of runs."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from cliploom.pipelines.launching.target import choose_target, new_run_id, open_store
from cliploom.schemas.errors import SpecError
from cliploom.schemas.spec import Spec
from cliploom.schemas.spec_file import parse_document


def spec(**changes: object) -> Spec:
    document = {
        "version": 1,
        "name": "x",
        "store": "./store",
        "sources": {"s": {"kind": "media", "glob": "*"}},
        "encoders": {"e": {"kind": "efficientnet_lite0"}},
        "features": {"f": {"source": "s", "sample": {"every": "1s"}, "encoder": "e"}},
        "targets": {"here": {"workers": 1}, "there": {"runner": "FlinkRunner", "flink_master": "host:8081"}},
    }
    return parse_document(document | changes)


def test_the_first_target_is_meant_unless_one_is_named() -> None:
    made = spec()
    assert choose_target(made, None) is made.targets["here"]
    assert choose_target(made, "there") is made.targets["there"]
    with pytest.raises(SpecError, match=r"There is no target 'ther'; the spec has here, there\."):
        choose_target(made, "ther")


def test_a_relative_store_lies_beside_the_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert open_store(spec(), tmp_path).root == tmp_path / "store"
    assert open_store(spec(store=str(tmp_path / "other")), Path("/nowhere")).root == tmp_path / "other"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_store(spec(store="~/store"), Path("/nowhere")).root == tmp_path / "store"


def test_names_of_runs_sort_by_time_and_differ() -> None:
    names = [new_run_id() for _ in range(50)]
    assert len(set(names)) > 1
    stamps = [name.partition("-")[0] for name in names]
    assert stamps == sorted(stamps)
    began = datetime.strptime(stamps[0], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    assert abs((datetime.now(UTC) - began).total_seconds()) < 600
