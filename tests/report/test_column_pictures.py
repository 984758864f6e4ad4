"""Columns of a table beside draws from the program: what is drawn, and what the picture holds."""

import math

import numpy as np
import pytest
import torch
from cases import thorough
from scipy import stats

import pyro_vae as pv
from pyro_vae.report.draw import column_pictures, column_views


class Shifted(torch.nn.Module):
    """x = (2 z, 2 z + 10), of one code z."""

    def forward(self, z, y=None):
        more = 0 if y is None else 100 * y.argmax(-1, keepdim=True)
        return torch.cat([2 * z, 2 * z + 10], -1) + more


class Encoder(torch.nn.Module):
    def forward(self, x, y=None):
        return torch.zeros(len(x), 2)


def program():
    likelihood = pv.likelihoods.Normal(Shifted(), scale=0.5)
    return pv.VAE(pv.priors.StandardNormal(1), pv.posteriors.DiagonalNormal(Encoder(), 1), likelihood)


def test_draws_are_those_of_the_program_and_repeat():
    view = column_views.columns(program(), torch.zeros(400, 2), 0)
    assert view.drawn.shape == (1200, 2)
    assert view.names == ("column 0", "column 1")
    error = math.sqrt(4.25 / 1200)
    np.testing.assert_allclose(view.drawn.mean(0), [0, 10], atol=4 * error)
    np.testing.assert_allclose(view.drawn.var(0), 4.25, atol=4 * 4.25 * math.sqrt(2 / 1200))
    assert torch.equal(view.drawn, column_views.columns(program(), torch.zeros(400, 2), 0).drawn)


def test_a_conditional_program_draws_rows_of_the_labels_of_the_data():
    y = torch.eye(2)[[0, 1, 1, 1]]
    drawn = column_views.columns(program(), torch.zeros(4, 2), 0, y).drawn
    assert (drawn[:, 0] > 50).double().mean() == 0.75


def test_correlations_are_those_of_the_rows_that_have_both_numbers():
    x = np.random.default_rng(0).normal(size=(50, 3)) @ np.array([[1, 0.5, 0], [0, 1, 0], [0, 0, 0.0]])
    x[:9, 0], x[5:20, 1] = np.nan, np.nan
    both = np.isfinite(x[:, :2]).all(1)
    one, constant, other = column_pictures._pairs(x)
    assert one == pytest.approx(stats.pearsonr(x[both, 0], x[both, 1]).statistic)
    assert math.isnan(constant)
    assert math.isnan(other)


def test_bins_hold_all_data_and_whole_numbers_have_their_own():
    x = np.array([-3.0, 8.0, 2.5])
    edges = column_pictures._edges(x, np.array([0.0, 20.0]))
    assert edges[0] <= -3
    assert edges[-1] >= 8
    np.testing.assert_array_equal(column_pictures._edges(np.array([0.0, 3.0]), np.array([1.0])), np.arange(-0.5, 4))
    for nothing in (np.array([]), np.array([2.0])):
        assert np.diff(column_pictures._edges(nothing, nothing)).min() > 0


@pytest.mark.parametrize("columns", [1, 2, *thorough(20)])
def test_any_number_of_columns_makes_a_picture(columns):
    x = torch.randn(30, columns)
    x[:5] = torch.nan
    x[:, 0] = torch.nan
    names = tuple(f"$a_{i}$ with a name that is too long" for i in range(columns))
    view = column_views.Columns(x, torch.randn(40, columns), names, (1.7e9,) * columns)
    assert column_pictures.draw_columns(view).startswith(b"\x89PNG")
