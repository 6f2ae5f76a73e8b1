from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pairs_store import write_pairs_store
from torch.utils.data import DataLoader, Dataset

from cliploom.pipelines.running.run import RunOptions, run_spec
from cliploom.schemas.spec_file import load_document, parse_document
from cliploom.transforms.readers.pair_reading import Pairs
from cliploom.transforms.readers.training_views import Moments, torch_dataset
from cliploom.transforms.readers.windows import ClipWindows

SPEC = """\
version: 1
name: clips
store: ./store
sources:
  omni: {kind: precomputed, glob: "feats/*.pt", window: {fps: 30, window: 32, stride: 16}, dim: 4}
features: {clips: {source: omni}}
exports: {clips_h5: {kind: hdf5, feature: clips}}
"""
MOMENTS = [("v0", 8.0, 12.0), ("v1", 0.0, 4.0), ("v0", 60.0, 64.0), ("v1", 3.0, 9.0)]


def features(number: int) -> NDArray[np.float32]:
    return np.random.default_rng(number).normal(size=(50, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder: Path = tmp_path_factory.mktemp("clips")
    (folder / "feats").mkdir()
    for number in range(2):
        torch.save(torch.from_numpy(features(number))[:, None, :], folder / "feats" / f"v{number}.pt")
    (folder / "spec.yaml").write_text(SPEC)
    document = load_document(folder / "spec.yaml")
    run_spec(parse_document(document), document, folder, RunOptions(), lambda text: None)
    return str(folder / "store")


def test_tensors_saved_by_torch_come_through_unchanged(store: str) -> None:
    windows = ClipWindows(store, "clips")
    np.testing.assert_array_equal(windows["v1", 0, 1000], features(1))


@pytest.mark.parametrize("hdf5", [True, False])
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_moments_are_read_in_workers_however_they_start(store: str, start: str, hdf5: bool) -> None:
    moments = Moments(ClipWindows(store, "clips", hdf5=hdf5), MOMENTS)
    expected = np.stack([moments[i] for i in range(len(moments))])
    dataset = torch_dataset(moments)
    assert isinstance(dataset, Dataset)
    loader = DataLoader(dataset, batch_size=2, num_workers=2, multiprocessing_context=start)
    np.testing.assert_array_equal(torch.cat(list(loader)).numpy(), expected)
    np.testing.assert_array_equal(expected[0], features(0)[15:23].mean(0, dtype=np.float64).astype(np.float32))


def test_moments_of_a_batch_are_those_one_by_one(store: str) -> None:
    moments = Moments(ClipWindows(store, "clips"), MOMENTS)
    np.testing.assert_array_equal(moments.__getitems__([3, 0]), [moments[3], moments[0]])


@pytest.fixture(scope="module")
def pairs_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_pairs_store(tmp_path_factory.mktemp("pairs"))


@pytest.mark.parametrize("export", ["hdf5", "parquet"])
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_pairs_are_read_in_workers_however_they_start(pairs_store: str, start: str, export: str) -> None:
    pairs = Pairs(pairs_store, export, "train")
    pairs[0]  # a forked worker must not read on from this file
    loader = DataLoader(torch_dataset(pairs), batch_size=4, num_workers=2, multiprocessing_context=start)
    features, embeddings = (torch.cat(each).numpy() for each in zip(*loader, strict=True))
    expected = pairs.batch(range(len(pairs)))
    np.testing.assert_array_equal(features, expected[0])
    np.testing.assert_array_equal(embeddings, expected[1])
