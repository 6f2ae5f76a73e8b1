"""Principal components of a store's feature, learned by tf.Transform, equal numpy's; they are used on export."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from graph_types import Untyped
from numpy.typing import NDArray

from cliploom.pipelines.cli.main import main
from cliploom.pipelines.running.run import RunOptions, run_spec
from cliploom.pipelines.training.fit_pca import _scratch, fit_pca
from cliploom.schemas.errors import SpecError
from cliploom.schemas.spec import Target
from cliploom.schemas.spec_file import parse_document
from cliploom.schemas.tfrecords import Yt8mVideo
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.tfrecords.framing import write_records
from cliploom.transforms.tfrecords.pca import Pca, load_pca
from cliploom.transforms.tfrecords.pca_fit import PcaTask, build_fit
from cliploom.transforms.tfrecords.write import encode_video
from cliploom.transforms.tfrecords.yt8m import Yt8mFormat, read_videos

DIM = 12


def run(folder: Path, **more: object) -> object:
    source = {"kind": "tfrecord", "format": "yt8m_video", "glob": "*.tfrecord", "rgb": DIM, "audio": 3}
    document = {
        "version": 1,
        "name": "pca",
        "store": "./store",
        "sources": {"yt": source},
        "features": {"yt": {"source": "yt"}},
        **more,
    }
    return run_spec(parse_document(document), document, folder, RunOptions(), lambda text: None).release


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(200, DIM)) @ rng.normal(size=(DIM, DIM)) + rng.normal(size=DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, vectors: NDArray[np.float32]) -> Path:
    folder = tmp_path_factory.mktemp("pca")
    for shard in range(4):
        with (folder / f"{shard}.tfrecord").open("wb") as stream:
            rows = range(shard, len(vectors), 4)
            audio = np.zeros(3, np.float32)
            write_records(stream, (encode_video(Yt8mVideo(f"v{row}", (1,), vectors[row], audio)) for row in rows))
    run(folder)
    return folder


@pytest.fixture(scope="module")
def fitted(project: Path) -> Pca:
    found = fit_pca(str(project / "store"), "yt", project / "pca.npz", output="rgb")
    assert (found.rows, found.width, found.components, found.kept) == (200, DIM, DIM, 1.0)
    return load_pca(project / "pca.npz")


def test_components_are_those_that_numpy_finds(fitted: Pca, vectors: NDArray[np.float32]) -> None:
    exact = vectors.astype(np.float64)
    values, columns = np.linalg.eigh(np.cov(exact.T, bias=True))
    np.testing.assert_allclose(fitted.mean, exact.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(fitted.values, values[::-1], rtol=1e-5)
    np.testing.assert_allclose(np.abs(fitted.vectors), np.abs(columns[:, ::-1]), atol=1e-5)
    assert (fitted.vectors[np.abs(fitted.vectors).argmax(axis=0), np.arange(DIM)] > 0).all()


def test_projected_features_are_centred_whitened_and_uncorrelated(fitted: Pca, vectors: NDArray[np.float32]) -> None:
    projected = fitted.apply(vectors).astype(np.float64)
    np.testing.assert_allclose(projected.mean(axis=0), 0, atol=1e-4)
    wanted = np.diag(fitted.values / (fitted.values + 1e-4))
    np.testing.assert_allclose(np.cov(projected.T, bias=True), wanted, atol=1e-4)


def test_an_export_takes_the_matrices(project: Path, fitted: Pca, vectors: NDArray[np.float32]) -> None:
    export = {
        "kind": "tfrecord",
        "format": "yt8m_video",
        "feature": "yt",
        "pca": {"path": "pca.npz", "components": 5},
    }
    release = run(project, exports={"out": export})
    (path,) = (project / "store").glob("tfrecords/out/*/*.tfrecord")
    with path.open("rb") as stream:
        found = {record.id: record.rgb for record in read_videos(stream, path.name, Yt8mFormat(5, 3))}
    assert release is not None
    np.testing.assert_allclose(found["v7"], fitted.first(5).apply(vectors[7]), rtol=1e-5, atol=1e-6)


def test_the_command_keeps_as_many_components_as_it_is_asked_for(
    project: Path, fitted: Pca, capsys: pytest.CaptureFixture[str]
) -> None:
    to = project / "few" / "pca.npz"
    arguments = ["fit-pca", str(project / "store"), "--feature", "yt", "--output", "rgb", "--components", "3"]
    with pytest.raises(SystemExit, match="0"):
        main([*arguments, "--to", str(to), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["components"] == 3
    assert told["kept"] == pytest.approx(float(fitted.values[:3].sum() / fitted.values.sum()), abs=1e-5)
    np.testing.assert_array_equal(load_pca(to).vectors, fitted.vectors[:, :3])
    assert not list((project / "store/runs").glob("*/pca"))


def test_workers_elsewhere_share_a_folder_of_the_store(project: Path) -> None:
    objects = ObjectStore(project / "store")
    with _scratch(objects, "somewhere", Target(runner="FlinkRunner")) as folder:
        assert Path(folder) == project / "store/runs/somewhere/pca"
        assert Path(folder).is_dir()
    assert not (project / "store/runs/somewhere").exists()


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URI of a bucket on a real S3 server."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "integration"))
    from s3_server import BUCKET, missing, s3_server

    if missing():
        pytest.skip(missing())
    with s3_server(tmp_path / "s3") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield f"s3://{BUCKET}"


def test_a_store_in_a_bucket_is_learned_from_on_this_machine(
    project: Path, fitted: Pca, bucket: str, tmp_path: Path
) -> None:
    store = f"{bucket}/store"
    run(project, store=store)
    found = fit_pca(store, "yt", tmp_path / "pca.npz", output="rgb")
    assert found.rows == 200
    np.testing.assert_allclose(load_pca(tmp_path / "pca.npz").values, fitted.values, rtol=1e-6)
    assert not [entry.path for entry in ObjectStore(store).list("runs") if "/pca/" in entry.path]
    (tmp_path / "spec.yaml").write_text(
        f"{{version: 1, name: pca, store: '{store}', targets: {{far: {{runner: FlinkRunner, flink_master: 'far:1'}}}}, "
        f"sources: {{yt: {{kind: tfrecord, format: yt8m_video, glob: '*'}}}}, features: {{yt: {{source: yt}}}}}}"
    )
    with pytest.raises(SpecError, match="TensorFlow can't write to s3://; give fit-pca the store itself"):
        fit_pca(str(tmp_path / "spec.yaml"), "yt", tmp_path / "pca.npz", output="rgb")


@pytest.mark.parametrize(
    ("feature", "output", "components", "told"),
    [
        ("yd", None, None, "has no feature 'yd'; known: yt"),
        ("yt", None, None, "has the outputs rgb, audio; name one"),
        ("yt", "rgp", None, "has no output 'rgp'.*rgb"),
        ("yt", "rgb", 13, "has 12 numbers, so there are no 13 components"),
    ],
)
def test_what_can_not_be_fitted_is_reported(
    project: Path, feature: str, output: str | None, components: int | None, told: str
) -> None:
    with pytest.raises(SpecError, match=told):
        fit_pca(str(project / "store"), feature, project / "no.npz", output=output, components=components)


def test_the_elements_of_the_graph_that_learns_have_types(tmp_path: Path) -> None:
    pipeline = beam.Pipeline(runner="FnApiRunner")
    build_fit(pipeline, PcaTask(str(tmp_path), "table", ("part",), "rgb", DIM, str(tmp_path / "fit")))
    visitor = Untyped()
    pipeline.visit(visitor)
    assert visitor.found == []
    assert visitor.seen >= 3
