"""The gap between log p(x) and the ELBO, datum by datum, and the gap between training and test data.

    log p(x) - ELBO(q)  =  [log p(x) - ELBO(q*)]  +  [ELBO(q*) - ELBO(q)]           nats
       inference gap          approximation gap         amortisation gap

q* is the best normal with diagonal covariance for that datum, see `amortisation`. log p(x) is unknown, so a reference
estimate replaces it, and is named. If the reference is a lower bound, as annealing is, the first two gaps are too small
by as much as the bound is too low; the third needs no reference.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from pyro_vae.evaluation.data_fingerprint import fingerprint
from pyro_vae.evaluation.estimators import Estimate, elbo, known
from pyro_vae.evaluation.trust.amortisation import refinable, refine
from pyro_vae.randomness import derive_if_given


@dataclass(frozen=True)
class GapBudget:
    """log p(x) - ELBO and its parts, per datum. Printing it gives a line for each gap, and names the reference.

    Attributes:
        reference: the estimate that replaces log p(x).
        label: how the reference was obtained.
        elbo: the ELBO of the program's own guide.
        refined: the ELBO of the guide fitted to each datum; None if `refine` does not apply.
        inference: reference - elbo.
        approximation: reference - refined, or None.
        amortisation: refined - elbo, or None; both use the same noise, and the error is the error of the difference.
    """

    reference: Estimate
    label: str
    elbo: Estimate
    refined: Estimate | None
    inference: Estimate
    approximation: Estimate | None
    amortisation: Estimate | None

    @property
    def loose(self) -> bool:
        """True if the reference lies below an ELBO by more than 4 errors, so that it cannot replace log p(x)."""
        gaps = [gap for gap in (self.inference, self.approximation) if gap is not None]
        return any(gap.mean < -4 * gap.monte_carlo_error for gap in gaps)

    def to_dict(self) -> dict[str, Any]:
        """Converts to plain numbers for a report, with None for a gap that is not known."""
        gaps = {"inference": self.inference, "approximation": self.approximation, "amortisation": self.amortisation}
        numbers = {name: None if gap is None else gap.to_dict() for name, gap in gaps.items()}
        return {"num_data": self.inference.num_data, "reference": self.label, "loose": self.loose, **numbers}

    def __str__(self) -> str:
        gaps = [gap for gap in (self.inference, self.approximation, self.amortisation) if gap is not None]
        lines = [f"gaps to {self.label}", *map(str, gaps)]
        if self.loose:
            lines.append("The reference lies below an ELBO and is too loose: only the amortisation gap is valid here")
        return "\n".join(lines)


@dataclass(frozen=True)
class TrainTestGap:
    """The mean over training data minus the mean over test data of one estimate. Printing it gives one line.

    Attributes:
        train, test: the same estimate for training and test data.
    """

    train: Estimate
    test: Estimate

    @property
    def mean(self) -> float:
        """The gap; above 0 the program does better on data that it has seen."""
        return self.train.mean - self.test.mean

    @property
    def standard_error(self) -> float:
        """The standard error of the gap over data of both kinds. They are not paired, so squared errors add up."""
        return math.hypot(self.train.standard_error, self.test.standard_error)

    @property
    def monte_carlo_error(self) -> float:
        """The error of the gap over new draws of z for the same data; the standard error includes it."""
        return math.hypot(self.train.monte_carlo_error, self.test.monte_carlo_error)

    def to_dict(self) -> dict[str, Any]:
        """Converts to plain numbers for a report, with None for one that is unknown."""
        numbers = {
            "mean": self.mean,
            "standard_error": self.standard_error,
            "monte_carlo_error": self.monte_carlo_error,
        }
        both = {"train": self.train.to_dict(), "test": self.test.to_dict()}
        return {**{name: known(number) for name, number in numbers.items()}, **both}

    def __str__(self) -> str:
        return (
            f"{'train - test':<20} {self.mean:>10.3f} {self.train.unit}   ±{self.standard_error:.3f} over "
            f"{self.train.num_data} and {self.test.num_data} data   ±{self.monte_carlo_error:.3f} Monte Carlo, of the "
            f"mean {self.train.name}"
        )


def gap_budget(
    vae: Any,
    x: Tensor,
    reference: Estimate,
    y: Tensor | None = None,
    *,
    label: str = "",
    num_samples: int = 100,
    steps: int = 500,
    seed: int | None = None,
) -> GapBudget:
    """Estimates the inference gap of each datum, and its two parts if the guide is normal with diagonal covariance.

        log p(x) - ELBO(q)  =  [log p(x) - ELBO(q*)]  +  [ELBO(q*) - ELBO(q)]           nats
           inference gap          approximation gap         amortisation gap

    Both parts are paired differences, with paired standard errors. They add up to the inference gap exactly, datum by
    datum. For other guides, and for several latent sites, there is only the inference gap. A gap below 0 is reported as
    it is: it shows how large the errors are.

    Args:
        vae: anything with `.model` and `.guide` over one data plate.
        x: data (N, *x_shape).
        reference: an estimate of log p(x) for the same data in the same order, better than the ELBO by more than its
            own errors, such as `ais`, or `iwae` with many draws.
        y: one-hot labels (N, C).
        label: how the reference was obtained, for printing; by default its name and number of draws.
        num_samples: K, the draws of z for each datum and ELBO.
        steps: the steps of the optimiser that fits the guide, see `refine`.
        seed: None continues the caller's random stream; an integer is reproducible and leaves that stream alone.
            Other estimates under the same seed use other draws, so errors of differences add up.

    Raises:
        DataError: data outside the support of the likelihood.
        ValueError: a reference for another number of data, no data, numbers out of range, or a guide without a density.

    Reference:
        Cremer, Li & Duvenaud, "Inference Suboptimality in Variational Autoencoders", ICML 2018.
        https://arxiv.org/abs/1801.03558

    Example:
        >>> import torch, pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.StandardNormal(2),
        ...              pv.posteriors.DiagonalNormal(pv.networks.MLP((4,), (4,)), 2),
        ...              pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (4,))))
        >>> reference = pv.evaluation.iwae(vae, torch.zeros(3, 4), num_samples=500, seed=0)
        >>> gap_budget(vae, torch.zeros(3, 4), reference, steps=20, seed=0).label
        'log p(x), K = 500'
    """
    if reference.num_data != len(x):
        raise ValueError(f"the reference must use the same data; it has {reference.num_data} data, and x has {len(x)}")
    if len(reference.fingerprint) and not reference.fingerprint.equal(fingerprint(x)):
        raise ValueError("the reference must use the same data; it uses as many other data, or another order")
    guides = elbos(vae, x, y, num_samples=num_samples, steps=steps, seed=seed)
    return budget(reference, guides, label or f"{reference.name}, K = {reference.num_samples}")


class ELBOs(NamedTuple):
    """The ELBOs of the program's own guide and of one fitted to each datum, and their difference.

    The last two are None if `refine` does not apply.
    """

    elbo: Estimate
    refined: Estimate | None
    amortisation: Estimate | None


def elbos(
    vae: Any,
    x: Tensor,
    y: Tensor | None = None,
    *,
    num_samples: int = 100,
    steps: int = 500,
    seed: int | None = None,
    first_block: int = 0,
) -> ELBOs:
    """Estimates the ELBOs that `gap_budget` compares with its reference.

    Args:
        vae, x, y, num_samples, steps, seed: as for `gap_budget`.
        first_block: as for `elbo`.

    Raises:
        DataError: data outside the support of the likelihood.
        ValueError: no data, numbers out of range, or a guide without a density.
    """
    seed = derive_if_given(seed, "gaps")
    if refinable(vae, x, y):
        refinement = refine(vae, x, y, steps=steps, num_samples=num_samples, seed=seed, first_block=first_block)
        return ELBOs(refinement.elbo, refinement.refined, refinement.gap)
    bound = elbo(vae, x, num_samples, y, seed, first_block=first_block)
    if "infinite" in bound.kind.values():
        raise ValueError("the guide is a point (Delta) and has no density, so its ELBO and every gap are infinite")
    return ELBOs(bound, None, None)


def budget(reference: Estimate, guides: ELBOs, label: str) -> GapBudget:
    """Subtracts the ELBOs from a reference for log p(x) of the same data, see `gap_budget`."""
    own, refined, amortisation = guides
    approximation = None if refined is None else _gap("approximation gap", reference, refined)
    return GapBudget(reference, label, own, refined, _gap("inference gap", reference, own), approximation, amortisation)


def train_test_gap(train: Estimate, test: Estimate) -> TrainTestGap:
    """Compares how well the program does on training data and on test data, by one estimate of both.

    The gap of the ELBO shows how much decoder and encoder together overfit the training data. The gap of log p(x),
    which does not depend on the encoder, shows only the decoder's share.

    Args:
        train: `elbo`, `iwae` or `ais` of training data, or of a random subset of them.
        test: the same estimate of test data. It needs the same number of draws, since bounds of different tightness
            cannot be compared.

    Raises:
        ValueError: two different estimates.

    Example:
        >>> import torch
        >>> train, test = (Estimate("ELBO", torch.tensor(v), torch.zeros(2), 100) for v in ([-1.0, -3.0], [-3.0, -7.0]))
        >>> print(train_test_gap(train, test))
        train - test              3.000 nats   ±2.236 over 2 and 2 data   ±0.000 Monte Carlo, of the mean ELBO
    """
    sides = [(each.name, each.num_samples, each.unit) for each in (train, test)]
    if sides[0] != sides[1]:
        named = " and ".join(f"{name}, K = {number}, in {unit}" for name, number, unit in sides)
        raise ValueError(f"both sides need the same estimate with the same number of draws; got {named}")
    return TrainTestGap(train, test)


def _gap(name: str, upper: Estimate, lower: Estimate) -> Estimate:
    """upper - lower, from draws that share no noise."""
    error = (upper.value_error.square() + lower.value_error.square()).sqrt()
    about = upper.fingerprint if len(upper.fingerprint) else lower.fingerprint
    return Estimate(
        name, upper.value - lower.value, error, lower.num_samples, upper.unit, lower.kind, fingerprint=about
    )
