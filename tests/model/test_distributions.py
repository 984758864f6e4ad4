"""Distributions against slow references: mpmath with 60 digits, scipy, quadrature, sums; samplers against their law.

A Kolmogorov-Smirnov or chi-square test fails below a p-value of 1e-6, which is also its rate of false alarms.
"""

import math

import mpmath
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch.autograd import gradcheck

from pyro_vae.model.distributions import (
    ContinuousBernoulli,
    DiscretizedLogistic,
    ExponentialNorm,
    GreyLevels,
    LowRankNormal,
    NegativeBinomial,
    Poisson,
    StudentT,
    continuous_bernoulli_logits,
)

mpmath.mp.dps = 60
FALSE_ALARM = 1e-6
# Zero, both sides of the switch to the series, and the extremes.
LOGITS = [0.0, 1e-12, 1e-6, 1e-3, 0.1, 0.5, 1 - 1e-9, 1.0, 1 + 1e-9, 1.5, 5.0, 30.0, 200.0, 1e4]
LOGITS = [*LOGITS, *(-logit for logit in LOGITS[1:])]


def f64(values, requires_grad=False):
    return torch.tensor(values, dtype=torch.float64, requires_grad=requires_grad)


def close(ours, reference, tolerance):
    """Absolute for numbers below 1, relative above."""
    return abs(float(ours - reference)) <= tolerance * max(1.0, abs(float(reference)))


def low_rank(rank=2, shape=(2, 3), lead=(), dtype=torch.float64, seed=0):
    noise = torch.Generator().manual_seed(seed)
    d = math.prod(shape)
    loc, factor, raw = (
        torch.randn(*lead, *size, generator=noise, dtype=torch.float64).to(dtype) for size in ((d,), (d, rank), (d,))
    )
    return LowRankNormal(loc, factor, raw.exp(), shape)


# --- continuous Bernoulli


def log_normaliser(logit):
    return mpmath.log(mpmath.expm1(logit) / logit) if logit else mpmath.mpf(0)


def moments(logit):
    """Mean and variance by mpmath, whose 60 digits survive the cancellation at small logits."""
    if not logit:
        return mpmath.mpf(1) / 2, mpmath.mpf(1) / 12
    odds = 1 / mpmath.expm1(logit)
    return 1 + odds - 1 / logit, 1 / logit**2 - odds * (1 + odds)


@pytest.mark.parametrize("logit", LOGITS)
@pytest.mark.parametrize(
    ("dtype", "tolerance", "of_variance"), [(torch.float64, 1e-14, 2e-13), (torch.float32, 3e-7, 2e-6)]
)
def test_continuous_bernoulli_is_exact_with_its_gradient_and_moments(logit, dtype, tolerance, of_variance):
    logits = torch.tensor(logit, dtype=dtype, requires_grad=True)
    exact = mpmath.mpf(logits.item())
    mean, variance = moments(exact)
    p = ContinuousBernoulli(logits)
    assert close(p.mean.item(), mean, tolerance)
    assert close(p.variance.item() / variance, 1, of_variance)
    for value in (0.0, 0.3, 1.0):
        x = torch.tensor(value, dtype=dtype)
        log_prob = p.log_prob(x)
        (slope,) = torch.autograd.grad(log_prob, logits)
        assert close(log_prob.item(), mpmath.mpf(x.item()) * exact - log_normaliser(exact), tolerance)
        assert close(slope.item(), mpmath.mpf(x.item()) - mean, tolerance)


def test_continuous_bernoulli_keeps_its_relative_precision_in_the_dark():
    p = ContinuousBernoulli(f64(-1e4))
    assert p.mean.item() == pytest.approx(1e-4, rel=1e-14)


@pytest.mark.parametrize("logit", [-500.0, -1.0, 0.0, 0.7, 1.0, 40.0])
def test_continuous_bernoulli_integrates_to_one(logit):
    p = ContinuousBernoulli(f64(logit))
    total, _ = scipy.integrate.quad(lambda x: p.log_prob(f64(x)).exp().item(), 0, 1, points=[0.02, 0.98])
    assert total == pytest.approx(1, abs=1e-9)


def test_continuous_bernoulli_gradients_equal_finite_differences_across_the_switch():
    logits = f64([-1.0, -1 + 1e-9, 0.0, 0.5, 1 - 1e-9, 1.0, 3.0], requires_grad=True)
    x = f64([0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0])
    assert gradcheck(lambda logits: ContinuousBernoulli(logits).log_prob(x), logits)
    assert gradcheck(lambda logits: ContinuousBernoulli(logits).mean, logits)
    assert gradcheck(lambda logits: ContinuousBernoulli(logits).variance, logits)


@pytest.mark.parametrize("logit", [-1e4, -30.0, -1.0, -1e-9, 0.0, 0.5, 3.0, 200.0])
def test_continuous_bernoulli_sampler_follows_the_cdf(logit):
    def cdf(x):
        if abs(logit) < 1e-6:
            return x
        return np.expm1(logit * x) / np.expm1(logit) if logit < 0 else 1 - cdf_of_twin(1 - x)

    def cdf_of_twin(x):
        return np.expm1(-logit * x) / np.expm1(-logit)

    draws = ContinuousBernoulli(f64(logit)).sample((20_000,)).numpy()
    assert ((draws >= 0) & (draws <= 1)).all()
    assert scipy.stats.kstest(draws, cdf).pvalue > FALSE_ALARM


def test_logits_of_a_mean():
    means = f64([1e-4, 1 / 512, 0.3, 0.5, 0.5 + 1e-7, 0.9, 511 / 512])
    torch.testing.assert_close(ContinuousBernoulli(continuous_bernoulli_logits(means)).mean, means, rtol=1e-12, atol=0)


# --- discretised logistic


def logistic_probabilities(loc, scale, num_levels):
    loc, scale = mpmath.mpf(loc), mpmath.mpf(scale)
    edges = [1 / (1 + mpmath.exp((loc - v + mpmath.mpf(1) / 2) / scale)) for v in range(1, num_levels)]
    # Differences of upper tails right of loc, so that no difference loses all of its 60 digits.
    upper = [1 / (1 + mpmath.exp((v - mpmath.mpf(1) / 2 - loc) / scale)) for v in range(1, num_levels)]
    inner = [
        (b - a) if v + 1 < loc else (c - e)
        for v, (a, b, c, e) in enumerate(zip(edges, edges[1:], upper, upper[1:], strict=False))
    ]
    return [edges[0], *inner, upper[-1]]


LOGISTICS = [(100.3, 5.0, 256), (100.3, 0.255, 256), (3.2, 40.0, 256), (-30.0, 2.0, 17), (12.0, 1e3, 17), (0.4, 0.3, 2)]


@pytest.mark.parametrize(("loc", "scale", "num_levels"), LOGISTICS)
def test_discretized_logistic_equals_the_difference_of_its_cdf(loc, scale, num_levels):
    reference = logistic_probabilities(loc, scale, num_levels)
    assert close(mpmath.fsum(reference), 1, 1e-30)
    p = DiscretizedLogistic(f64(loc), f64(scale), num_levels)
    levels = torch.arange(num_levels, dtype=torch.float64)
    ours = p.log_prob(levels)
    for log_prob, probability in zip(ours.tolist(), reference, strict=True):
        assert close(log_prob, mpmath.log(probability), 1e-11)
    mean = mpmath.fsum(v * q for v, q in enumerate(reference))
    variance = mpmath.fsum((v - mean) ** 2 * q for v, q in enumerate(reference))
    assert p.mean.item() == pytest.approx(float(mean), rel=1e-12, abs=1e-12)
    assert p.variance.item() == pytest.approx(float(variance), rel=1e-10, abs=1e-12)
    assert ours.exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_discretized_logistic_moments_do_not_cancel_in_float32():
    loc, scale = torch.tensor(250.2), torch.tensor(0.3)
    single, double = (DiscretizedLogistic(loc.to(t), scale.to(t), 256) for t in (torch.float32, torch.float64))
    assert single.variance.item() == pytest.approx(double.variance.item(), rel=1e-5)


@pytest.mark.parametrize(("loc", "scale"), [(2.3, 0.8), (-1.0, 1.0), (9.0, 3.0)])
def test_discretized_logistic_sampler_follows_its_probabilities(loc, scale):
    p = DiscretizedLogistic(f64(loc), f64(scale), 6)
    counts = torch.bincount(p.sample((50_000,)).long(), minlength=6).numpy()
    expected = 50_000 * p.log_prob(torch.arange(6.0, dtype=torch.float64)).exp().numpy()
    assert expected.min() > 100
    assert scipy.stats.chisquare(counts, expected).pvalue > FALSE_ALARM


def test_discretized_logistic_gradients_equal_finite_differences_at_the_ends_too():
    x = f64([0.0, 1.0, 7.0, 15.0, 16.0])
    loc, scale = f64([0.3, 2.0, 6.6, 16.0, 3.0], True), f64([0.5, 0.1, 2.0, 1.0, 9.0], True)
    assert gradcheck(lambda loc, scale: DiscretizedLogistic(loc, scale, 17).log_prob(x), (loc, scale))


# --- grey levels


def test_grey_levels_against_loops():
    logits = torch.randn(3, 5, dtype=torch.float64) * 4
    p = GreyLevels(logits)
    for i in range(3):
        weights = [math.exp(logit) for logit in logits[i].tolist()]
        probabilities = [weight / sum(weights) for weight in weights]
        mean = sum(v * q for v, q in enumerate(probabilities))
        assert p.mean[i].item() == pytest.approx(mean, rel=1e-13)
        assert p.variance[i].item() == pytest.approx(
            sum((v - mean) ** 2 * q for v, q in enumerate(probabilities)), rel=1e-12
        )
        for v in range(5):
            assert p.log_prob(f64(float(v)))[i].item() == pytest.approx(math.log(probabilities[v]), rel=1e-12)


def test_grey_levels_sampler_follows_its_probabilities():
    logits = f64([1.0, -1.0, 0.0, 2.0])
    draws = GreyLevels(logits).sample((50_000,))
    assert draws.dtype == torch.float64
    counts = torch.bincount(draws.long(), minlength=4).numpy()
    assert scipy.stats.chisquare(counts, logits.softmax(0).numpy() * 50_000).pvalue > FALSE_ALARM


def test_grey_levels_gradients_equal_finite_differences():
    x = f64([0.0, 3.0])
    assert gradcheck(
        lambda logits: GreyLevels(logits).log_prob(x), torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    )


# --- negative binomial


@pytest.mark.parametrize("total_count", [1e-3, 0.5, 3.0, 19.9, 20.1, 1e3, 1e6, 1e9])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 5e-6)])
def test_negative_binomial_is_exact_at_any_total_count(total_count, dtype, tolerance):
    r = torch.tensor(total_count, dtype=dtype)
    logits = torch.tensor(5.0, dtype=dtype).log() - r.log()
    p = NegativeBinomial(total_count=r, logits=logits)
    exact, odds = mpmath.mpf(r.item()), mpmath.exp(mpmath.mpf(logits.item()))
    for x in (0, 1, 7, 60):
        reference = (
            mpmath.loggamma(x + exact)
            - mpmath.loggamma(exact)
            - mpmath.loggamma(x + 1)
            - (exact + x) * mpmath.log1p(odds)
            + x * mpmath.log(odds)
        )
        assert close(p.log_prob(torch.tensor(float(x), dtype=dtype)).item(), reference, tolerance)


@pytest.mark.parametrize("total_count", [10.0, 1e3, 1e6])
@pytest.mark.parametrize("mean", [1e3, 1e5])
def test_negative_binomial_is_exact_for_large_counts_in_float32(total_count, mean):
    # A float32 near its own result is the best there is; one more is left for the arguments' rounding of the mean.
    r = torch.tensor(total_count)
    logits = torch.tensor(mean).log() - r.log()
    x = torch.tensor([0.5, 0.9, 1.0, 1.1]) * mean
    found = NegativeBinomial(total_count=r, logits=logits).log_prob(x.round()).double()
    odds = logits.double().exp()
    reference = scipy.stats.nbinom.logpmf(x.round().double(), r.double(), 1 / (1 + odds))
    assert torch.allclose(found, torch.from_numpy(reference), rtol=2e-7, atol=1e-6)


def test_negative_binomial_gradients_equal_finite_differences_across_the_switch():
    r, logits = f64([0.3, 20 - 1e-9, 20.0, 200.0], True), f64([1.0, -1.0, -1.0, -3.0], True)
    x = f64([0.0, 5.0, 5.0, 40.0])
    assert gradcheck(lambda r, logits: NegativeBinomial(total_count=r, logits=logits).log_prob(x), (r, logits))


# --- exponential norm


def sphere_area(d):
    """By the recursion S_d = 2 pi / (d - 2) S_(d-2), without a gamma function."""
    return {1: 2.0, 2: 2 * math.pi}[d] if d < 3 else 2 * math.pi / (d - 2) * sphere_area(d - 2)


def test_exponential_norm_in_one_dimension_is_the_laplace():
    x, loc = torch.randn(2, 50, dtype=torch.float64) * 3
    ours = ExponentialNorm(loc[:, None], f64(2.5), event_dim=1).log_prob(x[:, None])
    np.testing.assert_allclose(ours.numpy(), scipy.stats.laplace.logpdf(x, loc, 1 / 2.5), rtol=1e-12)
    bare = ExponentialNorm(loc, f64(2.5), event_dim=0)
    assert torch.equal(bare.log_prob(x), ours)
    assert bare.sample().shape == (50,)


@pytest.mark.thorough
def test_exponential_norm_integrates_to_one_in_the_plane():
    p = ExponentialNorm(f64([0.3, -0.2]), f64(2.0), event_dim=1)
    total, _ = scipy.integrate.dblquad(
        lambda b, a: p.log_prob(f64([a, b])).exp().item(), -15, 15, -15, 15, epsabs=1e-5, epsrel=1e-5
    )
    assert total == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("d", [1, 2, 3, 10, 65])
def test_exponential_norm_integrates_to_one_over_spheres(d):
    rate = 30.0
    p = ExponentialNorm(torch.zeros(d, dtype=torch.float64), f64(rate), event_dim=1)
    direction = torch.nn.functional.normalize(torch.randn(d, dtype=torch.float64), dim=0)

    def shell(r):
        return math.exp(p.log_prob(r * direction).item() + (d - 1) * math.log(r) + math.log(sphere_area(d)))

    typical = d / (rate / math.sqrt(d))
    total, _ = scipy.integrate.quad(shell, 1e-12, 20 * typical, points=[typical / 2, typical, 2 * typical], limit=200)
    assert total == pytest.approx(1, abs=1e-8)


def test_exponential_norm_sampler_radius_and_direction():
    d, rate = 3, 4.0
    loc = f64([1.0, -2.0, 0.5])
    p = ExponentialNorm(loc, f64(rate), event_dim=1)
    off = p.sample((20_000,)) - loc
    radius = off.norm(dim=-1)
    law = scipy.stats.gamma(d, scale=math.sqrt(d) / rate)
    assert scipy.stats.kstest(radius.numpy(), law.cdf).pvalue > FALSE_ALARM
    # In three dimensions each coordinate of a uniform direction is uniform (Archimedes).
    for coordinate in (off / radius[:, None]).T:
        assert scipy.stats.kstest(coordinate.numpy(), scipy.stats.uniform(-1, 2).cdf).pvalue > FALSE_ALARM
    # 5 standard errors: of the mean, and of the variance, E[off^4] = E[r^4] / 5.
    standard_error = (law.moment(4) / 5 - p.variance[0].item() ** 2) ** 0.5 / 20_000**0.5
    assert (off.mean(0).abs() < 5 * (p.variance / 20_000).sqrt()).all()
    assert (off.square().mean(0) - p.variance).abs().max() < 5 * standard_error
    assert p.variance[0].item() == pytest.approx(law.moment(2) / 3, rel=1e-12)


def test_exponential_norm_gradient_is_zero_on_the_location_and_right_elsewhere():
    loc = f64([[0.5, -1.0], [2.0, 3.0]], requires_grad=True)
    rate = f64(3.0, requires_grad=True)
    ExponentialNorm(loc, rate, event_dim=1).log_prob(loc.detach()).sum().backward()
    assert torch.equal(loc.grad, torch.zeros_like(loc))
    assert rate.grad.item() == pytest.approx(2 * 2 / 3, rel=1e-12)
    x = torch.randn(2, 2, dtype=torch.float64)
    assert gradcheck(lambda loc, rate: ExponentialNorm(loc, rate, 1).log_prob(x), (loc, rate))


def test_the_best_rate_is_d_over_the_mean_rmse():
    x = torch.randn(40, 64, dtype=torch.float64) * 0.1
    best = 64 / x.square().mean(-1).sqrt().mean().item()
    zeros = torch.zeros(64, dtype=torch.float64)
    found = scipy.optimize.minimize_scalar(
        lambda log_rate: -ExponentialNorm(zeros, f64(math.exp(log_rate)), 1).log_prob(x).mean().item(),
        bounds=(0, 12),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert math.exp(found.x) == pytest.approx(best, rel=1e-6)
    assert best > 600


# --- low-rank normal


def dense(p):
    """The same as scipy's dense normal."""
    covariance = p.cov_factor @ p.cov_factor.mT + torch.diag_embed(p.cov_diag)
    return scipy.stats.multivariate_normal(p.loc.numpy(), covariance.numpy())


@pytest.mark.parametrize("rank", [1, 2, 5, 9])
def test_low_rank_normal_equals_the_dense_normal(rank):
    p = low_rank(rank)
    x = torch.randn(8, 2, 3, dtype=torch.float64) * 3
    reference = dense(p)
    np.testing.assert_allclose(p.log_prob(x).numpy(), reference.logpdf(x.flatten(1).numpy()), rtol=1e-11)
    np.testing.assert_allclose(p.variance.flatten().numpy(), np.diag(reference.cov), rtol=1e-13)
    assert torch.equal(p.mean.flatten(), p.loc)


def test_low_rank_normal_counts_the_log_determinant():
    p = low_rank(2)
    covariance = dense(p).cov
    x = torch.randn(2, 3, dtype=torch.float64)
    error = (x.flatten() - p.loc).numpy()
    mahalanobis = error @ np.linalg.inv(covariance) @ error
    wider = LowRankNormal(p.loc, 1e3 * p.cov_factor, 1e6 * p.cov_diag, p.event_shape)
    # Ten thousand standard deviations are all but free in the Mahalanobis term; 6 log(1000) nats is what they cost.
    assert (p.log_prob(x) - wider.log_prob(x)).item() == pytest.approx(
        -0.5 * mahalanobis * (1 - 1e-6) + 6 * math.log(1e3), rel=1e-10
    )
    log_det = -2 * p.log_prob(x).item() - mahalanobis - 6 * math.log(2 * math.pi)
    assert log_det == pytest.approx(np.linalg.slogdet(covariance)[1], rel=1e-11)


def test_low_rank_normal_batches_broadcast():
    p = low_rank(2, lead=(4,))
    x = torch.randn(7, 4, 2, 3, dtype=torch.float64)
    one = [LowRankNormal(p.loc[i], p.cov_factor[i], p.cov_diag[i], (2, 3)).log_prob(x[:, i]) for i in range(len(p.loc))]
    torch.testing.assert_close(p.log_prob(x), torch.stack(one, 1), rtol=1e-12, atol=0)


def test_low_rank_normal_sampler_has_the_covariance():
    p = low_rank(2)
    draws = p.rsample((50_000,)).flatten(1).numpy()
    covariance = dense(p).cov
    # 5 standard errors, by Isserlis: var(a b) = var a var b + cov^2.
    error = np.sqrt((np.outer(np.diag(covariance), np.diag(covariance)) + covariance**2) / 50_000)
    assert (np.abs(np.cov(draws.T) - covariance) < 5 * error).all()
    whitened = (draws - p.loc.numpy()) @ np.linalg.inv(np.linalg.cholesky(covariance)).T
    assert scipy.stats.kstest(whitened.ravel(), scipy.stats.norm.cdf).pvalue > FALSE_ALARM


def test_low_rank_normal_gradients_equal_finite_differences():
    p = low_rank(2)
    x = torch.randn(2, 3, dtype=torch.float64)
    arguments = [p.loc, p.cov_factor, p.cov_diag]
    for argument in arguments:
        argument.requires_grad_()
    assert gradcheck(lambda loc, factor, diag: LowRankNormal(loc, factor, diag, (2, 3)).log_prob(x), arguments)


def test_low_rank_normal_holds_in_float32_where_a_cholesky_factor_does_not():
    alike = torch.ones(64, 2)
    small = torch.full((64,), 1e-6)
    x = torch.randn(64)
    single, double = (
        LowRankNormal(torch.zeros(64).to(t), alike.to(t), small.to(t), (64,)).log_prob(x.to(t)).item()
        for t in (torch.float32, torch.float64)
    )
    assert single == pytest.approx(double, rel=1e-6)
    with pytest.raises(torch.linalg.LinAlgError):
        dist.LowRankMultivariateNormal(torch.zeros(64), alike, small)


def test_low_rank_normal_refuses_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"event_shape \(2, 3\) needs .* d = 6; got \(5,\), \(5, 2\), \(5,\)"):
        LowRankNormal(torch.zeros(5), torch.zeros(5, 2), torch.ones(5), (2, 3))


# --- all of them

ALL = {
    "ContinuousBernoulli": (lambda t: ContinuousBernoulli(torch.zeros(3, dtype=t)), 0.5, 2.0),
    "DiscretizedLogistic": (lambda t: DiscretizedLogistic(torch.zeros(3, dtype=t), 2.0, 17), 1.0, 0.5),
    "GreyLevels": (lambda t: GreyLevels(torch.zeros(3, 17, dtype=t)), 1.0, 17.0),
    "NegativeBinomial": (
        lambda t: NegativeBinomial(total_count=torch.tensor(2.0, dtype=t), logits=torch.zeros(3, dtype=t)),
        1.0,
        -1.0,
    ),
    "ExponentialNorm": (lambda t: ExponentialNorm(torch.zeros(3, 2, 2, dtype=t), 5.0, 2), 1.0, math.nan),
    "LowRankNormal": (lambda t: low_rank(lead=(3,), dtype=t), 1.0, math.nan),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ALL)
def test_a_distribution_expands_and_stands_in_plates(name, dtype):
    build, inside, _ = ALL[name]
    p = build(dtype)
    wide = p.expand((4, 3))
    x = wide.sample((5,))
    assert x.shape == (5, 4, 3, *p.event_shape)
    assert x.dtype == wide.mean.dtype == wide.variance.dtype == dtype
    assert wide.mean.shape == wide.variance.shape == (4, 3, *p.event_shape)
    torch.testing.assert_close(wide.log_prob(x), p.log_prob(x), rtol=0, atol=0)
    assert (p.support.check(x)).all()
    value = torch.full(p.event_shape, inside, dtype=dtype).expand(4, 3, *p.event_shape)
    with pyro.plate("rows", 4, dim=-2), pyro.plate("columns", 3, dim=-1):
        drawn = pyro.sample("drawn", p)
        pyro.sample("seen", p, obs=value)
    assert drawn.shape == (4, 3, *p.event_shape)
    event = p.to_event(1)
    assert event.log_prob(p.sample()).shape == ()


@pytest.mark.parametrize("name", ALL)
def test_a_value_outside_the_support_is_refused(name):
    build, _, outside = ALL[name]
    p = build(torch.float32)
    with pytest.raises(ValueError, match="to be within the support"):
        p.log_prob(torch.full((3, *p.event_shape), outside))


BIG = [-1e4, 1e4]
EXTREMES = {
    "ContinuousBernoulli": (ContinuousBernoulli, [[f64([*BIG, 0.0])]], [0.0, 0.5, 1.0]),
    "DiscretizedLogistic": (
        lambda loc, scale: DiscretizedLogistic(loc, scale, 256),
        [[f64([-1e3, 0.0, 1e3]), f64(scale)] for scale in (1e-3, 0.255, 1e6)],
        [0.0, 100.0, 255.0],
    ),
    "GreyLevels": (GreyLevels, [[f64([*BIG, 0.0])]], [0.0, 1.0, 2.0]),
    "NegativeBinomial": (
        lambda r, logits: NegativeBinomial(total_count=r, logits=logits),
        [[f64(r), f64([*BIG, 0.0])] for r in (1e-3, 10.0, 1e9)],
        [0.0, 1.0, 1e4],
    ),
    "ExponentialNorm": (
        lambda loc, rate: ExponentialNorm(loc, rate, 1),
        [[f64([-1e3, 0.0, 1e3]), f64(rate)] for rate in (1e-3, 1e6)],
        [-1e3, 0.0, 1e3],
    ),
    "LowRankNormal": (
        lambda loc, factor, diag: LowRankNormal(loc, factor, diag, (3,)),
        [
            [f64([-1e3, 0.0, 1e3]), torch.full((3, 2), size, dtype=torch.float64), torch.full((3,), 1e-6).double()]
            for size in (0.0, 1e-3, 1e3)
        ],
        [-1e3, 0.0, 1e3],
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", EXTREMES)
def test_values_and_gradients_are_finite_at_the_extremes(name, dtype):
    build, settings, values = EXTREMES[name]
    for setting in settings:
        for value in values:
            arguments = [argument.detach().to(dtype).requires_grad_() for argument in setting]
            p = build(*arguments)
            log_prob = p.log_prob(torch.full(p.batch_shape + p.event_shape, value, dtype=dtype))
            gradients = torch.autograd.grad(log_prob.sum(), arguments)
            assert log_prob.isfinite().all(), (setting, value)
            assert all(gradient.isfinite().all() for gradient in gradients), (setting, value)
        assert p.sample().isfinite().all()
        if name != "NegativeBinomial":  # whose mean r e^logits is infinite at logits of 1e4
            assert p.mean.isfinite().all()
            assert (p.variance >= 0).all()


# --- parameters of integers, which must not truncate


INTEGERS = {  # parameters, a value, and log p of it
    "Poisson": (lambda m: Poisson(m), (5,), 1.0, -3.3905620875659),
    "StudentT": (lambda df: StudentT(df), (5,), 0.0, -0.9686195890547),
    "StudentT df": (lambda loc: StudentT(5.5, loc, 1.0), (0,), 0.5, scipy.stats.t.logpdf(0.5, 5.5)),
    "StudentT scale": (lambda loc, s: StudentT(5.0, loc, s), (1, 2), 0.0, scipy.stats.t.logpdf(0, 5, 1, 2)),
    "NegativeBinomial": (
        lambda r, logits: NegativeBinomial(r, logits=logits),
        (5, 1),
        1.0,
        scipy.stats.nbinom.logpmf(1, 5, 1 / (1 + math.e)),
    ),
    "ContinuousBernoulli": (ContinuousBernoulli, (3,), 0.5, 1.5 - math.log(math.expm1(3) / 3)),
    "DiscretizedLogistic": (
        lambda loc: DiscretizedLogistic(loc, 0.5, 9),
        (5,),
        5.0,
        math.log(scipy.stats.logistic.cdf(1) - scipy.stats.logistic.cdf(-1)),
    ),
    "GreyLevels": (GreyLevels, ([1, 2, 3],), 1.0, 2 - math.log(math.e + math.e**2 + math.e**3)),
    "ExponentialNorm": (lambda loc: ExponentialNorm(loc, 0.7, 1), ([3],), [5.0], math.log(0.35) - 1.4),
    "LowRankNormal": (
        lambda loc, factor, diag: LowRankNormal(loc, factor, diag, (2,)),
        ([1, 2], [[1], [2]], [1, 2]),
        [1.5, 4.25],
        scipy.stats.multivariate_normal.logpdf([1.5, 4.25], [1, 2], [[2, 2], [2, 6]]),
    ),
}


@pytest.mark.parametrize("name", INTEGERS)
def test_parameters_of_integers_are_numbers(name):
    build, parameters, value, log_prob = INTEGERS[name]
    p = build(*map(torch.tensor, parameters))
    assert p.log_prob(torch.tensor(value)).item() == pytest.approx(log_prob, abs=1e-5)
    exact, noise = build(*map(f64, parameters)), f64(value)
    assert exact.log_prob(noise).item() == pytest.approx(log_prob, abs=1e-12)
    assert p.expand(torch.Size([2, *p.batch_shape])).sample().dtype == torch.float32
    for moment in ("mean", "variance"):
        torch.testing.assert_close(getattr(p, moment).double(), getattr(exact, moment), rtol=1e-5, atol=1e-5)


def test_parameters_of_two_types_have_the_finer_one():
    p = StudentT(torch.tensor(5.0), f64(0.1), torch.tensor(2))
    assert p.log_prob(f64(0.3)).item() == pytest.approx(scipy.stats.t.logpdf(0.3, 5, 0.1, 2), abs=1e-14)
