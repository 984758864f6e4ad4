"""The search for the grid of a density: the place and the size at which a trapezoid has all of it.

The first grid spans draws, and reaches well beyond them; each next one is fitted to the density on the last. If points
are too few to resolve the density, the fit is to a power of it, which keeps every mode that the grid has seen. The
search ends when two grids in succession, and every second point of the last, agree; data that never do are marked.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae.evaluation.exact.grids import Box, Support, flat, pieces, trapezoid_rule

LARGEST_DIM = 3
SIZES = {  # points along each axis, grid after grid: odd, so that every second point is a rule as well
    1: [513, 129, 129, 129, 129, 257, 513, 1025, 2049, 4097, 8193],
    2: [65, 33, 33, 33, 33, 65, 65, 97, 129, 193, 257, 513],
    3: [25, 25, 25, 25, 25, 33, 49, 49, 97],
}
_LEAST = {1: 257, 2: 65, 3: 33}  # points along each axis of a last grid: fewer may agree by accident
_FIRST_REACH = 6.0
_EDGE = 0.01  # beyond the outermost points of a polynomial tail lies many times what is in them
_TAIL, _COARSE_TAIL = 22.0, 15.0  # a grid ends this many nats below its highest point
_ORDER = 3  # 2^2 - 1, after Richardson: by how much an error that falls as 1/n^2 is less than its change on halving n

LogDensity = Callable[[Tensor, Tensor], Tensor]  # z (P, B, D), positions of the data (B,) -> (P, B)


class Integrals(NamedTuple):
    """The log integrals of B data, each after its last grid, and what is known of their errors, (B,) each."""

    value: Tensor
    refinement: Tensor
    boundary: Tensor
    reliable: Tensor
    points: Tensor
    evaluations: Tensor

    def put(self, index: Tensor, new: "Integrals") -> "Integrals":
        """Replaces the data at these positions."""
        return Integrals(*(a.index_copy(0, index, b) for a, b in zip(self, new, strict=True)))


def search(log_density: LogDensity, draws: Tensor, tolerance: float) -> tuple[Integrals, Box]:
    """Integrates B densities on grids that it places and refines datum by datum.

    Args:
        log_density: (P, B, D), (B,) -> (P, B), float64; not normalised.
        draws: (K, B, D), float64, from distributions that overlap with the densities.
        tolerance: the largest refinement, in nats.

    Returns:
        The log integrals, and the grids of the last of them.

    Raises:
        ValueError: draws that are all the same or not finite, or a density that is 0 or NaN all over its grid.
    """
    B, D = draws.shape[1:]
    todo = torch.arange(B, device=draws.device)
    fitted = used = _first_box(draws)
    integrals, spent = _unknown(draws[0, :, 0]), 0
    for n in SIZES[D]:
        spent += n**D
        used = used.put(todo, fitted.of(todo))
        for data in pieces(todo, n**D):
            now, box = _look(log_density, used.of(data), n, data, tolerance, integrals.value[data])
            fitted, now = fitted.put(data, box), now._replace(evaluations=now.evaluations + spent)
            integrals = integrals.put(data, now)
        todo = (~integrals.reliable).nonzero()[:, 0]
        if len(todo) == 0:
            break
    return integrals, used


def fixed(log_density: LogDensity, draws: Tensor, tolerance: float, support: Support, n: int) -> Integrals:
    """Integrates B densities on one grid for all of them.

    Args:
        log_density, draws, tolerance: as for `search`.
        support: (low, high) of each axis.
        n: the number of points along each axis, odd.

    Raises:
        ValueError: a support of another dimension, an n that is even or below 3, or as for `search`.
    """
    B, D = draws.shape[1:]
    if len(support) != D or n < 3 or n % 2 == 0:
        raise ValueError(f"support needs (low, high) for each of {D} latent numbers, and an odd n; got {n}")
    integrals = _unknown(draws[0, :, 0])
    z, log_weight = (array.to(draws.device) for array in flat(support).place(trapezoid_rule, n, stretch=False))
    for data in pieces(torch.arange(B, device=draws.device), n**D):
        mass = log_density(z.expand(-1, len(data), -1), data) + log_weight
        now = _measure(mass, n, D, tolerance)
        coarse = _tempered(mass, n, D)[1]
        integrals = integrals.put(data, now._replace(reliable=now.reliable & ~coarse, evaluations=now.points**D))
    return integrals


def _unknown(like: Tensor) -> Integrals:
    unknown, none = torch.full_like(like, math.nan), torch.zeros_like(like, dtype=torch.long)
    return Integrals(unknown, unknown, unknown, none.bool(), none, none)


def _look(
    log_density: LogDensity, box: Box, n: int, data: Tensor, tolerance: float, before: Tensor
) -> tuple[Integrals, Box]:
    """The integrals on these grids, and the next grids of those that are not done."""
    z, log_weight = box.place(trapezoid_rule, n)
    mass = log_density(z, data) + log_weight
    now = _measure(mass, n, z.shape[-1], tolerance)
    tempered, coarse = _tempered(mass, n, z.shape[-1])
    agreed = (now.value - before).abs() <= tolerance
    now = now._replace(reliable=now.reliable & agreed & ~coarse & (n >= _LEAST[z.shape[-1]]))
    again = (~now.reliable).nonzero()[:, 0]
    if len(again) == 0:
        return now, box
    cut = now.boundary[again] > _EDGE * tolerance
    following = _fit(z[:, again], tempered[:, again], coarse[again], cut, _cell(box, mass, n)[again])
    return now, box.put(again, following)


def _measure(mass: Tensor, n: int, D: int, tolerance: float) -> Integrals:
    """The integrals by the trapezoid, from its logarithmic terms (P, B)."""
    value = torch.logsumexp(mass, 0)
    if not value.isfinite().all():
        raise ValueError("a log density is not finite at any point of its grid: is the program in order?")
    grid = mass.unflatten(0, (n,) * D)
    half, inside = grid[(slice(None, None, 2),) * D].flatten(0, D - 1), grid[(slice(1, -1),) * D].flatten(0, D - 1)
    refinement = (torch.logsumexp(half, 0) + D * math.log(2) - value).abs() / _ORDER
    boundary = (-torch.expm1(torch.logsumexp(inside, 0) - value)).clamp(min=0)
    good = (refinement <= tolerance) & (boundary <= _EDGE * tolerance)
    none = torch.zeros_like(good, dtype=torch.long)
    return Integrals(value, refinement, boundary, good, none + n, none)


def _tempered(mass: Tensor, n: int, D: int) -> tuple[Tensor, Tensor]:
    """power * mass (P, B), peak at 0, with the largest power 2^-j that the grid resolves; and whether j > 0."""
    mass = (mass - mass.amax(0)).clamp(min=-1e30)
    power = torch.ones_like(mass[0])
    while True:
        tempered = power * mass
        size = (2 * torch.logsumexp(tempered, 0) - torch.logsumexp(2 * tempered, 0)).exp()
        short = (size < 2 ** (D + 1)) | _hides_peaks(tempered.unflatten(0, (n,) * D), D)
        if not short.any():
            return tempered, power < 1
        power = torch.where(short, power / 2, power)


def _hides_peaks(grid: Tensor, D: int) -> Tensor:
    """(B,): True where a peak that may count is narrower than half the spacing, by second differences of the log."""
    bends = torch.zeros(D, *grid.shape, dtype=grid.dtype, device=grid.device)
    for axis in range(D):
        bends[axis].narrow(axis, 1, len(grid) - 2).copy_(grid.diff(n=2, dim=axis).abs())
    top = grid + bends.sum(0) / 8  # of a parabola whose three points are those
    return ((top > grid.amax(tuple(range(D))) - _COARSE_TAIL) & (bends.amax(0) > 4)).flatten(0, D - 1).any(0)


def _cell(box: Box, mass: Tensor, n: int) -> Tensor:
    """About the root of the covariance of the cell at the highest point, (B, D, D)."""
    D = box.low.shape[-1]
    index = torch.stack(torch.unravel_index(mass.argmax(0), (n,) * D), -1)
    s = box.low + box.width * index / (n - 1)
    return box.root * (box.width / (n - 1) * (s / 2).cosh() / 2)[:, None]


def _fit(z: Tensor, mass: Tensor, coarse: Tensor, cut: Tensor, cell: Tensor) -> Box:
    """Grids for densities with these log masses (P, B), peak 0, at z (P, B, D)."""
    covariance, share = cell @ cell.mT, mass.softmax(0)
    middle, spread = _quantiles(z, share)
    spread = torch.maximum(spread, covariance.diagonal(dim1=-2, dim2=-1).sqrt())
    u = ((z - middle) / spread).clamp(-5, 5)  # a scale that polynomial tails have as well
    u = u - torch.einsum("pb,pbi->bi", share, u)
    second = torch.einsum("pb,pbi,pbj->bij", share, u, u) * spread[:, None] * spread[..., None]
    root = torch.linalg.cholesky(second + covariance)
    t = torch.linalg.solve_triangular(root, (z - middle)[..., None], upper=False)[..., 0]
    seen = (mass > -torch.where(coarse, _COARSE_TAIL, _TAIL))[..., None]
    s = 2 * (t / 2).asinh()
    low, high = torch.where(seen, s, math.inf).amin(0), torch.where(seen, s, -math.inf).amax(0)
    pad = 0.25 + torch.where(cut, 0.5, 0.05)[:, None] * (high - low)
    return Box(middle, root, low - pad, high - low + 2 * pad)


def _quantiles(z: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Median, and half the distance between the quantiles at 16 and 84 %, along each axis: (B, D), (B, D)."""
    ordered, order = z.sort(0)
    total = weight[..., None].expand_as(z).gather(0, order).cumsum(0)
    levels = torch.tensor([0.16, 0.5, 0.84], dtype=z.dtype, device=z.device).expand(*z.shape[1:], 3)
    place = torch.searchsorted(total.movedim(0, -1).contiguous(), levels.contiguous()).clamp(max=len(z) - 1)
    low, middle, high = ordered.movedim(0, -1).gather(-1, place).unbind(-1)
    return middle, (high - low) / 2


def _first_box(draws: Tensor) -> Box:
    """Grids that span draws (K, B, D), and reach well beyond them."""
    scale = draws.std(0)
    if not (scale.isfinite() & (scale > 0)).all():
        raise ValueError("draws of the prior and the guide are all the same, or not finite: there is nowhere to look")
    none = torch.zeros_like(draws[0, :, 0]).bool()
    box = _fit(draws, torch.zeros_like(draws[..., 0]), none, none, torch.diag_embed(1e-3 * scale))
    low, high = box.low.clamp(max=-_FIRST_REACH), (box.low + box.width).clamp(min=_FIRST_REACH)
    return box._replace(low=low, width=high - low)
