"""More effort for data whose importance weights cannot be trusted, separate from the estimate at a fixed K.

    1. the fixed K of the headline          if k-hat is above 0.7, the datum is taken, the worst first
    2. more samples from the guide          if k-hat, with the fixed K, is now at most 0.7, as many again answer
    3. annealing, with more temperatures    the answer for all others

The data were chosen by their own draws. One large weight raises both k-hat and the estimate, so for the chosen data the
fixed K does not give a lower bound, not even in expectation. Therefore no draw that takes part in a choice takes part
in an answer. The new samples choose between the stages, together with the fixed K, since a large weight that was seen
must not be ignored. If they show that samples are enough, as many again give the answer. The mean of those that chose
would be lower than the mean of K draws, since samples are enough when few weights are large.

Each answer is a lower bound on log p(x) in expectation. It is the logarithm of a mean of weights with E[w] = p(x),
which exceeds log p(x) by b nats with a probability of at most e^-b (Markov). If annealing is 3 nats or more below the
new samples, its chains have missed a region that the samples have found. Such data are marked; their answer is most
likely too low.

The answers must not replace the headline: for another program other data would be escalated. They show how far K draws
fall short on these data, as the change of the mean. For this the fixed K is drawn again, with samples that chose
neither the datum nor its stage: the blocks of K within the samples that answer, or K more for annealed data.

The unit of cost is one evaluation of the decoder for one z and one datum, with or without its gradient.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae.evaluation.annealing import annealed, hamiltonian
from pyro_vae.evaluation.bounds import block_bound
from pyro_vae.evaluation.estimators import known
from pyro_vae.evaluation.trust.diagnostics import KHAT_THRESHOLD, psis_khat, worst_data
from pyro_vae.evaluation.weights import log_weights
from pyro_vae.progress import planned, section
from pyro_vae.randomness import derive_if_given

MISSED = 3.0  # nats
ROWS = 24  # of a printed table
GRADIENT = 3  # evaluations of the decoder, which take as long as one with its gradient
MORE_TEMPERATURES = 500  # than those of annealing elsewhere
MORE = 10  # times the draws of the fixed K, including these


class Stage(NamedTuple):
    """One estimate of log p(x) of one datum, in nats.

    Attributes:
        value: the estimate.
        error: its Monte Carlo standard error.
        khat: the k-hat of its weights; NaN for annealing.
        cost: the evaluations of the decoder, in addition to those of the stage before.
    """

    value: float
    error: float
    khat: float
    cost: int


class EscalatedDatum(NamedTuple):
    """A datum and its stages; `annealed` is None if more samples were enough.

    Attributes:
        datum: the position of the datum.
        fixed: the estimate at the fixed K, whose draws chose the datum: not a bound.
        more: the estimate with more samples, all of them new: the samples that answer or, for annealed data, the
            samples that chose. Its k-hat is the k-hat of the samples that chose together with the fixed K.
        annealed: the estimate by annealing.
        anew: the estimate at the fixed K with new samples, which chose neither the datum nor its last stage.
    """

    datum: int
    fixed: Stage
    more: Stage
    annealed: Stage | None
    anew: Stage

    @property
    def answer(self) -> Stage:
        """The estimate of the last stage."""
        return self.annealed or self.more

    @property
    def missed(self) -> bool:
        """True if annealing lies 3 nats or more below the new samples, so it is most likely too low."""
        return self.answer.value < self.more.value - MISSED

    @property
    def change(self) -> float:
        """The rise from the fixed K to the answer, by draws that did not choose the datum."""
        return self.answer.value - self.anew.value

    def to_dict(self) -> dict[str, Any]:
        """Converts to plain numbers for a report, with None for one that is unknown."""
        numbers = {
            "khat": self.fixed.khat,
            "iwae": self.fixed.value,
            "iwae_error": self.fixed.error,
            "iwae_anew": self.anew.value,
            "iwae_anew_error": self.anew.error,
            "iwae_more": self.more.value,
            "iwae_more_error": self.more.error,
            "khat_more": self.more.khat,
            "ais": self.annealed.value if self.annealed else math.nan,
            "ais_error": self.annealed.error if self.annealed else math.nan,
        }
        about = {
            "more_samples": self.more.cost if self.annealed else self.more.cost // 2,  # half of them chose
            "answer": "AIS" if self.annealed else "more samples",
        }
        known_numbers = {name: known(number) for name, number in numbers.items()}
        return {"datum": self.datum, **known_numbers, **about, "missed": self.missed}

    def __str__(self) -> str:
        stages = self.fixed, self.anew, self.more, self.annealed
        fixed, anew, more, ais = (f"{s.value:>10.3f} ±{s.error:<6.3f}" if s else f"{'':18}" for s in stages)
        chose, then = f"{self.fixed.khat:>6.2f}", f"{self.more.khat:>6.2f}"
        return f"{self.datum:>6}{fixed}{chose}{anew}{more}{then}{ais}{'  too low' if self.missed else ''}".rstrip()


@dataclass(frozen=True)
class Escalation:
    """The answers of more effort, to be shown next to the headline. Printing it gives a line for each datum.

    Attributes:
        rows: the data that were taken, the largest k-hat first.
        left_out: the positions of the data for which the budget did not suffice.
        num_data: N, the number of all data.
        threshold: the k-hat above which a datum is taken.
        budget: the evaluations of the decoder that were allowed.
        num_temperatures, num_chains: the settings of annealing from the guide.
    """

    rows: list[EscalatedDatum]
    left_out: list[int]
    num_data: int
    threshold: float
    budget: int
    num_temperatures: int
    num_chains: int

    @property
    def above(self) -> int:
        """The number of data with a k-hat above the threshold, taken or not."""
        return len(self.rows) + len(self.left_out)

    @property
    def spent(self) -> int:
        """The evaluations of the decoder, without those of the fixed K; at most the budget."""
        return _spent(self.rows)

    @property
    def mean_change(self) -> float:
        """The rise of the mean over all N data from K draws to these answers, by draws that did not choose the data."""
        return sum(row.change for row in self.rows) / self.num_data

    @property
    def mean_change_error(self) -> float:
        """The Monte Carlo error of `mean_change`, as if the answer shared no draws with the repeated fixed K."""
        errors = [stage.error for row in self.rows for stage in (row.answer, row.anew)]
        return math.hypot(*errors) / self.num_data

    def to_dict(self) -> dict[str, Any]:
        """Converts to plain numbers for a report, with None for one that is unknown."""
        rows = [row.to_dict() for row in self.rows]
        counts = {
            "num_data": self.num_data,
            "taken": len(rows),
            "of": self.above,
            "left_out": len(self.left_out),
            "threshold": self.threshold,
        }
        change = {"mean_change": known(self.mean_change), "mean_change_error": known(self.mean_change_error)}
        annealing = {"num_temperatures": self.num_temperatures, "num_chains": self.num_chains}
        return {**counts, "budget": self._budget(), "spent": self.spent, **annealing, "rows": rows, **change}

    def _budget(self) -> str:
        return f"{self.spent:,} of at most {self.budget:,} evaluations of the decoder"

    def __str__(self) -> str:
        about = f"{len(self.rows)} of {self.above} data with k-hat above {self.threshold}, {self._budget()}"
        if not self.rows:
            return about
        rows = [*map(str, self.rows[:ROWS]), *([f"and {left} more"] if (left := len(self.rows) - ROWS) > 0 else [])]
        head = f"{'datum':>6}{'fixed K':>10}{'k-hat':>14}{'K again':>10}{'more':>18}{'k-hat':>14}{'AIS':>10}"
        change = f"from K draws to these they change the mean over {self.num_data} data by {self.mean_change:+.4f} nats"
        return "\n".join([about, head, *rows, f"{change} ±{self.mean_change_error:.4f} Monte Carlo"])


def escalate(
    vae: Any,
    x: Tensor,
    y: Tensor | None = None,
    *,
    weights: Tensor | None = None,
    num_samples: int = 1000,
    threshold: float = KHAT_THRESHOLD,
    more: int = MORE,
    num_temperatures: int = MORE_TEMPERATURES,
    num_chains: int = 16,
    budget: int = 2_000_000,
    seed: int | None = None,
) -> Escalation:
    """Spends more samples, then annealing, on the data whose k-hat is above the threshold, the worst first.

    A datum is taken only if the remaining budget covers its largest possible cost. If more samples are enough for it,
    the cost of annealing is left for the next data. The draws of the fixed K choose the data, and take no part in the
    answers.

    Args:
        vae: anything with `.model` and `.guide` over one data plate; latents continuous, on all of R^D.
        x: data (N, *x_shape).
        y: one-hot labels (N, C).
        weights: the weights of the headline, (K, N), from `log_weights`. By default K = num_samples weights are drawn
            here, outside of the budget. They equal those of the headline if the seed is the same.
        num_samples: K, if the weights are drawn here.
        threshold: the k-hat above which a datum is taken, 0.7 in the paper.
        more: (more - 1) * K new samples choose the stage, together with the fixed K, and as many again answer if
            samples are enough.
        num_temperatures, num_chains: as for `ais`, from the guide.
        budget: the evaluations of the decoder for all data together. The default takes ten seconds for small programs,
            and half a minute for images of 28 x 20 pixels.
        seed: None continues the caller's random stream; an integer is reproducible and leaves that stream alone.

    Raises:
        DataError: data outside the support of the likelihood.
        ValueError: weights of another number of data, numbers out of range, a guide without a density, or what `ais`
            refuses.

    Reference:
        Vehtari, Simpson, Gelman, Yao & Gabry, "Pareto Smoothed Importance Sampling", JMLR 25, 2024.
        https://arxiv.org/abs/1507.02646

    Example:
        >>> import pyro_vae as pv
        >>> _ = torch.manual_seed(0)  # of the networks' weights
        >>> vae = pv.VAE(pv.priors.StandardNormal(2),
        ...              pv.posteriors.DiagonalNormal(pv.networks.MLP((4,), (4,)), 2),
        ...              pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (4,))))
        >>> print(escalate(vae, torch.zeros(3, 4), num_samples=100, seed=0))
        0 of 0 data with k-hat above 0.7, 0 of at most 2,000,000 evaluations of the decoder
    """
    if more < 2 or budget < 0:
        raise ValueError(f"more must be at least 2 and budget at least 0; got {more} and {budget}")
    if weights is None:
        weights = log_weights(vae, x, num_samples, y, seed)
    elif weights.shape[1:] != (len(x),):
        raise ValueError(f"weights must be (K, N) of the same data; got {tuple(weights.shape)}, but N = {len(x)}")
    if len(weights) < 25:
        raise ValueError(f"k-hat needs 25 samples or more; got {len(weights)}")
    stages = _Stages(vae, x, y, weights.cpu(), more, num_temperatures, num_chains, threshold)
    waiting = [worst.datum for worst in worst_data(psis_khat(weights), len(x), threshold)]
    rows: list[EscalatedDatum] = []
    while taken := waiting[: (budget - _spent(rows)) // stages.cost]:
        waiting = waiting[len(taken) :]
        rows += stages.run(taken, derive_if_given(seed, "escalation", len(rows)))
    return Escalation(rows, waiting, len(x), threshold, budget, num_temperatures, num_chains)


def annealing_cost(num_temperatures: int, num_chains: int, num_leapfrog: int = 5) -> int:
    """Counts the evaluations of the decoder that `ais` needs for one datum, including its pilots.

    Example:
        >>> annealing_cost(num_temperatures=0, num_chains=16)
        33
    """
    pilots = 0
    if num_temperatures:
        shared, each = hamiltonian.pilots(num_temperatures)
        transitions = each * math.ceil(num_temperatures / shared) + hamiltonian.FIRST_TRANSITIONS
        pilots = hamiltonian.PILOT_CHAINS * (2 + num_leapfrog * transitions)
    # One draw to see the sites; two for each chain, to draw its start and to compute the gradients there.
    return 1 + pilots + num_chains * (2 + num_leapfrog * num_temperatures)


def _spent(rows: list[EscalatedDatum]) -> int:
    return sum(stage.cost for row in rows for stage in (row.more, row.annealed, row.anew) if stage)


@dataclass(frozen=True)
class _Stages:
    """The stages, and the data that may need them."""

    vae: Any
    x: Tensor
    y: Tensor | None
    weights: Tensor
    more: int
    num_temperatures: int
    num_chains: int
    threshold: float

    @property
    def new_samples(self) -> int:
        return (self.more - 1) * len(self.weights)

    @property
    def cost(self) -> int:
        """The largest cost of a datum: whether more samples answer or annealing does."""
        annealing = len(self.weights) + annealing_cost(self.num_temperatures, self.num_chains)
        return self.new_samples + max(self.new_samples, annealing)

    def run(self, chosen: list[int], seed: int | None) -> list[EscalatedDatum]:
        annealing = GRADIENT * annealing_cost(self.num_temperatures, self.num_chains)
        with planned({"draws": self.new_samples, "annealing": annealing}):
            return self._run(chosen, seed)

    def _run(self, chosen: list[int], seed: int | None) -> list[EscalatedDatum]:
        with section("draws", ""):
            old, new = self.weights[:, chosen], self._drawn(chosen, self.new_samples, seed)
        K, khat = len(old), dict(zip(chosen, psis_khat(torch.cat([old, new])).tolist(), strict=True))
        easy, hard = ([i for i in chosen if (khat[i] <= self.threshold) is enough] for enough in (True, False))
        answering = self._drawn(easy, self.new_samples, derive_if_given(seed, "answering"))
        apart = self._drawn(hard, K, derive_if_given(seed, "apart"))
        fixed, more = _weighed(chosen, old, K), _weighed(chosen, new, len(new))
        more |= _weighed(easy, answering, 2 * len(new))
        anew = _at_fixed(easy, answering, K, 0) | _at_fixed(hard, apart, K, K)
        with section("annealing", ""):
            annealed = self._annealed(hard, seed)
        return [EscalatedDatum(i, fixed[i], more[i]._replace(khat=khat[i]), annealed.get(i), anew[i]) for i in chosen]

    def _drawn(self, data: list[int], samples: int, seed: int | None) -> Tensor:
        """Draws weights for each of these data, (samples, B)."""
        if not data:
            return torch.empty(samples, 0, dtype=torch.float64)
        x, y = self._data(data)
        return log_weights(self.vae, x, samples, y, seed).cpu()

    def _annealed(self, hard: list[int], seed: int | None) -> dict[int, Stage]:
        if not hard:
            return {}
        x, y = self._data(hard)
        seed = derive_if_given(seed, "annealed")
        estimate = annealed.ais(self.vae, x, self.num_temperatures, self.num_chains, y, seed)
        cost = annealing_cost(self.num_temperatures, self.num_chains)
        numbers = zip(hard, estimate.value.tolist(), estimate.value_error.tolist(), strict=True)
        return {i: Stage(value, error, math.nan, cost) for i, value, error in numbers}

    def _data(self, chosen: list[int]) -> tuple[Tensor, Tensor | None]:
        at = torch.tensor(chosen, device=self.x.device)
        return self.x[at], None if self.y is None else self.y[at]


def _at_fixed(data: list[int], weights: Tensor, K: int, cost: int) -> dict[int, Stage]:
    """The mean bound of blocks of K draws for each of these data, from weights (L, B)."""
    if not data:
        return {}
    numbers = zip(data, *(column.tolist() for column in block_bound(weights, K)), strict=True)
    return {i: Stage(value, error, math.nan, cost) for i, value, error in numbers}


def _weighed(data: list[int], weights: Tensor, cost: int) -> dict[int, Stage]:
    """The bound of all draws for each of these data, with its k-hat, from weights (L, B)."""
    if not data:
        return {}
    bound = block_bound(weights, len(weights))
    numbers = zip(data, bound.value.tolist(), bound.error.tolist(), psis_khat(weights).tolist(), strict=True)
    return {i: Stage(value, error, khat, cost) for i, value, error, khat in numbers}
