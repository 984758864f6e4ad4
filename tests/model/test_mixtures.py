"""Mixtures of whole vectors against loops by scipy, in float64 and, where it hurts, in float32."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from densities import check_sampler, full_normal, mixture, normal
from torch.autograd import gradcheck

from pyro_vae.model.distributions import mixtures
from pyro_vae.model.distributions.mixtures import Mixture

D, M = 3, 5
COMPONENTS = ["normal", "full", "low_rank", "laplace"]


def weights(number=M):
    return torch.randn(number, dtype=torch.float64).log_softmax(0)


def components(kind="normal", number=M, dim=D):
    loc = 2 * torch.randn(number, dim, dtype=torch.float64)
    scale = torch.randn(number, dim, dtype=torch.float64).mul(0.3).exp()
    factor = torch.randn(number, dim, dim, dtype=torch.float64)
    return {
        "normal": lambda: dist.Normal(loc, scale).to_event(1),
        "full": lambda: dist.MultivariateNormal(loc, scale_tril=factor.tril(-1) + scale.diag_embed()),
        "low_rank": lambda: dist.LowRankMultivariateNormal(loc, factor[..., :1], scale.square()),
        "laplace": lambda: dist.Laplace(loc, scale).to_event(1),
    }[kind]()


def by_loops(log_weights, parts, z):
    columns = []
    for k in range(len(log_weights)):
        if hasattr(parts, "covariance_matrix"):
            columns.append(full_normal(z, parts.mean[k].numpy(), parts.covariance_matrix[k].numpy()))
        elif isinstance(parts.base_dist, dist.Normal):
            columns.append(normal(z, parts.base_dist.loc[k].numpy(), parts.base_dist.scale[k].numpy()))
        else:
            loc, scale = parts.base_dist.loc[k].numpy(), parts.base_dist.scale[k].numpy()
            columns.append((-np.abs(z - loc) / scale - np.log(2 * scale)).sum(-1))
    return mixture(log_weights.numpy(), columns)


@pytest.mark.parametrize("number", [1, M])
@pytest.mark.parametrize("kind", COMPONENTS)
def test_density_is_the_loop(kind, number):
    log_weights, parts = weights(number), components(kind, number)
    z = 3 * torch.randn(4, 6, D, dtype=torch.float64)
    found = Mixture(log_weights, parts).log_prob(z).numpy()
    np.testing.assert_allclose(found, by_loops(log_weights, parts, z.numpy()), rtol=1e-10)


def test_one_component_is_that_component():
    parts, z = components(number=1), torch.randn(7, D, dtype=torch.float64)
    p = Mixture(torch.zeros(1, dtype=torch.float64), parts)
    assert torch.allclose(p.log_prob(z), parts.log_prob(z), rtol=1e-12)
    assert torch.allclose(p.mean, parts.mean[0])
    assert torch.allclose(p.variance, parts.variance[0])


def test_matrix_products_and_the_generic_path_agree():
    parts, z = components(), 3 * torch.randn(50, D, dtype=torch.float64)
    generic = parts.log_prob(z.unsqueeze(-2))
    assert torch.allclose(mixtures._log_prob(parts, z), generic, rtol=1e-10)


@pytest.mark.parametrize("distance", [0.0, 1e-3, 1.0])
@pytest.mark.parametrize("sigma", [1e-3, 1.0])
def test_far_from_0_and_with_tiny_sigmas_float32_keeps_four_digits(sigma, distance):
    loc = 50 * torch.randn(200, 20).sign() + torch.randn(200, 20)
    scale = sigma * torch.randn(200, 20).exp()
    z = loc[:50] + distance * torch.randn(50, 20)
    p = Mixture(torch.full((200,), -np.log(200)), dist.Normal(loc, scale).to_event(1))
    exact = dist.Normal(loc.double(), scale.double()).to_event(1).log_prob(z.double()[:, None])
    exact = torch.logsumexp(exact - np.log(200), -1)
    assert p.log_prob(z).dtype == torch.float32
    assert ((p.log_prob(z) - exact).abs() < 1e-4 * exact.abs()).all()


@pytest.mark.parametrize("sigma", [1e-3, 1.0])
def test_and_so_do_its_gradients(sigma):
    loc = 50 * torch.randn(20, 10).sign() + torch.randn(20, 10)
    scale = sigma * torch.randn(20, 10).exp()
    z = loc[:5] + 2 * sigma * torch.randn(5, 10)

    def gradients(log_prob, dtype):
        leaves = [tensor.to(dtype).requires_grad_() for tensor in (loc, scale, z)]
        return torch.autograd.grad(log_prob(dist.Normal(*leaves[:2]).to_event(1), leaves[2]).sum(), leaves)

    found = gradients(lambda parts, z: Mixture(torch.zeros(20), parts).log_prob(z), torch.float32)
    exact = gradients(lambda parts, z: torch.logsumexp(parts.log_prob(z[:, None]), -1), torch.float64)
    for ours, true in zip(found, exact, strict=True):
        assert (ours - true).abs().max() < 1e-4 * true.abs().max()


@pytest.mark.parametrize("kind", COMPONENTS)
def test_draws_have_the_density(kind):
    check_sampler(Mixture(weights(), components(kind, dim=2)))


@pytest.mark.parametrize("kind", COMPONENTS)
def test_mean_and_variance_are_those_of_a_big_sample(kind):
    # 5 standard errors on 3 means and 3 variances: false alarm 3e-6.
    p = Mixture(weights(), components(kind))
    z = p.sample((40_000,))
    assert ((z.mean(0) - p.mean).abs() < 5 * z.std(0) / 200).all()
    squares = (z - p.mean).square()
    assert ((squares.mean(0) - p.variance).abs() < 5 * squares.std(0) / 200).all()


@pytest.mark.parametrize("kind", ["normal", "full"])
def test_gradients_are_finite_differences(kind):
    def log_prob(logits, loc, raw, z):
        scale = raw.exp()
        parts = dist.Normal(loc, scale).to_event(1)
        if kind == "full":
            parts = dist.MultivariateNormal(loc, scale_tril=scale.diag_embed())
        return Mixture(logits.log_softmax(0), parts).log_prob(z)

    shapes = [(M,), (M, D), (M, D), (4, D)]
    assert gradcheck(log_prob, [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes])


@pytest.mark.parametrize("kind", ["normal", "full"])
def test_a_component_of_weight_0_is_as_if_it_were_not_there(kind):
    logits = torch.tensor([0.3, -torch.inf, 0.1], dtype=torch.float64, requires_grad=True)
    parts, z = components(kind, number=3), torch.randn(6, D, dtype=torch.float64)
    p = Mixture(logits.log_softmax(0), parts)
    expected = by_loops(logits.detach().log_softmax(0), parts, z.numpy())
    assert torch.allclose(p.log_prob(z).detach(), torch.from_numpy(expected), rtol=1e-10)
    p.log_prob(z).sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[1] == 0
    alone = Mixture(torch.tensor([-torch.inf, 0.0, -torch.inf], dtype=torch.float64), parts)
    assert torch.allclose(alone.log_prob(z), parts.log_prob(z[:, None])[:, 1], rtol=1e-10)
    assert torch.allclose(alone.mean, parts.mean[1])
    assert torch.allclose(alone.variance, parts.variance[1])


def test_a_component_of_weight_0_is_never_drawn():
    parts = dist.Normal(torch.tensor([[0.0], [100.0], [200.0]]), 1.0).to_event(1)
    z = Mixture(torch.tensor([0.5, 0.0, 0.5]).log(), parts).sample((2000,))
    assert (z / 100).round().long().flatten().bincount(minlength=3)[1] == 0


def test_components_are_drawn_as_often_as_they_weigh():
    # Clusters 100 sigma apart; a chi-square test at 5e-7.
    log_weights = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64).log()
    loc = 100 * torch.arange(4, dtype=torch.float64)[:, None]
    z = Mixture(log_weights, dist.Normal(loc, 1.0).to_event(1)).sample((100, 50))
    counts = (z / 100).round().long().flatten().bincount(minlength=4)
    expected = 5000 * log_weights.exp()
    assert ((counts - expected).square() / expected).sum() < 32.0


def test_all_draws_are_different_and_leave_no_order():
    # Neighbours in a plate are independent: correlation within 5 / sqrt(20000).
    p = Mixture(weights(2), dist.Normal(torch.tensor([[-3.0], [3.0]]).double(), 1.0).to_event(1))
    z = p.expand((20_000,)).sample()
    assert len(z.unique()) == 20_000
    left, right = z[:-1, 0] - z.mean(), z[1:, 0] - z.mean()
    assert abs((left * right).mean() / z.var()) < 5 / 20_000**0.5


def test_draws_carry_no_gradient():
    loc = torch.randn(M, D, requires_grad=True)
    p = Mixture(torch.zeros(M).log_softmax(0), dist.Normal(loc, 1.0).to_event(1))
    assert not p.has_rsample
    assert not p.sample((3,)).requires_grad
    assert not p().requires_grad


@pytest.mark.parametrize("kind", ["normal", "full"])
def test_expand_leaves_the_components_alone(kind):
    log_weights, parts = weights(), components(kind)
    p = Mixture(log_weights, parts)
    wide = p.expand((4,)).expand((6, 4))
    assert (wide.batch_shape, wide.event_shape) == ((6, 4), (D,))
    assert wide.components is p.components is parts
    assert (wide.mean.shape, wide.variance.shape) == ((6, 4, D), (6, 4, D))
    for shape in ((6, 4, D), (4, D), (D,), (2, 6, 4, D)):
        z = torch.randn(shape, dtype=torch.float64)
        found = wide.log_prob(z)
        assert found.shape == torch.broadcast_shapes(shape[:-1], (6, 4))
        assert torch.equal(found, p.log_prob(z).expand(found.shape))
    with pyro.plate("draws", 6, dim=-2), pyro.plate("data", 4, dim=-1):
        assert pyro.sample("z", p).shape == (6, 4, D)


@pytest.mark.parametrize("kind", ["normal", "full"])
def test_values_that_are_integers_have_the_density_of_those_numbers(kind):
    parts, z = components(kind), torch.tensor([[0, 1, -2], [3, 0, 1]])
    p = Mixture(weights(), parts)
    torch.testing.assert_close(p.log_prob(z), p.log_prob(z.double()), rtol=0, atol=0)


@pytest.mark.parametrize("centre", [300.0, -1e6])
@pytest.mark.parametrize("number", [1, M])
def test_the_variance_does_not_cancel_far_from_0(centre, number):
    """Components at `centre` + i / 4 with sigma 0.05: their variance plus that of their means."""
    w, apart = weights(number).float(), torch.arange(number)[:, None] / 4
    p = Mixture(w, dist.Normal(centre + apart, 0.05).to_event(1))
    share = (w.double().exp() / w.double().exp().sum())[:, None]
    expected = 0.05**2 + (share * (apart - (share * apart).sum(0)).square()).sum(0)
    torch.testing.assert_close(p.variance, expected.float(), rtol=1e-5, atol=0)
