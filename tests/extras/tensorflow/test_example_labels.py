"""The example that learns labels from TFRecords."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import pytest
from commands import ROOT


def test_tfrecords_become_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    folder = shutil.copytree(ROOT / "examples" / "tfrecords_to_labels", tmp_path / "labels")
    main = runpy.run_path(str(folder / "main.py"))["main"]
    names = ("cooking", "football", "trains")
    assert main(folder) == {f"{number:04d}": names[number % 3] for number in range(10)}
