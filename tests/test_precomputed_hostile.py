"""Feature files that claim more than they hold, or point elsewhere: each is one failure, without memory or a leak."""

from __future__ import annotations

import io
import resource
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from cliploom.schemas import sizes
from cliploom.schemas.errors import ItemError
from cliploom.schemas.media import MediaLimits
from cliploom.transforms.precomputed.listing import FeatureItem, list_features
from cliploom.transforms.precomputed.read import count_rows, read_features
from cliploom.transforms.precomputed.source import array_facts, digest_dataset
from cliploom.transforms.store import zip_files
from cliploom.transforms.work.probing import Asked, probe_item

ROWS = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
MEMORY = 512 * 1024**2


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """Whatever a file claims, reading it takes no more than 512 MB beyond what the process has."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def npy(header: str, body: bytes = b"", version: int = 1) -> bytes:
    data = header.encode()
    length = struct.pack("<H" if version == 1 else "<I", len(data))
    return b"\x93NUMPY" + bytes([version, 0]) + length + data + body


def header(descr: object = "<f4", shape: str = "(5, 4)", fortran: bool = False) -> str:
    return f"{{'descr': {descr!r}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"


HOSTILE_HEADERS = {
    "void of no bytes": (npy(header("|V0", "(1000000000000000, 4)")), "holds '|V0' values"),
    "void": (npy(header("|V8")), "plain numbers"),
    "objects": (npy(header("|O"), b"\x80\x04N."), "plain numbers"),
    "records": (npy(header([("a", "<f4"), ("b", "<f4")])), "plain numbers"),
    "texts": (npy(header("<U1000000000", "(1,)")), "plain numbers"),
    "subarrays": (npy(header(("<f4", (1000000, 1000000)))), "plain numbers"),
    "unknown letter": (npy(header("<f3")), "plain numbers"),
    "huge": (npy(header("<f4", "(1000000000000000, 4)")), "claims 16000000000000000 bytes"),
    "beyond 64 bits": (npy(header("<f4", "(99999999999999999999, 4)")), "beyond 2\\^62"),
    "overflowing to 0": (npy(header("<f4", "(4611686018427387903, 4, 4)")), "claims"),
    "wrapping": (npy(header("<f4", "(2305843009213693952, 8)")), "claims"),
    "negative": (npy(header("<f4", "(-5, 4)")), "below 0"),
    "two negatives": (npy(header("<f4", "(-5, -4)"), ROWS.tobytes()), "below 0"),
    "no tuple": (npy(header("<f4", "[5, 4]"), ROWS.tobytes()), "the shape \\[5, 4\\]"),
    "truths": (npy(header("<f4", "(True, 4)"), ROWS.tobytes()), "the shape"),
    "fractions": (npy(header("<f4", "(5.0, 4)"), ROWS.tobytes()), "the shape"),
    "many dimensions": (npy(header("<f4", f"({'1, ' * 70})"), ROWS.tobytes()), "the shape"),
    "hexadecimal of 60,000 digits": (npy(header("<f4", f"(0x{'f' * 60000}, 4)")), "beyond 2\\^62"),
    "not a literal": (npy("__import__('os').system('touch x')\n"), "not a Python literal"),
    "half a literal": (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (5,"), "not a Python literal"),
    "unbalanced": (npy("(" * 60000), "not a Python literal"),
    "no text": (npy("\udcff".encode("utf-8", "surrogatepass").decode("latin1")), "not a Python literal"),
    "empty header": (npy(""), "not a Python literal"),
    "header alone, version 2": (npy(header(), version=2)[:14], "ends within its header"),
    "header of 4 GB": (b"\x93NUMPY\x03\x00\xff\xff\xff\xff" + b"x" * 100, "ends within its header"),
    "header of 1 MB": (npy(" " * 2**20 + header(), version=2), "its header has"),
    "future version": (npy(header(), ROWS.tobytes(), 1)[:6] + b"\x09\x00" + b"x" * 100, "version is 9"),
    "cut values": (npy(header(), ROWS.tobytes()[:-1]), "79 follow"),
    "nothing": (b"", "not an .npy file"),
    "zip": (b"PK\x03\x04" + b"x" * 40, "not an .npy file"),
}


@pytest.mark.parametrize("name", HOSTILE_HEADERS)
@pytest.mark.parametrize("archived", [False, True])
def test_npy_header_is_checked_before_memory_is_taken(name: str, archived: bool, tmp_path: Path) -> None:
    data, said = HOSTILE_HEADERS[name]
    path = tmp_path / ("v.npz" if archived else "v.npy")
    if archived:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("v.npy", data)
    else:
        path.write_bytes(data)
    with pytest.raises(ItemError, match=said):
        read_features(FeatureItem("v", path))
    assert array_facts(str(path), path) == {"rows": 1}


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_all_versions_and_orders_of_npy_are_read(version: tuple[int, int], order: str, tmp_path: Path) -> None:
    path = tmp_path / "v.npy"
    with path.open("wb") as file:
        np.lib.format.write_array(file, np.array(ROWS, order=order), version=version)  # type: ignore[call-overload]
    np.testing.assert_array_equal(read_features(FeatureItem("v", path)), ROWS)


def test_headers_of_python_2_are_read(tmp_path: Path) -> None:
    path = tmp_path / "v.npy"
    path.write_bytes(npy(header(shape="(5L, 4L)"), ROWS.tobytes()))
    np.testing.assert_array_equal(read_features(FeatureItem("v", path)), ROWS)


def test_zip_bomb_is_refused_by_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "MAX_UNPACKED_BYTES", 1 << 20)
    path = tmp_path / "v.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("v.npy", npy(header("<f4", "(1048576, 4)"), bytes(16 << 20)))
    assert path.stat().st_size < 50_000
    with pytest.raises(ItemError, match=r"unpacks to 167[0-9]* bytes, more than the 1048576"):
        read_features(FeatureItem("v", path))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressions_of_which_4_kb_unpack_to_gigabytes_are_refused(tmp_path: Path, method: int) -> None:
    path = tmp_path / "v.npz"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("v.npy", npy(header(), ROWS.tobytes()) + bytes(1 << 20))
    with pytest.raises(ItemError, match=r"'v.npy' is compressed by (bzip2|lzma)"):
        read_features(FeatureItem("v", path))
    with pytest.raises(ItemError, match=r"'v.npy' is compressed by (bzip2|lzma)"):
        count_rows(FeatureItem("v", path))


def test_zip_that_understates_its_size_is_cut_there(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("v.npy", npy(header("<f4", "(1048576, 4)"), bytes(16 << 20)))
        size = archive.infolist()[0].file_size
    path = tmp_path / "v.npz"
    path.write_bytes(buffer.getvalue().replace(struct.pack("<I", size), struct.pack("<I", 1000)))
    with pytest.raises(ItemError, match="can't be read"):
        read_features(FeatureItem("v", path))


@pytest.mark.parametrize("data", [b"", b"PK\x05\x06" + bytes(18), b"PK\x03\x04" + bytes(100)])
def test_archive_without_an_array_is_one_sentence(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "v.npz").write_bytes(data)
    with pytest.raises(ItemError, match=r"v\.npz"):
        read_features(FeatureItem("v", tmp_path / "v.npz"))


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_archive_of_millions_of_names_is_refused_by_the_size_of_its_list(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zip_files, "MAX_DIRECTORY_BYTES", 10_000)
    path = tmp_path / f"v{suffix}"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(300):
            archive.writestr(f"v{number}.npy", b"")
    with pytest.raises(ItemError, match="its list of files has"):
        read_features(FeatureItem("v", path))


def the_h5(tmp_path: Path) -> FeatureItem:
    return FeatureItem("v", tmp_path / "v.h5", "/v")


def refused(item: FeatureItem, said: str) -> None:
    """Neither read nor digested."""
    with pytest.raises(ItemError, match=said):
        read_features(item)
    with pytest.raises(ItemError, match=said):
        digest_dataset(item.path, item.dataset)
    assert array_facts(f"{item.path}::{item.dataset}", item.path) == {"rows": 1}


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A readable file of 80 bytes that is no part of any source."""
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "elsewhere" / "secret.bin"
    path.write_bytes(ROWS.tobytes())
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        file["v"] = ROWS
    folder = tmp_path / "source"
    folder.mkdir()
    return path


def test_external_storage_is_refused(secret: Path, tmp_path: Path) -> None:
    folder = tmp_path / "source"
    with h5py.File(folder / "v.h5", "w") as file:
        file.create_dataset("v", (5, 4), "<f4", external=[(str(secret), 0, 80)])
    refused(the_h5(folder), "keeps its values in other files")


def test_virtual_datasets_are_refused(secret: Path, tmp_path: Path) -> None:
    folder = tmp_path / "source"
    layout = h5py.VirtualLayout((5, 4), "<f4")
    layout[:] = h5py.VirtualSource(str(secret.with_suffix(".h5")), "v", (5, 4))
    with h5py.File(folder / "v.h5", "w") as file:
        file.create_virtual_dataset("v", layout)
    refused(the_h5(folder), "virtual dataset")


@pytest.mark.parametrize("target", ["../elsewhere/secret.h5", "sub/../../elsewhere/secret.h5", "ABSOLUTE", "link.h5"])
@pytest.mark.parametrize("through", ["", "soft", "group", "chain"])
def test_external_links_out_of_the_folder_are_refused(target: str, through: str, secret: Path, tmp_path: Path) -> None:
    folder = tmp_path / "source"
    (folder / "sub").mkdir()
    (folder / "link.h5").symlink_to(secret.with_suffix(".h5"))
    target = str(secret.with_suffix(".h5")) if target == "ABSOLUTE" else target
    with h5py.File(folder / "v.h5", "w") as file:
        item = the_h5(folder)
        if through == "group":
            file["g"] = h5py.ExternalLink(target, "/")
            item = FeatureItem("v", item.path, "/g/v")
        elif through == "soft":
            file["w"] = h5py.ExternalLink(target, "/v")
            file["v"] = h5py.SoftLink("/w")
        elif through == "chain":
            file["v"] = h5py.ExternalLink("part.h5", "/v")
            with h5py.File(folder / "part.h5", "w") as part:
                part["v"] = h5py.ExternalLink(target, "/v")
        else:
            file["v"] = h5py.ExternalLink(target, "/v")
    refused(item, "outside the folder of its file")


def test_links_within_the_folder_are_followed(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    with h5py.File(tmp_path / "parts" / "p.h5", "w") as file:
        file["a/b"] = ROWS
        file["alias"] = h5py.SoftLink("a/../a/b".replace("../a/", ""))
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["v"] = h5py.ExternalLink("parts/p.h5", "/a/b")
        file["w"] = h5py.SoftLink("v")
        file["x"] = h5py.ExternalLink("./parts/p.h5", "alias")
    for name in "vwx":
        np.testing.assert_array_equal(read_features(FeatureItem("v", tmp_path / "v.h5", f"/{name}")), ROWS)


def test_links_that_go_in_circles_end(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["v"] = h5py.SoftLink("/v")
        file["w"] = h5py.ExternalLink("v.h5", "/w")
    refused(the_h5(tmp_path), "more than 32 links")
    refused(FeatureItem("w", tmp_path / "v.h5", "/w"), "more than 32 links")


def test_groups_that_contain_one_another_are_not_walked_for_ever(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as file:
        group = file.create_group("g0")
        for number in range(1, 60):
            inner = file.create_group(f"g{number}")
            group["a"], group["b"] = inner, inner
            group = inner
        group["again"] = file["g0"]
    (failed,) = list_features([tmp_path / "v.h5"]).failed
    assert "contains itself or occurs in two places" in str(failed.error)


def test_datasets_that_were_never_written_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_dataset("v", (10**15, 4), "<f4", chunks=(1024, 4))
        file.create_dataset("small", (5, 4), "<f4", chunks=(5, 4))
        file.create_dataset("plain", (5, 4), "<f4")
        part = file.create_dataset("half", (10, 4), "<f4", chunks=(5, 4), fillvalue=7)
        part[:5] = ROWS
        file.create_dataset("chunky", (1, 4), "<f8", chunks=(2**14, 2**14), maxshape=(None, None), compression="gzip")
    refused(the_h5(tmp_path), "unpacks to 16000000000000000 bytes")
    refused(FeatureItem("v", tmp_path / "v.h5", "/small"), "0 of its 1 chunks")
    refused(FeatureItem("v", tmp_path / "v.h5", "/plain"), "never written")
    refused(FeatureItem("v", tmp_path / "v.h5", "/half"), "1 of its 2 chunks")
    refused(FeatureItem("v", tmp_path / "v.h5", "/chunky"), "a chunk of .* unpacks to 2147483648|0 of its 1 chunks")


@pytest.mark.parametrize(
    "dtype",
    [[("a", "<f4"), ("b", "<f8")], h5py.string_dtype(), h5py.ref_dtype, h5py.vlen_dtype(np.float32), "V16", "S20"],
    ids=["compound", "texts", "references", "ragged", "opaque", "bytes"],
)
def test_datasets_of_other_types_are_refused(dtype: object, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_dataset("v", (5, 4), dtype)
        file["empty"] = h5py.Empty("<f4")
    refused(the_h5(tmp_path), "plain numbers")
    refused(FeatureItem("v", tmp_path / "v.h5", "/empty"), "empty dataset")


def test_chunk_that_unpacks_to_more_than_itself_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "MAX_UNPACKED_BYTES", 16 << 20)
    bomb = zlib.compress(bytes(64 << 20), 9)
    with h5py.File(tmp_path / "v.h5", "w") as file:
        dataset = file.create_dataset("v", (2**20, 1), "<f4", chunks=(2**20, 1), compression="gzip")
        dataset.id.write_direct_chunk((0, 0), bomb)
    refused(the_h5(tmp_path), "unpacks to more than its 4194304 bytes")


def test_chunk_that_is_much_larger_than_its_dataset_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cliploom.transforms.precomputed.hdf5_input._LARGE_CHUNK_BYTES", 1 << 12)
    for name, chunk in (("v.h5", 64), ("w.h5", 8)):
        with h5py.File(tmp_path / name, "w") as file:
            dataset = file.create_dataset(
                "v", ROWS.shape, "<f4", chunks=(chunk, chunk), maxshape=(None, None), compression="gzip"
            )
            dataset[:] = ROWS
    refused(the_h5(tmp_path), "a chunk of .* unpacks to 16384 bytes, of which 80 are used; write it in smaller chunks")
    np.testing.assert_array_equal(read_features(FeatureItem("v", tmp_path / "w.h5", "/v")), ROWS)


@pytest.mark.parametrize("options", [{"compression": "gzip"}, {"compression": "lzf"}, {"chunks": True}])
def test_compressed_datasets_are_read(options: dict[str, object], tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_dataset("v", data=ROWS, fletcher32=True, **options)
    np.testing.assert_array_equal(read_features(the_h5(tmp_path)), ROWS)


@pytest.mark.parametrize("bad", [1e300, -1e39, 3.5e38])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5"])
def test_finite_numbers_beyond_float32_are_reported(bad: float, suffix: str, tmp_path: Path) -> None:
    rows = ROWS.astype(np.float64)
    rows[3, 1] = bad
    path = tmp_path / f"v{suffix}"
    if suffix == ".npy":
        np.save(path, rows)
    elif suffix == ".npz":
        np.savez(path, rows)
    else:
        with h5py.File(path, "w") as file:
            file["v"] = rows
    with pytest.raises(ItemError, match=r"first in row 3 .*is beyond float32"):
        read_features(FeatureItem("v", path, "/v" if suffix == ".h5" else ""))


@pytest.mark.parametrize("suffix", [".npy", ".pt"])
def test_files_larger_than_any_array_are_not_even_digested(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"v{suffix}"
    with path.open("wb") as file:
        file.write(npy(header("<f4", "(1000000000000, 1)")))
        file.truncate(4 * 10**12 + 200)
    status = path.stat()
    asked = Asked("s", "v", str(path), f"{status.st_size}:{status.st_mtime_ns}", "precomputed")
    found = probe_item(asked, MediaLimits())
    assert found.digest is None
    assert "unpacks to 399" in (found.message or "")


@pytest.mark.parametrize("shape", ["(1000000000000000, 0)", "(0, 4)", "()"])
def test_arrays_without_rows_are_no_features(shape: str, tmp_path: Path) -> None:
    path = tmp_path / "v.npy"
    path.write_bytes(npy(header("<f4", shape), bytes(4)))
    with pytest.raises(ItemError, match="has the shape"):
        read_features(FeatureItem("v", path))
    assert array_facts(str(path), path) == {"rows": 1}


def test_this_process_is_small_enough_for_the_limit() -> None:
    """The fixture's limit works: the same bytes asked of numpy itself are refused by the system."""
    with pytest.raises(MemoryError):
        np.zeros(MEMORY // 4 + 1, np.float64)
    assert subprocess.run([sys.executable, "-c", "pass"], check=False).returncode == 0
