"""Exponential and logarithm are exact to two units in the last place, at the edges too, and only in float32 our own."""

import math

import pytest
import torch

from pyro_vae.graphs.elementary import exp, log1p
from pyro_vae.graphs.kernels import decompositions


def units(found, truth):
    """The distance of float32 numbers from float64 ones, in units in the last place of these."""
    rounded = truth.float().abs()
    return (found.double() - truth).abs() / (torch.nextafter(rounded, torch.tensor(math.inf)) - rounded).double()


def test_exp_is_exact_to_two_units_wherever_it_is_finite():
    x = torch.cat([torch.linspace(-104, 88.7, 1_000_001), torch.randn(100_000) * 1e-3])
    assert units(exp(x), x.double().exp()).max() < 2


def test_exp_at_the_edges():
    found = exp(torch.tensor([0.0, -0.0, 88.8, math.inf, -math.inf, -105.0, -1e30, math.nan]))
    assert found[:-1].tolist() == [1.0, 1.0, math.inf, math.inf, 0.0, 0.0, 0.0]
    assert found[-1].isnan()


def test_log1p_is_exact_to_two_units_in_float32():
    near, far = torch.linspace(0, 1, 1_000_001), torch.logspace(-30, 38, 100_001)
    x = torch.cat([near, near * 1e-6, far, -torch.logspace(-30, -1e-4, 100_001), torch.linspace(-0.99999, 10, 300_001)])
    assert units(log1p(x), x.double().log1p()).max() < 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log1p_of_every_type(dtype):
    mpmath = pytest.importorskip("mpmath")
    mpmath.mp.dps = 40
    small = torch.logspace(-30, 0, 301, dtype=dtype)
    x = torch.cat([small, -small[:-1], 10 ** torch.linspace(0, 30, 61, dtype=dtype)])
    found, unit = log1p(x), torch.finfo(dtype).eps
    for value, argument in zip(found.tolist(), x.tolist(), strict=True):
        truth = mpmath.log1p(mpmath.mpf(argument))
        assert abs((value - truth) / truth) <= 2 * unit, argument


def test_log1p_at_the_edges():
    x = torch.tensor([0.0, -0.0, -1.0, math.inf, -2.0, math.nan])
    found = log1p(x)
    assert found[:4].tolist() == [0.0, 0.0, -math.inf, math.inf]
    assert found[4:].isnan().all()


@pytest.mark.parametrize("operation", ["exp", "log1p"])
def test_other_types_keep_their_own(operation):
    ours = decompositions()[getattr(torch.ops.aten, operation).default]
    for x in (torch.linspace(-0.9, 3, 50, dtype=torch.float64), torch.arange(3)):
        found = ours(x)
        truth = getattr(torch, operation)(x)
        assert found is NotImplemented or torch.allclose(found, truth, rtol=4e-16 if x.is_floating_point() else 1e-6)
