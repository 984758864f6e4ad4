"""log p(x) by annealing: chains that walk from a density one can draw from to the posterior.

    log f_b(z) = (1 - b) log r_0(z) + b log p(x, z),      0 = b_0 < b_1 < ... < b_T < b_T+1 = 1
    z_0 ~ r_0,     z_t ~ a transition that leaves f_b_t as it is, from z_t-1
    log w = sum_t (b_t+1 - b_t) [log p(x, z_t) - log r_0(z_t)],      E[w] = p(x)                        nats

with r_0 the guide q(z|x) or the prior p(z). For T = 0 these are the importance weights of `iwae`; with temperatures in
between they lose their spread, where more draws from a guide that misses the posterior would not help.

Transitions are Hamiltonian (`transition`). E[w] = p(x) needs transitions that do not learn from the chains they move,
so their step sizes come from pilot chains with noise of their own, and are fixed before the first chain counts.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions import constraints
from torch import Tensor

from pyro_vae.errors import unknown
from pyro_vae.evaluation.estimators import Estimate
from pyro_vae.evaluation.weights import DATA_BLOCK, SAMPLE_BLOCK
from pyro_vae.model import traces
from pyro_vae.model.program import check_tensor, number_to_generate, remembering, undisturbed
from pyro_vae.randomness import block_stream, derive, preserved

STARTS = ("guide", "prior")
TARGET_ACCEPTANCE = 0.65  # the best for many dimensions: Beskos et al., "Optimal tuning of HMC", Bernoulli 2013
PILOT_CHAINS = 16
PILOT_TRANSITIONS = 100  # at least, over all temperatures, so that few of them leave time to follow the path
FIRST_TRANSITIONS = 40  # besides, at the first temperature: e^(0.2 * 0.35 * 40), a factor of 16 up, more down
PILOT_RATE = 0.2  # of the Robbins-Monro step; 16 pilots then know each step size within about a tenth
JITTER = 0.2  # of the step size, either way, so that no trajectory closes on itself
STEEPNESS = 4.0  # of the schedule


@dataclass(frozen=True)
class AnnealedEstimate(Estimate):
    """An `Estimate` over K chains, and how they moved.

    Attributes:
        acceptance: (N,), mean probability of acceptance over chains and temperatures; NaN without temperatures. Far
            below 0.65 the chains hardly moved: the bound holds, but is loose.
        num_temperatures: T.
    """

    acceptance: Tensor = field(default_factory=lambda: torch.empty(0))
    num_temperatures: int = 0

    def to_dict(self) -> dict[str, Any]:
        acceptance = self.acceptance.mean().item() if self.num_temperatures else None
        return {**super().to_dict(), "num_temperatures": self.num_temperatures, "acceptance": acceptance}

    def __str__(self) -> str:
        moved = f"T = {self.num_temperatures}, acceptance {self.acceptance.mean().item():.2f}"
        return f"{super().__str__()}   {moved}"


@dataclass(frozen=True)
class BidirectionalEstimate:
    """Bounds of log p(x) from both sides, on simulated data. Printing it gives a line for each, and one for the gap.

    Attributes:
        forward: annealing towards the posterior, a lower bound in expectation.
        reverse: annealing from the exact posterior draw, an upper bound in expectation. All chains of a datum begin at
            that one draw; its Monte Carlo error is that of the chains given the draw, and leaves the draw's own out.
        x: the simulated data (N, *x_shape).
    """

    forward: AnnealedEstimate
    reverse: AnnealedEstimate
    x: Tensor = field(repr=False)

    @property
    def gap(self) -> float:
        """Mean over the data of reverse - forward: at least the sum of both errors, in expectation."""
        return (self.reverse.value - self.forward.value).mean().item()

    @property
    def gap_error(self) -> float:
        """Standard error of the gap: data are independent, so that their spread holds all noise. NaN for one datum."""
        gaps = self.reverse.value - self.forward.value
        return gaps.std().item() / math.sqrt(len(gaps)) if len(gaps) > 1 else math.nan

    def __str__(self) -> str:
        gap = f"{'gap':<20} {self.gap:>10.3f} {self.forward.unit}   ±{self.gap_error:.3f}   simulated data only"
        return f"{self.forward}\n{self.reverse}\n{gap}"


def ais(
    vae: Any,
    x: Tensor,
    num_temperatures: int = 200,
    num_chains: int = 16,
    y: Tensor | None = None,
    seed: int | None = None,
    *,
    start: str = "guide",
    num_leapfrog: int = 5,
    first_block: int = 0,
) -> AnnealedEstimate:
    """log p(x) by annealed importance sampling: log (1/K) sum_k w_k over K chains, per datum.

    Neal, "Annealed Importance Sampling", Statistics and Computing 2001; for decoders, Wu et al., "On the Quantitative
    Analysis of Decoder-Based Generative Models", ICLR 2017, whose sigmoid schedule this is. It spends its temperatures
    at both ends: near b = 0 a broad r_0 first meets the data, near b = 1 a guide with lighter tails than the posterior
    is left behind.

    A lower bound in expectation (not in each run), tight as T or K grows; the Monte Carlo error is that of the
    logarithm of a mean, and does not contain the bias. `bdmc` measures how tight, on simulated data. Step sizes are
    tuned, for each datum and temperature, by 16 pilot chains, which cost as much as 16 of the chains that count.

    Args:
        vae: anything with `.model` and `.guide` over one data plate; latents continuous, on all of R^D.
        x: data (N, *x_shape).
        num_temperatures: T, the densities between the two ends. The bias falls as 1 / T.
        num_chains: K, for each datum; the Monte Carlo error needs two or more.
        y: one-hot labels (N, C).
        seed: None goes on with the caller's random stream; an integer is reproducible and leaves that stream alone.
        start: r_0, "guide" for q(z|x), or "prior" for p(z), which owes nothing to the guide, and needs more T.
        num_leapfrog: gradients in each transition. 5 rather than the usual 10: directions are scaled, and on digits
            10 lost in time what they gained.
        first_block: for a shard of a larger data set, how many blocks of 128 data stand before it.

    Raises:
        DataError: data outside the support of the likelihood.
        ValueError: no data, numbers out of range, another `start`, a latent that does not range over all real
            numbers, a program with sites outside the data plate, or start="guide" with a `Delta` guide.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.StandardNormal(2),
        ...              pv.posteriors.DiagonalNormal(pv.networks.MLP((4,), (4,)), 2),
        ...              pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (4,))))
        >>> ais(vae, torch.zeros(3, 4), num_temperatures=5, num_leapfrog=1, seed=0).value.shape
        torch.Size([3])
    """
    check_tensor(x)
    plan = _Plan(num_temperatures, num_chains, num_leapfrog, start)
    memory: dict[Any, Any] = {}
    found = []
    for i, (data, labels) in enumerate(_blocks(len(x), y), start=first_block):
        with undisturbed(vae), remembering(memory):
            found.append(_Block(Path(vae, start, x[data], *labels), plan, seed, i).forward())
    return _estimate("log p(x), annealed", 1, found, plan)


def bdmc(
    vae: Any,
    num_data: int | None = None,
    num_temperatures: int = 200,
    num_chains: int = 16,
    y: Tensor | None = None,
    seed: int | None = None,
    *,
    start: str = "guide",
    num_leapfrog: int = 5,
) -> BidirectionalEstimate:
    """Bidirectional Monte Carlo: log p(x) from below and from above, for data that the program itself simulates.

    Grosse, Ghahramani & Adams, "Sandwiching the marginal likelihood using bidirectional Monte Carlo", 2015. A simulated
    pair (x, z) holds an exact draw z from the posterior of its x. The chains of `ais` run backwards from it give
    weights with E[w] = 1 / p(x), and -log (1/K) sum_k w_k is an upper bound in expectation.

    This holds on simulated data only: of real data nobody has a posterior draw, and no upper bound. The gap is evidence
    about AIS with these settings, not about how well the program fits; it carries over to real data as far as their
    posteriors are no harder.

    Args:
        vae: as for `ais`; `model()` without x, or `model(None, y)`, simulates and returns x.
        num_data: N; with labels it is their number.
        y: one-hot labels (N, C).
        num_temperatures, num_chains, seed, start, num_leapfrog: as for `ais`.

    Raises:
        ValueError: as for `ais`, and for num_data that is not the number of labels.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.StandardNormal(2),
        ...              pv.posteriors.DiagonalNormal(pv.networks.MLP((4,), (4,)), 2),
        ...              pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (4,))))
        >>> bounds = bdmc(vae, 20, num_temperatures=5, num_leapfrog=1, seed=0)
        >>> bounds.gap > -4 * bounds.gap_error
        True
    """
    plan = _Plan(num_temperatures, num_chains, num_leapfrog, start)
    size = number_to_generate(num_data, y)
    memory: dict[Any, Any] = {}
    forward, reverse, xs = [], [], []
    for i, (data, labels) in enumerate(_blocks(size, y)):
        with undisturbed(vae), remembering(memory):
            simulated = _simulate(vae, data.stop - data.start, labels, _named(seed, "simulated"), i)
            check_tensor(simulated.nodes["_RETURN"]["value"])
            xs.append(simulated.nodes["_RETURN"]["value"])
            path = Path(vae, start, xs[-1], *labels)
            block = _Block(path, plan, seed, i)
            forward.append(block.forward())
            reverse.append(block.reverse(path.read(simulated)))
    lower, upper = ("log p(x), forward", 1, forward, plan), ("log p(x), reverse", -1, reverse, plan)
    return BidirectionalEstimate(_estimate(*lower), _estimate(*upper), torch.cat(xs))


class Point(NamedTuple):
    """K chains for each of B data, where they stand: z (K, B, D), densities (K, B) in float64, slopes (K, B, D)."""

    z: Tensor
    start: Tensor
    target: Tensor
    start_slope: Tensor
    target_slope: Tensor

    def log_density(self, b: float) -> Tensor:
        """log f_b, (K, B)."""
        return (1 - b) * self.start + b * self.target

    def slope(self, b: float) -> Tensor:
        """Its gradient, (K, B, D)."""
        return (1 - b) * self.start_slope + b * self.target_slope

    def ratio(self) -> Tensor:
        """log p(x, z) - log r_0(z), (K, B)."""
        return self.target - self.start


class Path:
    """log r_0(z) and log p(x, z) of one block of data, as functions of one tensor z: all latent sites side by side.

    Args:
        vae: anything with `.model` and `.guide`.
        start: "guide" or "prior".
        data: x (B, *x_shape), and y (B, C) where there are labels.
    """

    def __init__(self, vae: Any, start: str, *data: Tensor) -> None:
        self.model, self.data = vae.model, data
        # The model's latent sites alone are a guide that draws from the prior.
        self.guide = vae.guide if start == "guide" else poutine.block(vae.model, hide_fn=_is_observed)
        with torch.no_grad(), preserved(data[0].device):
            sites = traces.latent_sites(traces.run(self.model, self.guide, 1, *data).guide)
        for name, site in sites.items():
            _check_site(name, site["fn"])
        self.shapes = {name: site["fn"].event_shape for name, site in sites.items()}

    @torch.no_grad()
    def draw(self, num_chains: int) -> Point:
        """z ~ r_0."""
        return self.at(self.read(traces.run(self.model, self.guide, num_chains, *self.data).guide))

    def read(self, trace: Any) -> Tensor:
        """The latents in a trace, (*, B, D)."""
        values = [(trace.nodes[name]["value"], len(shape)) for name, shape in self.shapes.items()]
        return torch.cat([value.reshape(*value.shape[: value.dim() - n], -1) for value, n in values], -1)

    def at(self, z: Tensor) -> Point:
        """Both log-densities at z (K, B, D), with their gradients in z; no parameter gets one."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            guide = poutine.replay(self.guide, trace=traces.holding(self._sites(z)))
            pair = traces.run(self.model, guide, len(z), *self.data)
            start = traces.log_posterior(pair).double()
            target = traces.reconstruction(pair).double() + traces.log_prior(pair).double()
            (start_slope,) = torch.autograd.grad(start.sum(), z, retain_graph=True)
            (target_slope,) = torch.autograd.grad(target.sum(), z)
        return Point(z.detach(), start.detach(), target.detach(), start_slope, target_slope)

    def _sites(self, z: Tensor) -> dict[str, Tensor]:
        parts = z.split([shape.numel() for shape in self.shapes.values()], -1)
        placed = zip(self.shapes.items(), parts, strict=True)
        return {name: part.reshape(*z.shape[:-1], *shape) for (name, shape), part in placed}


class Steps(NamedTuple):
    """Step sizes: the width (B, D) of r_0 in each direction, times a size (T, B) for each temperature."""

    width: Tensor
    size: Tensor


def leapfrog(
    path: Path, point: Point, momentum: Tensor, b: float, step: Tensor, num_leapfrog: int
) -> tuple[Point, Tensor]:
    """Follows H = -log f_b(z) + |momentum|^2 / 2 in units of `step`: reversible, and keeps volume.

    Neal, "MCMC using Hamiltonian dynamics", 2011, section 2.3. Where z leaves the finite numbers the momentum becomes
    NaN, and `transition` refuses the end.
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
    """One Hamiltonian transition that leaves f_b as it is, and its probability of acceptance (K, B)."""
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
    """Step sizes for the temperatures `levels`, from pilot chains that walk the same path.

    Directions are scaled by the spread of r_0 (quartiles, which heavy tails can not upset). At every temperature the
    logarithm of each datum's step follows the pilots' acceptance (Robbins & Monro 1951), from the temperature before.
    """
    point = path.draw(PILOT_CHAINS)
    quartiles = point.z.quantile(torch.tensor([0.25, 0.75]).to(point.z), dim=0)
    width = ((quartiles[1] - quartiles[0]) / 1.35).clamp(min=torch.finfo(point.z.dtype).tiny)
    log_size = torch.full_like(width[:, 0], math.log(0.2))
    sizes: list[Tensor] = []
    for b in levels:
        for _ in range(math.ceil(PILOT_TRANSITIONS / len(levels)) + (0 if sizes else FIRST_TRANSITIONS)):
            point, probability = transition(path, point, b, log_size.exp()[:, None] * width, num_leapfrog)
            log_size = log_size + PILOT_RATE * (probability.mean(0) - TARGET_ACCEPTANCE).to(log_size)
        sizes.append(log_size.exp())
    return Steps(width, torch.stack(sizes))


def anneal(path: Path, point: Point, levels: Sequence[float], steps: Steps, num_leapfrog: int) -> tuple[Tensor, Tensor]:
    """Chains from `point` along all `levels`, ends included, either way: log w and mean acceptance, both (K, B).

    Backwards, from 1 to 0, the increments b_t+1 - b_t are negative, and from posterior draws E[w] = 1 / p(x).
    """
    log_weight = (levels[1] - levels[0]) * point.ratio()
    accepted = torch.zeros_like(log_weight)
    for b, following, size in zip(levels[1:-1], levels[2:], steps.size, strict=True):
        point, probability = transition(path, point, b, size[:, None] * steps.width, num_leapfrog)
        log_weight = log_weight + (following - b) * point.ratio()
        accepted += probability
    return log_weight, accepted / len(steps.size)  # 0 / 0 = NaN without temperatures


def schedule(num_temperatures: int) -> list[float]:
    """b_0 = 0 ... b_T+1 = 1: a sigmoid between -4 and 4, rescaled. Equal to 1 - b reversed.

    Grosse, Ghahramani & Adams 2015, section 5 (and Wu et al. 2017).

    >>> [round(b, 3) for b in schedule(3)]
    [0.0, 0.105, 0.5, 0.895, 1.0]
    """
    t = torch.linspace(-STEEPNESS, STEEPNESS, num_temperatures + 2, dtype=torch.float64).sigmoid()
    return ((t - t[0]) / (t[-1] - t[0])).tolist()


@dataclass(frozen=True)
class _Plan:
    """The numbers of `ais`, checked."""

    num_temperatures: int
    num_chains: int
    num_leapfrog: int
    start: str

    def __post_init__(self) -> None:
        for name, least in (("num_temperatures", 0), ("num_chains", 1), ("num_leapfrog", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}; got {getattr(self, name)}")
        if self.start not in STARTS:
            raise unknown("start", self.start, STARTS)


class _Found(NamedTuple):
    """Of one block of data: log w (K, B) and acceptance (B,), on the CPU in float64."""

    log_weights: Tensor
    acceptance: Tensor


class _Block:
    """One block of data, with step sizes that are fixed from here on."""

    def __init__(self, path: Path, plan: _Plan, seed: int | None, i: int) -> None:
        self.path, self.plan, self.seed, self.i = path, plan, seed, i
        self.levels, self.steps = schedule(plan.num_temperatures), Steps(torch.empty(0), torch.empty(0))
        if plan.num_temperatures:
            with self._noise(_named(seed, "pilots"), 0):
                self.steps = tune(path, self.levels[1:-1], plan.num_leapfrog)

    def forward(self) -> _Found:
        return self._chains(self.path.draw, self.levels, self.steps, self.seed)

    def reverse(self, z: Tensor) -> _Found:
        """From z (B, D), a draw from the posterior of each datum. A Hamiltonian transition is its own reverse."""
        backwards = Steps(self.steps.width, self.steps.size.flip(0))
        seed = _named(self.seed, "reverse")
        return self._chains(lambda k: self.path.at(z.expand(k, -1, -1)), self.levels[::-1], backwards, seed)

    def _chains(self, begin: Callable[[int], Point], levels: list[float], steps: Steps, seed: int | None) -> _Found:
        weights, accepted = [], []
        for j, first in enumerate(range(0, self.plan.num_chains, SAMPLE_BLOCK)):
            with self._noise(seed, j):
                start = begin(min(SAMPLE_BLOCK, self.plan.num_chains - first))
                log_weight, probability = anneal(self.path, start, levels, steps, self.plan.num_leapfrog)
            weights.append(log_weight.cpu())
            accepted.append(probability.cpu())
        return _Found(torch.cat(weights), torch.cat(accepted).mean(0))

    @contextmanager
    def _noise(self, seed: int | None, j: int) -> Iterator[None]:
        # A trajectory may run into numbers that are none. It is refused, and must not stop all the others.
        with block_stream(seed, self.i, j, self.path.data[0].device), pyro.validation_enabled(False):
            yield


def _estimate(name: str, sign: int, found: list[_Found], plan: _Plan) -> AnnealedEstimate:
    """sign log (1/K) sum_k w_k, and its error by the delta method: sd(w) / (sqrt(K) mean(w))."""
    log_weights = torch.cat([block.log_weights for block in found], 1)
    K, T = plan.num_chains, plan.num_temperatures
    value = sign * (log_weights.logsumexp(0) - math.log(K))
    spread = (K * log_weights.softmax(0).square().sum(0) - 1).clamp(min=0)
    error = (spread / (K - 1)).sqrt() if K > 1 else torch.full_like(value, math.nan)
    acceptance = torch.cat([block.acceptance for block in found])
    return AnnealedEstimate(name, value, error, K, acceptance=acceptance, num_temperatures=T)


@torch.no_grad()
def _simulate(vae: Any, size: int, labels: tuple[Tensor, ...], seed: int | None, i: int) -> Any:
    """A trace of the model without x, its values of shape (size, *event_shape)."""
    tensors = vae.state_dict().values() if isinstance(vae, torch.nn.Module) else ()
    device = next((tensor.device for tensor in (*labels, *tensors)), None)
    with block_stream(seed, i, 0, device):
        if labels:
            return poutine.trace(vae.model).get_trace(None, *labels)
        # Without labels the model's data plate has one datum: the data are draws of it.
        trace = poutine.trace(pyro.plate("draws", size, dim=-2)(vae.model)).get_trace()
    for node in trace.nodes.values():
        if isinstance(value := node.get("value"), Tensor) and value.shape[:2] == (size, 1):
            node["value"] = value[:, 0]
    return trace


def _named(seed: int | None, name: str) -> int | None:
    return None if seed is None else derive(seed, name)


def _kinetic(momentum: Tensor) -> Tensor:
    return momentum.double().square().sum(-1) / 2


def _blocks(size: int, y: Tensor | None) -> Iterator[tuple[slice, tuple[Tensor, ...]]]:
    """Each block of data, and its labels where there are any."""
    if size < 1:
        raise ValueError(f"there are no data to evaluate: their number is {size}")
    if y is not None and len(y) != size:
        raise ValueError(f"each datum needs its label: there are {size} data and {len(y)} labels")
    for first in range(0, size, DATA_BLOCK):
        data = slice(first, min(first + DATA_BLOCK, size))
        yield data, () if y is None else (y[data],)


def _check_site(name: str, distribution: Any) -> None:
    if traces.is_point(distribution):
        raise ValueError(
            f"the guide's site {name} is a point (Delta) and has no density, from which annealing could start: "
            'use start="prior"'
        )
    support = distribution.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if support not in (constraints.real, constraints.real_vector):
        raise ValueError(
            f"annealing moves latents over all real numbers; site {name} is a {type(distribution).__name__} "
            f"over {support}"
        )


def _is_observed(site: Any) -> bool:
    return bool(site["is_observed"])
