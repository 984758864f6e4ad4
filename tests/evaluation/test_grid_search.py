"""Where the grid goes: densities of one number that are hard to find, each of which integrates to 1."""

import math

import pyro.distributions as dist
import pytest
import torch
from densities import integral

from pyro_vae.evaluation.exact.grid_search import fixed, search
from pyro_vae.evaluation.exact.grids import trapezoid_rule

DRAWS = torch.randn(64, 2, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)  # of N(0, 1)


def density(distribution):
    """Of z (P, B, 1), the same for every datum."""
    return lambda z, data: distribution.log_prob(z[..., 0])


def normals(weights, means, scales):
    parts = dist.Normal(torch.tensor(means).double(), torch.tensor(scales).double())
    return dist.MixtureSameFamily(dist.Categorical(torch.tensor(weights).double()), parts)


# The spike stands between two points of the grids of 65 points on (-8, 8), six of its widths from either.
BESIDE_A_SPIKE = normals([0.5, 0.5], [0.0, 6.125], [1.0, 0.25 / 12])
HARD = {
    "spike": BESIDE_A_SPIKE,
    "narrow": normals([1.0], [0.3], [1e-3]),
    "far": normals([1.0], [30.0], [0.5]),
    "two scales": normals([0.5, 0.5], [0.0, 0.5], [1.0, 2e-2]),
    "heavy tails": dist.StudentT(torch.tensor(2.0).double()),
}
CAUCHY = dist.Cauchy(torch.tensor(0.0).double(), 1.0)


@pytest.mark.parametrize("name", HARD)
def test_a_density_that_is_found_is_found_whole(name):
    found, _ = search(density(HARD[name]), DRAWS, 1e-4)
    assert found.reliable.all()
    assert found.value.abs().max() < 1e-4


def test_a_spike_at_which_the_grid_only_hints_is_marked():
    """The grid sees half of the mass, and every second point agrees."""
    found = fixed(density(BESIDE_A_SPIKE), DRAWS, 1e-4, [(-8, 8)], 65)
    assert found.value.exp().tolist() == pytest.approx([0.5, 0.5], abs=1e-4)
    assert found.refinement.max() < 1e-4
    assert found.boundary.max() < 1e-6
    assert not found.reliable.any()


def test_the_refinement_is_a_third_of_the_difference_to_half_the_points():
    kinked, box = dist.Laplace(torch.tensor(0.03).double(), 1.0), [(-15, 15)]
    found = fixed(density(kinked), DRAWS, 1e-4, box, 129)
    whole, half = (
        math.log(integral(lambda z: kinked.log_prob(z[:, 0]).exp(), trapezoid_rule, box, n)) for n in (129, 65)
    )
    assert found.value[0].item() == pytest.approx(whole, abs=1e-12)
    assert found.refinement[0].item() == pytest.approx(abs(whole - half) / 3, abs=1e-12)
    assert not found.reliable.any()


def test_tails_that_leave_the_grid_are_marked():
    found = fixed(density(CAUCHY), DRAWS, 1e-4, [(-20, 20)], 2001)
    assert found.value.exp().tolist() == pytest.approx([0.968, 0.968], abs=1e-3)
    assert found.refinement.max() < 1e-4
    assert not found.reliable.any()


def test_tails_that_no_grid_holds_are_marked():
    assert not search(density(CAUCHY), DRAWS, 1e-4)[0].reliable.any()


def test_what_a_fixed_grid_costs():
    found = fixed(density(HARD["far"]), DRAWS, 1e-4, [(20, 40)], 201)
    assert found.reliable.all()
    assert found.points.tolist() == found.evaluations.tolist() == [201, 201]


def test_draws_that_are_all_the_same_say_nothing():
    with pytest.raises(ValueError, match="no grid can be placed"):
        search(density(HARD["far"]), torch.zeros_like(DRAWS), 1e-4)


def test_a_density_that_is_nowhere_finite():
    with pytest.raises(ValueError, match="not finite at any point of its grid"):
        search(lambda z, data: torch.full_like(z[..., 0], -torch.inf), DRAWS, 1e-4)
