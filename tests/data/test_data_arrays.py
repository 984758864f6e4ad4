"""A user's own file: what its arrays become, and what is refused."""

import zipfile

import numpy as np
import pytest
import torch

from pyro_vae.data import load
from pyro_vae.errors import DataError, UsageError

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (20, 3, 2), dtype=np.uint8)
FLOATS = RNG.normal(size=(20, 5))


def saved(tmp_path, array=None, **arrays):
    path = tmp_path / ("own.npz" if arrays else "own.npy")
    if arrays:
        np.savez(path, **arrays)
    else:
        np.save(path, array)
    return path


def whole(splits):
    return torch.cat([splits.train.levels, splits.valid.levels, splits.test.levels])


@pytest.mark.parametrize(
    ("array", "x_shape", "num_levels", "dtype"),
    [
        (BYTES, (1, 3, 2), 256, torch.uint8),
        (np.asfortranarray(BYTES), (1, 3, 2), 256, torch.uint8),
        (BYTES[:, None].repeat(3, 1), (3, 3, 2), 256, torch.uint8),
        (BYTES.astype(np.int64), (1, 3, 2), 256, torch.uint8),
        (BYTES > 99, (1, 3, 2), 2, torch.uint8),
        ((BYTES > 99).astype(np.int32), (1, 3, 2), 2, torch.uint8),
        ((BYTES > 99).astype(np.float64), (1, 3, 2), 2, torch.uint8),
        (FLOATS, (5,), None, torch.float32),
        (FLOATS.astype(np.float16), (5,), None, torch.float32),
        (FLOATS.astype(">f8"), (5,), None, torch.float32),
    ],
)
def test_shapes_and_levels(tmp_path, array, x_shape, num_levels, dtype):
    splits = load(saved(tmp_path, array), split="contiguous")
    assert splits.x_shape == x_shape
    assert (splits.train.num_levels, splits.train.levels.dtype) == (num_levels, dtype)
    assert [len(s) for s in (splits.train, splits.valid, splits.test)] == [14, 2, 4]
    np.testing.assert_array_equal(whole(splits).numpy(), array.reshape(20, *x_shape).astype(np.float32))
    assert splits.num_classes == 0


def test_labels_follow_their_images_through_a_random_split(tmp_path):
    x = np.arange(200, dtype=np.uint8)[:, None].repeat(2, 1)
    splits = load(str(saved(tmp_path, x=x, y=np.arange(200) % 7)), data_seed=5)
    assert splits.num_classes == 7
    for split in (splits.train, splits.valid, splits.test):
        assert torch.equal(split.levels[:, 0].long() % 7, split.labels)
        assert split.labels.dtype == torch.int64
    assert whole(splits)[:, 0].sort().values.tolist() == list(range(200))


def test_the_only_array_needs_no_name(tmp_path):
    splits = load(saved(tmp_path, faces=BYTES, y=np.zeros(20, np.int8)))
    assert (splits.x_shape, splits.num_classes) == ((1, 3, 2), 1)


def test_given_splits_stay_as_they_are(tmp_path):
    parts = {"x_train": BYTES[:9], "x_valid": BYTES[9:11], "x_test": BYTES[11:]}
    labels = {"y_train": np.arange(9), "y_valid": np.arange(2), "y_test": np.arange(9)}
    splits = load(saved(tmp_path, **parts, **labels))
    np.testing.assert_array_equal(whole(splits)[:, 0].numpy(), BYTES)
    assert splits.protocol["split"]["kind"] == "given"
    assert splits.protocol["split"]["given"] == ["train", "valid", "test"]
    assert splits.num_classes == 9


def test_a_missing_valid_split_is_held_out_from_training(tmp_path):
    splits = load(saved(tmp_path, x_train=BYTES[:15], x_test=BYTES[15:]))
    assert [len(s) for s in (splits.train, splits.valid, splits.test)] == [14, 1, 5]
    np.testing.assert_array_equal(splits.test.levels[:, 0].numpy(), BYTES[15:])
    assert splits.protocol["split"]["kind"] == "random"
    assert splits.protocol["split"]["given"] == ["test"]


def test_an_unused_array_is_named_in_the_notes(tmp_path):
    splits = load(saved(tmp_path, x=BYTES, made_by=np.arange(20), when=np.arange(3)))
    assert "Arrays of the file that were not used: made_by, when." in splits.protocol["notes"]


def test_an_array_of_objects_is_left_out_and_named(tmp_path):
    splits = load(saved(tmp_path, x=BYTES, y=np.arange(20) % 2, about=np.array({"made": "here"}, dtype=object)))
    assert splits.num_classes == 2
    said = "Arrays of Python objects are never loaded, and were left out: about."
    assert said in splits.protocol["notes"]


def changed(array, where, value):
    array = array.copy()
    array[where] = value
    return array


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (changed(FLOATS, (12, 3), np.nan), r"nan at row 12, position \(3,\)"),
        (changed(FLOATS, (4, 0), -np.inf), r"-inf at row 4, position \(0,\)"),
        (changed(FLOATS, (4, 1), 1e300), r"1e\+300 at row 4, position \(1,\).*float32"),
        (changed(BYTES.astype(np.int64), (7, 2, 1), -1), r"-1 at row 7, position \(0, 2, 1\).*floats"),
        (changed(BYTES.astype(np.int64), (7, 2, 1), 65536), r"65536 at row 7.*`likelihood='negative_binomial'`"),
        (FLOATS[0], r"shape \(5,\).*\(N, D\).*x\[:, None\]"),
        (BYTES[None, None], r"shape \(1, 1, 20, 3, 2\)"),
        (FLOATS[:0], r"empty, its shape is \(0, 5\)"),
        (FLOATS[:, :0], r"empty, its shape is \(20, 0\)"),
        (FLOATS[:4], r"4 data are too few to split \(train 2 / valid 0 / test 2\)"),
        (FLOATS.astype(complex), "complex128 is not supported"),
        (FLOATS.astype(str), "not supported"),
        (FLOATS.astype(object), "Python objects need pickle.*never loaded"),
    ],
)
def test_refuses(tmp_path, array, message):
    path = saved(tmp_path, array)
    with pytest.raises(DataError, match=message) as caught:
        load(path)
    assert path.name in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": BYTES, "b": BYTES}, "holds the arrays a, b. Name the data x"),
        ({"x_train": BYTES, "x_valid": BYTES}, "no x_test"),
        ({"x": BYTES, "images": BYTES}, "both x and images could be x. Name the data x"),
        ({"x_val": BYTES, "valid_images": BYTES, "x_test": BYTES}, "both x_val and valid_images could be x_valid"),
        ({"x_train": BYTES, "x_test": FLOATS}, "one type and one shape"),
        ({"x_train": BYTES, "x_test": BYTES[:, :2]}, "one type and one shape"),
        ({"x_train": BYTES, "x_test": BYTES, "y_test": np.arange(20)}, "labels only for x_test"),
        ({"x": BYTES, "y": np.arange(19)}, "one for each of the 20 data"),
        ({"x": BYTES, "y": np.where(np.arange(20) == 7, np.nan, 0)}, "label of row 7 of x is missing"),
        ({"x": BYTES, "y": np.zeros(20, "M8[s]")}, r"of type datetime64.*y.astype\(str\)"),
        ({"x": BYTES, "y": np.zeros((20, 3))}, r"float64 \(20, 3\); expected one for each"),
        ({"x": BYTES.repeat(60, 0), "y": np.arange(1200)}, "1200 different values, and at most 1000"),
    ],
)
def test_refuses_an_archive(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message):
        load(saved(tmp_path, **arrays), needs_labels=True)


def test_a_text_is_not_called_a_pickle(tmp_path):
    path = tmp_path / "own.npy"
    path.write_text("0.1, 0.2\n0.3, 0.4\n")
    with pytest.raises(DataError, match=r"own.npy: is not a numpy file. Write it with np.save") as caught:
        load(path)
    assert "pickle" not in str(caught.value)


def test_damaged_files(tmp_path):
    path = saved(tmp_path, BYTES)
    for keep in (0, 5, 40, 130):
        path.write_bytes(path.read_bytes()[:keep] if keep else b"")
        with pytest.raises(DataError, match=r"own.npy: cannot be read"):
            load(path)
        np.save(path, BYTES)
    archive = saved(tmp_path, x=BYTES)
    archive.write_bytes(archive.read_bytes()[:100])
    with pytest.raises(DataError, match=r"own.npz: cannot be read"):
        load(archive)
    with pytest.raises(DataError, match="no such file"):
        load(tmp_path / "none.npy")


@pytest.mark.thorough
def test_an_archive_that_unpacks_a_thousandfold_is_refused(tmp_path):
    path = tmp_path / "bomb.npz"
    block = bytes(1 << 24)
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x.npy", "w", force_zip64=True) as file,
    ):
        for _ in range(65):
            file.write(block)
    with pytest.raises(DataError, match="would unpack to"):
        load(path)


@pytest.mark.parametrize("binarize", ["dynamic", "static", "threshold"])
def test_floats_outside_the_unit_interval_are_not_binarised(tmp_path, binarize):
    x = changed(RNG.uniform(size=(20, 5)), (8, 2), 1.5)
    with pytest.raises(DataError, match=r"got 1.5 at row 8.*`likelihood='normal'`"):
        load(saved(tmp_path, x), binarize=binarize)


def test_floats_inside_the_unit_interval_are_binarised(tmp_path):
    splits = load(saved(tmp_path, RNG.uniform(size=(20, 5))), binarize="dynamic")
    assert set(splits.test.fixed().unique().tolist()) == {0.0, 1.0}


def test_floats_are_not_dequantised(tmp_path):
    with pytest.raises(UsageError, match=r"own.npy holds floats"):
        load(saved(tmp_path, FLOATS), dequantize=True)
