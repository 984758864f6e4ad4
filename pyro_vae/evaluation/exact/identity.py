"""log p(x) = ELBO + KL(q(z|x) || p(z|x)), each term with its own rule, points and normaliser.

If one rule were used for all terms, everything would cancel, and the residual would be 0 for any rule and any program.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae.evaluation.data_fingerprint import fingerprint
from pyro_vae.evaluation.estimators import of_data, read_terms
from pyro_vae.evaluation.exact.grid_search import search
from pyro_vae.evaluation.exact.grids import Box, hermite_rule, legendre_rule, midpoint_rule, moments, pieces
from pyro_vae.evaluation.exact.quadrature import (
    Densities,
    GridEstimate,
    densities,
    frozen,
    grid_estimate,
    passes,
    read_joint,
    search_guide,
)
from pyro_vae.model import traces

# Points along each axis, rule after rule, until two agree. Cells are even in number and panels of three points odd, so
# that no middle of a cell is the middle of a panel.
_ORDERS = {1: (20, 26, 32), 2: (20, 26, 32), 3: (12, 16, 20)}
_PANELS = {1: (93, 183, 363, 723, 1443, 2883), 2: (45, 75, 111, 165, 243, 363), 3: (21, 33, 51, 75)}
_CELLS = {1: (100, 200, 400, 800, 1600, 3200), 2: (48, 72, 108, 162, 244, 366), 3: (20, 30, 44, 66)}
_SMOOTH = 0.1  # of the tolerance: Gauss-Hermite of three orders agrees this well unless there are kinks
_AGREED = 0.5  # of the tolerance: two rules can agree by accident


@dataclass(frozen=True)
class Identity:
    """The terms of log p(x) = ELBO + KL(q(z|x) || p(z|x)), each by its own rule; (N,) each, in nats.

    Attributes:
        evidence: log p(x).
        elbo: the ELBO.
        kl: KL(q(z|x) || p(z|x)).
        refinement: the difference of the last two rules for ELBO or KL, whichever is larger.
        smooth: True where Gauss-Hermite was enough for the ELBO.
        evaluations: the evaluations of p(x, z) for all three terms.
        kind: per latent site, whether the KL to the prior in the ELBO is "analytic" or "sampled", i.e. on the grid.
    """

    evidence: GridEstimate
    elbo: Tensor
    kl: Tensor
    refinement: Tensor
    smooth: Tensor
    evaluations: Tensor
    kind: dict[str, str]

    @property
    def residual(self) -> Tensor:
        """The residual log p(x) - ELBO - KL, (N,), which should be 0."""
        return self.evidence.value - self.elbo - self.kl

    def __str__(self) -> str:
        N, kinds = len(self.elbo), ", ".join(sorted(set(self.kind.values())))
        grid = f"n^D = {int(self.evidence.points.max())}^{self.evidence.dim} at most"
        under = f"Gauss-Hermite under q for {int(self.smooth.sum())} of {N} data, otherwise Gauss-Legendre on panels"
        agreed = f"refinement {self.refinement.max():.0e} at most"
        cost = f"{agreed}; {self.evaluations.double().mean():,.0f} evaluations per datum"
        rows = (
            ("log p(x)", f"{self.evidence.mean:12.6f}", f"trapezoid on a grid of p(x, z), {grid}"),
            ("ELBO", f"{self.elbo.mean():12.6f}", f"{under}; KL to the prior {kinds}"),
            ("KL(q || p(z|x))", f"{self.kl.mean():12.6f}", "midpoints on a grid of q and one of p(z|x)"),
            ("largest residual", f"{self.residual.abs().max():12.2e}", f"of {N} data, nats; {cost}"),
        )
        return "\n".join(f"{name:<18}{number}   {how}" for name, number, how in rows)


def identity(vae: Any, x: Tensor, y: Tensor | None = None, *, tolerance: float = 1e-4) -> Identity:
    """Computes log p(x), ELBO and KL(q(z|x) || p(z|x)) of each datum by three rules, and the residual.

        log p(x) = log sum_i w_i p(x, z_i)                                 trapezoid, fitted to p(x, z)
        ELBO     = sum_i w_i q(z_i) [log p(x|z_i) - kl_i]                  Gauss-Hermite or Gauss-Legendre, fitted to q
        KL       = sum_i w_i q(z_i) log q(z_i) / p(x, z_i)                 midpoints, fitted to q
                   + log sum_j w_j p(x, z_j)                               midpoints, fitted to p(x, z)

    kl_i is analytic if one is registered, otherwise log q(z_i) - log p(z_i). Gauss-Hermite suits a smooth decoder. If
    three orders of it do not agree (ReLU has kinks), panels of Gauss-Legendre are refined until two grids agree, like
    the midpoints.

    Each term has its own weights, points and normaliser, and q is not normalised on its grid. The terms share the
    program's log densities, and terms over the same density share the place and width of their grids. So a residual
    reveals a wrong integral, a wrong analytic KL or, where the KL is analytic, a q or p(z) that is not
    normalised. It cannot reveal a wrong p(x|z), for which the identity also holds.

    Args:
        vae, x, y: as for `quadrature`.
        tolerance: the largest refinement of every term, in nats.

    Raises:
        DataError: data outside the support of the likelihood.
        ValueError: as for `quadrature`, or a guide that is a point (`Delta`), which has no KL.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.StandardNormal(1),
        ...              pv.posteriors.DiagonalNormal(pv.networks.MLP((4,), (2,)), 1),
        ...              pv.likelihoods.Bernoulli(pv.networks.MLP((1,), (4,)))).double()
        >>> identity(vae, torch.zeros(3, 4).double()).residual.abs() < 1e-3
        tensor([True, True, True])
    """
    evidence, bounds, gaps, smooth = [], [], [], []
    with frozen(vae, x):
        for block in densities(vae, x, y):
            own, guide_box = search_guide(block, tolerance)
            integrals, box = search(block.joint, block.draws, tolerance)
            bound, by_hermite = _elbo(block, guide_box, int(own.points.max()), tolerance)
            evidence.append(integrals)
            bounds.append(bound)
            gaps.append(_kl(block, guide_box, box, tolerance))
            smooth.append(by_hermite)
        kind = read_terms(block.at(block.guide_draws[:1], block.all)).kind
    whole = of_data(grid_estimate(evidence, block.dim), fingerprint(x), y)
    elbo, kl = _joined(bounds), _joined(gaps)
    refinement, cost = torch.maximum(elbo.refinement, kl.refinement), elbo.evaluations + kl.evaluations
    return Identity(whole, elbo.value, kl.value, refinement, torch.cat(smooth).cpu(), cost + whole.evaluations, kind)


class _Settled(NamedTuple):
    """Integrals, the difference of the last two rules, and the number of points of all rules: (B,) each."""

    value: Tensor
    refinement: Tensor
    evaluations: Tensor


def _elbo(block: Densities, box: Box, n: int, tolerance: float) -> tuple[_Settled, Tensor]:
    """The ELBO, and where Gauss-Hermite settled it: its mean and covariance come from n^D points on the box of q."""
    hermite = _by_hermite(block, *_mean_and_root(block, box, n))
    smooth = hermite.refinement <= _SMOOTH * tolerance
    rough = (~smooth).nonzero()[:, 0]

    def by_panels(data: Tensor, n: int) -> Tensor:
        return _under_guide(block, data, box.of(data).place(legendre_rule, n), _bound)

    panels = _settle(by_panels, rough, _PANELS[block.dim], block.dim, tolerance)
    panels = panels._replace(evaluations=panels.evaluations + hermite.evaluations[rough])
    return _Settled(*(a.index_copy(0, rough, b) for a, b in zip(hermite, panels, strict=True))), smooth


def _kl(block: Densities, guide_box: Box, box: Box, tolerance: float) -> _Settled:
    def gap(data: Tensor, n: int) -> Tensor:
        return _under_guide(block, data, guide_box.of(data).place(midpoint_rule, n), _log_ratio)

    def log_normaliser(data: Tensor, n: int) -> Tensor:
        z, log_weight = box.of(data).place(midpoint_rule, n)
        return torch.logsumexp(block.joint(z, data) + log_weight, 0)

    both = [_settle(term, block.all, _CELLS[block.dim], block.dim, tolerance) for term in (gap, log_normaliser)]
    return _Settled(*(a + b for a, b in zip(*both, strict=True)))


def _by_hermite(block: Densities, mean: Tensor, root: Tensor) -> _Settled:
    box = Box(mean, root, torch.zeros_like(mean), torch.ones_like(mean))
    orders = _ORDERS[block.dim]
    values = [
        [_under_guide(block, data, box.of(data).place(hermite_rule, n, stretch=False), _bound) for n in orders]
        for data in pieces(block.all, orders[-1] ** block.dim)
    ]
    by_order = torch.cat([torch.stack(row) for row in values], 1)
    spread = by_order.amax(0) - by_order.amin(0)
    return _Settled(by_order[-1], spread, torch.full_like(block.all, sum(n**block.dim for n in orders)))


def _settle(
    integral: Callable[[Tensor, int], Tensor], data: Tensor, sizes: Sequence[int], dim: int, tolerance: float
) -> _Settled:
    """Integrals by rules of more and more points along each axis, until two agree."""
    value = torch.full_like(data, math.nan, dtype=torch.float64)
    refinement, evaluations, todo = value.clone(), torch.zeros_like(data), torch.arange(len(data), device=data.device)
    for n in sizes:
        if len(todo) == 0:
            break
        now = torch.cat([integral(some, n) for some in pieces(data[todo], n**dim)])
        refinement[todo] = (now - value[todo]).abs()
        value[todo] = now
        evaluations[todo] += n**dim
        todo = todo[~(refinement[todo] <= _AGREED * tolerance)]
    return _Settled(value, refinement, evaluations)


def _under_guide(
    block: Densities, data: Tensor, grid: tuple[Tensor, Tensor], read: Callable[[traces.Traces], Tensor]
) -> Tensor:
    """The integrals (B,) of q(z|x) times what `read` makes of the program at z."""
    z, log_weight = grid
    total = torch.zeros_like(log_weight[0])
    for points, weights in zip(passes(z), passes(log_weight), strict=True):
        pair = block.at(points, data)
        q = (traces.log_posterior(pair).double() + weights).exp()
        total += torch.where(q > 0, q * read(pair), 0.0).sum(0)
    return total


def _bound(pair: traces.Traces) -> Tensor:
    terms = read_terms(pair)
    return terms.reconstruction - terms.kl


def _log_ratio(pair: traces.Traces) -> Tensor:
    return traces.log_posterior(pair).double() - read_joint(pair)


def _mean_and_root(block: Densities, box: Box, n: int) -> tuple[Tensor, Tensor]:
    """Mean (B, D) and root of the covariance (B, D, D) of q."""
    z, log_weight = box.place(midpoint_rule, n)
    return moments(z, (block.guide(z, block.all) + log_weight).softmax(0))


def _joined(blocks: list[_Settled]) -> _Settled:
    return _Settled(*(torch.cat(column).cpu() for column in zip(*blocks, strict=True)))
