r"""log p(x) by annealing: chains that walk from a density one can draw from to the posterior.

.. math:: \log f_b(z) = (1 - b) \log r_0(z) + b \log p(x, z), \qquad 0 = b_0 < b_1 < \dots < b_T < b_{T+1} = 1

.. math:: \log w = \sum_{t=0}^{T} (b_{t+1} - b_t) \, [\log p(x, z_t) - \log r_0(z_t)], \qquad E[w] = p(x)

r_0 is the guide q(z|x) or the prior p(z), z_0 a draw from it, and z_t comes from z_t-1 by a transition that leaves
f_b_t as it is. For T = 0 these are the importance weights of `iwae`. Temperatures in between reduce their spread. More
draws from a guide that misses the posterior would not.

The transitions are defined in `hamiltonian.py`. E[w] = p(x) needs transitions that do not learn from the chains they
move. So their step sizes come from pilot chains with separate noise, and are fixed before the first chain that counts.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.errors import unknown
from pyro_vae.evaluation.annealing.hamiltonian import Path, Point, Steps, transition, tune
from pyro_vae.evaluation.data_fingerprint import fingerprint
from pyro_vae.evaluation.estimators import Estimate, of_data, relative_error
from pyro_vae.evaluation.memory import SAMPLE_BLOCK
from pyro_vae.evaluation.weights import data_blocks
from pyro_vae.model.program import check_tensor, number_to_generate, remembering, undisturbed
from pyro_vae.notebook_html import Row, html_table, plus_minus
from pyro_vae.progress import through
from pyro_vae.randomness import block_stream, derive_if_given
from pyro_vae.threads import Pace

STARTS = ("guide", "prior")
STEEPNESS = 4.0  # of the schedule


@dataclass(frozen=True)
class AnnealedEstimate(Estimate):
    """An `Estimate` over K chains, and how they moved.

    Attributes:
        acceptance: (N,), the mean probability of acceptance over chains and temperatures; NaN without temperatures. If
            it is far below 0.65, the chains hardly moved: the bound is valid, but loose.
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

    def table_rows(self) -> list[Row]:
        moved = {"temperatures": f"{self.num_temperatures:,}", "acceptance": f"{self.acceptance.mean().item():.2f}"}
        return [{**row, **moved} for row in super().table_rows()]


@dataclass(frozen=True)
class BidirectionalEstimate:
    """Bounds on log p(x) from both sides, on simulated data. Printing it gives a line for each, and one for the gap.

    Attributes:
        forward: annealing towards the posterior, a lower bound in expectation.
        reverse: annealing from the exact posterior draw, an upper bound in expectation. All chains of a datum begin at
            that one draw. The Monte Carlo error covers the chains given the draw, but not the draw itself.
        x: the simulated data (N, *x_shape).
    """

    forward: AnnealedEstimate
    reverse: AnnealedEstimate
    x: Tensor = field(repr=False)

    @property
    def gap(self) -> float:
        """The mean over the data of reverse - forward: at least the sum of both errors, in expectation."""
        return (self.reverse.value - self.forward.value).mean().item()

    @property
    def gap_error(self) -> float:
        """The standard error of the gap. Data are independent, so their spread has all noise in it; NaN for one."""
        gaps = self.reverse.value - self.forward.value
        return gaps.std().item() / math.sqrt(len(gaps)) if len(gaps) > 1 else math.nan

    def __str__(self) -> str:
        gap = f"{'gap':<20} {self.gap:>10.3f} {self.forward.unit}   ±{self.gap_error:.3f}   simulated data only"
        return f"{self.forward}\n{self.reverse}\n{gap}"

    def _repr_html_(self) -> str:
        gap = f"gap {self.gap:.3f} {self.forward.unit}, {plus_minus(self.gap_error)}, of simulated data only"
        return html_table([*self.forward.table_rows(), *self.reverse.table_rows()], note=gap)


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
    r"""Estimates log p(x) of each datum by annealed importance sampling, in nats.

    .. math:: \log \frac{1}{K} \sum_{k=1}^{K} w_k, \qquad
              \log w_k = \sum_{t=0}^{T} (b_{t+1} - b_t) \, [\log p(x, z_{kt}) - \log r_0(z_{kt})]

    Each of K chains starts at a draw from r_0 and walks through densities f_b(z) between r_0(z) (b = 0) and p(x, z)
    (b = 1). Its temperatures b follow a sigmoid schedule, which is dense at both ends. Near b = 0 a broad r_0 first
    meets the data; near b = 1 the chains leave a guide whose tails are lighter than the posterior's.

    This is a lower bound in expectation (not in each run), and becomes tight as T or K grows. `bdmc` measures how tight
    it is, on simulated data. The Monte Carlo error is the error of the logarithm of a mean, and does not include the
    bias. Pilot chains tune the step sizes for each datum and temperature. There are 16 of them, and they cost as much
    as 16 of the chains that count, or less for T > 200: they walk through 200 temperatures at most.

    Args:
        vae: anything with `.model` and `.guide` over one data plate, and continuous latents on all of R^D.
        x: data (N, *x_shape).
        num_temperatures: T, the number of densities between the two ends. The bias falls as 1 / T.
        num_chains: K, for each datum; the Monte Carlo error needs two or more.
        y: one-hot labels (N, C).
        seed: None continues the caller's random stream; an integer is reproducible and leaves that stream alone.
        start: r_0, either "guide" for q(z|x) or "prior" for p(z), which does not depend on the guide and needs more T.
        num_leapfrog: the number of gradients in each transition. It is 5 rather than the usual 10, since directions are
            scaled, and on digits 10 gained no more than their time cost.
        first_block: for a shard of a larger data set, the number of blocks of 128 data that come before it.

    Raises:
        DataError: data outside the support of the likelihood.
        ValueError: no data, numbers out of range, another `start`, a latent that does not range over all real
            numbers, a program with sites outside the data plate, or start="guide" with a `Delta` guide.

    Reference:
        Neal, "Annealed Importance Sampling", Statistics and Computing 11, 2001.
        https://arxiv.org/abs/physics/9803008

        Wu, Burda, Salakhutdinov & Grosse, "On the Quantitative Analysis of Decoder-Based Generative Models", ICLR 2017.
        https://arxiv.org/abs/1611.04273

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.StandardNormal(2),
        ...              pv.posteriors.DiagonalNormal(pv.networks.MLP((4,), (4,)), 2),
        ...              pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (4,))))
        >>> ais(vae, torch.zeros(3, 4), num_temperatures=5, num_leapfrog=1, seed=0).value.shape
        torch.Size([3])
    """
    check_tensor(x)
    settings = _Settings(num_temperatures, num_chains, num_leapfrog, start)
    memory: dict[Any, Any] = {}
    blocks = []
    for i, (data, labels) in enumerate(through("", list(data_blocks(len(x), y)), parts=2), start=first_block):
        with undisturbed(vae), remembering(memory):
            blocks.append(_Block(Path(vae, start, x[data], *labels), settings, seed, i).forward())
    return of_data(_estimate("log p(x), annealed", 1, blocks, settings), fingerprint(x), y, "log p(x)")


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
    first_block: int = 0,
    mask: Tensor | None = None,
) -> BidirectionalEstimate:
    """Bounds log p(x) from below and from above by bidirectional Monte Carlo, for data that the program simulates.

    A simulated pair (x, z) holds an exact draw z from the posterior of its x. The chains of `ais`, run backwards from
    it, give weights with E[w] = 1 / p(x), so that -log (1/K) sum_k w_k is an upper bound in expectation.

    This works on simulated data only: for real data there is no exact posterior draw, and so no upper bound. The gap is
    evidence about AIS with these settings, not about how well the program fits. It carries over to real data if their
    posteriors are not harder.

    Args:
        vae: as for `ais`; `model()` without x, or `model(None, y)`, simulates and returns x.
        num_data: N; with labels, the number of labels.
        y: one-hot labels (N, C).
        num_temperatures, num_chains, seed, start, num_leapfrog, first_block: as for `ais`.
        mask: boolean (N, *x_shape), for a program with `missing=True`: the simulated numbers are removed where it is
            False. z is still a draw from the posterior given the rest, since the gaps do not depend on x.

    Returns:
        Both bounds, the gap between them, and the simulated data.

    Raises:
        ValueError: as for `ais`, for num_data that is not the number of labels, and for a mask of another shape.

    Reference:
        Grosse, Ghahramani & Adams, "Sandwiching the marginal likelihood using bidirectional Monte Carlo", 2015.
        https://arxiv.org/abs/1511.02543

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.StandardNormal(2),
        ...              pv.posteriors.DiagonalNormal(pv.networks.MLP((4,), (4,)), 2),
        ...              pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (4,))))
        >>> bounds = bdmc(vae, 20, num_temperatures=5, num_leapfrog=1, seed=0)
        >>> bounds.gap > -4 * bounds.gap_error
        True
    """
    settings = _Settings(num_temperatures, num_chains, num_leapfrog, start)
    size = number_to_generate(num_data, y)
    memory: dict[Any, Any] = {}
    forward, reverse, xs = [], [], []
    for i, (data, labels) in enumerate(through("", list(data_blocks(size, y)), parts=3), start=first_block):
        with undisturbed(vae), remembering(memory):
            simulated = _simulate(vae, data.stop - data.start, labels, derive_if_given(seed, "simulated"), i)
            check_tensor(simulated.nodes["_RETURN"]["value"])
            xs.append(_with_gaps(simulated.nodes["_RETURN"]["value"], mask, data))
            path = Path(vae, start, xs[-1], *labels)
            block = _Block(path, settings, seed, i)
            forward.append(block.forward())
            reverse.append(block.reverse(path.coordinates.read(simulated)))
    lower = _estimate("log p(x), forward", 1, forward, settings)
    upper = _estimate("log p(x), reverse", -1, reverse, settings)
    x = torch.cat(xs)
    lower, upper = (of_data(bound, fingerprint(x), y, "log p(x)") for bound in (lower, upper))
    return BidirectionalEstimate(lower, upper, x)


def anneal(path: Path, point: Point, levels: Sequence[float], steps: Steps, num_leapfrog: int) -> tuple[Tensor, Tensor]:
    """Moves chains along all temperatures, in either direction.

    Backwards, from 1 to 0, the increments b_t+1 - b_t are negative. Then E[w] = 1 / p(x), from posterior draws.

    Args:
        path: the densities.
        point: where the chains start.
        levels: the temperatures, both ends included.
        steps: the step sizes of all temperatures between the ends.
        num_leapfrog: the steps of each transition.

    Returns:
        log w and the mean probability of acceptance, (K, B) each.
    """
    log_weight = (levels[1] - levels[0]) * point.ratio()
    accepted = torch.zeros_like(log_weight)
    walk = list(zip(levels[1:-1], levels[2:], steps.size, strict=True))
    pace = Pace()
    for b, following, size in through("", walk):
        point, probability = transition(path, point, b, size[:, None] * steps.width, num_leapfrog)
        log_weight = log_weight + (following - b) * point.ratio()
        accepted += probability
        pace.step()
    return log_weight, accepted / len(steps.size)  # 0 / 0 = NaN without temperatures


def schedule(num_temperatures: int) -> list[float]:
    """Returns the temperatures b_0 = 0 ... b_T+1 = 1: a sigmoid between -4 and 4, rescaled. 1 - b is b reversed.

    Reference:
        Grosse, Ghahramani & Adams, "Sandwiching the marginal likelihood using bidirectional Monte Carlo", 2015.
        https://arxiv.org/abs/1511.02543

    Example:
        >>> [round(b, 3) for b in schedule(3)]
        [0.0, 0.105, 0.5, 0.895, 1.0]
    """
    t = torch.linspace(-STEEPNESS, STEEPNESS, num_temperatures + 2, dtype=torch.float64).sigmoid()
    return ((t - t[0]) / (t[-1] - t[0])).tolist()


@dataclass(frozen=True)
class _Settings:
    """The settings of `ais`, checked."""

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


class _Chains(NamedTuple):
    """The chains of one block of data: log w (K, B) and acceptance (B,), on the CPU in float64."""

    log_weights: Tensor
    acceptance: Tensor


class _Block:
    """One block of data, with step sizes that are fixed from here on."""

    def __init__(self, path: Path, settings: _Settings, seed: int | None, i: int) -> None:
        self.path, self.settings, self.seed, self.i = path, settings, seed, i
        self.levels, self.steps = schedule(settings.num_temperatures), Steps(torch.empty(0), torch.empty(0))
        if settings.num_temperatures:
            with self._noise(derive_if_given(seed, "pilots"), 0):
                self.steps = tune(path, self.levels[1:-1], settings.num_leapfrog)

    def forward(self) -> _Chains:
        return self._walk(self.path.draw, self.levels, self.steps, self.seed)

    def reverse(self, z: Tensor) -> _Chains:
        """From z (B, D), a draw from the posterior of each datum. A Hamiltonian transition is its own reverse."""
        backwards = Steps(self.steps.width, self.steps.size.flip(0))
        seed = derive_if_given(self.seed, "reverse")
        return self._walk(lambda k: self.path.at(z.expand(k, -1, -1)), self.levels[::-1], backwards, seed)

    def _walk(self, begin: Callable[[int], Point], levels: list[float], steps: Steps, seed: int | None) -> _Chains:
        weights, accepted = [], []
        for j, first in enumerate(range(0, self.settings.num_chains, SAMPLE_BLOCK)):
            with self._noise(seed, j):
                start = begin(min(SAMPLE_BLOCK, self.settings.num_chains - first))
                log_weight, probability = anneal(self.path, start, levels, steps, self.settings.num_leapfrog)
            weights.append(log_weight.cpu())
            accepted.append(probability.cpu())
        return _Chains(torch.cat(weights), torch.cat(accepted).mean(0))

    @contextmanager
    def _noise(self, seed: int | None, j: int) -> Iterator[None]:
        # A trajectory can run into NaN. It is refused, and must not stop all the others.
        with block_stream(seed, self.i, j, self.path.data[0].device), pyro.validation_enabled(False):
            yield


def _with_gaps(x: Tensor, mask: Tensor | None, data: slice) -> Tensor:
    if mask is None:
        return x
    if mask[data].shape != x.shape:
        expected = f"(N, *{tuple(x.shape[1:])}) like the simulated data"
        raise ValueError(f"mask must have the shape {expected}; got {tuple(mask.shape)}")
    return torch.where(mask[data].to(x.device), x, math.nan)


def _estimate(name: str, sign: int, blocks: list[_Chains], settings: _Settings) -> AnnealedEstimate:
    """sign log (1/K) sum_k w_k, and its error."""
    log_weights = torch.cat([block.log_weights for block in blocks], 1)
    K, T = settings.num_chains, settings.num_temperatures
    value = sign * (log_weights.logsumexp(0) - math.log(K))
    acceptance = torch.cat([block.acceptance for block in blocks])
    return AnnealedEstimate(name, value, relative_error(log_weights), K, acceptance=acceptance, num_temperatures=T)


@torch.no_grad()
def _simulate(vae: Any, size: int, labels: tuple[Tensor, ...], seed: int | None, i: int) -> Any:
    """A trace of the model without x, its values of shape (size, *event_shape)."""
    tensors = vae.state_dict().values() if isinstance(vae, torch.nn.Module) else ()
    device = next((tensor.device for tensor in (*labels, *tensors)), None)
    with block_stream(seed, i, 0, device):
        if labels:
            return poutine.trace(vae.model).get_trace(None, *labels)
        # Without labels the model's data plate has one datum, and the data are draws of it.
        trace = poutine.trace(pyro.plate("draws", size, dim=-2)(vae.model)).get_trace()
    for node in trace.nodes.values():
        if isinstance(value := node.get("value"), Tensor) and value.shape[:2] == (size, 1):
            node["value"] = value[:, 0]
    return trace
