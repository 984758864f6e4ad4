"""The search for the grid of a density: the place and the size at which a trapezoid covers all of it.

The first grid spans draws, and reaches well beyond them. Each later grid is fitted to the density on the one before. If
there are too few points to resolve the density, the fit uses a power of it, which keeps every mode that the grid has
seen. The search ends when two grids in succession, and every second point of the last, agree. Data for which they never
agree are marked.

Grids can agree because all of them miss a spike. The draws serve as a check: if the density at one of them is above the
peak of the last grid, a second search begins at that draw. A datum is marked if a draw is still above the peak, or near
its height but off the grid.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae.evaluation.exact.grids import Box, Support, flat, pieces, trapezoid_rule

LARGEST_DIM = 3
SIZES = {  # points along each axis, grid after grid: odd, so that every second point is a rule too
    1: [513, 129, 129, 129, 129, 257, 513, 1025, 2049, 4097, 8193],
    2: [65, 33, 33, 33, 33, 65, 65, 97, 129, 193, 257, 513],
    3: [25, 25, 25, 25, 25, 33, 49, 49, 97],
}
_LEAST = {1: 257, 2: 65, 3: 33}  # points along each axis of a last grid: fewer can agree by accident
_FIRST_REACH = 6.0
_EDGE = 0.01  # a polynomial tail has many times the mass of the outermost points beyond them
_TAIL, _COARSE_TAIL = 22.0, 15.0  # a grid ends this many nats below its highest point
_NEAR = 10.0  # no draw within this many nats of the peak may lie off the grid
_WINDOW = 8.0  # widths of a spike
_STEPS = 60  # halvings of the spread of the draws, down to the width of a spike
_ORDER = 3  # 2^2 - 1, after Richardson: halving n changes an error that falls as 1/n^2 by this many times the error

LogDensity = Callable[[Tensor, Tensor], Tensor]  # z (P, B, D), positions of the data (B,) -> (P, B)


class Integrals(NamedTuple):
    """The log integrals of B data, each on its last grid, and what is known about their errors, (B,) each.

    `peak` is the highest log density on that grid; if it is reliable, the highest that can lie between its points.
    """

    value: Tensor
    refinement: Tensor
    boundary: Tensor
    reliable: Tensor
    points: Tensor
    evaluations: Tensor
    peak: Tensor

    def put(self, index: Tensor, new: "Integrals") -> "Integrals":
        """Replaces the data at these positions."""
        return Integrals(*(a.index_copy(0, index, b) for a, b in zip(self, new, strict=True)))

    def of(self, index: Tensor) -> "Integrals":
        """Selects the data at these positions."""
        return Integrals(*(array[index] for array in self))


def search(log_density: LogDensity, draws: Tensor, tolerance: float) -> tuple[Integrals, Box]:
    """Integrates B densities on grids that are placed and refined datum by datum.

    Args:
        log_density: (P, B, D), (B,) -> (P, B), float64; not normalised.
        draws: (K, B, D), float64, from distributions that overlap with the densities.
        tolerance: the largest refinement, in nats.

    Returns:
        The log integrals, and the last grid of each: the grid about a spike if only a draw had found it.

    Raises:
        ValueError: draws that are all equal or not finite, or a density that is 0 or NaN on its whole grid.
    """
    every = torch.arange(draws.shape[1], device=draws.device)
    integrals, box = _refine(log_density, _first_box(draws), tolerance)
    height = log_density(draws, every)
    missed = (height.amax(0) > integrals.peak).nonzero()[:, 0]
    if len(missed) > 0:
        at_spikes, boxes = _at_spikes(
            lambda z, data: log_density(z, missed[data]),
            draws[:, missed],
            height[:, missed],
            (integrals.of(missed), box.of(missed)),
            tolerance,
        )
        integrals, box = integrals.put(missed, at_spikes), box.put(missed, boxes)
    near = ~box.holds(draws) & (height > integrals.peak - _NEAR)
    unseen = (near | (height > integrals.peak)).any(0)
    return integrals._replace(reliable=integrals.reliable & ~unseen), box


def fixed(log_density: LogDensity, draws: Tensor, tolerance: float, support: Support, n: int) -> Integrals:
    """Integrates B densities on one grid for all of them.

    Args:
        log_density, draws, tolerance: as for `search`.
        support: (low, high) of each axis.
        n: the number of points along each axis, odd.

    Raises:
        ValueError: a support of another dimension, an n that is even or below 3, and as for `search`.
    """
    B, D = draws.shape[1:]
    if len(support) != D or n < 3 or n % 2 == 0:
        raise ValueError(f"support needs (low, high) for each of {D} latent numbers, and n must be odd; got {n}")
    integrals = _unknown(draws[0, :, 0])
    z, log_weight = (array.to(draws.device) for array in flat(support).place(trapezoid_rule, n, stretch=False))
    for data in pieces(torch.arange(B, device=draws.device), n**D):
        value = log_density(z.expand(-1, len(data), -1), data)
        now = _measure(value + log_weight, n, D, tolerance)
        coarse = _tempered(value + log_weight, n, D)[1]
        now = now._replace(reliable=now.reliable & ~coarse, evaluations=now.points**D)
        now = now._replace(peak=_peak(value, n, D, now.reliable))
        unseen = (log_density(draws[:, data], data) > now.peak).any(0)
        integrals = integrals.put(data, now._replace(reliable=now.reliable & ~unseen))
    return integrals


def _refine(log_density: LogDensity, box: Box, tolerance: float) -> tuple[Integrals, Box]:
    """Integrals on these grids and on the following ones until they are reliable, and the last grids."""
    D, todo = box.low.shape[-1], torch.arange(len(box.low), device=box.low.device)
    fitted = used = box
    integrals, spent = _unknown(box.low[:, 0]), 0
    for n in SIZES[D]:
        spent += n**D
        used = used.put(todo, fitted.of(todo))
        for data in pieces(todo, n**D):
            now, following = _look(log_density, used.of(data), n, data, tolerance, integrals.value[data])
            fitted, now = fitted.put(data, following), now._replace(evaluations=now.evaluations + spent)
            integrals = integrals.put(data, now)
        todo = (~integrals.reliable).nonzero()[:, 0]
        if len(todo) == 0:
            break
    return integrals, used


def _at_spikes(
    log_density: LogDensity, draws: Tensor, height: Tensor, before: tuple[Integrals, Box], tolerance: float
) -> tuple[Integrals, Box]:
    """Integrals in a window w about the highest draws, on new grids, and of the rest, 1 - w, on the earlier grids."""
    whole, box = before
    window = _box_at_highest(log_density, draws, height)
    inside, boxes = _refine(lambda z, data: log_density(z, data) + _log_window(window.of(data), z), window, tolerance)
    rest, D = _unknown(inside.value), draws.shape[-1]
    for n in whole.points.unique().tolist():
        for data in pieces((whole.points == n).nonzero()[:, 0], n**D):
            z, log_weight = box.of(data).place(trapezoid_rule, n)
            outside = (-torch.expm1(_log_window(window.of(data), z))).log()
            rest = rest.put(data, _measure(log_density(z, data) + outside + log_weight, n, D, tolerance))
    value = torch.logaddexp(inside.value, rest.value)
    share = (rest.value - value).exp()
    refinement = torch.lerp(inside.refinement, rest.refinement, share)
    reliable = inside.reliable & (refinement <= tolerance) & (whole.reliable | (share <= tolerance))
    evaluations = inside.evaluations + whole.evaluations + whole.points**D
    return inside._replace(value=value, refinement=refinement, reliable=reliable, evaluations=evaluations), boxes


def _box_at_highest(log_density: LogDensity, draws: Tensor, height: Tensor) -> Box:
    """Grids about the highest of the draws (K, B, D), as wide as the density falls by a few nats along each axis."""
    best, at = height.max(0)
    centre = draws[at, torch.arange(len(at), device=at.device)]
    every, (B, D) = torch.arange(len(at), device=at.device), centre.shape
    step = draws.std(0) * 0.5 ** torch.arange(_STEPS, dtype=draws.dtype, device=draws.device)[:, None, None]
    z = centre + torch.diag_embed(torch.stack([step, -step])).movedim(-2, 2)  # (2, steps, D, B, D), one axis moved
    lower = log_density(z.flatten(0, 2), every).reshape(2, _STEPS, D, B).amax(0) < best - 2
    width = step.gather(0, lower.sum(0).clamp(max=_STEPS - 1).mT[None])[0]
    low = torch.full_like(centre, -2 * math.asinh(0.75 * _WINDOW))
    return Box(centre, torch.diag_embed(width), low, -2 * low)


def _log_window(box: Box, z: Tensor) -> Tensor:
    """The logarithm of a smooth window at points (P, B, D): 1 about the centres of these grids, 0 far from them."""
    t = torch.linalg.solve_triangular(box.root, (z - box.centre)[..., None], upper=False)[..., 0]
    return -((t.square().sum(-1) / _WINDOW**2) ** 4)


def _unknown(like: Tensor) -> Integrals:
    unknown, none = torch.full_like(like, math.nan), torch.zeros_like(like, dtype=torch.long)
    return Integrals(unknown, unknown, unknown, none.bool(), none, none, unknown)


def _look(
    log_density: LogDensity, box: Box, n: int, data: Tensor, tolerance: float, before: Tensor
) -> tuple[Integrals, Box]:
    """The integrals on these grids, and the next grids of those that are not done."""
    z, log_weight = box.place(trapezoid_rule, n)
    value = log_density(z, data)
    mass = value + log_weight
    now = _measure(mass, n, z.shape[-1], tolerance)
    tempered, coarse = _tempered(mass, n, z.shape[-1])
    agreed = (now.value - before).abs() <= tolerance
    now = now._replace(reliable=now.reliable & agreed & ~coarse & (n >= _LEAST[z.shape[-1]]))
    now = now._replace(peak=_peak(value, n, z.shape[-1], now.reliable))
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
        raise ValueError("a log density is not finite at any point of its grid. Is the program right?")
    grid = mass.unflatten(0, (n,) * D)
    half, inside = grid[(slice(None, None, 2),) * D].flatten(0, D - 1), grid[(slice(1, -1),) * D].flatten(0, D - 1)
    refinement = (torch.logsumexp(half, 0) + D * math.log(2) - value).abs() / _ORDER
    boundary = (-torch.expm1(torch.logsumexp(inside, 0) - value)).clamp(min=0).abs()
    good = (refinement <= tolerance) & (boundary <= _EDGE * tolerance)
    none = torch.zeros_like(good, dtype=torch.long)
    return Integrals(value, refinement, boundary, good, none + n, none, value)


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
    """(B,): True where a peak that can count is narrower than half the spacing, by second differences of the log."""
    bends = _bends(grid, D)
    top = grid + bends.sum(0) / 8  # of a parabola whose three points are those
    return ((top > grid.amax(tuple(range(D))) - _COARSE_TAIL) & (bends.amax(0) > 4)).flatten(0, D - 1).any(0)


def _bends(grid: Tensor, D: int) -> Tensor:
    """The size of the second differences along each axis, (D, *grid.shape)."""
    bends = torch.zeros(D, *grid.shape, dtype=grid.dtype, device=grid.device)
    for axis in range(D):
        bends[axis].narrow(axis, 1, len(grid) - 2).copy_(grid.diff(n=2, dim=axis).abs())
    return bends


def _peak(value: Tensor, n: int, D: int, reliable: Tensor) -> Tensor:
    """The highest of log densities (P, B); on a grid that resolves them, the highest that a kink can hide, (B,)."""
    grid = value.clamp(min=-1e30).unflatten(0, (n,) * D)
    bends = _bends(grid, D)
    hidden = torch.where(bends.amax(0) > 4, 0.0, bends.sum(0) / 2)
    return torch.where(reliable, (grid + hidden).amax(tuple(range(D))), value.amax(0))


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
    u = ((z - middle) / spread).clamp(-5, 5)  # a scale that polynomial tails have too
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
        raise ValueError("draws of the prior and the guide are all equal, or not finite: no grid can be placed")
    none = torch.zeros_like(draws[0, :, 0]).bool()
    box = _fit(draws, torch.zeros_like(draws[..., 0]), none, none, torch.diag_embed(1e-3 * scale))
    low, high = box.low.clamp(max=-_FIRST_REACH), (box.low + box.width).clamp(min=_FIRST_REACH)
    return box._replace(low=low, width=high - low)
