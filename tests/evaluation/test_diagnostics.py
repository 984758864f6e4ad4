"""k-hat: the tail index of the weights, whoever drew them, and nothing in the process is changed by asking."""

import subprocess
import sys

import pytest
import torch
from exact import LinearGaussian

import pyro_vae as pv
from pyro_vae.evaluation import psis_khat


def pareto(k, draws, columns, seed=0):
    """Logarithms of generalised Pareto draws by inversion: P(w > t) = (1 + k t)^(-1/k)."""
    noise = torch.Generator().manual_seed(seed)
    u = torch.rand(draws, columns, generator=noise, dtype=torch.float64)
    return (torch.expm1(-k * u.log()) / k).log()


@pytest.mark.parametrize("k", [-0.5, 0.1, 0.3, 0.5, 0.7, 0.9, 1.5])
def test_khat_is_the_tail_index_of_the_weights(k):
    """The mean over 200 data within 4 standard errors, beside the shrinkage that PSIS documents.

    Its prior adds ten tail points at k = 1/2 to the 3 sqrt(4000) = 190 of the data; the rest of the bias is O(1/190).
    """
    khat = psis_khat(pareto(k, 4000, 200))
    expected = (190 * k + 10 * 0.5) / 200
    assert abs(khat.mean() - expected) < 4 * khat.std() / 200**0.5 + 0.015


def test_heavy_tails_are_told_from_light_ones_datum_by_datum():
    """Estimates spread by 0.13 about 0.9 and by 0.09 about 0.2: 92 % and none lie above 0.7; 75 % is 4.4 errors off."""
    weights = torch.stack([pareto(0.9, 4000, 50, seed=1), pareto(0.2, 4000, 50, seed=2)], -1).flatten(1)
    too_heavy = psis_khat(weights).reshape(50, 2) > 0.7
    assert too_heavy[:, 0].double().mean() > 0.75
    assert not too_heavy[:, 1].any()


@pytest.mark.parametrize("ratio", [0.4, 0.6])
def test_a_guide_that_is_too_narrow_has_the_tail_index_of_theory(ratio):
    """w = p/q of N(0, 1) by N(0, r^2) has P(w > t) like t^(-1/k) / sqrt(log t), k = 1 - r^2.

    The square root makes finite draws look lighter, by less than 0.2. A wide guide, r > 1, has bounded weights: k < 0.
    """
    noise = torch.Generator().manual_seed(0)
    z = torch.randn(4000, 200, generator=noise, dtype=torch.float64)
    narrow = -0.5 * (ratio * z) ** 2 + 0.5 * z**2
    wide = -0.5 * (z / ratio) ** 2 + 0.5 * z**2
    assert -0.2 < psis_khat(narrow).mean() - (1 - ratio**2) < 0.02
    assert psis_khat(wide).mean() < 0


def test_neither_the_order_nor_the_constant_of_the_weights_matters():
    weights = pareto(0.5, 400, 6)
    khat = psis_khat(weights)
    assert torch.allclose(psis_khat(weights.flip(0)), khat, rtol=0, atol=1e-9)
    assert torch.allclose(psis_khat(weights - 1e4), khat, rtol=0, atol=1e-6)
    assert torch.allclose(psis_khat(weights[:, [3, 0]]), khat[[3, 0]], rtol=0, atol=0)


def test_equal_weights_have_no_tail_beside_others_that_have():
    weights = pareto(0.5, 400, 3)
    alone = psis_khat(weights)
    weights[:, 1] = -7.5
    khat = psis_khat(weights)
    assert khat[1] == -torch.inf
    assert torch.equal(khat[[0, 2]], alone[[0, 2]])


def test_weights_that_nearly_agree_have_a_tail():
    noise = torch.Generator().manual_seed(0)
    log_weights = 0.005 * torch.rand(1000, 3, generator=noise, dtype=torch.float64)
    assert pv.evaluation.psis_khat(log_weights).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_under_the_exact_posterior_rounding_is_no_tail(dtype):
    truth = LinearGaussian()
    vae, x = truth.vae(), truth.data(40)
    weights = pv.evaluation.log_weights(vae, x, 400, seed=0).to(dtype)
    weights += torch.randn_like(weights) * torch.finfo(dtype).eps * 100
    assert (weights != weights[0]).any(0).all()
    assert (psis_khat(weights) == -torch.inf).all()


def test_too_few_draws_have_no_tail_to_fit():
    few, enough = psis_khat(torch.randn(24, 3)), psis_khat(torch.randn(25, 3))
    assert few.shape == enough.shape == (3,)
    assert few.isnan().all()
    assert not enough.isnan().any()


def test_single_precision_is_computed_in_double_and_the_input_is_left_alone():
    weights = pareto(0.5, 400, 6).float()
    before = weights.clone()
    khat = psis_khat(weights)
    assert khat.dtype == torch.float64
    assert torch.equal(khat, psis_khat(weights.double()))
    assert torch.equal(weights, before)


def test_asking_switches_neither_warnings_nor_validation_of_the_process():
    code = (
        "import warnings, numpy, torch, pyro, pyro_vae as pv\n"
        "import pyro.distributions as dist\n"
        "def state(): return list(warnings.filters), numpy.geterr(), torch.get_default_dtype(), pyro.settings.get()\n"
        "khat, before = pv.evaluation.psis_khat, state()\n"
        "khat(torch.randn(100, 3))\n"
        "assert state() == before\n"
        "try: dist.Bernoulli(torch.tensor(0.5)).log_prob(torch.tensor(2.0))\n"
        "except ValueError: print('still checked')\n"
    )
    ran = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (ran.stderr, ran.stdout) == ("", "still checked\n")
