"""Compiled text towers that are kept on the machine: same vectors, one writer at a time, damage does no harm."""

from __future__ import annotations

import fcntl
import tempfile
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as op

from cliploom.schemas.errors import CliploomError
from cliploom.transforms.encoders import compile_cache
from cliploom.transforms.encoders.runtime import CompiledGraph, named_result, save_graph

IDS = np.arange(6, dtype=np.int32).reshape(1, 6)


@pytest.fixture
def graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of vectors and a layer, as a text tower has them; the machine's temporary folder is the test's."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    rng = np.random.default_rng(0)
    ids = op.parameter([-1, -1], np.int32, name="ids")
    vectors = op.gather(rng.standard_normal((50, 64), np.float32), ids, np.int64(0))
    hidden = op.relu(op.matmul(vectors, rng.standard_normal((64, 32), np.float32), False, False))
    result = named_result(op.reduce_mean(hidden, np.array([1], np.int64), False), "embedding")
    save_graph(ov.Model([result], [ids], "text"), tmp_path / "text.xml")
    return tmp_path / "text.xml"


def vectors(graph: Path, *, kept: bool = True) -> np.ndarray:
    return CompiledGraph(graph, ["embedding"], "f32", kept=kept).run([IDS])["embedding"]


def blobs() -> list[Path]:
    return sorted(Path(tempfile.gettempdir()).glob("cliploom-compiled-*/*/*.blob"))


def test_what_is_kept_gives_the_same_vectors(graph: Path) -> None:
    plain = vectors(graph, kept=False)
    assert blobs() == []
    np.testing.assert_array_equal(vectors(graph), plain)
    (kept,) = blobs()
    before = kept.stat()
    np.testing.assert_array_equal(vectors(graph), plain)
    assert kept.stat().st_mtime_ns == before.st_mtime_ns
    assert kept.stat().st_size < graph.with_suffix(".bin").stat().st_size + 20_000


@pytest.mark.parametrize("damage", ["empty", "half", "noise"])
def test_a_damaged_file_is_compiled_again(graph: Path, damage: str) -> None:
    plain = vectors(graph)
    (kept,) = blobs()
    data = kept.read_bytes()
    kept.unlink()
    noise = np.random.default_rng(1).bytes(len(data))
    kept.write_bytes({"empty": b"", "half": data[: len(data) // 2], "noise": noise}[damage])
    np.testing.assert_array_equal(vectors(graph), plain)
    np.testing.assert_array_equal(vectors(graph), plain)


def test_what_a_killed_process_left_is_removed(graph: Path) -> None:
    plain = vectors(graph)
    (kept,) = blobs()
    (kept.parent / compile_cache.WHOLE).unlink()
    left = kept.with_name("0.blob")
    left.write_bytes(b"half")
    np.testing.assert_array_equal(vectors(graph), plain)
    assert not left.exists()
    assert (kept.parent / compile_cache.WHOLE).exists()


def test_while_another_process_is_at_it_nothing_is_kept(graph: Path) -> None:
    plain = vectors(graph, kept=False)
    folder = compile_cache._folder(graph, "f32", _processor())
    with (folder / compile_cache.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        np.testing.assert_array_equal(vectors(graph), plain)
        assert blobs() == []
    vectors(graph)
    assert len(blobs()) == 1


def _processor() -> str:
    core = ov.Core()
    abilities = sorted(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    return f"{core.get_property('CPU', 'FULL_DEVICE_NAME')} {abilities}"


def test_another_graph_at_the_same_place_is_another(graph: Path, tmp_path: Path) -> None:
    first = vectors(graph)
    ids = op.parameter([-1, -1], np.int32, name="ids")
    table = np.random.default_rng(7).standard_normal((50, 32), np.float32)
    mean = op.reduce_mean(op.gather(table, ids, np.int64(0)), np.array([1], np.int64), False)
    save_graph(ov.Model([named_result(mean, "embedding")], [ids], "text"), graph)
    assert not np.array_equal(vectors(graph), first)
    np.testing.assert_array_equal(vectors(graph), vectors(graph, kept=False))


def test_a_damaged_graph_is_said_as_before(graph: Path) -> None:
    graph.write_text("<net")
    with pytest.raises(CliploomError, match="can't be opened"):
        vectors(graph)


def test_only_so_many_graphs_are_kept(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_cache, "MOST_GRAPHS", 2)
    for number in range(4):
        other = graph.with_name(f"text{number}.xml")
        other.write_bytes(graph.read_bytes())
        other.with_suffix(".bin").write_bytes(graph.with_suffix(".bin").read_bytes())
        vectors(other)
    assert len(blobs()) == 2
