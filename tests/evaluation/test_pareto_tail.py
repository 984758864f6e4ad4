"""The shape of the tail: that of theory, that of slow sums, and that of ArviZ 0.23, whichever ArviZ is installed."""

import math
import sys
import warnings
from importlib.metadata import version

import mpmath
import numpy as np
import pytest
import torch

from pyro_vae.evaluation import psis_khat
from pyro_vae.evaluation.trust.arviz_adapter import quiet_arviz
from pyro_vae.evaluation.trust.pareto_tail import fitted_shape, tail_shapes

INF, NAN = math.inf, math.nan


def excesses(k, size):
    """The quantiles p = (i - 1/2) / n of the generalised Pareto distribution of shape k: ((1 - p)^-k - 1) / k."""
    upper = (np.arange(size, 0, -1) - 0.5) / size
    return -np.log(upper) if k == 0 else np.expm1(-k * np.log(upper)) / k


def spread(size, columns):
    """Log-weights as irregular as draws, the same on every machine: fractions of multiples of the golden ratio."""
    place = torch.arange(1, size + 1, dtype=torch.float64)[:, None] + 1000 * torch.arange(columns)
    u = (place * (5**0.5 - 1) / 2) % 1
    return -torch.linspace(-0.3, 1.2, columns, dtype=torch.float64) * u.log()


@pytest.mark.parametrize("k", [-0.4, -0.2, 0.0, 0.3, 0.5, 0.7, 1.0, 1.5])
def test_exact_quantiles_have_their_shape(k):
    """Beside the prior's ten at 1/2. The likelihood of n quantiles has its top within O(log n / n) of the truth."""
    size = 10_000
    assert fitted_shape(excesses(k, size)) == pytest.approx((size * k + 10 * 0.5) / (size + 10), abs=1e-3)


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_the_scale_of_the_excesses_does_not_matter(scale):
    tail = excesses(0.7, 95)
    assert fitted_shape(scale * tail) == pytest.approx(fitted_shape(tail), abs=1e-12)


def slow_shape(log_weights):
    """Zhang & Stephens 2009 with the prior of Vehtari et al. 2024, a sum at a time, at fifty digits."""
    with mpmath.workdps(50):
        logs = sorted(mpmath.mpf(number) for number in log_weights.tolist())
        num_tail = math.ceil(min(len(logs) / 5, 3 * math.sqrt(len(logs))))
        threshold = mpmath.exp(logs[-num_tail - 1] - logs[-1])
        tail = [mpmath.exp(number - logs[-1]) - threshold for number in logs if number > logs[-num_tail - 1]]
        n, m = len(tail), 30 + math.isqrt(len(tail))

        def best_k(b):
            return mpmath.fsum(mpmath.log(1 - b * t) for t in tail) / n

        def profile(b):
            return n * (mpmath.log(-b / best_k(b)) - best_k(b) - 1)

        quartile = tail[math.floor(n / 4 + 0.5) - 1]
        grid = [1 / tail[-1] + (1 - mpmath.sqrt(m / (j - mpmath.mpf("0.5")))) / (3 * quartile) for j in range(1, m + 1)]
        heights = [mpmath.exp(profile(b) - profile(grid[-1])) for b in grid]
        mean_b = mpmath.fsum(b * height for b, height in zip(grid, heights, strict=True)) / mpmath.fsum(heights)
        return float((n * best_k(mean_b) + 5) / (n + 10))


@pytest.mark.parametrize("num_draws", [25, 40, 224, 225, 1000])
def test_the_fit_is_that_of_slow_sums(num_draws):
    """Around K = 225 the length of the tail changes from K / 5 to 3 sqrt(K)."""
    weights = spread(num_draws, 4)
    slow = [slow_shape(column) for column in weights.T]
    assert tail_shapes(weights).tolist() == pytest.approx(slow, abs=1e-10)


# Of ArviZ 0.23.4: psislw(spread(K, 4).T.numpy()).
RECORDED = {
    25: [0.1534682704610951, 0.5317277232380186, 0.608729370126125, 0.5431517935535838],
    40: [-0.039942533111075505, 0.37839055258248716, 0.5604880080060693, 0.7033855612062759],
    225: [-0.7082678375353479, 0.303336674821933, 0.7555874767511195, 1.1632149812963717],
    1000: [-0.8417366074769521, 0.26663960369850914, 0.6159474730715028, 1.0949952647342978],
    5000: [-0.9082024704427494, 0.2203413115541962, 0.6697546409003793, 1.1619105366195426],
}


@pytest.mark.parametrize("num_draws", RECORDED)
def test_the_fit_is_that_recorded_of_arviz(num_draws):
    assert tail_shapes(spread(num_draws, 4)).tolist() == pytest.approx(RECORDED[num_draws], abs=1e-10)


def awkward(size):
    """Columns whose tails are short, equal, underflowing or not there."""
    noise = torch.Generator().manual_seed(0)
    draws = torch.randn(size, 11, generator=noise, dtype=torch.float64)
    draws[:, 1] *= 300
    draws[:, 2] = (2 * draws[:, 2]).round()
    draws[: size // 2, 3] = -INF
    draws[3, 4] = NAN
    draws[4, 5] = INF
    draws[:, 6] = -INF
    draws[:, 7] = 2.0
    draws[:-1, 8] = 0.0
    draws[-4:, 9] += 1000
    draws[:, 10] *= 1e-16
    return draws


@pytest.mark.skipif(not version("arviz").startswith("0."), reason="the tail of ArviZ 1.x has another length")
@pytest.mark.parametrize("num_draws", [25, 26, 100, 1000, 5000])
def test_every_tail_has_the_shape_of_arviz(num_draws):
    weights = torch.cat([awkward(num_draws), spread(num_draws, 30)], 1)
    with quiet_arviz() as arviz:
        _, khat = arviz.psislw(weights.T.numpy())
    torch.testing.assert_close(tail_shapes(weights), torch.as_tensor(khat), rtol=0, atol=1e-10, equal_nan=True)


def test_awkward_tails_are_infinite_or_known_and_nothing_is_said():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shapes = tail_shapes(awkward(100))
    assert (shapes == INF).tolist() == [False, False, False, False, True, True, True, True, True, True, False]
    assert shapes[~shapes.isinf()].isfinite().all()


def test_khat_needs_no_arviz(monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz", None)
    assert psis_khat(spread(100, 3)).isfinite().all()


def test_no_data_have_no_shapes():
    assert tail_shapes(torch.zeros(100, 0)).shape == (0,)
