"""The true posterior p(z|x) of one datum, by Hamiltonian Monte Carlo, compared with the guide.

    log p(z|x) = log p(x, z) - log p(x),      sampled with the gradient of log p(x, z) in z only

The sampler is Pyro's NUTS on the program's model. It needs no guide, so its draws are an independent check of q(z|x),
in any number of dimensions; for one or two a grid is better. Draws of a Markov chain are useful only if several chains
with different starting points agree. R-hat says whether they do.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS
from torch import Tensor, nn

from pyro_vae.evaluation.coordinates import check_real
from pyro_vae.evaluation.estimators import known
from pyro_vae.evaluation.trust.diagnostics import Mixing, chains_to_inference_data, mixing
from pyro_vae.graphs.replay import Replay
from pyro_vae.model import traces
from pyro_vae.model.program import check_tensor, remembering, undisturbed
from pyro_vae.progress import stage, through
from pyro_vae.randomness import stream

if TYPE_CHECKING:
    from arviz import InferenceData
    from xarray import DataTree

LARGEST_RHAT = 1.01  # Vehtari et al. 2021
ROWS = 24  # of a printed table


class Comparison(NamedTuple):
    """The posterior and the guide, for each latent number of a site, (*event), float64.

    Attributes:
        mean, deviation: of the draws of NUTS.
        guide_mean, guide_deviation: of the draws of the guide.
        z_score: mean - guide_mean, in units of the Monte Carlo error of that difference. Beyond 4 the means differ; by
            how much is seen from the deviations.
    """

    mean: Tensor
    deviation: Tensor
    guide_mean: Tensor
    guide_deviation: Tensor
    z_score: Tensor


@dataclass(frozen=True)
class PosteriorDraws:
    """Draws of the latents of one datum from p(z|x), and as many from the guide. Printing it gives a table.

    Attributes:
        draws: site -> (chains, draws, *event), by NUTS.
        guide: site -> (chains * draws, *event), independent draws from q(z|x); all equal if the guide is a point.
        diverging: (chains, draws), True where the integrator failed to conserve energy: the region nearby was not
            explored.
        observed: site -> (*event), the datum.
        mixing: site -> R-hat, effective sample sizes and the error of the mean, for each latent number.
        num_warmup: transitions of each chain before the first draw.
    """

    draws: dict[str, Tensor]
    guide: dict[str, Tensor]
    diverging: Tensor
    observed: dict[str, Tensor] = field(repr=False)
    mixing: dict[str, Mixing] = field(repr=False)
    num_warmup: int = 0

    @property
    def num_chains(self) -> int:
        """The number of chains."""
        return self.diverging.shape[0]

    @property
    def num_draws(self) -> int:
        """The number of draws of each chain."""
        return self.diverging.shape[1]

    @property
    def divergences(self) -> int:
        """The number of divergent transitions, over all chains."""
        return int(self.diverging.sum())

    @property
    def rhat_max(self) -> float:
        """The largest R-hat of all latent numbers; NaN if one of them is."""
        return torch.cat([each.rhat.flatten() for each in self.mixing.values()]).max().item()

    @property
    def ess_min(self) -> float:
        """The smallest effective sample size, bulk or tail, of all latent numbers."""
        sizes = [size.flatten() for each in self.mixing.values() for size in (each.ess_bulk, each.ess_tail)]
        return torch.cat(sizes).min().item()

    @property
    def agree(self) -> bool:
        """True if every R-hat is below 1.01; otherwise the draws do not represent the posterior."""
        return self.rhat_max < LARGEST_RHAT

    def compare(self) -> dict[str, Comparison]:
        """Compares the draws with those of the guide, site by site."""
        return {name: self._compared(name) for name in self.draws}

    def to_inference_data(self) -> "InferenceData | DataTree":
        """Puts the chains into the containers of ArviZ, for its tables and pictures.

        The groups are posterior, sample_stats and observed_data, with dimensions (chain, draw, <site>_dim_0, ...). The
        attribute `sampling` names the sampler.
        """
        about = {"sampling": "NUTS", "inference_library": "pyro", "tuning_steps": self.num_warmup}
        return chains_to_inference_data(self.draws, self.diverging, self.observed, about)

    def to_dict(self) -> dict[str, Any]:
        """Converts to plain numbers for a report, with None for one that is unknown."""
        about = {"method": "NUTS", "num_draws": self.num_draws, "chains": self.num_chains}
        verdict = {"rhat_max": known(self.rhat_max), "ess_min": known(self.ess_min), "agree": self.agree}
        counts = {"num_warmup": self.num_warmup, "divergences": self.divergences}
        return {**about, **counts, **verdict, "sites": {name: self._listed(name) for name in self.draws}}

    def _compared(self, name: str) -> Comparison:
        true, guide = self.draws[name].double().flatten(0, 1).cpu(), self.guide[name].double().cpu()
        error = (self.mixing[name].error.square() + guide.var(0) / len(guide)).sqrt()
        z_score = (true.mean(0) - guide.mean(0)) / error
        return Comparison(true.mean(0), true.std(0), guide.mean(0), guide.std(0), z_score)

    def _numbers(self, name: str) -> dict[str, list[float]]:
        """Every column of the table, for one site."""
        columns = {**self._compared(name)._asdict(), **self.mixing[name]._asdict()}
        return {column: values.flatten().tolist() for column, values in columns.items()}

    def _listed(self, name: str) -> dict[str, list[float | None]]:
        return {column: [known(number) for number in numbers] for column, numbers in self._numbers(name).items()}

    def _rows(self) -> list["_Row"]:
        rows = []
        for name, draws in self.draws.items():
            places = torch.ones(draws.shape[2:]).nonzero().tolist()
            numbers = zip(*self._numbers(name).values(), strict=True)
            rows += [_Row(name + str(place), *row) for place, row in zip(places, numbers, strict=True)]
        return rows

    def __str__(self) -> str:
        rows = self._rows()
        listed = sorted(rows, key=lambda row: -abs(row.z_score))[:ROWS]
        left = len(rows) - len(listed)
        worst = max(rows, key=lambda row: math.inf if math.isnan(row.rhat) else row.rhat)
        return "\n".join(
            [
                f"p = p(z|x) of one datum by NUTS, {self.num_chains} chains of {self.num_draws} draws; q, the guide",
                f"{'':<9}{'p mean':>9}{'sd':>8}{'q mean':>11}{'sd':>8}{'z-score':>10}{'R-hat':>9}{'ESS':>7}{'tail':>7}",
                *(str(row) for row in rows if row in listed),
                *([f"and {left} more, with smaller z-scores"] if left else []),
                self._verdict(worst),
            ]
        )

    def _verdict(self, worst: "_Row") -> str:
        total = self.num_chains * self.num_draws
        rest = f"ESS at least {self.ess_min:.0f}; {self.divergences} of {total} transitions diverged"
        if self.agree:
            return f"The chains agree: R-hat at most {worst.rhat:.3f} ({worst.name}). {rest}"
        return (
            f"The chains do NOT agree: R-hat {worst.rhat:.3f} at {worst.name}, not below {LARGEST_RHAT}. Use more "
            f"draws, or do not treat these as draws from the posterior. {rest}"
        )


class _Row(NamedTuple):
    """One line of the table: a latent number, and the fields of `Comparison` and `Mixing`."""

    name: str
    mean: float
    deviation: float
    guide_mean: float
    guide_deviation: float
    z_score: float
    rhat: float
    ess_bulk: float
    ess_tail: float
    error: float

    def __str__(self) -> str:
        posterior = f"{self.name:<9}{self.mean:>9.3f}{self.deviation:>8.3f}"
        guide = f"{self.guide_mean:>11.3f}{self.guide_deviation:>8.3f}{self.z_score:>10.1f}"
        return f"{posterior}{guide}{self.rhat:>9.3f}{self.ess_bulk:>7.0f}{self.ess_tail:>7.0f}"


def nuts(
    vae: Any,
    x: Tensor,
    y: Tensor | None = None,
    *,
    num_draws: int = 500,
    num_warmup: int = 200,
    num_chains: int = 4,
    max_tree_depth: int = 8,
    seed: int | None = None,
) -> PosteriorDraws:
    """Draws from the true posterior p(z|x) of one datum by Pyro's NUTS, and the same number from the guide.

    The parameters of the program are fixed; only z moves. The chains run one after another in this process. Each starts
    at its own draw from the prior p(z), which is wider than the posterior and does not depend on the guide. During
    warm-up each chain tunes a step size and a scale for every direction. Agreement of the chains is necessary, but not
    sufficient: a mode that none of them found leaves no trace.

    This works for any program over one data plate, with any number of latent sites; the guide can be a point (`Delta`).

    Args:
        vae: anything with `.model` and `.guide` over one data plate; latents continuous, on all of R^D.
        x: one datum, (1, *x_shape).
        y: its one-hot label, (1, C).
        num_draws: the draws of each chain, 4 or more. For the digits in 20 dimensions, R-hat was below 1.01 with 500
            draws; with 400 it was above for half of the data, although their chains had mixed.
        num_warmup: transitions of each chain before the first draw.
        num_chains: two or more, since R-hat compares chains; the paper of R-hat recommends four.
        max_tree_depth: at most 2^depth - 1 gradients in each transition.
        seed: None continues the caller's random stream; an integer is reproducible and leaves that stream alone.

    Raises:
        DataError: data outside the support of the likelihood.
        ValueError: not one datum, numbers out of range, a latent that does not range over all real numbers, a program
            with sites outside the data plate, or a chain that would start where p(x, z) is 0.

    Reference:
        Hoffman & Gelman, "The No-U-Turn Sampler: Adaptively Setting Path Lengths in Hamiltonian Monte Carlo", JMLR 15,
        2014. https://arxiv.org/abs/1111.4246

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.StandardNormal(2),
        ...              pv.posteriors.DiagonalNormal(pv.networks.MLP((4,), (4,)), 2),
        ...              pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (4,))))
        >>> posterior = nuts(vae, torch.zeros(1, 4), num_draws=20, num_warmup=10, num_chains=2, seed=0)
        >>> posterior.draws["z"].shape, posterior.compare()["z"].mean.shape
        (torch.Size([2, 20, 2]), torch.Size([2]))
    """
    check_tensor(x)
    data = (x,) if y is None else (x, y)
    if any(len(part) != 1 for part in data):
        lengths = " and ".join(f"{len(part)} {kind}" for part, kind in zip(data, ("data", "labels"), strict=False))
        raise ValueError(f"NUTS takes one datum, x[i : i + 1], and its label y[i : i + 1]; got {lengths}")
    plan = _Plan(num_draws, num_warmup, num_chains, max_tree_depth)
    with undisturbed(vae), remembering({}), _frozen(vae):
        with torch.no_grad(), _noise(seed, x, "starts"):
            starts = _starts(vae.model, num_chains, data)
        with torch.no_grad(), _noise(seed, x, "guide"):
            beside = traces.run(vae.model, vae.guide, num_chains * num_draws, *data)
        potential = _Potential(vae, list(starts[0]), data)
        each = enumerate(through("", starts))
        chains = [_chain(potential, start, plan, _noise(seed, x, "chain", i)) for i, start in each]
    return _posterior_draws(beside, chains, num_warmup)


@dataclass(frozen=True)
class _Plan:
    """The numbers of `nuts`, checked."""

    num_draws: int
    num_warmup: int
    num_chains: int
    max_tree_depth: int

    def __post_init__(self) -> None:
        for name, least in (("num_draws", 4), ("num_warmup", 1), ("num_chains", 2), ("max_tree_depth", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}; got {getattr(self, name)}")


class _Chain(NamedTuple):
    """Site -> (draws, *event), and which transitions diverged, (draws,)."""

    draws: dict[str, Tensor]
    diverging: Tensor


def _starts(model: Callable[..., Any], num_chains: int, data: tuple[Tensor, ...]) -> list[dict[str, Tensor]]:
    """A draw from the prior for each chain: site -> (1, *event)."""
    prior = poutine.block(model, hide_fn=lambda site: bool(site["is_observed"]))
    pair = traces.run(model, prior, num_chains, *data)
    sites = traces.latent_sites(pair.guide)
    for name, site in sites.items():
        check_real(name, site["fn"], "NUTS")
    joint = traces.reconstruction(pair) + traces.log_prior(pair)
    if not joint.isfinite().all():
        first = joint[~joint.isfinite()][0].item()
        raise ValueError(f"a chain cannot start at a draw of z from the prior where log p(x, z) is {first}")
    return [{name: site["value"][i] for name, site in sites.items()} for i in range(num_chains)]


class _Potential:
    """-log p(x, z) as a function of z, which all chains share, with its gradient in z.

    A potential, not the model: Pyro would need a map from the support of each site to the real numbers. The supports
    are the real numbers already, and Pyro knows no map for mixtures.
    """

    def __init__(self, vae: Any, names: list[str], data: tuple[Tensor, ...]) -> None:
        self._model, self._names, self._data = vae.model, names, data
        self._replay = Replay(self._with_slopes, vae)

    def __call__(self, z: dict[str, Tensor]) -> Tensor:
        energy: Tensor = _WithSlopes.apply(self._replay, *(z[name] for name in self._names))
        return energy

    @torch.enable_grad()
    def _with_slopes(self, *values: Tensor) -> list[Tensor]:
        moved = [value.detach().requires_grad_() for value in values]
        held = poutine.condition(self._model, dict(zip(self._names, moved, strict=True)))
        joint: Any = poutine.trace(held).get_trace(*self._data).log_prob_sum()
        return [-joint.detach(), *torch.autograd.grad(-joint, moved)]


class _WithSlopes(torch.autograd.Function):
    """A number whose gradient is computed with it."""

    @staticmethod
    def forward(ctx: Any, compute: Callable[..., Sequence[Tensor]], *values: Tensor) -> Tensor:
        energy, *slopes = compute(*values)
        ctx.save_for_backward(*slopes)
        return energy

    @staticmethod
    def backward(ctx: Any, *slope: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(slope[0] * each for each in ctx.saved_tensors)


def _chain(potential: _Potential, start: dict[str, Tensor], plan: _Plan, noise: AbstractContextManager[None]) -> _Chain:
    kernel = NUTS(potential_fn=potential, max_tree_depth=plan.max_tree_depth)
    with noise, torch.enable_grad(), stage("", total=plan.num_warmup + plan.num_draws) as walk:
        sampler: Any = MCMC(
            kernel, plan.num_draws, plan.num_warmup, initial_params=start, hook_fn=lambda *_: walk.step(),
            disable_progbar=True,
        )  # fmt: skip
        sampler.run()
    draws = {name: values[:, 0] for name, values in sampler.get_samples().items()}
    diverging = torch.zeros(plan.num_draws, dtype=torch.bool)
    diverging[sampler.diagnostics()["divergences"]["chain 0"]] = True
    return _Chain({name: draws[name] for name in start}, diverging)


def _posterior_draws(beside: traces.Traces, chains: list[_Chain], num_warmup: int) -> PosteriorDraws:
    draws = {name: torch.stack([chain.draws[name] for chain in chains]) for name in chains[0].draws}
    guide = traces.latent_sites(beside.guide)
    return PosteriorDraws(
        draws,
        {name: guide[name]["value"][:, 0] for name in draws},
        torch.stack([chain.diverging for chain in chains]),
        {name: traces.value_of(site)[0] for name, site in traces.observed_sites(beside.model).items()},
        {name: mixing(values) for name, values in draws.items()},
        num_warmup,
    )


def _noise(seed: int | None, x: Tensor, *names: str | int) -> AbstractContextManager[None]:
    return nullcontext() if seed is None else stream(seed, "nuts", *names, device=x.device)


@contextmanager
def _frozen(program: Any) -> Iterator[None]:
    """Inside, no parameter requires a gradient: with a flow, the gradient of z takes a third of the work."""
    parameters = list(program.parameters()) if isinstance(program, nn.Module) else []
    learned = [parameter for parameter in parameters if parameter.requires_grad]
    try:
        for parameter in learned:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)
