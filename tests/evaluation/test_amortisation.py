"""Refinement finds the exact posterior where it is a normal with diagonal covariance, and changes nothing else."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import ProbabilisticPCA, binary_data, small_vae, two_layers
from torch import nn

import pyro_vae as pv
from pyro_vae.evaluation.trust.amortisation import refine
from pyro_vae.model.distributions import gaussian_kl


class _Wrong(pv.posteriors.Posterior):
    """The exact posterior of an orthogonal linear-Gaussian model, moved and widened."""

    def __init__(self, truth, widen=1.0, shift=0.0):
        super().__init__(nn.Identity(), truth.latent_dim)
        self.truth, self.widen, self.shift = truth, widen, shift

    def forward(self, x, y=None):
        exact = self.truth.posterior(x)
        scale = exact.covariance_matrix.diagonal(dim1=-2, dim2=-1).sqrt()
        return dist.Normal(exact.mean + self.shift, scale * self.widen).to_event(1)


@pytest.fixture(scope="module")
def truth():
    truth = ProbabilisticPCA(latent_dim=2)
    truth.W = torch.linalg.qr(truth.W).Q * torch.tensor([2.0, 0.5], dtype=torch.float64)
    truth.covariance = torch.linalg.inv(torch.eye(2, dtype=torch.float64) + truth.W.T @ truth.W / truth.scale**2)
    return truth


def program(truth, **wrong):
    return pv.VAE(pv.priors.StandardNormal(2), _Wrong(truth, **wrong), truth.vae().likelihood).double()


def test_it_finds_the_exact_posterior_and_the_gap_is_the_kl_to_it(truth):
    """A gap of KL(q || p(z|x)) for each of 140 data in two blocks, within 5 errors (8e-5) and what is left to fit."""
    vae, x = program(truth, widen=1.7, shift=0.8), truth.data(140)
    found = refine(vae, x, steps=200, num_samples=400, seed=0)
    exact = truth.posterior(x)
    scale = exact.covariance_matrix.diagonal(dim1=-2, dim2=-1).sqrt()
    assert ((found.loc - exact.mean).abs() / scale).max() < 5e-3
    assert (found.scale / scale - 1).abs().max() < 5e-3
    assert (found.refined.value - truth.evidence().log_prob(x)).abs().max() < 5e-3
    gap = torch.distributions.kl_divergence(vae.posterior(x), dist.Normal(exact.mean, scale).to_event(1))
    assert ((found.gap.value - gap).abs() < 5 * found.gap.value_error + 1e-3).all()
    assert abs(found.gap.mean - gap.mean()) < 4 * found.gap.monte_carlo_error
    assert gap.mean() > 0.5  # there was something to find


def test_where_nothing_is_to_gain_nothing_is_gained(truth):
    found = refine(program(truth), truth.data(20), steps=100, num_samples=10, seed=0)
    assert found.gap.value.abs().max() < 1e-6
    assert found.gap.monte_carlo_error < 1e-6


@pytest.mark.thorough
def test_a_posterior_that_is_not_diagonal_keeps_its_approximation_gap():
    """The best diagonal normal has the precision's diagonal: 1 / s_j^2 = Lambda_jj, and misses KL of that much."""
    truth = ProbabilisticPCA(latent_dim=2, seed=3)
    vae, x = program(truth, widen=1.5, shift=-0.5), truth.data(30)
    found = refine(vae, x, steps=400, draws_per_step=16, num_samples=2000, seed=0)
    best = dist.Normal(truth.posterior(x).mean, torch.linalg.inv(truth.covariance).diagonal().rsqrt()).to_event(1)
    left = gaussian_kl._kl(best, truth.posterior(x), _trace(best, truth))
    exact = truth.evidence().log_prob(x) - left
    assert ((found.refined.value - exact).abs() < 5 * found.refined.value_error + 0.01).all()
    assert (found.scale / best.base_dist.scale - 1).abs().max() < 0.15
    assert left.min() > 0.03


def _trace(q, truth):
    return (q.variance * torch.linalg.inv(truth.covariance).diagonal()).sum(-1)


@pytest.mark.thorough
def test_its_elbo_is_that_of_the_programs_own_guide():
    vae, x = small_vae(), binary_data(10)
    found = refine(vae, x, steps=200, seed=5)
    weights = pv.evaluation.log_weights(vae, x, 100, seed=5)
    assert torch.allclose(found.elbo.value, weights.mean(0), rtol=0, atol=1e-12)
    assert torch.allclose(found.gap.value, found.refined.value - found.elbo.value, rtol=0, atol=1e-12)
    assert (found.gap.value > -5 * found.gap.value_error).all()
    assert found.gap.mean > 0.01
    evidence = pv.evaluation.iwae(vae, x, 5000, seed=6)
    assert (found.refined.value < evidence.value + 5 * (found.refined.value_error + evidence.value_error)).all()


def test_it_is_reproducible_and_changes_nothing():
    vae, x = small_vae().train(), binary_data(10)
    vae.posterior.encoder.body.append(nn.Dropout(0.5))
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    state = torch.get_rng_state()
    first = refine(vae, x, steps=20, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.randn(3)
    again, other = refine(vae, x, steps=20, seed=1), refine(vae, x, steps=20, seed=2)
    assert torch.equal(first.gap.value, again.gap.value)
    assert torch.equal(first.loc, again.loc)
    assert not torch.equal(first.loc, other.loc)
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in vae.parameters())
    assert all(module.training for module in vae.modules())
    assert not list(pyro.get_param_store())
    assert not first.loc.requires_grad


def test_shards_of_whole_blocks_repeat_the_numbers():
    vae, x = small_vae(), binary_data(140)
    whole = refine(vae, x, steps=5, num_samples=3, seed=1)
    second = refine(vae, x[128:], steps=5, num_samples=3, seed=1, first_block=1)
    assert torch.equal(second.gap.value, whole.gap.value[128:])
    assert torch.equal(second.loc, whole.loc[128:])


@pytest.mark.parametrize("kind", ["FullNormal", "Delta", "FlowPosterior"])
def test_other_guides_are_refused(kind):
    posterior = getattr(pv.posteriors, kind)
    encoder = pv.networks.MLP((6,), posterior.encoder_shape(3), (8,))
    vae = pv.VAE(pv.priors.StandardNormal(3), posterior(encoder, 3), small_vae().likelihood).double()
    with pytest.raises(ValueError, match=r"normal with diagonal covariance, .* this guide has z ~ "):
        refine(vae, binary_data(4), steps=2, seed=0)


def test_two_latent_sites_are_refused():
    vae = two_layers()
    with pytest.raises(ValueError, match="this guide has z2 ~ Independent, z1 ~ Independent"):
        refine(vae, binary_data(4), steps=2, seed=0)


@pytest.mark.parametrize("options", [{"steps": 0}, {"draws_per_step": 0}])
def test_nothing_to_do_is_refused(options):
    with pytest.raises(ValueError, match="must be at least 1"):
        refine(small_vae(), binary_data(2), **options)
