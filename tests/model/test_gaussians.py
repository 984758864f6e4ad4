"""KL divergences between Gaussians of every structure against the formula with dense matrices, and against sampling."""

import itertools
import math

import pyro.distributions as dist
import pytest
import torch
from cases import all_but, covering
from densities import perturbed
from exact import binary_data
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.distributions import kl_divergence

import pyro_vae as pv

D = 4
STRUCTURES = ["diagonal", "full", "low_rank"]
every_pair = pytest.mark.parametrize(("q_kind", "p_kind"), [(q, p) for q in STRUCTURES for p in STRUCTURES])


def gaussian(kind, *batch, dim=D):
    loc = torch.randn(*batch, dim, dtype=torch.float64)
    scale = torch.randn(*batch, dim, dtype=torch.float64).mul(0.4).exp()
    factor = torch.randn(*batch, dim, dim, dtype=torch.float64)
    return {
        "diagonal": lambda: dist.Normal(loc, scale).to_event(1),
        "full": lambda: dist.MultivariateNormal(loc, scale_tril=factor.tril(-1) + scale.diag_embed()),
        "low_rank": lambda: dist.LowRankMultivariateNormal(loc, factor[..., :2], scale.square()),
    }[kind]()


def covariance(p):
    return p.covariance_matrix if hasattr(p, "covariance_matrix") else p.variance.diag_embed()


def by_hand(q, p):
    """1/2 [tr(S_p^-1 S_q) + (m_p - m_q)' S_p^-1 (m_p - m_q) - D + log |S_p| - log |S_q|], one pair."""
    S_q, S_p, difference = covariance(q), covariance(p), p.mean - q.mean
    inverse = torch.linalg.inv(S_p)
    trace = sum((inverse @ S_q)[i, i] for i in range(len(S_q)))
    return 0.5 * (trace + difference @ inverse @ difference - len(S_q) + torch.logdet(S_p) - torch.logdet(S_q))


def part(p, *index):
    """The member of a batch, as a full normal."""
    return dist.MultivariateNormal(p.mean[index], covariance(p)[index])


@every_pair
def test_it_is_the_formula(q_kind, p_kind):
    for dim in (1, 2, D):
        if dim == 1 and "low_rank" in (q_kind, p_kind):
            continue  # rank 2 of 1
        q, p = gaussian(q_kind, dim=dim), gaussian(p_kind, dim=dim)
        assert math.isclose(kl_divergence(q, p), by_hand(q, p), rel_tol=1e-10)


@every_pair
def test_it_is_the_mean_of_the_log_ratio(q_kind, p_kind):
    # 4 standard errors: false alarm 6e-5 for each of nine pairs.
    q, p = gaussian(q_kind), gaussian(p_kind)
    z = q.sample((20_000,))
    ratio = q.log_prob(z) - p.log_prob(z)
    assert abs(ratio.mean() - kl_divergence(q, p)) < 4 * ratio.std() / 20_000**0.5


@every_pair
def test_it_is_0_only_for_the_same_distribution_and_not_symmetric(q_kind, p_kind):
    loc, scale = torch.randn(D, dtype=torch.float64), torch.rand(D, dtype=torch.float64) + 0.5

    def build(kind, shift=0.0, stretch=1.0):
        return {
            "diagonal": lambda: dist.Normal(loc + shift, scale * stretch).to_event(1),
            "full": lambda: dist.MultivariateNormal(loc + shift, (scale * stretch).square().diag()),
            "low_rank": lambda: dist.LowRankMultivariateNormal(
                loc + shift, torch.zeros(D, 1, dtype=torch.float64), (scale * stretch).square()
            ),
        }[kind]()

    assert abs(kl_divergence(build(q_kind), build(p_kind))) < 1e-12
    assert kl_divergence(build(q_kind, shift=1e-2), build(p_kind)) > 1e-5
    assert kl_divergence(build(q_kind, stretch=1.01), build(p_kind)) > 1e-5
    q, p = gaussian(q_kind), gaussian(p_kind)
    assert kl_divergence(q, p) > 0
    assert kl_divergence(p, q) > 0
    assert abs(kl_divergence(q, p) - kl_divergence(p, q)) > 1e-2


@pytest.mark.parametrize(("q_batch", "p_batch"), [((3,), ()), ((3,), (3,)), ((2, 3), (3,)), ((3,), (2, 3)), ((), (3,))])
@every_pair
def test_batches_are_broadcast(q_kind, p_kind, q_batch, p_batch):
    q, p = gaussian(q_kind, *q_batch), gaussian(p_kind, *p_batch)
    shape = torch.broadcast_shapes(q_batch, p_batch)
    found = kl_divergence(q, p)
    assert found.shape == shape
    wide_q, wide_p = q.expand(shape), p.expand(shape)
    for index in torch.cartesian_prod(*map(torch.arange, shape)).reshape(-1, len(shape)).tolist():
        expected = by_hand(part(wide_q, *index), part(wide_p, *index))
        assert math.isclose(found[tuple(index)], expected, rel_tol=1e-10)
    assert torch.allclose(kl_divergence(wide_q, wide_p), found, rtol=1e-10)


@every_pair
def test_gradients_are_those_of_the_formula(q_kind, p_kind):
    leaves = [torch.randn(D, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    factors = [torch.randn(D, D, dtype=torch.float64, requires_grad=True) for _ in range(2)]

    def build(kind, loc, raw, factor):
        scale = raw.exp()
        return {
            "diagonal": lambda: dist.Normal(loc, scale).to_event(1),
            "full": lambda: dist.MultivariateNormal(loc, scale_tril=factor.tril(-1) + scale.diag_embed()),
            "low_rank": lambda: dist.LowRankMultivariateNormal(loc, factor[..., :2], scale.square()),
        }[kind]()

    q, p = build(q_kind, *leaves[:2], factors[0]), build(p_kind, *leaves[2:], factors[1])
    found = torch.autograd.grad(kl_divergence(q, p), leaves + factors, retain_graph=True, materialize_grads=True)
    expected = torch.autograd.grad(by_hand(q, p), leaves + factors, materialize_grads=True)
    for ours, true in zip(found, expected, strict=True):
        assert torch.allclose(ours, true, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("q_kind", ["full", "low_rank"])
def test_an_independent_of_something_else_has_no_closed_form(q_kind):
    zeros, ones = torch.zeros(D, dtype=torch.float64), torch.ones(D, dtype=torch.float64)
    others = [dist.Laplace(zeros, ones).to_event(1), dist.StudentT(3.0, zeros, ones).to_event(1)]
    for other in others:
        with pytest.raises(NotImplementedError):
            kl_divergence(gaussian(q_kind), other)
    with pytest.raises(NotImplementedError):
        kl_divergence(others[0], gaussian("low_rank"))
    matrix = dist.Normal(torch.zeros(3, D), 1.0).to_event(2)
    with pytest.raises(NotImplementedError):
        kl_divergence(gaussian(q_kind), matrix)


POSTERIORS = ["DiagonalNormal", "FullNormal", "LowRankNormal"]
PRIORS = ["StandardNormal", "DiagonalNormal", "FullNormal", "ConditionalNormal"]


def program(posterior, prior):
    kind, C = getattr(pv.posteriors, posterior), 2 if prior == "ConditionalNormal" else 0
    small = {"hidden": (8,), "activation": nn.Tanh, "y_dim": C}
    encoder = pv.networks.MLP((6,), kind.encoder_shape(3), **small)
    decoder = pv.networks.MLP((3,), (6,), **small)
    p = getattr(pv.priors, prior)(3, **({"y_dim": C} if C else {}))
    vae = perturbed(pv.VAE(p, kind(encoder, 3), pv.likelihoods.Bernoulli(decoder)))
    return vae, torch.eye(C, dtype=torch.float64)[torch.arange(20) % C] if C else None


@pytest.mark.parametrize(
    ("posterior", "prior"), all_but(covering(POSTERIORS, PRIORS), itertools.product(POSTERIORS, PRIORS))
)
def test_the_sampled_and_the_analytic_elbo_agree(posterior, prior):
    # 4 Monte Carlo errors of the difference: false alarm 6e-5 for each of twelve programs.
    (vae, y), x = program(posterior, prior), binary_data(20)
    analytic = pv.evaluation.elbo(vae, x, num_samples=1000, y=y, seed=0)
    assert analytic.kind == {"z": "analytic"}
    sampled = pv.evaluation.log_weights(vae, x, num_samples=1000, y=y, seed=1)
    error = math.hypot(analytic.monte_carlo_error, (sampled.var(0).sum() / 1000).sqrt().item() / 20)
    assert abs(analytic.mean - sampled.mean().item()) < 4 * error


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("posterior", POSTERIORS)
def test_trace_mean_field_elbo_uses_it(posterior, prior):
    """Over a decoder that ignores z the analytic loss is exact from a single draw; the sampled one is not."""
    (vae, y), x = program(posterior, prior), binary_data(20)
    torch.nn.init.zeros_(vae.likelihood.decoder.head.weight)
    args = (x,) if y is None else (x, y)
    q, p = vae.posterior(*args), vae.prior(y).expand((20,))
    kl = sum(by_hand(part(q, b), part(p, b)) for b in range(20))
    exact = (kl - vae.likelihood(q.mean, y).log_prob(x).sum()).item()
    assert math.isclose(TraceMeanField_ELBO().loss(vae.model, vae.guide, *args), exact, rel_tol=1e-10)
    assert not math.isclose(Trace_ELBO().loss(vae.model, vae.guide, *args), exact, rel_tol=1e-4)
