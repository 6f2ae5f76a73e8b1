"""``cliploom fit-pca``: principal components of a feature, for an encoder of kind pca or a TFRecord export."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from cliploom.pipelines.launching.runner import is_local, job_name, run_graph
from cliploom.pipelines.launching.target import new_run_id
from cliploom.pipelines.training.evaluate import opened
from cliploom.schemas.errors import MissingExtraError, SpecError, UnknownNameError, nearest
from cliploom.schemas.release import Release
from cliploom.schemas.spec import Target
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.releases import read_releases
from cliploom.transforms.store.tables import read_table
from cliploom.transforms.tfrecords.pca import save_pca


@dataclass(frozen=True)
class FittedPca:
    """The fitted matrices.

    Attributes:
        path: the path of the .npz file.
        rows: the number of rows that they were fitted to.
        width, components: the lengths of vectors before and after.
        kept: the share of the variance that the components explain.
    """

    path: str
    feature: str
    output: str
    release: int
    rows: int
    width: int
    components: int
    kept: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def fit_pca(
    target: str,
    feature: str,
    path: Path,
    *,
    output: str | None = None,
    components: int | None = None,
    on_stage: Callable[[str], None] = lambda text: None,
) -> FittedPca:
    """Fit mean, eigenvectors and eigenvalues to all rows of a feature in the newest release.

    Args:
        target: a store, or a spec file, whose first target then does the work.
        feature: the name of the feature.
        path: the .npz file to write; an existing one is replaced.
        output: the output of the feature; optional if it has only one.
        components: the number of components to keep; all by default.
        on_stage: a callback that receives progress messages.

    Raises:
        SpecError: there is no such feature or output, or too few rows or numbers for that many components.
        MissingExtraError: TensorFlow or tf.Transform is not installed.
        StoreError: the store does not exist or is damaged.
    """
    objects, runner = opened(target)
    release = read_releases(objects).get(None)
    chosen = _output(release, feature, output)
    entry = release.features[feature]
    dim = entry.outputs[chosen].dim
    if components is not None and components > dim:
        raise SpecError(f"{feature}.{chosen} has {dim} numbers, so there are no {components} components.")
    if entry.rows < 2:
        raise SpecError(f"{feature} has {entry.rows} rows; at least two are required; {dim} make sense.")
    if importlib.util.find_spec("tensorflow_transform") is None:
        raise MissingExtraError("tensorflow", "cliploom fit-pca")
    from cliploom.transforms.tfrecords.pca_fit import PcaTask, build_fit, fitted

    run = new_run_id()
    with _scratch(objects, run, runner) as scratch:
        task = PcaTask(objects.uri, entry.table, _parts(objects, release, feature), chosen, dim, scratch)
        on_stage(f"analyzing {entry.rows} rows of {feature}.{chosen} in {len(task.parts)} parts")
        run_graph(lambda pipeline: build_fit(pipeline, task), runner, (), job_name(run))
        whole = fitted(task)
    pca = whole.first(components or dim)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_pca(path, pca)
    total = float(whole.values.sum())
    share = float(pca.values.sum()) / total if total else 1.0
    return FittedPca(str(path), feature, chosen, release.release, entry.rows, dim, pca.components, round(share, 6))


def _output(release: Release, feature: str, output: str | None) -> str:
    if feature not in release.features:
        raise UnknownNameError(
            f"Release {release.release} has no feature {feature!r}{nearest(feature, release.features)}"
        )
    known = release.features[feature].outputs
    if output is None and len(known) > 1:
        raise SpecError(f"{feature} has the outputs {', '.join(known)}; name one with --output.")
    chosen = output or next(iter(known))
    if chosen not in known:
        raise UnknownNameError(f"{feature} has no output {chosen!r}{nearest(chosen, known)}")
    return chosen


def _parts(objects: ObjectStore, release: Release, feature: str) -> tuple[str, ...]:
    parts = read_table(objects, "parts", release.tables["parts"])
    return tuple(parts.filter((pl.col("feature") == feature) & (pl.col("rows") > 0))["part"].sort())


@contextmanager
def _scratch(objects: ObjectStore, run: str, target: Target) -> Iterator[str]:
    """Provide a temporary folder that all workers can access: local if they run here, else in the store.

    Raises:
        SpecError: workers are remote and TensorFlow has no file system for the store's bucket.
    """
    if is_local(target):
        with tempfile.TemporaryDirectory(prefix="cliploom-pca-") as local:
            yield local
        return
    folder = f"runs/{run}/pca"
    scheme = objects.uri.partition("://")[0] if objects.root is None else ""
    if scheme not in ("", "gs"):
        raise SpecError(
            f"On {target.runner} tf.Transform works in the store, and TensorFlow can't write to {scheme}://; give "
            f"fit-pca the store itself ({objects.uri}) instead of the spec: then this machine does the work."
        )
    if objects.root is not None:
        (objects.root / folder).mkdir(parents=True)
    try:
        yield objects.uri_of(folder)
    finally:
        if objects.root is not None:
            shutil.rmtree((objects.root / folder).parent, ignore_errors=True)
        else:
            objects.delete([entry.path for entry in objects.list(folder)])


def fitted_text(found: FittedPca) -> str:
    """Return the result as text.

    >>> print(fitted_text(FittedPca("pca.npz", "frames", "pooled", 3, 5000, 1280, 64, 0.8123)))
    pca.npz: 64 of 1280 components of frames.pooled, from 5,000 rows of release 3; they keep 81.2% of the variance
    """
    return (
        f"{found.path}: {found.components} of {found.width} components of {found.feature}.{found.output}, from "
        f"{found.rows:,} rows of release {found.release}; they keep {found.kept:.1%} of the variance"
    )
