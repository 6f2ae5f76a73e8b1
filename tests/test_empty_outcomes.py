"""Sources without a usable row, and empty indexes and exports, are reported with the first reasons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import Command, assert_one_sentence, command

SPEC = """\
version: 1
name: empty
store: ./store
sources:
  said: {kind: narrations, format: csv, path: said.csv}
  omni: {kind: precomputed, glob: "feats/*.npy", window: {fps: 30, window: 32, stride: 16}, dim: 4}
encoders: {minilm: {kind: minilm}}
features: {clips: {source: omni}, speech: {source: said, encoder: minilm}}
indexes: {speech: {feature: speech, kind: flat}}
exports:
  pairs: {kind: pairs, feature: clips, text: speech}
"""


@pytest.fixture
def cliploom(capsys: pytest.CaptureFixture[str]) -> Command:
    return command(capsys)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "feats").mkdir()
    (tmp_path / "spec.yaml").write_text(SPEC)
    return tmp_path


def test_sources_whose_rows_are_all_bad_say_why(cliploom: Command, here: Path) -> None:
    (here / "said.csv").write_bytes(b"uid,start_s,text\nv,soon,a\nv,1,caf\xe9\n")
    said = (
        "No row of the sources (said, omni) can be used",
        "line 2: the start_s is not a number",
        "`encoding: cp1252`",
    )
    assert_one_sentence(cliploom("plan", "spec.yaml"), 2, said)


def test_filters_that_leave_nothing_are_named(cliploom: Command, here: Path) -> None:
    (here / "said.csv").write_text("uid,start_s,text\nv,1,a\n")
    ended = cliploom("plan", "spec.yaml", "--set", "sources.said.uids=[w]")
    assert_one_sentence(ended, 2, ("The filters leave nothing", "1 texts dropped (video not asked for)"))
    assert "• sources.said.uids: 1 uid matches no item of its files (such as 'w')" in ended.err


def test_an_index_and_pairs_without_rows_are_warned_of(cliploom: Command, here: Path) -> None:
    (here / "said.csv").write_text("uid,start_s,text\nv,soon,a\n")
    np.save(here / "feats" / "v.npy", np.zeros((4, 4), np.float32))
    ended = cliploom("run", "spec.yaml")
    assert ended.code == 0
    assert "Warning: no row of said can be used: " in ended.err
    lines = ended.out.splitlines()
    reason = f"{here}/said.csv, line 2: the start_s is not a number: 'soon'."
    assert f"Warning: index speech has 0 rows, so searching it finds nothing: {reason}" in lines
    assert f"Warning: export pairs has 0 pairs: {reason}" in lines
    assert "recall" not in ended.out
    assert "Next: cliploom failures" in ended.err


def test_pairs_of_videos_that_do_not_meet_are_warned_of(cliploom: Command, here: Path) -> None:
    (here / "said.csv").write_text("uid,start_s,text\nw,1,a\n")
    np.save(here / "feats" / "v.npy", np.zeros((4, 4), np.float32))
    ended = cliploom("run", "spec.yaml")
    assert "Warning: export pairs has 0 pairs (1 texts: video without features)." in ended.out.splitlines()
    assert "Warning: index" not in ended.out
