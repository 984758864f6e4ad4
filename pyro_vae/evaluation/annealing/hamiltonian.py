r"""Hamiltonian transitions along a path of densities, many chains for many data at once.

.. math:: \log f_b(z) = (1 - b) \log r_0(z) + b \log p(x, z)

r_0 is the guide q(z|x) or the prior p(z). A transition follows

.. math:: H(z, m) = -\log f_b(z) + \tfrac{1}{2} |m|^2, \qquad m \sim N(0, I)

by leapfrog steps, which are reversible and keep volume, and accepts the end with probability min(1, e^-(change of H)).
It leaves f_b unchanged for any step size that does not depend on the chains it moves. `tune` finds suitable step sizes
with separate chains.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.evaluation.coordinates import Coordinates, check_real
from pyro_vae.graphs.replay import Replay
from pyro_vae.model import traces
from pyro_vae.progress import through
from pyro_vae.randomness import preserved

# The best for many dimensions: Beskos et al., "Optimal tuning of the hybrid Monte Carlo algorithm", Bernoulli 2013.
TARGET_ACCEPTANCE = 0.65
PILOT_CHAINS = 16
PILOT_TRANSITIONS = 100  # at least, over all temperatures, so that few of them leave time to follow the path
PILOT_TEMPERATURES = 200  # at most: of more, neighbours share a step size, and pilots do not outweigh the chains
FIRST_TRANSITIONS = 40  # more, at the first temperature: e^(0.2 * 0.35 * 40), a factor of 16 up, more down
PILOT_RATE = 0.2  # of the Robbins-Monro step; 16 pilots then know each step size within about a tenth
JITTER = 0.2  # of the step size, either way, so that no trajectory closes on itself


class Point(NamedTuple):
    """The places of K chains for each of B data: z (K, B, D), log densities (K, B) in float64, slopes (K, B, D)."""

    z: Tensor
    start: Tensor
    target: Tensor
    start_slope: Tensor
    target_slope: Tensor

    def log_density(self, b: float) -> Tensor:
        """Returns log f_b at z, (K, B)."""
        return (1 - b) * self.start + b * self.target

    def slope(self, b: float) -> Tensor:
        """Returns the gradient of log f_b at z, (K, B, D)."""
        return (1 - b) * self.start_slope + b * self.target_slope

    def ratio(self) -> Tensor:
        """Returns log p(x, z) - log r_0(z), (K, B)."""
        return self.target - self.start


class Path:
    """The two ends of a path for one block of data, log r_0(z) and log p(x, z), as functions of one tensor z.

    z is the concatenation of all latent sites.

    Args:
        vae: anything with `.model` and `.guide`.
        start: "guide" or "prior".
        data: x (B, *x_shape), and y (B, C) if there are labels.
    """

    def __init__(self, vae: Any, start: str, *data: Tensor) -> None:
        self.model, self.data = vae.model, data
        # The model's latent sites without the rest are a guide that draws from the prior.
        self.guide = vae.guide if start == "guide" else poutine.block(vae.model, hide_fn=_is_observed)
        with torch.no_grad(), preserved(data[0].device):
            sites = traces.latent_sites(traces.run(self.model, self.guide, 1, *data).guide)
        for name, site in sites.items():
            _check_start(name, site["fn"])
        self.coordinates = Coordinates(sites)
        self._densities = Replay(self._both, vae)

    @torch.no_grad()
    def draw(self, num_chains: int) -> Point:
        """Draws z ~ r_0 for each chain."""
        return self.at(self.coordinates.read(traces.run(self.model, self.guide, num_chains, *self.data).guide))

    def at(self, z: Tensor) -> Point:
        """Computes both log densities at z (K, B, D), with their gradients in z; parameters get no gradient."""
        return Point(z.detach(), *self._densities(z))

    @torch.enable_grad()
    def _both(self, z: Tensor) -> list[Tensor]:
        z = z.detach().requires_grad_()
        guide = poutine.replay(self.guide, trace=self.coordinates.hold(z))
        pair = traces.run(self.model, guide, len(z), *self.data)
        start = traces.log_posterior(pair).double()
        target = traces.reconstruction(pair).double() + traces.log_prior(pair).double()
        (start_slope,) = torch.autograd.grad(start.sum(), z, retain_graph=True)
        (target_slope,) = torch.autograd.grad(target.sum(), z)
        return [start.detach(), target.detach(), start_slope, target_slope]


class Steps(NamedTuple):
    """The step sizes of a path: the width (B, D) of r_0 in each direction, times a size (T, B) for each temperature."""

    width: Tensor
    size: Tensor


def leapfrog(
    path: Path, point: Point, momentum: Tensor, b: float, step: Tensor, num_leapfrog: int
) -> tuple[Point, Tensor]:
    """Follows H = -log f_b(z) + |momentum|^2 / 2 by leapfrog steps, which are reversible and keep volume.

    If z leaves the finite numbers, the momentum becomes NaN, and `transition` refuses the end.

    Args:
        path: the densities.
        point: where the chains start.
        momentum: (K, B, D).
        b: the temperature.
        step: the step size of each direction, broadcast to (K, B, D).
        num_leapfrog: the number of steps.

    Returns:
        Point and momentum at the end.

    Reference:
        Neal, "MCMC using Hamiltonian dynamics", Handbook of Markov Chain Monte Carlo 2011, section 2.3.
        https://arxiv.org/abs/1206.1901
    """
    for _ in range(num_leapfrog):
        momentum = momentum + step / 2 * point.slope(b)
        z = point.z + step * momentum
        finite = z.isfinite().all(-1, keepdim=True)
        momentum = momentum.where(finite, math.nan)
        point = path.at(z.where(finite, point.z))
        momentum = momentum + step / 2 * point.slope(b)
    return point, momentum


def transition(path: Path, point: Point, b: float, step: Tensor, num_leapfrog: int) -> tuple[Point, Tensor]:
    """Makes one Hamiltonian transition, which leaves f_b unchanged.

    Args:
        path, point, b, step, num_leapfrog: as for `leapfrog`. The step size is jittered for each chain.

    Returns:
        The point after it, and its probability of acceptance, (K, B).
    """
    momentum = torch.randn_like(point.z)
    jitter = 1 + JITTER * (2 * torch.rand_like(point.z[..., :1]) - 1)
    end, last = leapfrog(path, point, momentum, b, jitter * step, num_leapfrog)
    gain = end.log_density(b) - point.log_density(b) + _kinetic(momentum) - _kinetic(last)
    probability = gain.exp().clamp(max=1).nan_to_num(0.0)
    accepted = torch.rand_like(probability) < probability
    moved = (
        new.where(accepted[..., None] if new.dim() > accepted.dim() else accepted, old)
        for new, old in zip(end, point, strict=True)
    )
    return Point(*moved), probability


def tune(path: Path, levels: Sequence[float], num_leapfrog: int) -> Steps:
    """Finds step sizes for every temperature by pilot chains that walk the same path.

    Directions are scaled by the spread of r_0 (by quartiles, which are robust to heavy tails). At every temperature the
    logarithm of each datum's step size follows the pilots' acceptance, starting from its value at the previous
    temperature. Of more than 200 temperatures the pilots walk every second, third and so on, and those that follow
    share its step size.

    Args:
        path: the densities.
        levels: the temperatures, from r_0 on, without the two ends.
        num_leapfrog: the steps of each transition.

    Reference:
        Robbins & Monro, "A Stochastic Approximation Method", Annals of Mathematical Statistics 22, 1951.
        https://doi.org/10.1214/aoms/1177729586
    """
    point = path.draw(PILOT_CHAINS)
    quartiles = point.z.quantile(torch.tensor([0.25, 0.75]).to(point.z), dim=0)
    width = ((quartiles[1] - quartiles[0]) / 1.35).clamp(min=torch.finfo(point.z.dtype).tiny)
    log_size = torch.full_like(width[:, 0], math.log(0.2))
    sizes: list[Tensor] = []
    shared, transitions = pilots(len(levels))
    for b in through("", levels[::shared]):
        for _ in range(transitions + (0 if sizes else FIRST_TRANSITIONS)):
            point, probability = transition(path, point, b, log_size.exp()[:, None] * width, num_leapfrog)
            log_size = log_size + PILOT_RATE * (probability.mean(0) - TARGET_ACCEPTANCE).to(log_size)
        sizes.append(log_size.exp())
    return Steps(width, torch.stack(sizes).repeat_interleave(shared, dim=0)[: len(levels)])


def pilots(num_temperatures: int) -> tuple[int, int]:
    """Returns how many temperatures share a step size, and how many transitions the pilots make for each size.

    Example:
        >>> pilots(10), pilots(200), pilots(1000)
        ((1, 10), (1, 1), (5, 1))
    """
    shared = math.ceil(num_temperatures / PILOT_TEMPERATURES)
    return shared, math.ceil(PILOT_TRANSITIONS / math.ceil(num_temperatures / shared))


def _kinetic(momentum: Tensor) -> Tensor:
    return momentum.double().square().sum(-1) / 2


def _check_start(name: str, distribution: Any) -> None:
    if traces.is_point(distribution):
        raise ValueError(
            f"annealing cannot start from the guide: its site {name} is a point (Delta) and has no density. "
            'Use `start="prior"`'
        )
    check_real(name, distribution, "annealing")


def _is_observed(site: Any) -> bool:
    return bool(site["is_observed"])
