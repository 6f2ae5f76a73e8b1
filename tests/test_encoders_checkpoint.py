"""Checkpoints are read without PyTorch and without running code in them."""

from __future__ import annotations

import io
import os
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cliploom.schemas import sizes
from cliploom.transforms.encoders.checkpoint import CheckpointError, load_checkpoint


def op_global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def op_text(text: str) -> bytes:
    return b"X" + len(text).to_bytes(4, "little") + text.encode()


def op_int(number: int) -> bytes:
    return b"J" + number.to_bytes(4, "little", signed=True)


def op_tuple(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def op_storage(key: str, kind: str, length: int) -> bytes:
    return op_tuple(op_text("storage"), op_global("torch", kind), op_text(key), op_text("cpu"), op_int(length)) + b"Q"


def op_tensor(
    key: str, kind: str, length: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0
) -> bytes:
    arguments = op_tuple(
        op_storage(key, kind, length),
        op_int(offset),
        op_tuple(*map(op_int, size)),
        op_tuple(*map(op_int, stride)),
        b"\x89",
        op_global("collections", "OrderedDict") + b")R",
    )
    return op_global("torch._utils", "_rebuild_tensor_v2") + arguments + b"R"


def op_dict(items: dict[str, bytes]) -> bytes:
    return b"}(" + b"".join(op_text(name) + value for name, value in items.items()) + b"u"


def program(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


def zip_checkpoint(path: Path, body: bytes, storages: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("model/data.pkl", program(body))
        archive.writestr("model/byteorder", b"little")
        for key, data in storages.items():
            archive.writestr(f"model/data/{key}", data)
    return path


def legacy_checkpoint(path: Path, body: bytes, storages: dict[str, tuple[int, bytes]]) -> Path:
    stream = io.BytesIO()
    for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "protocol_version": 1001}):
        pickle.dump(value, stream, protocol=2)
    stream.write(program(body))
    pickle.dump(sorted(storages), stream, protocol=2)
    for key in sorted(storages):
        length, data = storages[key]
        stream.write(length.to_bytes(8, "little") + data)
    path.write_bytes(stream.getvalue())
    return path


WANTED = np.arange(6, dtype=np.float32).reshape(2, 3)
BODY = op_dict({"w": op_tensor("0", "FloatStorage", 6, (2, 3), (3, 1))})


def test_reads_a_tensor_of_the_zip_container(tmp_path: Path) -> None:
    found = load_checkpoint(zip_checkpoint(tmp_path / "a.pt", BODY, {"0": WANTED.tobytes()}))
    np.testing.assert_array_equal(found["w"], WANTED)


def test_reads_a_tensor_of_the_old_container(tmp_path: Path) -> None:
    found = load_checkpoint(legacy_checkpoint(tmp_path / "a.pth", BODY, {"0": (6, WANTED.tobytes())}))
    np.testing.assert_array_equal(found["w"], WANTED)


def test_reads_a_lone_tensor_with_offset_and_transposed_strides(tmp_path: Path) -> None:
    body = op_tensor("0", "FloatStorage", 6, (2, 2), (1, 3), offset=1)
    found = load_checkpoint(zip_checkpoint(tmp_path / "a.pt", body, {"0": WANTED.tobytes()}))
    np.testing.assert_array_equal(found, WANTED.ravel()[1:].reshape(-1)[[0, 3, 1, 4]].reshape(2, 2))


@pytest.mark.parametrize(
    ("kind", "array"),
    [
        ("DoubleStorage", np.float64([1.5, -2])),
        ("HalfStorage", np.float16([1.5, -2])),
        ("LongStorage", np.int64([1, -(2**40)])),
        ("ByteStorage", np.uint8([1, 255])),
        ("BoolStorage", np.array([True, False])),
    ],
)
def test_keeps_the_dtype_of_a_storage(tmp_path: Path, kind: str, array: np.ndarray) -> None:
    body = op_tensor("0", kind, 2, (2,), (1,))
    found = load_checkpoint(zip_checkpoint(tmp_path / "a.pt", body, {"0": array.tobytes()}))
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_bfloat16_comes_as_float32(tmp_path: Path) -> None:
    data = (np.float32([1.0, -2.5]).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    body = op_tensor("0", "BFloat16Storage", 2, (2,), (1,))
    assert load_checkpoint(zip_checkpoint(tmp_path / "a.pt", body, {"0": data})).tolist() == [1.0, -2.5]


def test_an_empty_tensor_needs_no_storage_bytes(tmp_path: Path) -> None:
    body = op_tensor("0", "FloatStorage", 0, (0, 3), (3, 1))
    assert load_checkpoint(zip_checkpoint(tmp_path / "a.pt", body, {"0": b""})).shape == (0, 3)


def test_a_hostile_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    body = op_global("os", "system") + op_tuple(op_text(f"touch {canary}")) + b"R"
    for path in (zip_checkpoint(tmp_path / "a.pt", body, {}), tmp_path / "b.pth"):
        if not path.exists():
            path.write_bytes(program(body))
        with pytest.raises(CheckpointError, match=r"os\.system"):
            load_checkpoint(path)
    assert not canary.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "eval"),
        ("posix", "system"),
        ("torch", "load"),
        ("torch._utils", "_rebuild_qtensor"),
        ("torch.storage", "_load_from_bytes"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("collections", "OrderedDict.__class__"),
    ],
)
def test_any_other_name_is_refused(tmp_path: Path, module: str, name: str) -> None:
    with pytest.raises(CheckpointError, match="is not a tensor; it was not run"):
        load_checkpoint(zip_checkpoint(tmp_path / "a.pt", op_global(module, name), {}))


def test_build_can_not_change_what_the_reader_works_with(tmp_path: Path) -> None:
    state = op_dict({"offset": op_int(5)})
    for target in (
        op_global("torch._utils", "_rebuild_tensor_v2"),
        op_global("torch", "FloatStorage"),
        op_storage("0", "FloatStorage", 6),
        op_tensor("0", "FloatStorage", 6, (2, 3), (3, 1)),
    ):
        with pytest.raises(CheckpointError):
            load_checkpoint(zip_checkpoint(tmp_path / "a.pt", target + state + b"b", {"0": WANTED.tobytes()}))


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((2, 3), (3, 1), 1),
        ((7,), (1,), 0),
        ((2,), (-1,), 3),
        ((2,), (1,), -1),
        ((2, 3), (3,), 0),
        ((1 << 30,), (9,), 0),
    ],
)
def test_a_tensor_beyond_its_storage_is_refused(
    tmp_path: Path, size: tuple[int, ...], stride: tuple[int, ...], offset: int
) -> None:
    body = op_tensor("0", "FloatStorage", 6, size, stride, offset)
    with pytest.raises(CheckpointError, match="tensor of size"):
        load_checkpoint(zip_checkpoint(tmp_path / "a.pt", body, {"0": WANTED.tobytes()}))


def test_a_storage_cut_short_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cut to 20 bytes"):
        load_checkpoint(zip_checkpoint(tmp_path / "a.pt", BODY, {"0": WANTED.tobytes()[:20]}))
    with pytest.raises(CheckpointError, match="cut to 20 bytes"):
        load_checkpoint(legacy_checkpoint(tmp_path / "a.pth", BODY, {"0": (6, WANTED.tobytes()[:20])}))


def test_a_storage_of_another_length_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="7 elements where the pickle says 6"):
        load_checkpoint(legacy_checkpoint(tmp_path / "a.pth", BODY, {"0": (7, WANTED.tobytes() + b"1234")}))


def test_compressed_members_are_refused(tmp_path: Path) -> None:
    path = zip_checkpoint(tmp_path / "a.pt", BODY, {"0": WANTED.tobytes()}, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="compressed"):
        load_checkpoint(path)


def test_sets_and_other_values_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"builtins\.complex"):
        load_checkpoint(zip_checkpoint(tmp_path / "a.pt", op_global("builtins", "complex") + b")R", {}))


def test_a_list_that_holds_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="RecursionError"):
        load_checkpoint(zip_checkpoint(tmp_path / "a.pt", b"]q\x00h\x00a", {}))


def test_a_list_of_lists_doubled_forty_times_is_read_once_each(tmp_path: Path) -> None:
    body = b"]q\x00" + b"".join(b"](h" + bytes([n]) + b"h" + bytes([n]) + b"eq" + bytes([n + 1]) for n in range(40))
    found = load_checkpoint(zip_checkpoint(tmp_path / "a.pt", body, {}))
    assert found[0] is found[1]


@pytest.mark.parametrize("content", [b"", b"\x80", b"hello", b"PK\x03\x04broken", os.urandom(300), program(b"N")])
def test_what_is_no_checkpoint_is_named_as_such(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.pt"):
        load_checkpoint(path)


def test_a_zip_that_is_no_checkpoint_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.txt", "x")
    with pytest.raises(CheckpointError, match=r"no single data\.pkl"):
        load_checkpoint(path)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "none.pt")


@pytest.mark.parametrize(
    ("length", "size", "stride"),
    [(1, (17_000, 16_384), (0, 0)), (4, (10**9, 4), (0, 1)), (6, (4, 2), (1, 1)), (1, (1,) * 65, (1,) * 65)],
)
def test_a_tensor_that_repeats_its_storage_is_refused(
    tmp_path: Path, length: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    body = op_tensor("0", "FloatStorage", length, size, stride)
    path = zip_checkpoint(tmp_path / "a.pt", body, {"0": bytes(4 * length)})
    with pytest.raises(CheckpointError, match=r"repeats the|has the strides"):
        load_checkpoint(path)


def test_storages_are_bounded_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "MAX_UNPACKED_BYTES", 20)
    with pytest.raises(CheckpointError, match="unpacks to 24 bytes, more than the 20"):
        load_checkpoint(zip_checkpoint(tmp_path / "a.pt", BODY, {"0": WANTED.tobytes()}))
    with pytest.raises(CheckpointError, match="unpacks to 24 bytes, more than the 20"):
        load_checkpoint(legacy_checkpoint(tmp_path / "a.pth", BODY, {"0": (6, WANTED.tobytes())}))


def test_a_storage_that_claims_more_than_the_file_holds_takes_no_memory(tmp_path: Path) -> None:
    body = op_dict({"w": op_tensor("0", "FloatStorage", 2**31 - 1, (2, 3), (3, 1))})
    with pytest.raises(CheckpointError, match="is cut to 24 bytes"):
        load_checkpoint(legacy_checkpoint(tmp_path / "a.pth", body, {"0": (2**31 - 1, WANTED.tobytes())}))


def nested_tuples(depth: int) -> bytes:
    """A tuple of two references to a tuple of two references ..., whose hash takes 2^depth steps."""
    return b")" + b"".join(b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(depth))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"]r\xff\xff\xff\x7f", "a.pt"),
        (b"}" + nested_tuples(60) + b"K\x01s", "a tuple as a key"),
        (b"}(" + nested_tuples(60) + b"K\x01u", "a tuple as a key"),
        (b"(" + nested_tuples(60) + b"K\x01d", "a tuple as a key"),
        (b"\x8f(" + nested_tuples(60) + b"\x90", "a set"),
        (op_global("collections", "OrderedDict") + b"]" + nested_tuples(60) + b"K\x01\x86a\x85R", "a tuple as a key"),
        (op_tuple(op_text("storage"), op_global("torch", "FloatStorage"), nested_tuples(60)) + b"Q", "a.pt"),
        (b"\x96" + (2**40).to_bytes(8, "little"), "a set or a buffer"),
        (b"\x8e" + (2**40).to_bytes(8, "little"), "a.pt"),
        (b"X" + (2**31).to_bytes(4, "little"), "a.pt"),
        (b"(" * 100_000, "a.pt"),
        (b"]" * 100 + b"a" * 99, "a.pt"),
        (b"]" * 5_000_000, "longer than 4194304 bytes|is beyond 4194304"),
    ],
    ids=[
        "memo number", "item", "items", "dict", "set", "ordered dict", "key of a storage", "buffer", "bytes", "text",
        "marks", "nested", "long",
    ],
)  # fmt: skip
def test_pickles_that_would_take_memory_or_for_ever_end_at_once(tmp_path: Path, body: bytes, said: str) -> None:
    for path in (
        zip_checkpoint(tmp_path / "a.pt", body, {}),
        legacy_checkpoint(tmp_path / "a.pt.pth", body, {}),
    ):
        try:
            load_checkpoint(path)
        except CheckpointError as error:
            assert re.search(said, str(error))  # noqa: PT017
        else:
            assert body.startswith((b"]r", b"]]"))
