"""Missing numbers stay missing under every recipe; columns that say nothing, or that float32 would round away."""

import re

import numpy as np
import pytest
import torch
from own_data import BYTES, RNG, TABLE, notes, parts, same, saved

from pyro_vae.data import from_arrays, load
from pyro_vae.data.recipes import RECIPES
from pyro_vae.errors import DataError

GAPS = RNG.random((60, 3, 2)) < 0.3
MADE = {
    "none": {},
    "dynamic": {"binarize": "dynamic"},
    "static": {"binarize": "static"},
    "threshold": {"binarize": "threshold"},
    "dequantize": {"dequantize": True},
    "levels": {"levels": True},
}


@pytest.mark.parametrize("recipe", MADE)
@pytest.mark.parametrize("mask", [True, False])
def test_a_missing_number_is_nan_under_every_recipe(recipe, mask):
    """The others are what they are without gaps, draw by draw."""
    x = BYTES if mask else np.where(GAPS, np.nan, BYTES).astype(np.float32)
    more = {"mask": ~GAPS} if mask else {"num_levels": 256}
    assert set(MADE) == set(RECIPES)
    whole, gappy = from_arrays(BYTES, **MADE[recipe]), from_arrays(x, missing=True, **more, **MADE[recipe])
    assert gappy.train.num_levels == 256
    for part, other in zip(parts(whole), parts(gappy), strict=True):
        hidden = torch.from_numpy(GAPS[part.file_rows][:, None])
        expected = torch.where(hidden, torch.nan, part.fixed())
        torch.testing.assert_close(other.fixed(), expected, rtol=0, atol=0, equal_nan=True)
        for batch, gaps in zip(part.batches(7, seed=1, epoch=2), other.batches(7, seed=1, epoch=2), strict=True):
            seen = gaps[0].isfinite()
            assert torch.equal(gaps[0][seen], batch[0][seen])
        assert int(other.fixed().isnan().sum()) == hidden.sum()
        assert gappy.protocol["missing"][part.name] == pytest.approx(hidden.double().mean().item(), abs=1e-12)


def test_floats_and_counts_with_gaps():
    x = np.where(RNG.random((60, 5)) < 0.3, np.nan, RNG.poisson(300, (60, 5)))
    for options in ({}, {"counts": True}, {"standardize": "no"}):
        splits = from_arrays(x, missing=True, **options)
        for part in parts(splits):
            np.testing.assert_array_equal(part.fixed().numpy(), x[part.file_rows].astype(np.float32))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_what_stands_behind_a_mask_says_nothing(dtype):
    mask = ~GAPS
    x = (BYTES // 16).astype(dtype)
    x[GAPS] = 99 if dtype == np.uint8 else -999
    splits = from_arrays(x, mask=mask, missing=True)
    assert splits.train.num_levels == (None if dtype == np.float32 else 16)


def test_bits_with_gaps_are_bits():
    splits = from_arrays(np.where(GAPS, np.nan, BYTES > 99), missing=True)
    assert (splits.train.num_levels, splits.about.split(", ")[1]) == (2, "0 or 1")


def test_gaps_are_refused_where_nobody_spoke_of_them(tmp_path):
    x = TABLE.copy()
    x[41, 3] = np.nan
    with pytest.raises(DataError, match=r"nan at row 41, position \(3,\).*use `missing=True`"):
        from_arrays(x)
    with pytest.raises(DataError, match=r"nan at row 41, position \(3,\), which is not a count.*`missing=True`"):
        from_arrays(np.abs(np.floor(x)), counts=True)
    path = saved(tmp_path, x=BYTES, mask=~GAPS)
    with pytest.raises(DataError, match="holds a mask of missing numbers: use `missing=True`"):
        load(path)
    same(load(path, missing=True), from_arrays(BYTES, mask=~GAPS, missing=True))


@pytest.mark.parametrize("mask", [GAPS[:50], GAPS.astype(int), GAPS[:, 0]])
def test_a_mask_of_another_form_is_refused(mask):
    with pytest.raises(DataError, match=re.escape(f"{mask.dtype} {mask.shape}; expected bool (60, 3, 2), True where")):
        from_arrays(BYTES, mask=mask, missing=True)


# Columns.


def test_constant_columns_are_left_out_and_named():
    x = TABLE.copy()
    x[:, 2], x[:42, 4] = 5.0, 0.1
    splits = from_arrays(x, split="contiguous")
    assert "Left out because they are constant among the training rows: column 2, column 4." in notes(splits)
    assert splits.x_shape == (3,)
    assert splits.protocol["kept"] == [0, 1, 3]
    np.testing.assert_array_equal(splits.test.fixed().numpy(), x[48:, [0, 1, 3]].astype(np.float32))
    assert from_arrays(x, standardize="no").x_shape == (5,)


def test_times_keep_their_differences():
    """Six Unix times, 10 s apart, are one float32."""
    times = 1.7e9 + 10.0 * np.arange(60)
    assert len(np.unique(times[:6].astype(np.float32))) == 1
    splits = from_arrays(np.column_stack([times, TABLE[:, 0]]))
    assert "Float32 would round away the differences in column 0" in notes(splits)
    origin = splits.protocol["origin"]
    assert (origin[0], origin[1]) == (float(np.float32(times[splits.train.file_rows].mean())), 0.0)
    for part in parts(splits):
        seen, rows = part.fixed().numpy(), part.file_rows.numpy()
        np.testing.assert_allclose(seen[:, 0].astype(float) + origin[0], times[rows], rtol=0, atol=1e-4)
        np.testing.assert_array_equal(seen[:, 1], TABLE[rows, 0].astype(np.float32))


def test_columns_with_a_common_value_are_named():
    x = TABLE.copy()
    x[::3, 1] = 0.0
    said = notes(from_arrays(x))
    assert re.search(r"A value repeats often in column 1 \(0 in \d\d%\)\. A density has no upper bound there", said)
    assert "repeats often" not in notes(from_arrays(TABLE))


def test_columns_of_nothing_but_constants_say_so():
    splits = from_arrays(np.full((60, 3), 0.3))
    assert "All columns are constant among the training rows" in notes(splits)
    assert splits.x_shape == (3,)
