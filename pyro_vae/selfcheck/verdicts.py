"""Verdicts on estimators: R runs on the same N data are compared with the truth of each datum.

    | mean - truth - stated |  <=  4 errors of the mean + a tenth of the leading bias term, for the orders left out
    0.8 <= claimed / true <= 1.25, beyond 4 errors of the true spread: the variance over the runs, datum by datum
    the R means spread no further than independent noise of N data lets them, at the rate of 4 errors

Four errors of a normal are exceeded in 6 of 100,000 checks. The stated bias of the logarithm of a mean of K weights is
-Var(w) / (2 K). To first order that is minus half the squared spread of the estimate itself, which stands in for it if
the weights have no closed form.

Reference:
    Nowozin, "Debiasing Evidence Approximations: On Importance-weighted Autoencoders and Jackknife Variational
    Inference", ICLR 2018. https://iclr.cc/virtual/2018/poster/114
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
from scipy.stats import chi2
from torch import Tensor

from pyro_vae.evaluation import Estimate

ERRORS = 4.0
RATE = 6.3e-5  # of 4 errors of a normal, both sides
HONEST = (0.8, 1.25)  # claimed / true spread
LEFT_OUT = 0.1  # of the leading bias term


@dataclass(frozen=True)
class Row:
    """One estimator on one rung of the ladder; means over the data, in nats.

    Attributes:
        rung, estimator: their names.
        truth, estimate: means over the data, the latter over the runs too.
        relation: "=", or "<=" where the truth is a bound of the estimate from above.
        stated: the bias that theory states.
        error: Monte Carlo standard error of the estimate.
        claimed, spread: the Monte Carlo error of the mean of one run, as it claims and as the runs show; None where
            that is not checked.
        faults: a sentence for each thing that is off.

    Example:
        >>> Row("rung 1", "iwae", truth=-20.0, estimate=-20.5).bias
        -0.5
    """

    rung: str
    estimator: str
    truth: float
    estimate: float
    relation: str = "="
    stated: float = 0.0
    error: float = 0.0
    claimed: float | None = None
    spread: float | None = None
    faults: tuple[str, ...] = ()

    @property
    def bias(self) -> float:
        """The bias, estimate - truth."""
        return self.estimate - self.truth

    def to_dict(self) -> dict[str, Any]:
        """Converts to values for JSON, with None for a number that is not finite."""
        values = {**asdict(self), "bias": self.bias, "faults": list(self.faults), "ok": not self.faults}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}

    def __str__(self) -> str:
        spreads = ("n/a" if value is None else f"{value:.5f}" for value in (self.claimed, self.spread))
        numbers = (f"{self.bias:+.5f}", f"{self.error:.5f}", f"{self.stated:+.5f}", *spreads)
        means = f"{self.relation + ' ' + format(self.truth, '.4f'):>13}{self.estimate:>11.4f}"
        verdict = "OFF" if self.faults else "ok"
        return f"{self.estimator:<36}{means}{''.join(f'{number:>11}' for number in numbers)}{verdict:>5}"


class Runs(NamedTuple):
    """R runs on the same N data: values and their claimed errors, (R, N) each, or None if no errors are claimed."""

    value: Tensor
    claimed: Tensor | None = None

    @classmethod
    def of(cls, estimates: Iterable[Estimate]) -> "Runs":
        """Stacks R estimates."""
        values, errors = zip(*((estimate.value, estimate.value_error) for estimate in estimates), strict=True)
        return cls(torch.stack(values), torch.stack(errors))

    @property
    def variance(self) -> Tensor:
        """The variance over the runs, (N,)."""
        return self.value.var(0)

    @property
    def half_variance(self) -> float:
        """Half the variance of one run, the mean over the data: the leading bias of the logarithm of a mean."""
        return self.variance.mean().item() / 2


def judge(
    rung: str, name: str, runs: Runs, truth: Tensor, stated: float | None = None, leading: float | None = None
) -> Row:
    """Judges R runs by the truth of each datum.

    Args:
        rung, name: the names of the row.
        runs: the estimator's.
        truth: (N,).
        stated: the bias that theory states; None for minus half the squared spread.
        leading: the size of its leading term, of which a tenth is allowed too; None for half the squared spread.

    Example:
        >>> judge("rung", "good", Runs(torch.tensor([[0.9], [1.1], [1.0]])), torch.ones(1), 0.0).faults
        ()
    """
    R, N = runs.value.shape
    stated = -runs.half_variance if stated is None else stated
    leading = runs.half_variance if leading is None else leading
    spread = runs.variance.sum().sqrt().item() / N
    row = Row(rung, name, truth.mean().item(), runs.value.mean().item(), "=", stated, spread / math.sqrt(R))
    faults = [*_bias_fault(row, leading), *_shared_fault(runs, spread)]
    if runs.claimed is None:
        return replace(row, faults=tuple(faults))
    claimed = runs.claimed.square().mean(0)
    faults += _claim_fault(claimed, runs.variance)
    return replace(row, claimed=claimed.sum().sqrt().item() / N, spread=spread, faults=tuple(faults))


def judge_independent(rung: str, name: str, value: Tensor, truth: Tensor, sign: int) -> Row:
    """Judges one run in which each datum has its own noise, where E[exp(-sign (value - truth))] = 1.

    The stated bias is sign times half the variance of value - truth over the data.

    Args:
        rung, name: the names of the row.
        value, truth: (N,) each.
        sign: -1 for the logarithm of a mean of weights, which lies below; 1 for minus such a logarithm, of the inverse
            weights of reverse annealing, which lies above.
    """
    deviation = value - truth
    leading, error = deviation.var().item() / 2, deviation.std().item() / math.sqrt(len(value))
    row = Row(rung, name, truth.mean().item(), value.mean().item(), "=", sign * leading, error)
    return replace(row, faults=tuple(_bias_fault(row, leading)))


def judge_number(rung: str, name: str, value: float, truth: float, stated: float, error: float) -> Row:
    """Judges one number: it must be within 4 errors of its truth plus the stated bias.

    Args:
        rung, name: the names of the row.
        value, truth, stated: the number, its truth and its bias.
        error: its standard error.

    Example:
        >>> judge_number("rung", "low", 0.5, truth=1.0, stated=0.0, error=0.1).faults
        ('its mean is -0.50000 nats from the truth, where theory states +0.00000, and a deviation of 0.40000 from that
        is allowed',)
    """
    row = Row(rung, name, truth, value, "=", stated, error)
    return replace(row, faults=tuple(_bias_fault(row, 0.0)))


def judge_each(rung: str, name: str, value: Tensor, truth: Tensor, tolerance: float) -> Row:
    """Judges numbers without noise: each must be within the tolerance of its truth.

    Args:
        rung, name: the names of the row.
        value, truth: (N,) each.
        tolerance: in nats.
    """
    worst = (value - truth).abs().max().item()
    row = Row(rung, name, truth.mean().item(), value.mean().item())
    fault = f"one datum is {worst:.1e} nats from the truth, where {tolerance:g} is allowed"
    return row if worst <= tolerance else replace(row, faults=(fault,))


def judge_below(rung: str, name: str, lower: Tensor, upper: Tensor) -> Row:
    """Judges a lower bound by an upper bound of the same data: its mean must not lie above by more than 4 errors.

    Args:
        rung, name: the names of the row.
        lower, upper: (N,) each; the differences of the data are independent.
    """
    error = (lower - upper).std().item() / math.sqrt(len(upper))
    row = Row(rung, name, upper.mean().item(), lower.mean().item(), "<=", 0.0, error)
    fault = f"it is {row.bias:+.5f} nats from an upper bound, where {ERRORS * error:.5f} above it is allowed"
    return row if row.bias <= ERRORS * error else replace(row, faults=(fault,))


def heading(rung: str) -> str:
    """Returns the lines above the rows of a rung: its name, and the names of the columns."""
    names = "".join(f"{name:>11}" for name in ("bias", "± error", "stated", "claimed ±", "true ±"))
    return f"{rung}\n{'nats, means over the data':<36}{'truth':>13}{'estimate':>11}{names}"


def sentences(rows: Sequence[Row]) -> list[str]:
    """Returns a sentence for each fault, or one that says that there is none.

    Example:
        >>> sentences([Row("rung 1", "iwae", -20.0, -19.9, faults=("its mean is off",))])
        ['OFF: iwae (rung 1): its mean is off.']
    """
    off = [f"OFF: {row.estimator} ({row.rung}): {fault}." for row in rows for fault in row.faults]
    none = f"None of {len(rows)} rows is off. A check, of 1 to 3 per row, gives a false alarm in 6 of 100,000 cases."
    return off or [none]


def _bias_fault(row: Row, leading: float) -> list[str]:
    allowed = ERRORS * row.error + LEFT_OUT * leading
    if abs(row.bias - row.stated) <= allowed:
        return []
    return [
        f"its mean is {row.bias:+.5f} nats from the truth, where theory states {row.stated:+.5f}, and a deviation of "
        f"{allowed:.5f} from that is allowed"
    ]


def _claim_fault(claimed: Tensor, variance: Tensor) -> list[str]:
    error = ERRORS * variance.std().item() / math.sqrt(len(variance)) / variance.mean().item()
    ratio = (claimed.mean() / variance.mean()).item()
    if HONEST[0] ** 2 - error <= ratio <= HONEST[1] ** 2 + error:
        return []
    return [f"the Monte Carlo error that it claims is {math.sqrt(ratio):.2f} times the spread over its runs"]


def _shared_fault(runs: Runs, spread: float) -> list[str]:
    R, N = runs.value.shape
    ratio = runs.value.mean(1).var().item() / spread**2
    if ratio <= chi2.isf(RATE, R - 1) / (R - 1):
        return []
    return [
        f"the means of its runs spread {math.sqrt(ratio):.1f} times as far as independent noise on {N} data allows: "
        f"different data share noise"
    ]
