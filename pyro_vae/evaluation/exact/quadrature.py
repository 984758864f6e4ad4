r"""log p(x) without a draw in the answer: integrals over one to three latent numbers, on grids.

.. math:: p(x) = \int p(x, z) \, dz = \sum_i w_i \, p(x, z_i) + \text{error}

`grids.py` has the rules, and `grid_search.py` finds the place of each datum's grid. This module applies them to the
program, whose log densities at any z are read from its traces (`Densities`).
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_vae.evaluation.coordinates import Coordinates, check_real
from pyro_vae.evaluation.data_fingerprint import fingerprint
from pyro_vae.evaluation.estimators import Estimate, of_data
from pyro_vae.evaluation.exact.grid_search import LARGEST_DIM, Integrals, LogDensity, fixed, search
from pyro_vae.evaluation.exact.grids import Box, Support, flat, trapezoid_rule
from pyro_vae.evaluation.memory import DATA_BLOCK
from pyro_vae.evaluation.weights import data_blocks
from pyro_vae.model import traces
from pyro_vae.model.program import check_tensor, remembering, undisturbed
from pyro_vae.notebook_html import Row
from pyro_vae.progress import through
from pyro_vae.randomness import stream

_DRAWS = 64  # of z, with which a search begins
_AT_ONCE = 1 << 14  # points of all data together, in one pass of the program
_SHOWN = 12.0  # nats below the peak, as far as a picture reaches


@dataclass(frozen=True, kw_only=True)
class GridEstimate(Estimate):
    """An `Estimate` without draws: `value_error` is 0, and the errors of the grid are given datum by datum.

    Attributes:
        refinement: (N,), a third of the distance to the rule with half the points along each axis, in nats. This is the
            error of the value if it falls as 1/n^2, as with the kinks of ReLU, and far more than the error if p(x, z)
            is smooth.
        boundary: (N,), the share of the integral in the outermost points of the grid.
        points: (N,), n, the number of points along each axis of the last grid.
        evaluations: (N,), the number of evaluations of p(x, z) on all grids.
        reliable: (N,), True where the grids agreed, refinement and boundary are within the tolerance, no peak that
            counts was narrower than the spacing of the points, and none of the first draws of prior and guide has a log
            p(x, z) above the peak of the last grid.
        dim: D.
        num_samples: the largest n^D.
    """

    refinement: Tensor
    boundary: Tensor
    points: Tensor
    evaluations: Tensor
    reliable: Tensor
    dim: int

    def to_dict(self) -> dict[str, Any]:
        worst = {"refinement": self.refinement.max().item(), "boundary": self.boundary.max().item()}
        return {**super().to_dict(), **worst, "unreliable": int((~self.reliable).sum())}

    def __str__(self) -> str:
        over_data = "n/a" if math.isnan(self.standard_error) else f"±{self.standard_error:.3f}"
        line = (
            f"{self.name:<20} {self.mean:>10.3f} {self.unit}   {over_data} over {self.num_data} data   "
            f"refinement {self.refinement.max():.0e}, boundary {self.boundary.max():.0e} at most "
            f"(n^D = {int(self.points.max())}^{self.dim} = {self.num_samples:,}; "
            f"{self.evaluations.double().mean():,.0f} evaluations per datum)"
        )
        bad = (~self.reliable).nonzero().flatten().tolist()
        return f"{line}   UNRELIABLE for {len(bad)} data, first {bad[0]}" if bad else line

    def table_rows(self) -> list[Row]:
        of_grid = {
            "Monte Carlo": "none, a grid",
            "refinement": f"{self.refinement.max():.0e}",
            "boundary": f"{self.boundary.max():.0e}",
            "unreliable": f"{int((~self.reliable).sum()):,} data",
        }
        (row,) = super().table_rows()
        return [{name: cell for name, cell in (row | of_grid).items() if name != "draws"}]


class PosteriorGrid(NamedTuple):
    """The log densities of the true posterior and the guide on a grid.

    Attributes:
        axes: D axes, (n,) each.
        posterior: log p(z|x), (n,) or (n, n), axes in order.
        guide: log q(z|x), likewise.
    """

    axes: tuple[Tensor, ...]
    posterior: Tensor
    guide: Tensor


def quadrature(
    vae: Any,
    x: Tensor,
    y: Tensor | None = None,
    *,
    tolerance: float = 1e-4,
    support: Support | None = None,
    n: int = 129,
) -> GridEstimate:
    r"""Computes log p(x) of each datum by integration on a grid, in nats, for at most 3 latent numbers in total.

    .. math:: \log p(x) = \log \int p(x, z) \, dz

    Each datum's grid is placed where p(x, z) has its mass. It is refined until two grids in succession, and every
    second point of the last, agree. If p(x, z) at one of its first 64 draws of the prior or of the guide is above the
    peak of the grid, the search begins again at that draw. The same call gives the same numbers. It can miss a mode
    that is narrower than the spacing of the grid and that none of these draws has found.

    Args:
        vae: anything with `.model` and `.guide` over one data plate and real latents.
        x: data (N, *x_shape).
        y: one-hot labels (N, C).
        tolerance: the largest refinement, in nats; the largest boundary is a hundredth of it. A datum that exceeds
            either is marked, see `GridEstimate.reliable`.
        support: (low, high) of each latent number, in the order in which the guide samples them. It replaces the search
            by one trapezoid for all data, with n points along each axis of this box.
        n: the number of points along each axis of the support, odd.

    Raises:
        DataError: data outside the support of the likelihood.
        ValueError: no data, more than 3 latent numbers, a latent that is not real, log p(x, z) that is NaN, and what
            `log_weights` refuses.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.StandardNormal(2),
        ...              pv.posteriors.DiagonalNormal(pv.networks.MLP((4,), (4,)), 2),
        ...              pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (4,))))
        >>> quadrature(vae, torch.zeros(3, 4)).reliable
        tensor([True, True, True])
    """
    integrals = []
    with frozen(vae, x):
        for block in through("", densities(vae, x, y), -(-len(x) // DATA_BLOCK)):
            if support is None:
                integrals.append(search(block.joint, block.draws, tolerance)[0])
            else:
                integrals.append(fixed(block.joint, block.draws, tolerance, support, n))
    return of_data(grid_estimate(integrals, block.dim), fingerprint(x), y)


def posterior_on_grid(vae: Any, x: Tensor, y: Tensor | None = None, *, n: int = 200) -> PosteriorGrid:
    """Computes log p(z|x) and log q(z|x) of one datum on a grid, each normalised there, for at most 2 latent numbers.

    The axes reach as far as either density is above e^-12 of its peak.

    Args:
        vae: as for `quadrature`.
        x: one datum, as a batch (1, *x_shape).
        y: its label (1, C).
        n: the number of points along each axis, two or more.

    Raises:
        ValueError: several data, more than 2 latent numbers, a guide without a density, n below 2, and as for
            `quadrature`.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.StandardNormal(2),
        ...              pv.posteriors.DiagonalNormal(pv.networks.MLP((4,), (4,)), 2),
        ...              pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (4,))))
        >>> posterior_on_grid(vae, torch.zeros(1, 4), n=50).posterior.shape
        torch.Size([50, 50])
    """
    check_tensor(x)
    if len(x) != 1:
        raise ValueError(f"a picture shows one datum, as a batch of one, x[i : i + 1]; got {len(x)} data")
    with frozen(vae, x):
        (block,) = densities(vae, x, y)
        if block.dim > 2:
            raise ValueError(f"a picture has at most 2 axes; the program has {block.dim} latent numbers")
        places = (block.guide, *search_guide(block, 1e-4)), (block.joint, *search(block.joint, block.draws, 1e-4))
        seen = torch.cat([_seen(*place) for place in places])
        box = flat(list(zip(seen.amin(0).tolist(), seen.amax(0).tolist(), strict=True)))
        z, log_weight = (array.to(x.device) for array in box.place(trapezoid_rule, n, stretch=False))
        values = [log_density(z, block.all)[:, 0] for log_density, *_ in places]
    whole = (n,) * block.dim
    guide, posterior = ((v - torch.logsumexp(v + log_weight[:, 0], 0)).reshape(whole) for v in values)
    return PosteriorGrid(box.axes(trapezoid_rule, n), posterior, guide)


def _seen(log_density: LogDensity, integral: Integrals, box: Box) -> Tensor:
    """Points (P, D) at which a density of one datum is not far below its peak."""
    z, log_weight = box.place(trapezoid_rule, int(integral.points))
    mass = (log_density(z, torch.zeros_like(integral.points)) + log_weight)[:, 0]
    return z[mass > mass.max() - _SHOWN, 0]


def grid_estimate(blocks: list[Integrals], dim: int) -> GridEstimate:
    """Joins the integrals of all blocks of data."""
    columns = zip(*blocks, strict=True)
    value, refinement, boundary, reliable, points, evaluations, _ = (torch.cat(a).cpu() for a in columns)
    return GridEstimate(
        "log p(x)",
        value,
        torch.zeros_like(value),
        int(points.max()) ** dim,
        refinement=refinement,
        boundary=boundary,
        points=points,
        evaluations=evaluations,
        reliable=reliable,
        dim=dim,
    )


# The program at given points.


class Densities:
    """The log densities p(x, z) and q(z|x) of one block of B data, at any z (P, B, D): see `Coordinates`.

    Args:
        vae: anything with `.model` and `.guide`.
        first: the position of the block's first datum among all data.
        args: x (B, *x_shape), and labels if there are any.

    Attributes:
        all: (B,), the positions of the data in the block.
        dim: D.
        draws: (K, B, D), float64, of prior and guide.
        guide_draws: only the draws of the guide.

    Raises:
        ValueError: more than 3 latent numbers, or a latent that is not real.
    """

    def __init__(self, vae: Any, first: int, *args: Tensor) -> None:
        self.vae, self.first, self.args = vae, first, args
        self.all = torch.arange(len(args[0]), device=args[0].device)
        prior, guide = _drawn(vae.model, *args), _drawn(vae.guide, *args)
        traces.check_no_globals(prior)
        self.coordinates, self.dtype = Coordinates(traces.latent_sites(guide)), torch.get_default_dtype()
        self.dim = self.coordinates.dim
        if self.dim > LARGEST_DIM:
            raise ValueError(
                f"a grid needs n^D points, and the program has D = {self.dim} latent numbers: 100^{self.dim} points. "
                f"Grids work for up to {LARGEST_DIM}; use iwae"
            )
        for name, site in traces.latent_sites(prior).items():
            check_real(name, site["fn"], "a grid")
        draws = [self.coordinates.read(trace) for trace in (prior, guide)]
        self.dtype, self.guide_draws, self.draws = draws[1].dtype, draws[1].double(), torch.cat(draws).double()

    def joint(self, z: Tensor, data: Tensor) -> Tensor:
        """Computes log p(x, z), (P, B), float64, for the data at these positions of the block, without the guide."""
        values = torch.cat([read_joint(self.at(points, data, self._points)) for points in passes(z)])
        if values.isnan().any():
            point, datum = values.isnan().nonzero()[0].tolist()
            where = ", ".join(f"{number:.4g}" for number in z[point, datum].tolist())
            raise ValueError(f"log p(x, z) is NaN for datum {self.first + int(data[datum])} at z = ({where})")
        return values

    def guide(self, z: Tensor, data: Tensor) -> Tensor:
        """Computes log q(z|x), in the same form, without the model."""
        return torch.cat([self._guide(points, data) for points in passes(z)])

    def at(self, z: Tensor, data: Tensor, guide: Callable[..., Any] | None = None) -> traces.Traces:
        """Runs guide and model with the latents set to z."""
        held = poutine.replay(guide or self.vae.guide, trace=self.coordinates.hold(z.to(self.dtype)))
        return traces.run(self.vae.model, held, len(z), *(array[data] for array in self.args))

    def _guide(self, z: Tensor, data: Tensor) -> Tensor:
        draws = pyro.plate("draws", len(z), dim=-2)
        held = poutine.replay(draws(self.vae.guide), trace=self.coordinates.hold(z.to(self.dtype)))
        trace = prune_subsample_sites(poutine.trace(held).get_trace(*(array[data] for array in self.args)))
        trace.compute_log_prob()
        return traces.log_posterior(traces.Traces(trace, trace)).double()

    def _points(self, x: Tensor, *_: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            for name, shape in self.coordinates.shapes.items():
                pyro.sample(
                    name, dist.Delta(torch.zeros(shape, dtype=self.dtype, device=x.device), event_dim=len(shape))
                )


def densities(vae: Any, x: Tensor, y: Tensor | None) -> Iterator[Densities]:
    """Yields the densities of each block of data."""
    for data, labels in data_blocks(len(x), y):
        yield Densities(vae, data.start, x[data], *labels)


def search_guide(block: Densities, tolerance: float) -> tuple[Integrals, Box]:
    """Integrates the guide. A point guide has no density, and is refused before the search for its width."""
    block.guide(block.guide_draws[:1], block.all)
    return search(block.guide, block.guide_draws, tolerance)


@contextmanager
def frozen(vae: Any, x: Tensor) -> Iterator[None]:
    """A context without learning and without side effects, in which draws are the same in every call."""
    check_tensor(x)
    with torch.no_grad(), undisturbed(vae), remembering({}), stream(0, "quadrature", device=x.device):
        yield


def passes(z: Tensor) -> tuple[Tensor, ...]:
    """Splits z (P, B, ...) into pieces of as many points as one pass of the program may hold."""
    return z.split(max(1, _AT_ONCE // z.shape[1]))


def read_joint(pair: traces.Traces) -> Tensor:
    """Reads log p(x, z), (P, B), float64."""
    return traces.reconstruction(pair).double() + traces.log_prior(pair).double()


def _drawn(program: Callable[..., Any], *args: Tensor) -> poutine.Trace:
    """A trace with `_DRAWS` draws of the latents: of the prior for a model."""
    return prune_subsample_sites(poutine.trace(pyro.plate("draws", _DRAWS, dim=-2)(program)).get_trace(*args))
