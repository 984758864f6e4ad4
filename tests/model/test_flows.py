"""Flows as Pyro distributions: plates, draws and their cached densities, and what each direction costs."""

import pyro
import pytest
import torch
from densities import check_sampler, one_after_another, perturbed, pushed_forward
from pyro import poutine
from torch import nn

from pyro_vae.model.distributions import flows

D, HIDDEN = 3, (6,)


class Conditional(nn.Module):
    """An inverse autoregressive flow given a context, over a base of its own."""

    def __init__(self, latent_dim):
        super().__init__()
        self.latent_dim = latent_dim
        self.context, self.loc, self.raw = (nn.Parameter(torch.zeros(latent_dim)) for _ in range(3))
        self.transform = flows.inverse_autoregressive(latent_dim, latent_dim, 2, HIDDEN)

    def forward(self):
        return flows.flow(self.transform(self.context), self.loc, self.raw.exp())


class Unconditional(nn.Module):
    def __init__(self, build, latent_dim):
        super().__init__()
        self.flow = build(latent_dim, 2, HIDDEN)

    def forward(self):
        return flows.FlowDistribution(self.flow())


def build(kind, latent_dim=D):
    member = Conditional(latent_dim) if kind == "inverse" else Unconditional(flows.FLOWS[kind], latent_dim)
    return perturbed(member)


KINDS = [*flows.FLOWS, "inverse"]
every_kind = pytest.mark.parametrize("kind", KINDS)


def counter(member):
    """Passes since it was last asked: how many networks ran, over the number of transforms."""
    calls = []
    for module in member.modules():
        if type(module).__name__ == "MaskedMLP":
            module.register_forward_hook(lambda *_: calls.append(1))

    def since():
        number = len(calls) / 2
        calls.clear()
        return number

    return since


@every_kind
def test_plates_expand_it(kind):
    p = build(kind)()
    z = torch.randn(6, 4, D, dtype=torch.float64)
    wide = p.expand((4,)).expand((6, 4))
    assert isinstance(wide, flows.FlowDistribution)
    assert (p.batch_shape, wide.batch_shape, wide.event_shape) == ((), (6, 4), (D,))
    assert torch.allclose(wide.log_prob(z), p.log_prob(z), rtol=1e-12)
    assert wide.log_prob(z[0, 0]).shape == (6, 4)
    assert wide.sample((2,)).shape == wide.rsample((2,)).shape == (2, 6, 4, D)
    assert len(wide.sample().flatten(0, 1).unique(dim=0)) == 24
    assert wide.support.event_dim == 1

    def model():
        with pyro.plate("draws", 6, dim=-2), pyro.plate("data", 4, dim=-1):
            return pyro.sample("z", p)

    trace = poutine.trace(model).get_trace()
    trace.compute_log_prob()
    site = trace.nodes["z"]
    assert (site["value"].shape, site["log_prob"].shape) == ((6, 4, D), (6, 4))
    assert torch.allclose(site["log_prob"], p.log_prob(site["value"].detach().clone()), rtol=1e-9)


@every_kind
def test_rsample_has_a_gradient_and_sample_none(kind):
    member = build(kind)
    p = member()
    assert p.has_rsample
    assert not p.sample((5,)).requires_grad
    for draw in (p.rsample((5,)), p((5,)), p()):
        assert draw.requires_grad
        (draw * torch.randn_like(draw)).sum().backward(retain_graph=True)
    assert all(q.grad is not None and q.grad.abs().sum() > 0 for q in member.parameters())


@every_kind
def test_the_density_of_its_own_draw_is_the_one_computed_from_the_value(kind):
    member = build(kind)
    p = member().expand((4,))
    z = p.rsample((5,))
    cached, recomputed = p.log_prob(z), p.log_prob(z.clone())
    assert cached.shape == (5, 4)
    assert torch.allclose(cached, recomputed, rtol=1e-9)
    parameters = list(member.parameters())
    ours = torch.autograd.grad(cached.sum(), parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
    true = torch.autograd.grad(recomputed.sum(), parameters, allow_unused=True, materialize_grads=True)
    for a, b in zip(ours, true, strict=True):
        assert torch.allclose(a, b, rtol=1e-7, atol=1e-9)


@every_kind
def test_two_draws_keep_their_own_densities(kind):
    p = build(kind)()
    first, second = p.rsample((4,)), p.rsample((4,))
    assert torch.allclose(p.log_prob(first), p.log_prob(first.clone()), rtol=1e-9)
    assert torch.allclose(p.log_prob(second), p.log_prob(second.clone()), rtol=1e-9)
    assert not torch.allclose(p.log_prob(first), p.log_prob(second))


@pytest.mark.parametrize("kind", flows.FLOWS)
def test_density_is_that_of_the_base_times_the_jacobian(kind):
    member, z = build(kind), 1.5 * torch.randn(6, D, dtype=torch.float64)
    expected = pushed_forward(one_after_another(member.flow.transform.transforms), z)
    assert torch.allclose(member().log_prob(z).detach(), torch.from_numpy(expected), rtol=1e-8)


@every_kind
def test_draws_have_the_density(kind):
    check_sampler(build(kind, latent_dim=2)())


COSTS = {"spline": (2, 3, 1), "autoregressive": (D, D + 1, 1), "inverse": (1, 1, D + 1)}


@every_kind
def test_passes_are_those_of_the_modules_table(kind):
    member = build(kind)
    p, passes = member(), counter(member)
    p.sample((5,))
    draw = passes()
    z = p.rsample((5,))
    p.log_prob(z)
    own = passes()
    p.log_prob(z.detach().clone())
    assert (draw, own, passes()) == COSTS[kind]


@pytest.mark.parametrize("kind", ["autoregressive", "inverse"])
def test_one_dimension(kind):
    member = build(kind, latent_dim=1)
    z = torch.linspace(-30, 30, 20_001, dtype=torch.float64)[:, None]
    density = member().log_prob(z).exp()
    assert torch.trapezoid(density, z[:, 0]).item() == pytest.approx(1, abs=1e-6)


def test_a_coupling_of_one_dimension_is_refused_with_the_cure():
    with pytest.raises(ValueError, match=r"latent_dim 2 or more; got 1\. Use an autoregressive flow"):
        flows.spline(1, 2, HIDDEN)


@pytest.mark.parametrize("build", [*flows.FLOWS.values(), lambda D, T, h: flows.inverse_autoregressive(D, D, T, h)])
def test_a_flow_without_transforms_is_refused(build):
    with pytest.raises(ValueError, match=r"at least one transform; got flow_transforms=0"):
        build(D, 0, HIDDEN)


def test_a_flow_has_no_closed_mean():
    with pytest.raises(NotImplementedError):
        _ = build("spline")().mean
