"""Which values of x pictures show black and white: those of the training data, and [0, 1] where that is natural."""

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae.data import Split
from pyro_vae.data.shown_range import shown_range

RNG = np.random.default_rng(0)
UNIT = RNG.random((60, 1, 8, 8)).astype(np.float32)


def found(x, recipe="none", num_levels=None):
    x = torch.from_numpy(np.ascontiguousarray(x))
    return shown_range(Split.make("train", x, None, num_levels, recipe, 0))


def changed(x, **places):
    x = x.copy()
    x.flat[: len(places["values"])] = places["values"]
    return x


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (UNIT, (0, 1)),
        (0.9 * UNIT, (0, 1)),
        (changed(UNIT, values=[np.nan] * 40), (0, 1)),
        (np.full_like(UNIT, np.nan), (0, 1)),
        (np.full_like(UNIT, 0.25), (0, 1)),
        (np.full_like(UNIT, 7.0), (6.5, 7.5)),
        (2 * UNIT - 1, (-1, 1)),
        (changed(2 * UNIT - 1, values=[np.nan, -1.0]), (-1, 1)),
        (255 * UNIT, (0, 255)),
        (0.1 * UNIT, (0, 0.1)),
        (3 + UNIT, (3, 4)),
    ],
)
def test_the_range_of_floats(x, expected):
    assert found(x) == pytest.approx(expected, abs=0.02 * (expected[1] - expected[0]))


def test_far_ends_are_cut_off():
    low, high = found(changed(2 * UNIT - 1, values=[1000.0, -1000.0]))
    assert (low, high) == pytest.approx((-0.99, 0.99), abs=0.01)


def test_a_few_strokes_on_paper_are_no_far_ends():
    strokes = np.zeros((60, 1, 8, 8), np.float32)
    strokes[::9, 0, 4, 4] = -5.0
    assert found(strokes) == (-5.0, 0.0)


def test_counts_begin_at_0_and_end_at_a_high_quantile_of_those_that_are_counted():
    counts = RNG.poisson(4, (200, 1, 8, 8)).astype(np.int32)
    counts.flat[:30] = 10**6
    low, high = found(counts, "levels")
    assert low == 0
    assert high == np.quantile(counts[counts > 0], 0.995) < 20
    assert found(np.zeros_like(counts), "levels") == (0, 1)


def test_levels_and_what_is_drawn_keep_0_to_1():
    assert found((UNIT * 17).astype(np.uint8), num_levels=17) == (0, 1)
    assert found(UNIT[:, :, :2] / 9, "dynamic") == (0, 1)


def test_a_protocol_names_a_range_that_is_not_natural_and_no_other():
    splits = pv.data.from_arrays(2 * UNIT[:, 0] - 1, standardize="no")
    assert splits.protocol["range"] == pytest.approx([-1, 1], abs=0.01)
    train = splits.train.levels
    assert splits.protocol["range"] == [train.min().item(), train.max().item()]
    for other in (UNIT, (UNIT * 17).astype(np.uint8), 2 * UNIT.reshape(60, 64) - 1):  # the last one is a table
        assert "range" not in pv.data.from_arrays(other).protocol
