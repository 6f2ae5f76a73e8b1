"""Projection on principal components, as YouTube-8M makes its features from Inception's.

``y = (x - mean) @ vectors[:, :k] / sqrt(values[:k] + 1e-4)``: centred, projected, whitened; no L2 norm. Source:
google/youtube-8m, feature_extractor/feature_extractor.py; docs/formats.md section 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.errors import SpecError
from cliploom.transforms.inputs.numpy_files import ArrayFileError, npz_names, read_npy, read_npz

EPSILON = 1e-4
_NAMES = {
    "mean": ("mean", "pca_mean"),
    "vectors": ("eigenvectors", "eigenvecs", "vectors", "pca_eigenvecs"),
    "values": ("eigenvalues", "eigenvals", "values", "pca_eigenvals"),
}


@dataclass(frozen=True)
class Pca:
    """Matrices of a projection from D to K numbers.

    Attributes:
        mean: the mean, float32 [D].
        vectors: the components, float32 [D, K], one per column, largest first.
        values: the variances of the components, float32 [K].
    """

    mean: NDArray[np.float32]
    vectors: NDArray[np.float32]
    values: NDArray[np.float32]

    @property
    def width(self) -> int:
        """D, the length of the input."""
        return len(self.mean)

    @property
    def components(self) -> int:
        """K, the length of the output."""
        return len(self.values)

    def first(self, components: int) -> Pca:
        """Return the projection on the first components."""
        return Pca(self.mean, np.ascontiguousarray(self.vectors[:, :components]), self.values[:components])

    def apply(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Project float32 [..., D] to float32 [..., K].

        Raises:
            ValueError: the last axis is not of length D.
        """
        if features.shape[-1:] != (self.width,):
            raise ValueError(f"this PCA takes features of {self.width} numbers, not of shape {features.shape}")
        projected = (features - self.mean) @ self.vectors
        return np.asarray(projected / np.sqrt(self.values + np.float32(EPSILON)), np.float32)


def save_pca(file: Path | BinaryIO, pca: Pca) -> None:
    """Write the matrices as an .npz file that ``load_pca`` reads."""
    np.savez(file, mean=pca.mean, eigenvectors=pca.vectors, eigenvalues=pca.values)


def load_pca(path: Path, *, components: int | None = None, rows: bool = False) -> Pca:
    """Read the matrices from an .npz file, or from a folder of .npy files.

    The arrays are named ``mean`` [D], ``eigenvectors`` (or ``eigenvecs``) and ``eigenvalues`` (``eigenvals``); the
    first and last may have the shape [D, 1]. Nothing is unpickled.

    Args:
        path: the .npz file or the folder.
        components: the number of components to keep; all by default.
        rows: whether the matrix has one eigenvector per *row*, as in YouTube-8M's published files; a square matrix does
            not show it.

    Raises:
        SpecError: an array is missing, needs pickle, does not match the others or is not finite.
    """
    arrays = {part: _array(path, names) for part, names in _NAMES.items()}
    mean, values = (_vector(path, part, arrays[part]) for part in ("mean", "values"))
    vectors = arrays["vectors"].T if rows else arrays["vectors"]
    if vectors.ndim != 2 or vectors.shape[0] != len(mean):
        turn = f"; its rows are eigenvectors when transposed fits, then say rows: {str(not rows).lower()}"
        hint = turn if vectors.ndim == 2 and vectors.shape[1] == len(mean) else ""
        raise SpecError(f"{path}: eigenvectors of shape {vectors.shape} don't fit a mean of {len(mean)} numbers{hint}.")
    keep = min(vectors.shape[1], len(values)) if components is None else components
    if not 0 < keep <= min(vectors.shape[1], len(values)):
        raise SpecError(
            f"{path} has {vectors.shape[1]} eigenvectors and {len(values)} eigenvalues, not the {keep} wanted."
        )
    pca = Pca(_floats(mean), _floats(vectors[:, :keep]), _floats(values[:keep]))
    for part, array in (("mean", pca.mean), ("eigenvectors", pca.vectors), ("eigenvalues", pca.values)):
        if not np.isfinite(array).all():
            raise SpecError(f"{path}: the {part} are not all finite numbers; the PCA has to be fitted again.")
    if pca.values.min() + np.float32(EPSILON) <= 0:
        raise SpecError(f"{path}: an eigenvalue is {pca.values.min():g}; variances can't be negative.")
    return pca


def _array(path: Path, names: tuple[str, ...]) -> NDArray[np.generic]:
    try:
        if path.is_dir():
            for name in names:
                if (file := path / f"{name}.npy").is_file():
                    return read_npy(file)
        else:
            stored = npz_names(path)
            for name in names:
                if name in stored:
                    return read_npz(path, name)
    except ArrayFileError as error:
        raise SpecError(str(error)) from error
    except OSError as error:
        raise SpecError(f"{path} can't be read ({error.strerror}).") from error
    raise SpecError(f"{path} has no array '{names[0]}'; PCA needs mean, eigenvectors and eigenvalues.")


def _vector(path: Path, part: str, array: NDArray[np.generic]) -> NDArray[np.generic]:
    if array.size != max(array.shape, default=0):
        raise SpecError(f"{path}: the {part} have shape {array.shape}; one row of numbers is needed.")
    return array.reshape(-1)


def _floats(array: NDArray[np.generic]) -> NDArray[np.float32]:
    if array.dtype.kind not in "fiu":
        raise SpecError(f"PCA matrices are numbers, not {array.dtype}.")
    return np.ascontiguousarray(array, np.float32)
