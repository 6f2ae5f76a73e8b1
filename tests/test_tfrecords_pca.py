"""Applying and loading PCA matrices."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA

from cliploom.schemas.errors import SpecError
from cliploom.transforms.tfrecords.pca import Pca, load_pca

RANDOM = np.random.default_rng(8)
DATA = (RANDOM.normal(size=(500, 6)) @ RANDOM.normal(size=(6, 6))).astype(np.float32)
MEAN = DATA.mean(axis=0)
VALUES, VECTORS = (array[..., ::-1] for array in np.linalg.eigh(np.cov(DATA.T)))


def save(path: Path, **changes: object) -> Path:
    arrays = {"mean": MEAN, "eigenvectors": VECTORS, "eigenvalues": VALUES} | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_the_formula_by_hand() -> None:
    pca = Pca(np.float32([1, 2]), np.float32([[0], [1]]), np.float32([4 - 1e-4]))
    np.testing.assert_allclose(pca.apply(np.float32([[5, 8], [1, 2]])), [[3], [0]], rtol=1e-6)
    assert (pca.width, pca.components) == (2, 1)


def test_projection_agrees_with_scikit_learn_up_to_sign_and_epsilon(tmp_path: Path) -> None:
    pca = load_pca(save(tmp_path / "a.npz"), components=3)
    expected = PCA(3).fit_transform(DATA) / np.sqrt(VALUES[:3] + 1e-4)
    np.testing.assert_allclose(np.abs(pca.apply(DATA)), np.abs(expected), atol=1e-3)
    assert pca.apply(DATA[0]).shape == (3,)
    assert pca.apply(DATA).dtype == np.float32


def test_a_folder_with_the_published_names_columns_and_rows_reads_the_same(tmp_path: Path) -> None:
    np.save(tmp_path / "mean.npy", MEAN[:, None])
    np.save(tmp_path / "eigenvecs.npy", VECTORS.T)
    np.save(tmp_path / "eigenvals.npy", VALUES[:, None])
    published = load_pca(tmp_path, components=4, rows=True)
    np.testing.assert_array_equal(published.vectors, load_pca(save(tmp_path / "a.npz"), components=4).vectors)
    assert published.mean.shape == (6,)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"mean": None}, "no array 'mean'"),
        ({"mean": np.array([object()])}, "plain numbers are supported"),
        ({"mean": np.array(["a"] * 6)}, "plain numbers are supported"),
        ({"mean": np.zeros((3, 2))}, "mean have shape"),
        ({"eigenvectors": np.zeros((4, 6))}, "rows: true"),
        ({"eigenvectors": np.zeros((4, 4))}, "don't fit a mean of 6 numbers"),
        ({"eigenvalues": np.full(6, np.nan)}, "eigenvalues are not all finite"),
        ({"eigenvalues": np.full(6, -1.0)}, "can't be negative"),
    ],
)
def test_broken_matrices_are_refused(tmp_path: Path, changes: dict[str, object], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        load_pca(save(tmp_path / "a.npz", **changes))


def test_too_many_components_missing_files_and_wrong_widths_are_reported(tmp_path: Path) -> None:
    pca = load_pca(save(tmp_path / "a.npz"))
    with pytest.raises(SpecError, match="not the 7 wanted"):
        load_pca(tmp_path / "a.npz", components=7)
    with pytest.raises(SpecError, match="can't be read"):
        load_pca(tmp_path / "none.npz")
    np.save(tmp_path / "b.npy", MEAN)
    with pytest.raises(SpecError, match=r"not an \.npz|can't be read|no array"):
        load_pca(tmp_path / "b.npy")
    with pytest.raises(ValueError, match="takes features of 6 numbers"):
        pca.apply(np.zeros((2, 5), np.float32))
