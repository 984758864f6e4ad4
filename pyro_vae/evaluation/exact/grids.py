r"""Integration rules, and grids of their points over one to three numbers.

.. math:: \int f(z) \, dz = \sum_i w_i f(z_i) + \text{error}

A grid has n points along each axis, n^D in total. The trapezoid and the midpoints converge as 1/n^2, and exponentially
for smooth integrands that vanish at both ends. Gauss-Hermite is exact for a normal density times a polynomial. With
Gauss-Legendre on panels of three points, a kink affects only one panel.

Each datum's grid has coordinates of its own (`Box`), which also reach polynomial tails.

Reference:
    Trefethen & Weideman, "The Exponentially Convergent Trapezoidal Rule", SIAM Review 56, 2014.
    https://doi.org/10.1137/130932132
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

Rule = Callable[[int], tuple[Tensor, Tensor]]  # n -> points (n,) and weights (n,) of the unit interval
Support = Sequence[tuple[float, float]]

PANEL = 3  # points of a Gauss-Legendre panel
_LARGEST_ORDER = 100  # of Gauss-Hermite: numpy vouches for no more
_ON_GRIDS = 1 << 20  # points of all data together, in memory


def midpoint_rule(n: int) -> tuple[Tensor, Tensor]:
    """The midpoint rule: the middles of n cells."""
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n, torch.full((n,), 1 / n, dtype=torch.float64)


def trapezoid_rule(n: int) -> tuple[Tensor, Tensor]:
    """The trapezoid rule: both ends and n - 2 points between them."""
    if n < 2:
        raise ValueError(f"the trapezoid needs two points or more along each axis; got n={n}")
    weight = torch.full((n,), 1 / (n - 1), dtype=torch.float64)
    weight[[0, -1]] /= 2
    return torch.linspace(0, 1, n, dtype=torch.float64), weight


def hermite_rule(n: int) -> tuple[Tensor, Tensor]:
    """The Gauss-Hermite rule over the real line, in units of the standard deviation from the mean."""
    if n > _LARGEST_ORDER:
        raise ValueError(f"Gauss-Hermite has at most {_LARGEST_ORDER} points along each axis here; got n={n}")
    points, weights = map(torch.from_numpy, np.polynomial.hermite_e.hermegauss(n))
    return points, weights * (points**2 / 2).exp()


def legendre_rule(n: int) -> tuple[Tensor, Tensor]:
    """The Gauss-Legendre rule on n / 3 panels of 3 points: exact for polynomials of degree 5 on each."""
    panels = n // PANEL
    points, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(PANEL))
    corners = torch.arange(panels, dtype=torch.float64)[:, None]
    return ((corners + (points + 1) / 2) / panels).flatten(), (weights / 2 / panels).repeat(panels)


class Box(NamedTuple):
    r"""The place of a grid, for each of B data.

    .. math:: z = \text{centre} + \text{root} \, t(s), \qquad t_j = 2 \sinh(s_j / 2), \qquad
              \text{low} \le s \le \text{low} + \text{width}

    t_j equals s_j near 0 and grows exponentially beyond, so that a grid also covers polynomial tails.
    """

    centre: Tensor  # (B, D)
    root: Tensor  # (B, D, D), lower triangular
    low: Tensor  # (B, D)
    width: Tensor  # (B, D)

    def put(self, index: Tensor, new: "Box") -> "Box":
        """Replaces the boxes at these positions."""
        return Box(*(a.index_copy(0, index, b) for a, b in zip(self, new, strict=True)))

    def of(self, index: Tensor) -> "Box":
        """Selects the boxes at these positions, or where this mask is True."""
        return Box(*(array[index] for array in self))

    def place(self, rule: Rule, n: int, stretch: bool = True) -> tuple[Tensor, Tensor]:
        """Places a rule: points (P, B, D) and the logarithms of their weights (P, B), P = n^D.

        Args:
            rule: points and weights of the unit interval.
            n: the number of points along each axis.
            stretch: if False, t(s) = s.
        """
        points, weights = (array.to(self.low) for array in rule(n))
        D = self.low.shape[-1]
        s = self.low + torch.cartesian_prod(*[points] * D).reshape(-1, 1, D) * self.width
        log_weight = torch.cartesian_prod(*[weights.log()] * D).reshape(-1, 1, D).sum(-1)
        t = 2 * (s / 2).sinh() if stretch else s
        slope = (s / 2).cosh().prod(-1).log() if stretch else 0.0
        volume = self.width.log().sum(-1) + self.root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return self.centre + torch.einsum("bij,pbj->pbi", self.root, t), log_weight + slope + volume

    def holds(self, z: Tensor) -> Tensor:
        """Returns which points (P, B, D) lie within the grid, (P, B)."""
        t = torch.linalg.solve_triangular(self.root, (z - self.centre)[..., None], upper=False)[..., 0]
        s = 2 * (t / 2).asinh()
        return ((self.low <= s) & (s <= self.low + self.width)).all(-1)

    def axes(self, rule: Rule, n: int) -> tuple[Tensor, ...]:
        """Returns the coordinates s of the first datum's grid, (n,) for each of D axes."""
        points = rule(n)[0].to(self.low)
        return tuple(low + width * points for low, width in zip(self.low[0], self.width[0], strict=True))


def flat(support: Support) -> Box:
    """Returns the box of these (low, high), for one datum, to be placed without stretching."""
    low, high = torch.tensor(support, dtype=torch.float64).reshape(-1, 1, 2).unbind(-1)
    if not len(low) or not (low < high).all():
        raise ValueError(f"support must be (low, high) with low < high for each axis; got {support}")
    low, high = low.T, high.T
    return Box(torch.zeros_like(low), torch.eye(len(support), dtype=torch.float64)[None], low, high - low)


def pieces(data: Tensor, num_points: int) -> Iterator[Tensor]:
    """Splits the positions of data into groups whose grids, of `num_points` points each, can be held at once."""
    return iter(data.split(max(1, _ON_GRIDS // num_points)))


def moments(z: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Computes mean (B, D) and root of the covariance (B, D, D) of points z (P, B, D) with weights (P, B) of sum 1."""
    mean = torch.einsum("pb,pbi->bi", weight, z)
    return mean, torch.linalg.cholesky(torch.einsum("pb,pbi,pbj->bij", weight, z - mean, z - mean))
