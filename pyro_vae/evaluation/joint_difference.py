r"""The difference of two kinds of program, over test data **and** training seeds.

.. math:: v_{ri} = \mu + a_r + b_i + e_{ri}, \qquad r = 1 \dots n \text{ runs}, \quad i = 1 \dots N \text{ data}

An interval over the data holds only for these trained programs, and an interval over seeds only for these data. The
usual question is whether one kind of program is better than the other if both are trained and tested again. Then data
and seeds both vary, and the variances add up.

    standard_error^2 = Var(data) / N + s_1^2 / n_1 + s_2^2 / n_2
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyro_vae.evaluation.comparison import Difference, between_seeds, difference_row, known_interval, satterthwaite
from pyro_vae.evaluation.estimators import known
from pyro_vae.notebook_html import html_table


@dataclass(frozen=True)
class JointDifference:
    """The difference of two means over test data and training seeds together. Printing it gives one line.

    Attributes:
        mean: first - second.
        standard_error: over data and seeds; NaN for a single datum.
        degrees_of_freedom: by Satterthwaite; NaN if nothing varies.
        interval: Student's t interval with that many degrees of freedom, or the interval over the data if that is
            wider.
        confidence: the confidence of the interval.
        num_data: N of the first and of the second.
        num_seeds: n_1 and n_2.
        unit: the unit of all numbers.

    Example:
        >>> print(JointDifference(0.317, 0.03, 7.1, (0.246, 0.388), 0.95, (360, 360), (3, 3)))
        difference over data and seeds   0.317 nats   ±0.030 over 360 data and 3 and 3 seeds, 95 % in [0.246, 0.388]
    """

    mean: float
    standard_error: float
    degrees_of_freedom: float
    interval: tuple[float, float]
    confidence: float
    num_data: tuple[int, int]
    num_seeds: tuple[int, int]
    unit: str = "nats"

    def to_dict(self) -> dict[str, Any]:
        """Converts to plain numbers for a report, with None for one that is unknown."""
        return {
            "mean": self.mean,
            "standard_error": known(self.standard_error),
            "degrees_of_freedom": known(self.degrees_of_freedom),
            "interval": known_interval(self.interval),
            "confidence": self.confidence,
            "num_data": list(self.num_data),
            "num_seeds": list(self.num_seeds),
            "unit": self.unit,
        }

    def __str__(self) -> str:
        (low, high), data = self.interval, sorted(set(self.num_data))
        return (
            f"difference over data and seeds   {self.mean:.3f} {self.unit}   ±{self.standard_error:.3f} over "
            f"{' and '.join(map(str, data))} data and {self.num_seeds[0]} and {self.num_seeds[1]} seeds, "
            f"{self.confidence * 100:g} % in [{low:.3f}, {high:.3f}]"
        )

    def _repr_html_(self) -> str:
        of_what = "difference over data and seeds", self.mean, self.standard_error, self.interval, self.confidence
        row = difference_row(*of_what, self.unit, "over data and seeds")
        data, seeds = (" and ".join(map(str, numbers)) for numbers in (self.num_data, self.num_seeds))
        return html_table([row | {"data": data, "seeds": seeds}])


def over_data_and_seeds(over_data: Difference, first: Sequence[float], second: Sequence[float]) -> JointDifference:
    """Combines the difference over test data, of estimates pooled over seeds, with the difference over training seeds.

    Variances are added. The interaction of runs and data is counted in both, so the error is somewhat too large if the
    interaction dominates.

    Args:
        over_data: the difference of the pooled estimates, by `paired` or `unpaired`.
        first, second: one mean for each pooled run, in the same unit.

    Raises:
        ValueError: fewer than two runs on a side.

    Reference:
        Satterthwaite, "An Approximate Distribution of Estimates of Variance Components", Biometrics Bulletin 2, 1946.
        https://doi.org/10.2307/3002019

    Example:
        >>> import torch
        >>> from pyro_vae.evaluation import Estimate, paired, pooled
        >>> better, worse = ([Estimate("log p(x)", torch.tensor(v), torch.zeros(3), 10) for v in runs] for runs in (
        ...     ([-1.0, -20.0, -90.0], [-1.2, -20.4, -90.2]), ([-2.0, -22.0, -93.0], [-2.2, -22.2, -93.4])))
        >>> means = ([run.mean for run in runs] for runs in (better, worse))
        >>> joint = over_data_and_seeds(paired(pooled(better), pooled(worse)), *means)
        >>> round(joint.mean, 3), round(joint.standard_error, 3)
        (2.0, 0.637)
    """
    seeds = between_seeds(first, second, confidence=over_data.confidence)
    squares = over_data.standard_error**2, seeds.standard_error**2
    error, freedom, interval = math.sqrt(sum(squares)), math.nan, over_data.interval
    if error > 0:
        # Over the data, the degrees of freedom are those of the smaller set.
        degrees = min(over_data.num_data) - 1, seeds.degrees_of_freedom
        freedom, joint = satterthwaite(over_data.mean, squares, degrees, over_data.confidence)
        interval = max(joint, interval, key=lambda ends: ends[1] - ends[0])
    counts = over_data.num_data, seeds.num_seeds
    return JointDifference(over_data.mean, error, freedom, interval, over_data.confidence, *counts, over_data.unit)
