"""Columns in units of any size: right classes keep the contract, and wrong ones break the line that they break else."""

import math

import pyro.distributions as dist
import pytest
import torch
from cases import thorough
from pyro.distributions import constraints
from torch import nn

import pyro_vae as pv
from pyro_vae.model.checks import moderation

UNITS = [*thorough(1e-3, 1.0), 100.0, *thorough(1e4)]


class TReal(pv.likelihoods.Likelihood):
    """Student's t, with a scale for each column."""

    def __init__(self, decoder):
        super().__init__(decoder)
        self.log_scale = nn.Parameter(torch.zeros(3))

    def made(self, loc, scale):
        return dist.StudentT(4.0, loc, scale).to_event(1)

    def forward(self, z, y=None):
        return self.made(self.decode(z, y), self.log_scale.exp())


class LaplaceQ(pv.posteriors.Posterior):
    @staticmethod
    def encoder_shape(latent_dim):
        return (2 * latent_dim,)

    def made(self, loc, scale):
        return dist.Laplace(loc, 1e-4 + scale).to_event(1)

    def forward(self, x, y=None):
        loc, log_scale = self.encode(x, y).chunk(2, -1)
        return self.made(loc, log_scale.exp())


class NormalQ(LaplaceQ):
    def made(self, loc, scale):
        return dist.Normal(loc, scale).to_event(1)


class NoEvent(LaplaceQ):
    def made(self, loc, scale):
        return dist.Normal(loc, scale)


class ScaleDetached(LaplaceQ):
    def made(self, loc, scale):
        return dist.Normal(loc, scale.detach()).to_event(1)


class InSingle(LaplaceQ):
    def made(self, loc, scale):
        return dist.Normal(loc.float(), scale.float()).to_event(1)


class PlainConstant(LaplaceQ):
    def __init__(self, *args):
        super().__init__(*args)
        self.ones = torch.ones(2)

    def made(self, loc, scale):
        return dist.Normal(loc, scale * self.ones).to_event(1)


class Centred(LaplaceQ):
    def made(self, loc, scale):
        return dist.Normal(loc - loc.mean(0), scale).to_event(1)


class OwnDensity(dist.TorchDistribution):
    """A distribution by location and scale, from noise and its log-density."""

    arg_constraints = {}  # noqa: RUF012
    support, has_rsample = constraints.real_vector, True

    def __init__(self, loc, scale):
        self.loc, self.scale = loc, scale
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    def expand(self, batch_shape, _instance=None):
        shape = torch.Size(batch_shape) + self.event_shape
        return type(self)(self.loc.expand(shape), self.scale.expand(shape))

    def rsample(self, sample_shape=()):
        return self.loc + self.scale * self.noise(torch.Size(sample_shape) + self.loc.shape).to(self.loc)

    def sample(self, sample_shape=()):
        with torch.no_grad():
            return self.rsample(sample_shape)


class NoJacobian(OwnDensity):
    def noise(self, shape):
        return torch.randn(shape)

    def log_prob(self, value):
        return dist.Normal(0.0, 1.0).log_prob((value - self.loc) / self.scale).sum(-1)


class TornMixture(OwnDensity):
    """Drawn as whole vectors, and a density that mixes each dimension by itself."""

    def noise(self, shape):
        return 2.0 * (2 * torch.randint(2, (*shape[:-1], 1)) - 1) + torch.randn(shape)

    def log_prob(self, value):
        u = (value - self.loc) / self.scale
        each = torch.stack([dist.Normal(mean, 1.0).log_prob(u) for mean in (-2.0, 2.0)]).logsumexp(0)
        return (each - math.log(2) - self.scale.log()).sum(-1)


class WithoutJacobian(LaplaceQ):
    def made(self, loc, scale):
        return NoJacobian(loc, scale)


class Torn(LaplaceQ):
    def made(self, loc, scale):
        return TornMixture(loc, scale)


class Wide(dist.Normal):
    def sample(self, sample_shape=()):
        with torch.no_grad():
            return self.loc + 1.2 * (super().sample(sample_shape) - self.loc)


class WidePixels(TReal):
    def made(self, loc, scale):
        return Wide(loc, scale).to_event(1)


class OffByAFactor(TReal):
    class kind(dist.Normal):  # noqa: N801
        def log_prob(self, value):
            return super().log_prob(value) + 0.1

    def made(self, loc, scale):
        return self.kind(loc, scale).to_event(1)


class NoEventPixels(TReal):
    def made(self, loc, scale):
        return dist.Normal(loc, scale)


class WidthDetached(TReal):
    def made(self, loc, scale):
        return dist.Normal(loc, scale.detach()).to_event(1)


class HalfDetached(TReal):
    """Where data are far, the slope of the scale is large, and that of the location is hidden by it."""

    def made(self, loc, scale):
        return dist.Normal(loc + loc.detach().sin(), scale).to_event(1)


def table(unit, rows=4):
    x = torch.randn(rows, 3)
    x[:, 1] = unit * (x[:, 1] + 2)
    return x


def network(in_shape, out_shape):
    layers = nn.Linear(math.prod(in_shape), 32), nn.SiLU(), nn.Linear(32, math.prod(out_shape))
    return nn.Sequential(nn.Flatten(), *layers, nn.Unflatten(1, out_shape))


def report(kind, unit, seed):
    torch.manual_seed(seed)
    x = table(unit)
    if issubclass(kind, LaplaceQ):
        return pv.check_posterior(kind(network((3,), (4,)), 2), x, seed=seed)
    return pv.check_likelihood(kind(network((2,), (3,))), torch.randn(4, 2), x, seed=seed)


@pytest.mark.thorough
@pytest.mark.parametrize("seed", [0, *thorough(*range(1, 20))])
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("kind", [LaplaceQ, NormalQ, TReal])
def test_right_classes_pass_in_any_unit(kind, unit, seed):
    report(kind, unit, seed).raise_if_failed()


WRONG = [
    (WithoutJacobian, "integral"),
    (Torn, "sampler"),
    (NoEvent, "shapes"),
    (ScaleDetached, "slopes"),
    (InSingle, "moves"),
    (PlainConstant, "moves"),
    (Centred, "batch order"),
    (WidePixels, "sampler"),
    (OffByAFactor, "integral"),
    (NoEventPixels, "shapes"),
    (WidthDetached, "slopes"),
    (HalfDetached, "slopes"),
]


@pytest.mark.thorough
@pytest.mark.parametrize("unit", [*thorough(1e-3, 1.0, 100.0), 1e4])
@pytest.mark.parametrize(("kind", "line"), [*WRONG[:2], WRONG[-1], *thorough(*WRONG[2:-1])])
def test_wrong_classes_fail_in_any_unit(kind, line, unit):
    assert line in report(kind, unit, 0).failed


@pytest.mark.parametrize("seed", [3, *thorough(*range(3), *range(4, 10))])
def test_latents_far_out_are_held_in_range_too(seed):
    """float32 and float64 differ by hundreds of nats at z of 1e13, which an untrained guide gives for raw columns."""
    torch.manual_seed(seed)
    pv.check_likelihood(TReal(network((2,), (3,))), 1e13 * torch.randn(4, 2), table(100.0)).raise_if_failed()


@pytest.mark.thorough
def test_a_place_far_from_0_is_as_exact_as_float32_is():
    """Numbers of 1e4 with a spread of 0.1: a thousandth is what float32 tells apart there."""

    class Far(TReal):
        def made(self, loc, scale):
            return dist.Normal(1e4 + loc, 0.1 * scale).to_event(1)

    for seed in range(5):
        assert pv.check_likelihood(Far(network((2,), (3,))), torch.randn(4, 2), seed=seed).passed


@pytest.mark.thorough
def test_a_kink_within_a_step_is_no_wrong_slope():
    class Sharp(LaplaceQ):
        def made(self, loc, scale):
            return dist.Laplace(loc, 1e-4 * scale).to_event(1)

    for seed in range(8):
        torch.manual_seed(seed)
        assert "slopes" not in pv.check_posterior(Sharp(network((3,), (4,)), 2), table(1.0), seed=seed).failed


def test_networks_that_see_numbers_of_about_1_stay_as_they_are():
    strong = nn.Sequential(nn.Linear(3, 4))
    nn.init.constant_(strong[0].weight, 30.0)
    posterior = LaplaceQ(strong, 2)
    assert moderation.gains(posterior, lambda member: member(torch.ones(2, 3))) == {"encoder": 1.0}
    known = moderation.gains(posterior, lambda member: member(torch.full((2, 3), 100.0)))
    assert 3.0 / known["encoder"] == pytest.approx(9000.0, rel=1e-3)
    assert not strong._forward_hooks
