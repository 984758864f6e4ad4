"""Rules of integration against closed forms and worked examples."""

import math

import pytest
import torch
from densities import integral

from pyro_vae.evaluation.exact.grids import flat, hermite_rule, legendre_rule, midpoint_rule, trapezoid_rule


class TestWorkedIntegrals:
    """The integrals of the teaching material, with the rule, the points, the box and the right value of each."""

    def test_five_midpoints(self):
        found = integral(lambda z: z[:, 0] ** 2 + 2 * z[:, 0] + 1, midpoint_rule, [(0, 1)], 5)
        assert found == pytest.approx(2.33, abs=1e-12)
        assert pytest.approx(7 / 3, abs=1e-3) != 2.33  # the exact value

    def test_the_toy_marginal(self):
        def f(z):
            return (-z.sum(-1)).exp()

        unit, exact = [(0, 1), (0, 1)], (1 - 1 / math.e) ** 2
        assert exact == pytest.approx(0.399576, abs=1e-6)
        assert integral(f, midpoint_rule, unit, 10) == pytest.approx(0.399244, abs=1e-6)
        assert integral(f, trapezoid_rule, unit, 11) == pytest.approx(0.400243, abs=1e-6)
        # As described, 0, 0.1, ..., 1 is 11 points a side, and all of them at weight 0.01 are far off.
        side = torch.linspace(0, 1, 11).double()
        assert 0.01 * f(torch.cartesian_prod(side, side)).sum().item() == pytest.approx(0.491, abs=1e-3)

    def test_orders_of_convergence(self):
        exact = math.e - 1
        for rule, sign in ((midpoint_rule, -1), (trapezoid_rule, 1)):
            coarse, fine = (integral(lambda z: z[:, 0].exp(), rule, [(0, 1)], n) - exact for n in (101, 201))
            assert sign * coarse > 0
            assert coarse / fine == pytest.approx(4, rel=0.03)

    @pytest.mark.parametrize(("matrix", "value"), [([[2, -0.5], [-0.5, 1]], 1.0), ([[1, -0.5], [-0.5, 2]], 0.571)])
    def test_the_bivariate_density_and_its_misprint(self, matrix, value):
        scale = 1.75 if value == 1 else 1.0  # the misprint leaves the determinant out of the inverse
        inverse = torch.tensor(matrix, dtype=torch.float64) / scale

        def density(z):
            v = z - torch.tensor([0.0, 1.0]).double()
            return (-0.5 * torch.einsum("pi,ij,pj->p", v, inverse, v)).exp() / (2 * math.pi * math.sqrt(1.75))

        box = [(-9, 9), (-11, 13)]
        integrals = (
            integral(density, midpoint_rule, box, 150),
            integral(density, trapezoid_rule, box, 151),
            integral(density, hermite_rule, [(0, 1), (1, 2)], 60),
        )
        assert integrals == pytest.approx([value] * 3, abs=5e-4 if value < 1 else 1e-6)

    def test_gauss_hermite_is_exact_below_degree_2n(self):
        normal = torch.distributions.Normal(0.0, 1.0)

        def moment(k):
            return integral(lambda z: z[:, 0] ** k * normal.log_prob(z[:, 0]).exp(), hermite_rule, [(0, 1)], 4)

        assert [moment(k) for k in (0, 2, 4, 6)] == pytest.approx([1, 1, 3, 15], rel=1e-12)
        assert moment(8) != pytest.approx(105, rel=1e-2)

    def test_panels_are_exact_below_degree_six_and_take_a_kink_between_them(self):
        points, weights = legendre_rule(9)
        assert weights.sum().item() == pytest.approx(1, abs=1e-14)
        assert [(weights * points**k).sum().item() for k in range(6)] == pytest.approx([1 / k for k in range(1, 7)])
        assert (weights * points**24).sum().item() != pytest.approx(1 / 25, abs=1e-6)
        assert (weights * (points - 1 / 3).abs()).sum().item() == pytest.approx(5 / 18, abs=1e-14)


class TestMistakes:
    def test_the_trapezoid_has_two_ends(self):
        with pytest.raises(ValueError, match="two points or more along each axis; got n=1"):
            trapezoid_rule(1)

    def test_gauss_hermite_has_at_most_100_points(self):
        with pytest.raises(ValueError, match="at most 100 points along each axis here; got n=101"):
            hermite_rule(101)

    @pytest.mark.parametrize("support", [[], [(1, 0)], [(0, 1), (2, 2)]])
    def test_a_support_needs_an_inside(self, support):
        with pytest.raises(ValueError, match="low < high for each axis; got"):
            flat(support)
