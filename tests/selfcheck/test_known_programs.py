"""The truths that estimators are held against, held against truths of their own: scipy, slow integrals, simulation."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch

import pyro_vae as pv
from pyro_vae.selfcheck.known_programs import LinearGaussian, Mismatch, non_linear

CASES = [Mismatch(1.3, 0.3), Mismatch(1.05, 0.0), Mismatch(2.0, -1.0)]


def integral(f):
    return scipy.integrate.quad(f, -30, 30, epsabs=1e-12, epsrel=1e-12, limit=200)[0]


@pytest.mark.parametrize("mismatch", CASES)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_moments_are_the_integrals(mismatch, k):
    p, q = scipy.stats.norm(0, 1), scipy.stats.norm(mismatch.shift, mismatch.widen)
    slow = integral(lambda z: math.exp(k * p.logpdf(z) + (1 - k) * q.logpdf(z)))
    assert mismatch.moment(k, 1) == pytest.approx(slow, rel=1e-9)
    assert mismatch.moment(k, 4) == pytest.approx(slow**4, rel=1e-9)


@pytest.mark.parametrize("mismatch", CASES)
def test_the_kl_is_the_integral(mismatch):
    p, q = scipy.stats.norm(0, 1), scipy.stats.norm(mismatch.shift, mismatch.widen)
    slow = integral(lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)))
    assert mismatch.kl(1) == pytest.approx(slow, rel=1e-9)
    assert mismatch.kl(7) == pytest.approx(7 * slow, rel=1e-9)


def test_the_stated_bias_is_that_of_simulated_weights():
    """20,000 logarithms of means of K = 20 ratios in 3 dimensions: within 4 standard errors, and 1 / K^3."""
    source, mismatch, K = np.random.default_rng(0), Mismatch(), 20
    z = mismatch.shift + mismatch.widen * source.standard_normal((20_000, K, 3))
    p, q = scipy.stats.norm(0, 1), scipy.stats.norm(mismatch.shift, mismatch.widen)
    found = np.log(np.exp((p.logpdf(z) - q.logpdf(z)).sum(-1)).mean(1))
    allowed = 4 * found.std() / math.sqrt(len(found)) + 1 / K**3
    assert abs(found.mean() - mismatch.iwae_bias(K, 3)) < allowed < -mismatch.iwae_bias(K, 3) / 2


def test_a_guide_that_does_not_cover_the_posterior_is_refused():
    with pytest.raises(ValueError, match="does not cover the posterior"):
        Mismatch(widen=1.0)


@pytest.mark.parametrize("num_classes", [0, 3])
def test_the_evidence_is_the_normal_of_the_model(num_classes):
    truth = LinearGaussian(2, data_dim=4, scale=0.6, num_classes=num_classes)
    y = torch.eye(3).double()[[0, 2, 1, 1, 2]] if num_classes else None
    x = truth.sample(5, 0, y)
    W = truth.weight.numpy()
    for i in range(5):
        mean = truth.bias.numpy() + (W @ truth.means[y[i].argmax()].numpy() if num_classes else 0)
        slow = scipy.stats.multivariate_normal(mean, W @ W.T + 0.36 * np.eye(4)).logpdf(x[i].numpy())
        assert truth.log_evidence(x, y)[i].item() == pytest.approx(slow, rel=1e-10)


@pytest.mark.parametrize("num_classes", [0, 3])
def test_the_program_is_that_model_and_its_guide_nearly_the_posterior(num_classes):
    """Under the exact posterior every weight is p(x): so it is, up to 1e-4, under a guide that misses by as little."""
    truth = LinearGaussian(3, num_classes=num_classes)
    y = torch.eye(3).double()[torch.arange(40) % 3] if num_classes else None
    x, vae = truth.sample(40, 0, y), truth.program(Mismatch(1 + 1e-6, 0.0))
    weights = pv.evaluation.log_weights(vae, x, 20, y, seed=0)
    assert torch.allclose(weights, truth.log_evidence(x, y).expand(20, 40), rtol=0, atol=1e-4)


def test_the_guide_misses_by_the_stated_amount():
    truth, mismatch = LinearGaussian(3), Mismatch(1.5, 0.4)
    x = truth.sample(6, 0)
    exact, q = (truth.program(m).posterior(x) for m in (Mismatch(1 + 1e-9, 0.0), mismatch))
    assert torch.allclose(q.covariance_matrix, 2.25 * exact.covariance_matrix, rtol=1e-6)
    shift = torch.linalg.solve(torch.linalg.cholesky(exact.covariance_matrix), (q.mean - exact.mean)[..., None])
    assert torch.allclose(shift, torch.full_like(shift, 0.4), atol=1e-6)
    assert torch.distributions.kl_divergence(q, exact)[0].item() == pytest.approx(mismatch.kl(3), rel=1e-6)


def test_data_are_draws_of_the_model_and_programs_of_a_seed():
    """Mean and covariance of 4000 data, each entry within 5 standard errors (90 entries, 6e-5)."""
    truth = LinearGaussian(2)
    x, wanted = truth.sample(4000, 0), truth.evidence().covariance_matrix
    variance = wanted.diagonal()
    assert ((x.mean(0) - truth.bias).abs() < 5 * (variance / 4000).sqrt()).all()
    spread = ((variance[:, None] * variance + wanted.square()) / 4000).sqrt()
    assert ((x.T.cov() - wanted).abs() < 5 * spread).all()
    assert torch.equal(truth.sample(3, 1), LinearGaussian(2).sample(3, 1))
    assert not torch.equal(truth.weight, LinearGaussian(2, seed=1).weight)


def test_a_non_linear_program_is_far_from_its_linear_part():
    vae = non_linear(2, 16, gain=2.0)
    with torch.no_grad():
        z = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)).double()
        logits = vae.likelihood(z).base_dist.logits
        design = torch.cat([z, torch.ones(200, 1)], 1)
        rest = logits - design @ torch.linalg.lstsq(design, logits).solution
    assert rest.square().mean() > 0.01 * logits.var()
    assert torch.equal(non_linear(2, 16, gain=2.0).generate(0), vae.generate(0))
