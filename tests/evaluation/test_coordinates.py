"""Latent sites side by side as one vector: every number has its place, and comes back from it."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_vae.evaluation.coordinates import Coordinates, check_real
from pyro_vae.model import traces


def model():
    with pyro.plate("data", 4, dim=-1):
        pyro.sample("a", dist.Normal(torch.zeros(2, 3), 1.0).to_event(2))
        pyro.sample("b", dist.Normal(0.0, 1.0))
        pyro.sample("c", dist.Normal(torch.zeros(5), 1.0).to_event(1))


@pytest.fixture
def trace():
    return poutine.util.prune_subsample_sites(poutine.trace(model).get_trace())


@pytest.fixture
def coordinates(trace):
    return Coordinates(traces.latent_sites(trace))


def test_numbers_stand_site_by_site_in_their_order(trace, coordinates):
    z = coordinates.read(trace)
    assert (coordinates.dim, z.shape) == (12, (4, 12))
    assert list(coordinates.shapes) == ["a", "b", "c"]
    for n in range(4):
        expected = torch.cat([trace.nodes[name]["value"][n].flatten() for name in "abc"])
        assert torch.equal(z[n], expected)


@pytest.mark.parametrize("leading", [(), (7,), (2, 7)])
def test_a_program_that_is_held_to_z_has_it(coordinates, leading):
    z = torch.randn(*leading, 4, 12)
    held = coordinates.hold(z)
    assert {name: site["value"].shape for name, site in held.nodes.items()} == {
        "a": (*leading, 4, 2, 3),
        "b": (*leading, 4),
        "c": (*leading, 4, 5),
    }
    assert torch.equal(coordinates.read(held), z)
    if not leading:
        replayed = poutine.trace(poutine.replay(model, trace=held)).get_trace()
        assert torch.equal(coordinates.read(replayed), z)


@pytest.mark.parametrize(
    "distribution",
    [
        dist.Normal(torch.zeros(3), 1.0).to_event(1),
        dist.MultivariateNormal(torch.zeros(3), torch.eye(3)),
        dist.StudentT(5.0, torch.zeros(3), 1.0).to_event(1),
    ],
)
def test_densities_over_all_numbers_pass(distribution):
    check_real("z", distribution, "a grid")


@pytest.mark.parametrize(
    "distribution",
    [
        dist.Gamma(torch.ones(3), 1.0).to_event(1),
        dist.Beta(torch.ones(3), 1.0).to_event(1),
        dist.Bernoulli(torch.full((3,), 0.5)).to_event(1),
        dist.Dirichlet(torch.ones(3)),
    ],
)
def test_others_are_refused_by_name(distribution):
    with pytest.raises(ValueError, match=r"site z is a \w+ over .*: a grid needs latents over all real numbers"):
        check_real("z", distribution, "a grid")
