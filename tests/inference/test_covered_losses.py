"""Which losses have a step that can be a graph, and what their graphs ask of the data."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO

from pyro_vae.inference.covered_losses import is_covered, requiring_support
from pyro_vae.inference.objectives import ImportanceWeightedELBO, MeanFieldELBO
from pyro_vae.model.conditions import collected


class Renamed(Trace_ELBO):
    """Another name, the same step."""


class Doubled(TraceMeanField_ELBO):
    def loss_and_grads(self, *args, **kwargs):
        return 2 * super().loss_and_grads(*args, **kwargs)


class Particle(Trace_ELBO):
    def _differentiable_loss_particle(self, model_trace, guide_trace):
        return super()._differentiable_loss_particle(model_trace, guide_trace)


@pytest.mark.parametrize("loss", [Trace_ELBO, TraceMeanField_ELBO, MeanFieldELBO, Renamed])
def test_a_loss_with_the_step_of_a_covered_one_is_covered(loss):
    assert is_covered(loss())


def test_the_importance_weighted_one_is_covered():
    assert is_covered(ImportanceWeightedELBO(3))


@pytest.mark.parametrize("loss", [Doubled, Particle, RenyiELBO, TraceGraph_ELBO, object])
def test_a_loss_with_a_step_of_its_own_is_not(loss):
    assert not is_covered(loss())


@pytest.mark.parametrize(
    ("distribution", "value", "inside"),
    [
        (dist.Bernoulli(torch.full((3,), 0.5)).to_event(1), [0.0, 1.0, 1.0], True),
        (dist.Bernoulli(torch.full((3,), 0.5)).to_event(1), [0.0, 2.0, 1.0], False),
        (dist.Poisson(torch.ones(3)).to_event(1), [0.0, 7.0, 2.5], False),
        (dist.Normal(torch.zeros(3), 1.0).to_event(1), [0.0, torch.nan, 1.0], False),
        (dist.Normal(torch.zeros(3), 1.0).to_event(1), [0.0, -9.0, 1.0], True),
    ],
)
def test_the_support_of_what_is_observed_is_a_condition(distribution, value, inside):
    def model(x):
        pyro.sample("x", distribution, obs=x)

    with collected() as conditions, poutine.block():
        requiring_support(model)(torch.tensor(value))
    assert [condition.item() for condition in conditions] == [inside]
