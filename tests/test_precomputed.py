import pickle
import zipfile
from typing import ClassVar

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cliploom.schemas import sizes
from cliploom.schemas.errors import ItemError, SpecError
from cliploom.transforms.precomputed.listing import FeatureItem, list_features
from cliploom.transforms.precomputed.read import checked, read_features
from cliploom.transforms.precomputed.window_rule import OMNIVORE, WindowRule, row_times

ROWS = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


class _Named:
    """Pickles as a bare global name, as torch's own reduce does."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class _Reduced:
    def __init__(self, function, arguments):
        self.function, self.arguments = function, arguments


class _Storage:
    def __init__(self, kind, key, length):
        self.pid = ("storage", _Named("torch", kind), key, "cpu", length)


class _TorchPickler(pickle._Pickler):
    """Writes the pickle of ``torch.save`` without torch, which this process must not import."""

    dispatch: ClassVar[dict[object, object]] = dict(pickle._Pickler.dispatch)

    def persistent_id(self, value):
        return value.pid if isinstance(value, _Storage) else None

    def save_named(self, value):
        self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())

    def save_reduced(self, value):
        self.save(value.function)
        self.save(value.arguments)
        self.write(pickle.REDUCE)

    dispatch[_Named] = save_named
    dispatch[_Reduced] = save_reduced


def write_pt(path, array, wrap=lambda tensor: tensor):
    kind = {"f2": "HalfStorage", "f4": "FloatStorage", "f8": "DoubleStorage", "i8": "LongStorage"}[array.dtype.str[1:]]
    strides = tuple(step // array.itemsize for step in array.strides)
    storage = _Storage(kind, "0", array.size)
    arguments = (storage, 0, array.shape, strides, False, _Reduced(_Named("collections", "OrderedDict"), ()))
    tensor = _Reduced(_Named("torch._utils", "_rebuild_tensor_v2"), arguments)
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("archive/data.pkl", "w") as file:
            _TorchPickler(file, 2).dump(wrap(tensor))
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", array.tobytes())


def write(path, array):
    if path.suffix == ".pt":
        write_pt(path, array)
    elif path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez_compressed(path, array)
    else:
        with h5py.File(path, "w") as file:
            file[path.stem] = array


def the_item(path):
    (item,) = list_features([path]).items
    return item


@pytest.mark.parametrize("suffix", [".pt", ".npy", ".npz", ".h5", ".hdf5"])
@pytest.mark.parametrize("shape", [(5, 4), (5, 1, 4)])
def test_every_format_and_both_shapes_give_the_same_rows(tmp_path, suffix, shape):
    path = tmp_path / f"v{suffix}"
    write(path, ROWS.reshape(shape))
    rows = read_features(the_item(path), dim=4)
    assert (rows.dtype, rows.shape) == (np.float32, (5, 4))
    np.testing.assert_array_equal(rows, ROWS)


@pytest.mark.parametrize("dtype", ["<f2", "<f8"])
@pytest.mark.parametrize("suffix", [".pt", ".npy", ".npz", ".h5"])
def test_other_float_widths_become_float32(tmp_path, suffix, dtype):
    path = tmp_path / f"v{suffix}"
    write(path, ROWS.astype(dtype))
    np.testing.assert_array_equal(read_features(the_item(path)), ROWS.astype(dtype).astype(np.float32))


def test_big_endian_and_column_order_are_read_as_well():
    np.testing.assert_array_equal(checked(np.asfortranarray(ROWS.astype(">f8")), "x"), ROWS)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (ROWS.astype(np.int32), "holds int32 values"),
        (ROWS.astype(np.complex64), "holds complex64 values"),
        (ROWS[0], r"shape \[4\]"),
        (ROWS.reshape(1, 5, 4), r"shape \[1, 5, 4\]"),
        (ROWS[:0], r"shape \[0, 4\]"),
        (np.float32(1), "holds a float32, not one array"),
        ({"a": ROWS}, "holds a dict, not one array"),
        (np.where(np.equal(ROWS, ROWS[3, 1]), np.nan, ROWS), "in 1 of its rows, first in row 3"),
        (ROWS.astype(np.float64) * 1e300, "in 5 of its rows, first in row 0"),
    ],
)
def test_what_is_no_feature_array_is_an_item_error(found, message):
    with pytest.raises(ItemError, match=message):
        checked(found, "x")


def test_another_width_than_declared_is_an_item_error():
    with pytest.raises(ItemError, match="vectors of 4 numbers where 8 are declared"):
        checked(ROWS, "x", dim=8)


@pytest.mark.parametrize("suffix", [".pt", ".npy", ".npz", ".h5"])
@pytest.mark.parametrize("cut", [0, 7, 100])
def test_a_damaged_file_is_an_item_error_that_names_it(tmp_path, suffix, cut):
    path = tmp_path / f"v{suffix}"
    write(path, ROWS)
    path.write_bytes(path.read_bytes()[:cut])
    dataset = "/v" if suffix == ".h5" else ""
    with pytest.raises(ItemError, match=f"v{suffix}"):
        read_features(FeatureItem("v", path, dataset))


@pytest.mark.parametrize("suffix", [".pt", ".npy", ".npz", ".h5"])
def test_a_missing_file_is_an_item_error_that_names_it(tmp_path, suffix):
    with pytest.raises(ItemError, match=rf"v{suffix}.* is not there"):
        read_features(FeatureItem("v", tmp_path / f"v{suffix}", "/v" if suffix == ".h5" else ""))


class _Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("suffix", [".pt", ".npy", ".npz"])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, suffix):
    path, touched = tmp_path / f"v{suffix}", tmp_path / "touched"
    objects = np.array([_Hostile(touched)], dtype=object)
    if suffix == ".pt":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(_Hostile(touched)))
    elif suffix == ".npy":
        np.save(path, objects, allow_pickle=True)
    else:
        np.savez(path, objects)
    touched.unlink(missing_ok=True)
    with pytest.raises(ItemError):
        read_features(FeatureItem("v", path))
    assert not touched.exists()


def test_a_bare_pickle_under_another_name_is_refused(tmp_path):
    path = tmp_path / "v.npy"
    path.write_bytes(pickle.dumps(_Hostile(tmp_path / "touched")))
    with pytest.raises(ItemError):
        read_features(FeatureItem("v", path))
    assert not (tmp_path / "touched").exists()


def test_a_checkpoint_with_more_than_a_tensor_is_an_item_error(tmp_path):
    write_pt(tmp_path / "v.pt", ROWS, wrap=lambda tensor: {"features": tensor})
    with pytest.raises(ItemError, match=r"v\.pt holds a dict"):
        read_features(FeatureItem("v", tmp_path / "v.pt"))


def test_an_array_is_chosen_by_key_where_a_npz_holds_several(tmp_path):
    path = tmp_path / "v.npz"
    np.savez(path, rgb=ROWS, flow=ROWS * 2)
    np.testing.assert_array_equal(read_features(FeatureItem("v", path), key="flow"), ROWS * 2)
    with pytest.raises(ItemError, match=r"holds 2 arrays \(rgb, flow\); declare the key"):
        read_features(FeatureItem("v", path))
    with pytest.raises(ItemError, match="no array 'audio', but rgb, flow"):
        read_features(FeatureItem("v", path), key="audio")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5"])
def test_files_that_unpack_to_too_much_are_refused(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(sizes, "MAX_UNPACKED_BYTES", 70)
    path = tmp_path / f"v{suffix}"
    write(path, ROWS)
    with pytest.raises(ItemError, match="more than the 70"):
        read_features(the_item(path))


def test_a_header_that_claims_more_than_the_file_holds_is_an_item_error(tmp_path):
    path = tmp_path / "v.npy"
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (10**9, 4)}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(ROWS.tobytes())
    with pytest.raises(ItemError, match="can't be read"):
        read_features(FeatureItem("v", path))


def test_files_of_other_kinds_are_counted_and_passed_over(tmp_path):
    for name in ("b.pt", "a.NPY", "manifest.yaml", "x.yaml", "README", "b.csv"):
        (tmp_path / name).touch()
    listing = list_features(tmp_path.iterdir())
    assert [item.uid for item in listing.items] == ["a", "b"]
    assert listing.skipped == (("", 1), (".csv", 1), (".yaml", 2))


def test_two_files_with_one_uid_stop_with_both_names(tmp_path):
    (tmp_path / "sub").mkdir()
    paths = [tmp_path / "v.pt", tmp_path / "sub" / "v.npy"]
    for path in paths:
        path.touch()
    with pytest.raises(SpecError, match=r"'v' is the uid of .*v\.npy and of .*v\.pt"):
        list_features(paths)
    listing = list_features(paths, uid_of=lambda path: str(path.relative_to(tmp_path).with_suffix("")))
    assert [item.uid for item in listing.items] == ["sub/v", "v"]


def test_hdf5_files_hold_a_uid_a_dataset_in_groups_too(tmp_path):
    path = tmp_path / "features.h5"
    with h5py.File(path, "w") as file:
        file["a%2Fb%2E1"] = ROWS
        file["nested/c"] = ROWS * 2
        file["deep/er/d"] = ROWS
    items = {item.uid: item for item in list_features([path]).items}
    assert sorted(items) == ["a/b.1", "deep/er/d", "nested/c"]
    np.testing.assert_array_equal(read_features(items["nested/c"]), ROWS * 2)
    np.testing.assert_array_equal(read_features(items["a/b.1"]), ROWS)
    assert [item.uid for item in list_features([path], group="nested").items] == ["c"]
    assert "no group 'absent'" in str(list_features([path], group="absent").failed[0].error)


def test_a_link_to_a_missing_hdf5_part_fails_for_its_uid_alone(tmp_path):
    with h5py.File(tmp_path / "part.h5", "w") as file:
        file["a"] = ROWS
    with h5py.File(tmp_path / "master.h5", "w") as file:
        file["a"] = h5py.ExternalLink("part.h5", "/a")
        file["b"] = h5py.ExternalLink("gone.h5", "/b")
    good, lost = list_features([tmp_path / "master.h5"]).items
    np.testing.assert_array_equal(read_features(good), ROWS)
    with pytest.raises(ItemError, match=r"master\.h5:/b is not there, or links to a missing file"):
        read_features(lost)


def test_a_damaged_hdf5_file_is_listed_as_failed(tmp_path):
    (tmp_path / "x.h5").write_bytes(b"not HDF5")
    listing = list_features([tmp_path / "x.h5"])
    assert not listing.items
    assert "can't be read as HDF5" in str(listing.failed[0].error)


def test_a_group_is_not_a_dataset(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["g/a"] = ROWS
    with pytest.raises(ItemError, match="is not a dataset"):
        read_features(FeatureItem("g", tmp_path / "x.h5", "/g"))


def test_rows_of_omnivore_start_every_16_frames_and_last_32():
    assert OMNIVORE.rate == 1.875
    start, end = row_times(OMNIVORE, 3)
    assert start.tolist() == [0.0, 0.533333, 1.066667]
    assert end.tolist() == [1.066667, 1.6, 2.133333]


@pytest.mark.parametrize(
    ("frames", "n", "last"), [(31, 1, (0, 31)), (32, 1, (0, 32)), (33, 2, (1, 33)), (39, 2, (7, 39)), (48, 2, (16, 48))]
)
def test_the_last_window_ends_on_the_last_frame(frames, n, last):
    start, end = row_times(OMNIVORE, n, frames)
    assert (start[-1], end[-1]) == (round(last[0] / 30, 6), round(last[1] / 30, 6))


@given(st.integers(1, 200), st.integers(1, 64), st.integers(1, 64), st.floats(1, 120))
def test_rows_follow_each_other_by_the_stride(n, window, stride, fps):
    rule = WindowRule(fps, window, stride)
    start, end = row_times(rule, n)
    np.testing.assert_allclose(start, np.arange(n) / rule.rate, atol=1e-6)
    np.testing.assert_allclose(end - start, window / fps, atol=2e-6)


@pytest.mark.parametrize("rule", [(0.0, 32, 16), (30.0, 0, 16), (30.0, 32, 0), (float("nan"), 32, 16)])
def test_a_window_rule_must_be_positive(rule):
    with pytest.raises(SpecError, match="is not a window rule"):
        WindowRule(*rule)
