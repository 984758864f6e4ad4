"""Levels, counts and reals; which axis is what; which array of an archive is what."""

import re

import numpy as np
import pytest
import torch
from own_data import BYTES, RNG, TABLE, Y, notes, parts, same, saved

from pyro_vae.data import from_arrays, load
from pyro_vae.data.recipes import RECIPES
from pyro_vae.errors import DataError


@pytest.mark.parametrize(
    ("dtype", "largest", "num_levels"),
    [
        (np.uint8, 1, 2),
        (np.uint8, 16, 17),
        (np.uint8, 127, 128),
        (np.uint8, 128, 256),
        (np.uint8, 250, 256),
        (np.uint16, 4095, 4096),
        (np.uint16, 40_000, 65_536),
        (np.int64, 255, 256),
        (np.int64, 300, 301),
        (np.int32, 40_000, 40_001),
        (np.int64, 65_535, 65_536),
    ],
)
def test_the_number_of_levels(dtype, largest, num_levels):
    x = np.resize(np.arange(largest + 1), (60, 3, 2)).astype(dtype)
    x[7, 1, 1] = largest
    splits = from_arrays(x)
    assert splits.train.num_levels == num_levels
    same(splits, from_arrays(x, num_levels=num_levels)) if num_levels in (256, 65_536) and dtype != np.int64 else None
    assert (f"read as {num_levels} levels" in notes(splits)) == (
        num_levels not in (2, 256, 65_536) or dtype == np.int64
    )
    levels = from_arrays(x, levels=True, split="contiguous")
    np.testing.assert_array_equal(torch.cat([part.fixed()[:, 0] for part in parts(levels)]).numpy(), x)


def test_too_few_levels_are_refused_with_the_row_and_more_are_taken():
    x = np.zeros((60, 3, 2), np.uint8)
    x[41, 2, 0] = 20
    with pytest.raises(DataError, match=r"20 at row 41, position \(0, 2, 0\); `num_levels=17` means whole numbers 0"):
        from_arrays(x, num_levels=17)
    assert from_arrays(x, num_levels=32).train.num_levels == 32
    with pytest.raises(DataError, match=r"0.5 at row 41.*`num_levels=17`"):
        from_arrays(x / 40, num_levels=17)
    same(from_arrays(x.astype(float), num_levels=32), from_arrays(x, num_levels=32))


@pytest.mark.parametrize("num_levels", [2, 3, 17, 255, 256, 257, 4096, 10_001, 65_535, 65_536])
def test_a_dequantised_level_stays_in_its_cell(num_levels):
    """At both ends of the noise, for every level; v + u is exact."""
    recipe = RECIPES["dequantize"](num_levels)
    cells = min(2**15, 2 ** (23 - (num_levels - 1).bit_length()))
    draws = recipe.noise(torch.Size([20_000]), torch.Generator().manual_seed(0))
    assert 0.99 * (cells - 1) <= draws.max() < cells
    ends = torch.tensor([[0], [cells - 1]], dtype=torch.int32)
    levels = torch.arange(num_levels, dtype=torch.int32)
    x = recipe.make(levels, ends)
    assert x.dtype == torch.float32
    assert torch.equal((x.double() * num_levels).floor(), levels.double().expand(2, -1))
    assert torch.equal((x * num_levels).floor(), levels.float().expand(2, -1))
    u = x.double() * num_levels - levels
    assert u.min() > 0
    assert u.max() < 1


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.float32, np.float64, np.uint64])
def test_counts_of_any_size_and_type(dtype):
    largest = {1: 255, 2: 30_000}.get(np.dtype(dtype).itemsize, 1 << 24)
    x = np.resize(np.array([0, 3, 7, largest]), (60, 5)).astype(dtype)
    splits = from_arrays(x, counts=True, split="contiguous")
    assert (splits.train.num_levels, splits.scaling, splits.train.recipe) == (None, "counts", "levels")
    assert splits.train.fixed().max() == largest
    np.testing.assert_array_equal(torch.cat([part.fixed() for part in parts(splits)]).numpy(), x.astype(np.float32))


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (2**24 + 1, np.int64, r"16777217 at row 41.*every count up to 16,777,216"),
        (2.0**25, np.float64, r"33554432.0 at row 41.*Count in larger units"),
        (-1, np.int64, "-1 at row 41.*0 or more"),
        (2.5, np.float32, "2.5 at row 41.*`likelihood='normal'`"),
        (np.inf, np.float32, "inf at row 41"),
    ],
)
def test_what_is_no_count_is_refused_with_its_row(value, dtype, message):
    x = np.ones((60, 5), dtype)
    x[41, 2] = value
    with pytest.raises(DataError, match=message):
        from_arrays(x, counts=True)


def test_integers_of_a_table_are_measurements_where_the_likelihood_is_a_density():
    x = RNG.integers(-50, 1000, (60, 3))
    splits = from_arrays(x, reals=True, split="contiguous")
    assert (splits.train.num_levels, splits.scaling) == (None, "standardized")
    np.testing.assert_array_equal(splits.train.fixed().numpy(), x[:42].astype(np.float32))
    with pytest.raises(DataError, match="save them as floats"):
        from_arrays(x)
    assert from_arrays(x.astype(float)).train.num_levels is None


# Layout.

COLOUR = RNG.integers(0, 256, (60, 8, 6, 3), dtype=np.uint8)


def test_channels_last_are_refused_and_both_cures_give_channels_first(tmp_path):
    np.save(tmp_path / "own.npy", COLOUR)
    with pytest.raises(DataError, match=r"`channels='last'`, or save x.transpose\(0, 3, 1, 2\)"):
        load(tmp_path / "own.npy")
    taken = load(tmp_path / "own.npy", channels="last", binarize="dynamic")
    np.save(tmp_path / "own.npy", COLOUR.transpose(0, 3, 1, 2))
    first = load(tmp_path / "own.npy", binarize="dynamic")
    assert first.x_shape == (3, 8, 6)
    same(taken, first)
    same(from_arrays(COLOUR.transpose(0, 3, 1, 2), binarize="dynamic"), first)


@pytest.mark.parametrize("channels", [1, 4])
def test_one_and_four_channels_last(channels):
    x = np.resize(COLOUR, (60, 8, 6, channels))
    with pytest.raises(DataError, match=f"8 x 6 images with {channels} channel"):
        from_arrays(x)
    assert from_arrays(x, channels="last").x_shape == (channels, 8, 6)
    assert from_arrays(x, channels="first").x_shape == (8, 6, channels)


def test_masks_of_channels_last_turn_with_their_images():
    mask = RNG.random(COLOUR.shape) < 0.7
    turned = (array.transpose(0, 3, 1, 2) for array in (COLOUR, mask))
    a = from_arrays(COLOUR, mask=mask, missing=True, channels="last")
    x, mask = turned
    same(a, from_arrays(x, mask=mask, missing=True))


@pytest.mark.parametrize(
    ("x", "about"),
    [
        (
            np.resize(np.arange(17, dtype=np.uint8), (60, 8, 8)),
            "60 images of 1 x 8 x 8, 17 levels, labels ash ... cedar",
        ),
        (TABLE, "60 rows of 5 numbers, reals, labels ash ... cedar"),
        (BYTES > 99, "60 images of 1 x 3 x 2, 0 or 1, labels ash ... cedar"),
    ],
)
def test_the_first_line_says_what_one_datum_is(x, about):
    assert from_arrays(x, np.array(["cedar", "ash", "birch"])[Y]).about == about


def test_one_image_is_not_so_many_data_in_silence():
    assert "If it is one image, save more of them" in notes(from_arrays(BYTES[:16, 0, :1].repeat(16, 1)))


# Archives.


@pytest.mark.parametrize(
    "names",
    [
        ("x", "labels"), ("X", "Y"), ("data", "target"), ("images", "classes"), ("features", "label"), ("arr", "y"),
        ("train", "y_train"), ("x_train", "train_labels"),
    ],
)  # fmt: skip
def test_names_that_say_what_an_array_is(tmp_path, names):
    splits = load(saved(tmp_path, **{names[0]: BYTES, names[1]: Y}))
    assert splits.num_classes == 3
    for part in parts(splits):
        assert part.labels.tolist() == Y[part.file_rows].tolist()


def test_one_split_alone_takes_its_own_labels_and_says_that_it_was_cut(tmp_path):
    splits = load(saved(tmp_path, y_test=(Y + 1) % 3, y_train=Y, x_train=BYTES))
    assert "The file holds only the split x_train, which was cut into three." in splits.protocol["notes"]
    assert splits.train.labels.tolist() == Y[splits.train.file_rows].tolist()


@pytest.mark.parametrize("valid", ["x_val", "val_x", "X_valid", "validation_images", "dev"])
def test_validation_data_by_any_name(tmp_path, valid):
    splits = load(saved(tmp_path, x_train=BYTES[:40], x_test=BYTES[45:], **{valid: BYTES[40:45]}))
    assert splits.valid.levels[:, 0].tolist() == BYTES[40:45].tolist()


@pytest.mark.parametrize("form", ["csr", "csc", "coo"])
def test_a_sparse_matrix_is_refused_and_its_cure_works(tmp_path, monkeypatch, form):
    import scipy.sparse

    dense = RNG.poisson(0.5, (60, 20))
    scipy.sparse.save_npz(tmp_path / "own.npz", scipy.sparse.coo_array(dense).asformat(form))
    with pytest.raises(DataError, match=r"scipy.sparse") as caught:
        load(tmp_path / "own.npz", counts=True)
    monkeypatch.chdir(tmp_path)
    exec(str(caught.value).partition("dense: ")[2].removesuffix("."), {"np": np, "scipy": scipy})  # noqa: S102
    same(load("own.npy", counts=True), from_arrays(dense, counts=True))
    with pytest.raises(DataError, match=r"pass x.toarray\(\)"):
        from_arrays(scipy.sparse.csr_array(dense), counts=True)


@pytest.mark.parametrize(
    "x", [np.array([[0.0, 1.5]] * 60), np.array([[-3.0, 1.5]] * 60), np.array([[0.0, 255.0]] * 60)]
)
def test_the_cure_of_intensities_works(x):
    with pytest.raises(DataError, match=r"intensities in \[0, 1\]") as caught:
        from_arrays(x * 1.2345644 if x.max() < 9 else x, binarize="dynamic")
    cure = re.search(r"save (.*)\.", str(caught.value))[1]
    cured = eval(cure, {"x": x * 1.2345644 if x.max() < 9 else x, "np": np})  # noqa: S307
    splits = from_arrays(np.where(np.arange(60)[:, None] == 5, 0.5, cured), binarize="dynamic")
    assert splits.train.fixed().unique().tolist() == [0.0, 1.0]
