"""Estimates from weights of -1e6 nats, of one draw, of 0 and of numbers that are none, against slow sums by mpmath."""

import math

import mpmath
import numpy as np
import pytest
import torch
from exact import ProbabilisticPCA
from torch import nn

import pyro_vae as pv
from pyro_vae.evaluation import bounds, estimators
from pyro_vae.evaluation.annealing import annealed
from pyro_vae.evaluation.bounds import block_bound, iwae_curve, jackknife
from pyro_vae.evaluation.classification import classify
from pyro_vae.evaluation.comparison import paired, pooled, unpaired
from pyro_vae.evaluation.estimators import Estimate, Terms, elbo_terms, iwae, relative_error
from pyro_vae.evaluation.trust import diagnostics
from pyro_vae.evaluation.trust.diagnostics import effective_sample_size, psis_khat
from pyro_vae.inference.objectives import log_mean_exp

K = 30
NAN, INF = math.nan, math.inf
DOUBLE = torch.finfo(torch.float64).eps


def normal(offset=0.0):
    return torch.randn(K, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + offset


def at_third(value, rest):
    weights = torch.full((K,), rest, dtype=torch.float64) if isinstance(rest, float) else rest.clone()
    weights[3] = value
    return weights


FINITE = {
    "of -1e4 nats": normal(-1e4),
    "of -1e6 nats": normal(-1e6),
    "of 1e4 nats": normal(1e4),
    "over 1e5 nats": torch.linspace(-1e5, 0, K, dtype=torch.float64),
    "alike": torch.full((K,), -7.0, dtype=torch.float64),
    "one dominating": at_third(0.0, -1e5),
    "one alone": at_third(0.0, -INF),
    "some 0": torch.where(torch.arange(K) % 3 == 0, -INF, normal()),
    "one 0": at_third(-INF, normal(-1e4)),
}
BROKEN = {
    "all 0": torch.full((K,), -INF, dtype=torch.float64),
    "one NaN": at_third(NAN, normal()),
    "one infinite": at_third(INF, normal()),
}
finite, broken = (pytest.mark.parametrize("name", cases) for cases in (FINITE, BROKEN))


class Slow:
    """What is known about K weights, by 80 digits."""

    def __init__(self, log_weights):
        with mpmath.workdps(80):
            self.logs = [mpmath.mpf(number) for number in log_weights.tolist()]
            self.peak = max(self.logs)
            self.w = [mpmath.exp(number - self.peak) for number in self.logs]

    def bound(self, kept=None):
        with mpmath.workdps(80):
            w = [w for i, w in enumerate(self.w) if i != kept]
            return self.peak + mpmath.log(mpmath.fsum(w) / len(w)) if any(w) else -mpmath.inf

    def jackknife(self):
        with mpmath.workdps(80):
            without = [self.bound(i) for i in range(len(self.w))]
            mean = mpmath.fsum(without) / len(without)
            spread = mpmath.fsum((each - mean) ** 2 for each in without)
            size = len(self.w)
            return size * self.bound() - (size - 1) * mean, mpmath.sqrt((size - 1) * spread / size)

    def error(self):
        """sd(w) / (sqrt(K) mean(w))."""
        with mpmath.workdps(80):
            size, mean = len(self.w), mpmath.fsum(self.w) / len(self.w)
            variance = mpmath.fsum((w - mean) ** 2 for w in self.w) / (size - 1)
            return mpmath.sqrt(variance / size) / mean

    def effective(self):
        with mpmath.workdps(80):
            return mpmath.fsum(self.w) ** 2 / mpmath.fsum(w**2 for w in self.w)


def size(log_weights):
    """The largest finite number among them, to which roundings are relative."""
    return max([1.0, *log_weights[log_weights.isfinite()].abs().tolist()])


def columns(cases):
    return torch.stack([*cases.values()], 1)


def beside(name):
    """The weights of one case beside those of all others: they must leave each other alone."""
    cases = {**FINITE, **BROKEN}
    return columns(cases), list(cases).index(name)


# --- functions of weights


@finite
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_bound_its_error_and_the_effective_size_are_those_of_slow_sums(name, dtype):
    weights, place = beside(name)
    weights = weights.to(dtype)
    slow = Slow(weights[:, place])
    found = block_bound(weights, K)
    rounding = 8 * DOUBLE * size(weights[:, place])
    assert found.value.dtype == found.error.dtype == torch.float64
    assert abs(found.value[place].item() - slow.bound()) <= rounding
    assert (
        abs(found.error[place].item() - slow.error()) <= rounding + 1e-7
    )  # the root of a rounding where all are alike
    assert abs(relative_error(weights)[place].item() - slow.error()) <= rounding + 1e-7
    assert abs(effective_sample_size(weights)[place].item() / slow.effective() - 1) <= K * DOUBLE * 8
    assert 1 - 1e-12 <= effective_sample_size(weights)[place] <= K + 1e-12


@finite
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_jackknife_is_that_of_slow_sums(name, dtype):
    weights, place = beside(name)
    weights = weights.to(dtype)
    value, error = (moment[place].item() for moment in jackknife(weights))
    if name == "one alone":  # which cannot be left out
        assert value == INF
        assert math.isnan(error)
        return
    exact, exact_error = Slow(weights[:, place]).jackknife()
    rounding = 16 * K * DOUBLE * size(weights[:, place])
    assert abs(value - exact) <= rounding
    assert abs(error - exact_error) <= rounding


@pytest.mark.parametrize("k", [1, 2, 7])
@finite
def test_bounds_of_blocks_are_means_of_slow_sums(name, k):
    weights, place = beside(name)
    rows = weights[: K // k * k, place].reshape(-1, k)
    slow = [Slow(row).bound() if row.max() > -INF else -mpmath.inf for row in rows]
    found = block_bound(weights, k)
    if -mpmath.inf in slow:
        assert found.value[place] == -INF
        assert found.error[place].isnan()
        return
    assert abs(found.value[place].item() - mpmath.fsum(slow) / len(slow)) <= 8 * DOUBLE * size(weights[:, place])
    spread = np.std([float(value - slow[0]) for value in slow], ddof=1) / len(slow) ** 0.5
    assert found.error[place].item() == pytest.approx(spread, rel=1e-9, abs=8 * DOUBLE * size(weights[:, place]))


@broken
def test_weights_that_tell_nothing_are_minus_infinity_or_no_number(name):
    weights, place = beside(name)
    value = block_bound(weights, K).value[place]
    expected = torch.tensor({"all 0": -INF, "one infinite": INF, "one NaN": NAN}[name], dtype=torch.float64)
    torch.testing.assert_close(value, expected, equal_nan=True)
    unknown = [block_bound(weights, K).error, effective_sample_size(weights), *jackknife(weights)]
    assert all(each[place].isnan() for each in unknown)
    assert psis_khat(weights)[place] == INF  # above every threshold: not to be trusted


@finite
def test_khat_is_known_beside_broken_weights_and_does_not_depend_on_their_size(name):
    weights, place = beside(name)
    alone = psis_khat(weights[:, place : place + 1])
    assert torch.equal(psis_khat(weights)[place : place + 1], alone)
    assert not alone.isnan()
    shifted = psis_khat(weights[:, place : place + 1] + 512)
    torch.testing.assert_close(shifted, alone, rtol=0, atol=1e-5)
    assert (alone == -INF) == (name == "alike")
    assert (alone == INF) == (name in ("over 1e5 nats", "one dominating", "one alone"))


@pytest.mark.parametrize("name", [*FINITE, *BROKEN])
def test_one_draw_of_one_datum_has_a_value_and_no_error(name):
    weights = {**FINITE, **BROKEN}[name][3:4, None]
    found = block_bound(weights, 1)
    assert torch.equal(found.value, weights[0]) or weights.isnan()
    assert found.error.isnan().all()
    assert all(moment.isnan().all() for moment in jackknife(weights))
    assert psis_khat(weights).isnan().all()


@finite
def test_the_objectives_own_bound_and_its_gradient_are_the_weights(name):
    weights = FINITE[name][:, None].clone().requires_grad_()
    value = log_mean_exp(weights)
    (gradient,) = torch.autograd.grad(value.sum(), weights)
    slow = Slow(FINITE[name])
    assert abs(value.item() - slow.bound()) <= 8 * DOUBLE * size(FINITE[name])
    total = mpmath.fsum(slow.w)
    exact = torch.tensor([float(w / total) for w in slow.w], dtype=torch.float64)
    torch.testing.assert_close(gradient[:, 0], exact, rtol=8 * DOUBLE * size(FINITE[name]), atol=1e-300)


# --- estimates, whose weights are these


def given(cases, monkeypatch, blocks=3):
    """Every estimate below is of these log-weights (K, B), which come in blocks of draws."""
    whole = columns(cases)
    parts = whole.split(K // blocks)
    data = slice(0, whole.shape[1])
    monkeypatch.setattr(estimators, "draw_blocks", lambda *a: ((data, part) for part in parts))
    monkeypatch.setattr(bounds, "draw_columns", lambda *a: iter([(data, list(parts))]))
    return torch.zeros(whole.shape[1], 1)


@pytest.mark.parametrize("blocks", [1, 3, K])
def test_streamed_estimates_are_those_of_all_weights_at_once(blocks, monkeypatch):
    cases = {**FINITE, **BROKEN}
    x, whole = given(cases, monkeypatch, blocks), columns(cases)
    found, at_once = iwae(None, x, K), block_bound(whole, K)
    size_of_all = torch.tensor([size(column) for column in whole.T], dtype=torch.float64)
    same = (found.value - at_once.value).abs() <= 8 * DOUBLE * size_of_all
    assert (same | (found.value == at_once.value) | (found.value.isnan() & at_once.value.isnan())).all()
    close = (found.value_error - at_once.error).abs() <= 1e-6
    assert (close | (found.value_error.isnan() & at_once.error.isnan())).all()


def test_a_curve_ends_at_the_estimate_and_keeps_its_columns_apart(monkeypatch):
    cases = {**FINITE, **BROKEN}
    x = given(cases, monkeypatch)
    curve, last = iwae_curve(None, x, K), iwae(None, x, K)
    torch.testing.assert_close(curve.bounds[K].value, last.value, equal_nan=True, rtol=1e-14, atol=1e-12)
    assert curve.bounds[1].value.isfinite().tolist() == [
        columns(cases)[:, i].isfinite().all().item() for i in range(12)
    ]


def test_one_datum_without_weights_leaves_the_mean_unknown_and_the_report_without_a_number(monkeypatch):
    for name, mean in (("all 0", -INF), ("one NaN", NAN)):
        cases = {"sound": normal(), name: BROKEN[name]}
        found = iwae(None, given(cases, monkeypatch), K)
        assert found.mean == mean or math.isnan(mean)
        assert math.isfinite(found.value[0])
        assert found.to_dict()["mean"] is None
        assert "nan" not in str(found.to_dict())


@pytest.mark.parametrize("place", range(3))
def test_an_elbo_with_a_draw_of_probability_0_is_minus_infinity_in_whatever_block_it_comes(place, monkeypatch):
    rows = torch.randn(3, 4, 2, dtype=torch.float64)
    rows[place, 1, 0] = -INF
    terms = [(slice(0, 2), Terms(row, torch.zeros(4, 2, dtype=torch.float64), {"z": "sampled"})) for row in rows]
    monkeypatch.setattr(estimators, "draw_blocks", lambda *a: iter(terms))
    found = elbo_terms(None, torch.zeros(2, 1), 12).elbo
    assert found.value[0] == -INF
    assert found.value_error[0].isnan()
    assert found.value[1].item() == pytest.approx(rows[:, :, 1].mean().item(), abs=1e-14)


def test_annealed_weights_give_the_bound_from_either_side():
    """+-log mean w: the reverse weights of -1e6 nats are those of a log p(x) of 1e6."""
    cases = {**FINITE, **BROKEN}
    block = annealed._Chains(columns(cases), torch.ones(len(cases)))
    settings = annealed._Settings(5, K, 1, "guide")
    forward, reverse = (annealed._estimate("log p(x)", sign, [block], settings) for sign in (1, -1))
    expected = block_bound(columns(cases), K)
    torch.testing.assert_close(forward.value, expected.value, equal_nan=True)
    torch.testing.assert_close(reverse.value, -expected.value, equal_nan=True)
    torch.testing.assert_close(forward.value_error, expected.error, equal_nan=True)


# --- whole programs


def test_a_log_p_of_minus_a_million_nats_is_exact_under_the_exact_posterior():
    """The exact posterior has constant weights, log p(x), by every estimator, however small p(x) is."""
    truth = ProbabilisticPCA()
    x = truth.data(3) + 2000.0
    exact = truth.evidence().log_prob(x)
    assert exact.max() < -1e6
    vae = truth.vae()
    assert ((iwae(vae, x, 100, seed=0).value - exact).abs() < 1e-11 * exact.abs()).all()
    annealed = pv.evaluation.ais(vae, x, 5, 4, seed=0, num_leapfrog=1)
    assert ((annealed.value - exact).abs() < 1e-10 * exact.abs()).all()


class Scaled(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, x):
        return torch.cat([x, torch.full_like(x, math.log(self.scale))], -1)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize("distance", [100.0, 1e4, 1e6])
def test_posteriors_far_apart_tell_which_datum_and_leave_the_rest_to_the_prior(distance, scale):
    """q(z|x_n) do not overlap: I = log N, and the marginal KL is the rate less log N, up to roundings of log q."""
    N = 8
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.posteriors.DiagonalNormal(Scaled(scale), 2),
        pv.likelihoods.Normal(nn.Identity()),
    )
    x = distance * torch.arange(N)[:, None].expand(N, 2)
    found = pv.evaluation.aggregate_terms(vae, x.contiguous(), 4, seed=0)
    # log q holds |z - m|^2 / s^2 with z rounded to float32: log q of the mixture may see it by float64.
    assert abs(found.mutual_information.mean - math.log(N)) < 2e-3
    assert found.marginal_kl.mean == pytest.approx(found.rate.mean - math.log(N), rel=1e-12, abs=2e-3)


def test_posteriors_that_are_alike_tell_nothing():
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.posteriors.DiagonalNormal(Scaled(1e-3), 2),
        pv.likelihoods.Normal(nn.Identity()),
    )
    found = pv.evaluation.mutual_information(vae, torch.full((8, 2), 1e6), 4, seed=0)
    assert found.value.abs().max() < 1e-4


def test_classes_of_probability_0_stay_so_however_small_p_of_x_is():
    class Bright(nn.Module):
        def forward(self, z, y):
            return 1e3 * (1 + y[..., :1]).expand(*z.shape[:-1], 3)

    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.posteriors.DiagonalNormal(lambda x, y: torch.zeros(len(x), 4), 2),
        pv.likelihoods.Normal(Bright(), scale=1e-2),
    )
    found = classify(vae, torch.zeros(4, 3), torch.tensor([0.5, 0.5, 0.0]), 30, seed=0)
    assert found.log_likelihood.isfinite().all()
    assert found.log_likelihood.max() < -1e9
    assert found.prediction.tolist() == [1] * 4
    assert (found.log_posterior[2] == -INF).all()
    assert found.log_posterior[1].tolist() == [0.0] * 4


# --- comparisons


def estimate(values):
    values = torch.as_tensor(values, dtype=torch.float64)
    return Estimate("log p(x)", values, torch.zeros_like(values), num_samples=10)


@pytest.mark.parametrize("compare", [paired, unpaired])
@pytest.mark.parametrize("number", [1.0, -90.0, -1e6, 1e-200])
@pytest.mark.parametrize("ulps", [1, 64, 4096])
@pytest.mark.parametrize("size", [3, 100])
def test_values_that_differ_by_roundings_have_a_narrow_interval(compare, number, ulps, size):
    values = np.full(size, number)
    values[::3] += ulps * np.spacing(number)
    found = compare(estimate(values), estimate(np.zeros(size)), resamples=200)
    low, high = found.interval
    reach = ulps * abs(np.spacing(number))
    assert number - 2 * reach <= low <= high <= number + 2 * reach
    assert found.mean == pytest.approx(number, rel=1e-12)


@pytest.mark.parametrize("compare", [paired, unpaired])
def test_intervals_move_and_stretch_with_the_values(compare):
    noise = torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    small = compare(estimate(noise), estimate(torch.zeros(40)), resamples=200).interval
    large = compare(estimate(1e5 * noise - 1e6), estimate(torch.zeros(40)), resamples=200).interval
    assert [1e5 * end - 1e6 for end in small] == pytest.approx(list(large), rel=1e-12)


@pytest.mark.parametrize("compare", [paired, unpaired])
def test_one_side_that_never_changes_takes_no_part(compare):
    values = torch.arange(5.0)
    found = compare(estimate(torch.full((5,), -1e6)), estimate(values), resamples=200)
    assert found.standard_error == pytest.approx(0.5**0.5, rel=1e-9)
    assert found.interval[0] < found.mean < found.interval[1]


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_what_is_not_finite_is_not_compared(value):
    with pytest.raises(ValueError, match=rf"the second log p\(x\) is {value} at datum 1"):
        paired(estimate([0.0, 0.0]), estimate([0.0, value]))


def test_pooled_runs_keep_a_datum_that_no_draw_explains():
    assert pooled([estimate([-1.0, -INF]), estimate([-3.0, -5.0])]).value.tolist() == [-2.0, -INF]


def test_data_whose_khat_is_infinite_come_first_among_the_worst():
    khat = psis_khat(columns({**FINITE, **BROKEN}))
    worst = diagnostics.worst_data(khat, 6)
    assert {found.datum for found in worst} == set((khat == INF).nonzero().flatten().tolist())
    assert diagnostics.share_above(khat) == pytest.approx(6 / 12)
