r"""Which of two programs is better, by how much, and how sure that is: differences of per-datum estimates.

.. math:: d_i = v_i(\text{first}) - v_i(\text{second}), \qquad \text{standard error} = \mathrm{sd}(d) / \sqrt{N}

Two programs tested on the same N data find the same data easy and the same data hard. So the mean of d is known far
better than either mean. Three things could have been different, and each has its own error:

    the test data       `Difference.standard_error` and `Difference.interval`
    the draws of z      `Difference.monte_carlo_error`
    the training `between_seeds`, which needs two or more runs of each; single runs say nothing about it

`over_data_and_seeds` combines the first and the last.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats

from pyro_vae.evaluation.estimators import Estimate, known, without_labels
from pyro_vae.evaluation.memory import DATA_BLOCK
from pyro_vae.notebook_html import Row, html_table, plus_minus
from pyro_vae.randomness import derive

LEFT_OUT = "without the variance over training seeds"
_FEWEST = 100
_FORCE = "`force=True` takes them nevertheless"
_FEW = 30  # data: with fewer, BCa covers less than it claims
_AT_ONCE = 1 << 22  # numbers resampled at a time: 32 MiB, whatever N is


@dataclass(frozen=True)
class Difference:
    """The difference of two means over test data. Printing it gives one line, which also says what is left out.

    Attributes:
        name: what is compared.
        mean: first - second, above 0 if the first is higher.
        standard_error: over test data drawn again from the same population; NaN for a single datum.
        monte_carlo_error: over new draws of z for the same data, as if the two shared no draws.
        interval: the bootstrap interval over the data, or Student's for fewer than 30 data; NaN for a single datum.
        confidence: the confidence of the interval.
        num_data: N of the first and of the second.
        is_paired: whether both use the same data.
        unit: the unit of all numbers.

    Example:
        >>> print(Difference("difference of log p(x)", 0.32, 0.05, 0.003, (0.22, 0.42), 0.95, (360, 360), True))
        difference of log p(x)   0.320 nats   ±0.050 over 360 data, 95 % in [0.220, 0.420]   ±0.003 Monte Carlo
        (without the variance over training seeds)
    """

    name: str
    mean: float
    standard_error: float
    monte_carlo_error: float
    interval: tuple[float, float]
    confidence: float
    num_data: tuple[int, int]
    is_paired: bool
    unit: str = "nats"

    def to_dict(self) -> dict[str, Any]:
        """Converts to plain numbers for a report, with None for one that is unknown."""
        return {
            "mean": self.mean,
            "standard_error": known(self.standard_error),
            "monte_carlo_error": known(self.monte_carlo_error),
            "interval": known_interval(self.interval),
            "confidence": self.confidence,
            "num_data": list(self.num_data),
            "is_paired": self.is_paired,
            "unit": self.unit,
            "leaves_out": LEFT_OUT,
        }

    def __str__(self) -> str:
        low, high = self.interval
        data = f"{self.num_data[0]} data" if self.is_paired else "{} and {} data, unpaired".format(*self.num_data)
        return (
            f"{self.name:<22} {self.mean:>7.3f} {self.unit}   ±{self.standard_error:.3f} over {data}, "
            f"{self.confidence * 100:g} % in [{low:.3f}, {high:.3f}]   ±{self.monte_carlo_error:.3f} Monte Carlo "
            f"({LEFT_OUT})"
        )

    def _repr_html_(self) -> str:
        numbers = [f"{number:,}" for number in self.num_data]
        row = difference_row(self.name, self.mean, self.standard_error, self.interval, self.confidence, self.unit)
        row |= {"Monte Carlo": plus_minus(self.monte_carlo_error)}
        row |= {"data": numbers[0] if self.is_paired else f"{' and '.join(numbers)}, unpaired"}
        return html_table([row], note=LEFT_OUT)


@dataclass(frozen=True)
class SeedDifference:
    """The difference of two means over training seeds, for the same test data. Printing it gives one line.

    Attributes:
        mean: first - second.
        standard_error: over training seeds, sqrt(s_1^2 / n_1 + s_2^2 / n_2).
        degrees_of_freedom: by Welch and Satterthwaite; NaN if neither side varies.
        interval: Student's t with that many degrees of freedom.
        confidence: the confidence of the interval.
        num_seeds: n_1 and n_2.

    Example:
        >>> print(between_seeds([-22.15, -22.12, -22.11], [-22.47, -22.45, -22.41]))
        difference over training seeds   0.317 nats   ±0.021 over 3 and 3 seeds, 95 % in [0.254, 0.379]
        (without the variance over test data)
    """

    mean: float
    standard_error: float
    degrees_of_freedom: float
    interval: tuple[float, float]
    confidence: float
    num_seeds: tuple[int, int]

    def to_dict(self) -> dict[str, Any]:
        """Converts to plain numbers for a report, with None for one that is unknown."""
        return {
            "mean": self.mean,
            "standard_error": self.standard_error,
            "degrees_of_freedom": known(self.degrees_of_freedom),
            "interval": list(self.interval),
            "confidence": self.confidence,
            "num_seeds": list(self.num_seeds),
            "unit": "nats",
        }

    def __str__(self) -> str:
        return (
            f"difference over training seeds   {self.mean:.3f} nats   ±{self.standard_error:.3f} over "
            "{} and {} seeds, ".format(*self.num_seeds)
            + f"{self.confidence * 100:g} % in "
            + "[{:.3f}, {:.3f}] (without the variance over test data)".format(*self.interval)
        )

    def _repr_html_(self) -> str:
        name = "difference over training seeds"
        row = difference_row(name, self.mean, self.standard_error, self.interval, self.confidence, "nats", "over seeds")
        seeds = " and ".join(map(str, self.num_seeds))
        return html_table([row | {"seeds": seeds}], note="without the variance over test data")


def paired(
    first: Estimate,
    second: Estimate,
    *,
    confidence: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
    force: bool = False,
) -> Difference:
    """Compares two estimates on the same data, datum by datum.

    The interval is a BCa bootstrap interval over the data (`scipy.stats.bootstrap`), which does not assume that the
    differences are normal. Its coverage is too low for few data (85 % instead of 95 % at N = 5), so for fewer than 30
    data Student's t interval replaces it if that is wider. The interval is valid for these two trained programs:
    trained again from other seeds, they would differ by another amount.

    Args:
        first, second: values of the same data in the same order, (N,) each.
        confidence: the confidence of the interval, within (0, 1).
        resamples: the number of resamples of the bootstrap.
        seed: the seed of the bootstrap; the global random state is neither read nor changed.
        force: subtract in any case: even estimates for different data or of different quantities, or bounds of
            different tightness.

    Returns:
        The mean of first - second, with its errors and interval. Its name says what was subtracted; log p(x|y) and log
        p(x) of the same data can be.

    Raises:
        ValueError: different data or quantities, importance-weighted bounds with different numbers of draws, different
            numbers of data or units, a value that is not finite, confidence or resamples out of range.

    Reference:
        Efron, "Better Bootstrap Confidence Intervals", Journal of the American Statistical Association 82, 1987.
        https://www.jstor.org/stable/2289144

    Example:
        >>> first, second = (Estimate("log p(x)", torch.tensor(v), torch.zeros(3), num_samples=10)
        ...                  for v in ([-1.0, -20.0, -90.0], [-2.0, -22.0, -93.0]))
        >>> paired(first, second).mean, round(paired(first, second).standard_error, 4)
        (2.0, 0.5774)
    """
    a, b = _values(first, second)
    if len(a) != len(b):
        raise ValueError(
            f"a paired difference needs the same data on both sides; got {len(a)} and {len(b)} values. "
            "Use unpaired for means over different data"
        )
    if not force:
        _check_alike([first, second], _without_labels(first, second))
    d = a - b
    error = d.std(ddof=1) / math.sqrt(len(d)) if len(d) > 1 else math.nan
    interval = _bootstrap((d,), lambda x, axis: x.mean(axis), confidence, resamples, seed)
    return _difference(first, second, d.mean(), error, interval, confidence, is_paired=True)


def unpaired(
    first: Estimate,
    second: Estimate,
    *,
    confidence: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
    force: bool = False,
) -> Difference:
    """Compares the means of two estimates over different data.

    The standard error is sqrt(se_1^2 + se_2^2). The interval is a BCa bootstrap interval over both sets of data; for
    fewer than 30 data Welch's t interval replaces it if that is wider. Both are far too wide for estimates on the same
    data: use `paired` for those.

    Args:
        first, second: values of N_1 and N_2 data.
        confidence, resamples, seed: as for `paired`.
        force: subtract in any case: even estimates of different quantities, or bounds of different tightness.

    Returns:
        The mean of the first - the mean of the second, with its errors and interval.

    Raises:
        ValueError: as for `paired`, except that the data may differ.

    Example:
        >>> first, second = (Estimate("log p(x)", torch.tensor(v), torch.zeros(len(v)), num_samples=10)
        ...                  for v in ([-1.0, -3.0], [-5.0, -7.0, -9.0]))
        >>> unpaired(first, second).mean, unpaired(first, second).num_data
        (5.0, (2, 3))
    """
    a, b = _values(first, second)
    if not force:
        _check_quantities([first, second], _without_labels(first, second))
    error = math.hypot(first.standard_error, second.standard_error)
    interval = _bootstrap((a, b), lambda x, y, axis: x.mean(axis) - y.mean(axis), confidence, resamples, seed)
    return _difference(first, second, a.mean() - b.mean(), error, interval, confidence, is_paired=False)


def pooled(estimates: Sequence[Estimate], *, force: bool = False) -> Estimate:
    """Averages the estimates of several runs, datum by datum: the mean estimate over training seeds.

    The standard error refers to the mean of the runs, over test data. The Monte Carlo error assumes that the noise of
    the runs is independent, even if all of them were evaluated with one seed: under one seed, the measured correlation
    between the noise of different programs was at most 0.03.

    Args:
        estimates: one for each run, of the same data in the same order. force: average estimates of other data or of
            other quantities too. Raises:
        ValueError: no estimates, different data or quantities, or different numbers of data, draws, or units.

    Example:
        >>> runs = [Estimate("log p(x)", torch.tensor(v), torch.full((2,), 0.1), num_samples=10)
        ...         for v in ([-1.0, -3.0], [-2.0, -6.0])]
        >>> pooled(runs).value
        tensor([-1.5000, -4.5000])
    """
    kinds = {(e.num_data, e.num_samples, e.unit) for e in estimates}
    if len(kinds) != 1:
        listed = ", ".join(f"{n} data, K = {k}, {unit}" for n, k, unit in sorted(kinds)) or "none"
        raise ValueError(f"only estimates of the same data with the same draws can be pooled; got {listed}")
    if not force:
        _check_alike(estimates, [e.quantity or e.name for e in estimates])
    value = torch.stack([e.value for e in estimates]).mean(0)
    error = torch.stack([e.value_error for e in estimates]).square().sum(0).sqrt() / len(estimates)
    first = estimates[0]
    data, labels = (
        next((known for e in estimates if len(known := getattr(e, name))), getattr(first, name))
        for name in ("fingerprint", "labels")
    )
    shared = None
    if any(e.shared_error is not None for e in estimates):
        shared = math.hypot(*(e.monte_carlo_error for e in estimates)) / len(estimates)
    of_what = first.unit, first.kind, first.quantity, data, labels, shared
    return Estimate(first.name, value, error, first.num_samples, *of_what)


def between_seeds(first: Sequence[float], second: Sequence[float], *, confidence: float = 0.95) -> SeedDifference:
    """Compares two kinds of program, each trained several times from different seeds.

    All runs must be tested on the same data. The two kinds can have different variances (Welch's interval). With two or
    three seeds the interval is wide, as it must be. It leaves out the variance over test data; `paired` has that.

    Args:
        first, second: one mean for each run, in nats.
        confidence: the confidence of the interval, within (0, 1).

    Returns:
        The mean of the first - the mean of the second, with its error over training seeds and interval.

    Raises:
        ValueError: fewer than two runs on a side, or confidence out of range.

    Reference:
        Welch, "The Generalization of 'Student's' Problem when Several Different Population Variances are Involved",
        Biometrika 34, 1947. https://doi.org/10.1093/biomet/34.1-2.28

    Example:
        >>> difference = between_seeds([1.0, 2.0, 3.0], [0.0, 0.0])
        >>> difference.mean, round(difference.standard_error, 4), round(difference.degrees_of_freedom)
        (2.0, 0.5774, 2)
    """
    _check(confidence)
    counts = len(first), len(second)
    if min(counts) < 2:
        raise ValueError("the variance over seeds needs two or more runs on each side; got {} and {}".format(*counts))
    a, b = (np.asarray(means, dtype=float) for means in (first, second))
    mean, squares = a.mean() - b.mean(), [v.var(ddof=1) / len(v) for v in (a, b)]
    error = math.sqrt(sum(squares))
    freedom, interval = satterthwaite(float(mean), squares, [n - 1 for n in counts], confidence)
    return SeedDifference(float(mean), error, freedom, interval, confidence, counts)


def _values(first: Estimate, second: Estimate) -> tuple[np.ndarray, np.ndarray]:
    if first.unit != second.unit:
        raise ValueError(f"a difference needs one unit on both sides; got {first.unit} and {second.unit}")
    for side, estimate in (("first", first), ("second", second)):
        if estimate.num_data == 0:
            raise ValueError(f"there are no data to compare: the {side} estimate is empty")
        if not estimate.value.isfinite().all():
            worst = int((~estimate.value.isfinite()).nonzero()[0])
            raise ValueError(f"the {side} {estimate.name} is {estimate.value[worst].item()} at datum {worst}")
    return first.value.double().cpu().numpy(), second.value.double().cpu().numpy()


def _without_labels(*estimates: Estimate) -> list[str]:
    """The quantities, without "given y": estimates of x and of x given y can be subtracted."""
    return [without_labels(each.quantity or each.name) for each in estimates]


def _check_alike(estimates: Sequence[Estimate], quantities: Sequence[str]) -> None:
    """Raises ValueError if the estimates are known to be of different things."""
    _check_quantities(estimates, quantities)
    for name, words in (("fingerprint", "data, or of data"), ("labels", "labels, or of labels")):
        first, *others = [known for e in estimates if len(known := getattr(e, name))] or [torch.empty(0)]
        for other in others:
            if not first.equal(other):
                block = int((first != other).nonzero()[0]) if len(first) == len(other) else 0
                raise ValueError(
                    f"these are estimates of different {words} in another order: they first differ "
                    f"between datum {DATA_BLOCK * block} and {DATA_BLOCK * (block + 1) - 1}. "
                    f"`unpaired` compares means over different data; {_FORCE}"
                )


def _check_quantities(estimates: Sequence[Estimate], quantities: Sequence[str]) -> None:
    if len(set(quantities)) > 1:
        raise ValueError(f"these are estimates of different quantities, {', '.join(sorted(set(quantities)))}; {_FORCE}")
    draws = {e.num_samples for e in estimates if type(e) is Estimate}  # grids and chains count differently
    if len(draws) > 1 and quantities[0] == "log p(x)":
        numbers = " and ".join(map(str, sorted(draws)))
        raise ValueError(f"these are bounds of different tightness, with {numbers} draws; {_FORCE}")


def _bootstrap(
    samples: tuple[np.ndarray, ...], statistic: Callable[..., Any], confidence: float, resamples: int, seed: int
) -> tuple[float, float]:
    _check(confidence, resamples)
    if min(len(sample) for sample in samples) == 1:
        return math.nan, math.nan
    if all(np.ptp(sample) == 0 for sample in samples):  # all resamples are equal, and BCa would divide by 0
        value = float(statistic(*samples, axis=-1))
        return value, value
    # About their means and in units of their spread: values that differ only by rounding would upset BCa's skewness.
    means = [sample.mean(keepdims=True) for sample in samples]
    centred = [sample - mean for sample, mean in zip(samples, means, strict=True)]
    unit = max(np.abs(sample).max() for sample in centred)
    bootstrap = stats.bootstrap(
        tuple(sample / unit for sample in centred),
        statistic,
        n_resamples=resamples,
        batch=max(1, _AT_ONCE // max(len(sample) for sample in samples)),
        vectorized=True,
        confidence_level=confidence,
        method="BCa",
        rng=np.random.default_rng(derive(seed, "bootstrap")),
    )
    low, high = (statistic(*means, axis=-1) + unit * end for end in bootstrap.confidence_interval)
    ends = float(low), float(high)
    if min(map(len, samples)) >= _FEW:
        return ends
    return max(
        ends, _student(samples, float(statistic(*means, axis=-1)), confidence), key=lambda ends: ends[1] - ends[0]
    )


def _student(samples: tuple[np.ndarray, ...], middle: float, confidence: float) -> tuple[float, float]:
    """Student's t interval for a mean, or Welch's for the difference of two means, about the middle."""
    squares = [sample.var(ddof=1) / len(sample) for sample in samples]
    return satterthwaite(middle, squares, [len(sample) - 1 for sample in samples], confidence)[1]


def satterthwaite(
    middle: float, squares: Sequence[float], degrees: Sequence[float], confidence: float
) -> tuple[float, tuple[float, float]]:
    """Returns the degrees of freedom of a sum of squared errors, and Student's t interval with that many.

    Args:
        middle: of the interval. squares: of independent errors.
        degrees: the degrees of freedom of each.
        confidence: within (0, 1).

    Returns:
        NaN and an interval of no width if nothing varies, or by so little (1e-200) that the squares are 0.

    Example:
        >>> freedom, (low, high) = satterthwaite(1.0, [0.5, 0.5], [2, 2], 0.95)
        >>> round(freedom, 3), round(high - low, 3)
        (4.0, 5.553)
    """
    if (square := sum(squares)) == 0:
        return math.nan, (middle, middle)
    freedom = 1 / sum((part / square) ** 2 / n for part, n in zip(squares, degrees, strict=True) if part)
    low, high = stats.t.interval(confidence, freedom, middle, math.sqrt(square))
    return float(freedom), (float(low), float(high))


def _check(confidence: float, resamples: int = _FEWEST) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be within (0, 1); got {confidence}")
    if resamples < _FEWEST:
        raise ValueError(f"resamples must be at least {_FEWEST}, to form an interval; got {resamples}")


def _difference(
    first: Estimate,
    second: Estimate,
    mean: float,
    error: float,
    interval: tuple[float, float],
    confidence: float,
    *,
    is_paired: bool,
) -> Difference:
    names = [each.quantity if each.quantity != without_labels(each.quantity) else each.name for each in (first, second)]
    name = f"difference of {names[0]}" if names[0] == names[1] else " - ".join(names)
    noise = math.hypot(first.monte_carlo_error, second.monte_carlo_error)
    sizes = first.num_data, second.num_data
    return Difference(name, float(mean), float(error), noise, interval, confidence, sizes, is_paired, first.unit)


def difference_row(
    name: str,
    mean: float,
    error: float,
    interval: tuple[float, float],
    confidence: float,
    unit: str,
    over: str = "over data",
) -> Row:
    """Returns the row of `html_table` that a notebook shows for any difference."""
    low, high = interval
    within = f"[{low:.3f}, {high:.3f}]" if math.isfinite(low) else "n/a"
    return {"": name, f"mean, {unit}": f"{mean:.3f}", over: plus_minus(error), f"{confidence * 100:g} % in": within}


def known_interval(interval: tuple[float, float]) -> list[float] | None:
    """Converts an interval for a report, with None if it is unknown."""
    return list(interval) if all(map(math.isfinite, interval)) else None
