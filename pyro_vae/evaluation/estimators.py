"""Estimates of log p(x) and of its parts, per datum, in nats, each with its errors.

Two errors are kept apart everywhere. For per-datum values v_i with Monte Carlo standard errors e_i, i = 1 ... N:

    standard_error    = sd(v) / sqrt(N)            how the mean varies over data drawn again from the population
    monte_carlo_error = sqrt(sum_i e_i^2) / N      how it varies over new draws of z for the same data
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from pyro_vae.evaluation.data_fingerprint import fingerprint
from pyro_vae.evaluation.weights import draw_blocks, read_log_weights
from pyro_vae.model import traces
from pyro_vae.notebook_html import Row, html_table, plus_minus
from pyro_vae.randomness import generator


@dataclass(frozen=True)
class Estimate:
    """Per-datum values and their errors. Printing it gives one line that names both errors.

    Attributes:
        name: what is estimated.
        value: (N,), float64.
        value_error: (N,), the Monte Carlo standard error of each value; NaN for K = 1, which has no spread.
        num_samples: K, the draws of z for each datum.
        unit: the unit of value and errors.
        kind: how the KL of each latent site was computed: "analytic", "sampled" or "infinite" (a guide without a
            density); empty for an estimate without a KL.
        quantity: the quantity for comparisons, such as "log p(x)" or "log p(x|y)"; empty if the name says it.
        fingerprint: of the data, a number for each block of 128, see `pyro_vae.evaluation.data_fingerprint`; empty if
            the data are not known.
        labels: the fingerprint of the labels, for an estimate of x given y.
        shared_error: the Monte Carlo error of the mean if data share draws; None if they share none, and `value_error`
            suffices.

    Example:
        >>> print(Estimate("ELBO", torch.tensor([-1.0, -3.0]), torch.tensor([0.1, 0.1]), num_samples=100))
        ELBO                     -2.000 nats   ±1.000 over 2 data   ±0.071 Monte Carlo (K = 100)
    """

    name: str
    value: Tensor
    value_error: Tensor
    num_samples: int
    unit: str = "nats"
    kind: dict[str, str] = field(default_factory=dict)
    quantity: str = ""
    fingerprint: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64), repr=False)
    labels: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64), repr=False)
    shared_error: float | None = None

    @property
    def num_data(self) -> int:
        """The number of data, N."""
        return len(self.value)

    @property
    def mean(self) -> float:
        """The mean over the data."""
        return self.value.mean().item()

    @property
    def standard_error(self) -> float:
        """The standard error of the mean over the data; NaN for a single datum."""
        return self.value.std().item() / math.sqrt(self.num_data) if self.num_data > 1 else math.nan

    @property
    def monte_carlo_error(self) -> float:
        """The Monte Carlo standard error of the mean, over repeated draws of z for the same data."""
        if self.shared_error is not None:
            return self.shared_error
        return self.value_error.square().sum().sqrt().item() / self.num_data

    def to_dict(self) -> dict[str, Any]:
        """Converts to plain numbers for a report, with None for one that is unknown or infinite."""
        numbers: dict[str, Any] = {
            "mean": known(self.mean),
            "standard_error": known(self.standard_error),
            "monte_carlo_error": known(self.monte_carlo_error),
            "num_samples": self.num_samples,
            "num_data": self.num_data,
            "unit": self.unit,
        }
        return {**numbers, "kind": self.kind} if self.kind else numbers

    def __str__(self) -> str:
        errors = self.standard_error, self.monte_carlo_error
        over_data, over_draws = ("n/a" if math.isnan(error) else f"±{error:.3f}" for error in errors)
        return (
            f"{self.name:<20} {self.mean:>10.3f} {self.unit}   {over_data} over {self.num_data} data   "
            f"{over_draws} Monte Carlo (K = {self.num_samples})"
        )

    def table_rows(self) -> list[Row]:
        """Returns what a notebook shows: one row, from headings to cells."""
        return [
            {
                "": self.name,
                f"mean, {self.unit}": f"{self.mean:.3f}",
                "over data": plus_minus(self.standard_error),
                "Monte Carlo": plus_minus(self.monte_carlo_error),
                "data": f"{self.num_data:,}",
                "draws": f"{self.num_samples:,}",
            }
        ]

    def _repr_html_(self) -> str:
        return html_table(self.table_rows())


E = TypeVar("E", bound=Estimate)


def of_data(estimate: E, data: Tensor, y: Tensor | None, quantity: str = "") -> E:
    """Returns the same estimate, with the data and the quantity recorded in it.

    Args:
        estimate: of a program. data: the fingerprint of the data. y: their labels (N, C), if it is of x given y.
        quantity: what is estimated; by default the name says it.

    Example:
        >>> bound = Estimate("log p(x)", torch.zeros(1), torch.zeros(1), num_samples=1)
        >>> of_data(bound, fingerprint(torch.zeros(1, 4)), torch.eye(1)).quantity
        'log p(x|y)'
    """
    quantity = quantity or estimate.name
    if y is None:
        return replace(estimate, quantity=quantity, fingerprint=data)
    given = quantity.replace("(x)", "(x|y)") if "(x)" in quantity else f"{quantity} given y"
    return replace(estimate, quantity=given, fingerprint=data, labels=fingerprint(y))


def without_labels(quantity: str) -> str:
    """Returns the name of a quantity without "given y".

    Example:
        >>> without_labels("log p(x|y)"), without_labels("ELBO given y")
        ('log p(x)', 'ELBO')
    """
    return quantity.replace("(x|y)", "(x)").removesuffix(" given y")


class ELBOTerms(NamedTuple):
    """The ELBO and its two parts from the same draws: elbo = reconstruction - kl."""

    elbo: Estimate
    reconstruction: Estimate
    kl: Estimate


def elbo(
    vae: Any,
    x: Tensor,
    num_samples: int,
    y: Tensor | None = None,
    seed: int | None = None,
    *,
    first_block: int = 0,
) -> Estimate:
    r"""Estimates the evidence lower bound (ELBO) of each datum, in nats.

    .. math:: \mathrm{ELBO}(x) = E_{q(z|x)}[\log p(x|z)] - \mathrm{KL}(q(z|x) \,\|\, p(z))

    The KL is analytic if one is registered, and sampled otherwise; `Estimate.kind` says which. This is always the ELBO
    of the program itself, without loss weights.

    Args:
        vae: anything with `.model` and `.guide` over one data plate.
        x: data (N, *x_shape).
        num_samples: K, the draws of z for each datum; the Monte Carlo error needs two or more.
        y: one-hot labels (N, C).
        seed: None continues the caller's random stream; an integer is reproducible and leaves that stream alone.
        first_block: for a shard of a larger data set, the number of blocks of 128 data that come before it.

    Raises:
        DataError: data outside the support of the likelihood.
        ValueError: no data, K < 1, or K > 131,072.

    Reference:
        Kingma & Welling, "Auto-Encoding Variational Bayes", ICLR 2014, eq. 3.
        https://arxiv.org/abs/1312.6114

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.StandardNormal(2),
        ...              pv.posteriors.DiagonalNormal(pv.networks.MLP((4,), (4,)), 2),
        ...              pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (4,))))
        >>> elbo(vae, torch.zeros(3, 4), num_samples=10, seed=0).kind
        {'z': 'analytic'}
    """
    return elbo_terms(vae, x, num_samples, y, seed, first_block=first_block).elbo


def elbo_terms(
    vae: Any,
    x: Tensor,
    num_samples: int,
    y: Tensor | None = None,
    seed: int | None = None,
    *,
    first_block: int = 0,
) -> ELBOTerms:
    """Estimates the ELBO, the reconstruction E_q[log p(x|z)] and the KL in one pass over the draws, in nats.

    The KL of a point guide (`Delta`) is infinite: `kind` says so, and the ELBO is minus infinity.

    Args:
        vae, x, num_samples, y, seed, first_block: as for `elbo`.

    Raises:
        DataError, ValueError: as for `elbo`.
    """
    elbo, reconstruction, kl = (_Moments(len(x)) for _ in range(3))
    kind: dict[str, str] = {}
    for data, terms in draw_blocks(vae, x, num_samples, y, seed, read_terms, first_block):
        kind = terms.kind
        reconstruction.add(data, terms.reconstruction)
        if "infinite" not in kind.values():
            elbo.add(data, terms.reconstruction - terms.kl)
            kl.add(data, terms.kl)
    reconstructed = reconstruction.estimate("reconstruction", kind)
    if "infinite" in kind.values():
        infinite, exact = torch.full_like(reconstructed.value, math.inf), torch.zeros_like(reconstructed.value)
        lowest = Estimate("ELBO", -infinite, exact, num_samples, kind=kind)
        parts = lowest, reconstructed, Estimate("KL", infinite, exact, num_samples, kind=kind)
    else:
        parts = elbo.estimate("ELBO", kind), reconstructed, kl.estimate("KL", kind)
    seen = fingerprint(x)
    return ELBOTerms(*(of_data(part, seen, y) for part in parts))


def iwae(
    vae: Any,
    x: Tensor,
    num_samples: int,
    y: Tensor | None = None,
    seed: int | None = None,
    *,
    first_block: int = 0,
) -> Estimate:
    r"""Estimates log p(x) of each datum by importance sampling from the guide, in nats.

    .. math:: \log \frac{1}{K} \sum_{k=1}^{K} \frac{p(x, z_k)}{q(z_k|x)}, \qquad z_k \sim q(z|x)

    This is a lower bound on log p(x) in expectation (not in each run), and becomes tight as K grows. How fast depends
    on how well the guide covers the posterior. The Monte Carlo error is the error of the logarithm of a mean, sd(w) /
    (sqrt(K) mean(w)). It does not include the bias. It cannot exceed 1 nat for a datum, and if few weights dominate it
    is about half of the true spread: it is meaningful only for data whose `psis_khat` is at most 0.7.

    A draw with p(x, z) = 0 counts as a weight of 0. If this holds for all draws of a datum, its value is minus infinity
    and its error NaN. A weight that is NaN makes its own datum NaN, and no other. The sum is streamed: no (K, N) array
    is held.

    Args:
        vae, x, num_samples, y, seed, first_block: as for `elbo`.

    Raises:
        DataError, ValueError: as for `elbo`; ValueError also for a guide without a density (`Delta`).

    Reference:
        Burda, Grosse & Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016, eq. 8.
        https://arxiv.org/abs/1509.00519

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.StandardNormal(2),
        ...              pv.posteriors.DiagonalNormal(pv.networks.MLP((4,), (4,)), 2),
        ...              pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (4,))))
        >>> iwae(vae, torch.zeros(3, 4), num_samples=100, seed=0).value.shape
        torch.Size([3])
    """
    first = torch.full((len(x),), -math.inf, dtype=torch.float64)
    second = first.clone()
    for data, log_weights in draw_blocks(vae, x, num_samples, y, seed, read_log_weights, first_block):
        for total, power in ((first, 1), (second, 2)):
            block = torch.logsumexp(power * log_weights, 0).cpu()
            total[data] = torch.logaddexp(total[data], block)
    error = _relative_error((second - 2 * first).exp(), num_samples)
    bound = Estimate("log p(x)", first - math.log(num_samples), error, num_samples)
    return of_data(bound, fingerprint(x), y)


def relative_error(log_weights: Tensor) -> Tensor:
    r"""Computes the Monte Carlo error of the logarithm of a mean of K weights, to first order.

    .. math:: \frac{\mathrm{sd}(w)}{\sqrt{K} \, \mathrm{mean}(w)}

    Args:
        log_weights: (K, B).

    Returns:
        (B,), in nats; NaN for K = 1, which has no spread.

    Example:
        >>> relative_error(torch.tensor([[1.0], [3.0]]).log())   # sqrt(2) / (sqrt(2) 2)
        tensor([0.5000], dtype=torch.float64)
    """
    return _relative_error(log_weights.double().softmax(0).square().sum(0), len(log_weights))


def _relative_error(squares: Tensor, K: int) -> Tensor:
    """The same from sum_k (w_k / sum_j w_j)^2: K times that, minus 1, is the squared coefficient of variation."""
    spread = (K * squares - 1).clamp(min=0)
    return (spread / (K - 1)).sqrt() if K > 1 else torch.full_like(squares, math.nan)


def mean_and_error(values: Tensor) -> tuple[Tensor, Tensor]:
    """Means over draws (K, ...), and their Monte Carlo standard errors; NaN for a single draw.

    Example:
        >>> mean_and_error(torch.tensor([[1.0], [3.0]]))
        (tensor([2.]), tensor([1.]))
    """
    K = len(values)
    return values.mean(0), values.std(0) / math.sqrt(K) if K > 1 else torch.full_like(values[0], math.nan)


def subset(size: int, num_data: int, seed: int) -> Tensor:
    """Draws the positions of a random subset, sorted.

    Data files are sometimes sorted by class, and the first data are then not a fair sample.

    Args:
        size: the number of data to choose from.
        num_data: the number of positions; all of them if there are no more.
        seed: the seed of the choice.

    Example:
        >>> subset(10, 4, seed=0).tolist() == sorted(subset(10, 4, seed=0).tolist())
        True
    """
    return torch.randperm(size, generator=generator(seed, "subset"))[:num_data].sort().values


class Terms(NamedTuple):
    """Reconstruction and KL of one block of draws, (k, b) each, float64; `kind` as for `Estimate`."""

    reconstruction: Tensor
    kl: Tensor
    kind: dict[str, str]


def read_terms(pair: traces.Traces) -> Terms:
    """Reads log p(x|z) and the KL of all latent sites: in closed form if one is registered, else log q - log p."""
    reconstruction = traces.reconstruction(pair).double()
    total, kind = torch.zeros_like(reconstruction), {}
    for name, site in traces.latent_sites(pair.guide).items():
        closed = traces.analytic_kl(pair, name)
        kind[name] = "infinite" if traces.is_point(site["fn"]) else "sampled" if closed is None else "analytic"
        total = total + (traces.sampled_kl(pair, name) if closed is None else closed).double()
    return Terms(reconstruction, total, kind)


class _Moments:
    """Running mean and variance over draws, per datum (Chan, Golub & LeVeque 1983), on the CPU in float64."""

    def __init__(self, num_data: int) -> None:
        self.count = torch.zeros(num_data, dtype=torch.float64)
        self.mean = torch.zeros(num_data, dtype=torch.float64)
        self.square = torch.zeros(num_data, dtype=torch.float64)

    def add(self, data: slice, values: Tensor) -> None:
        values = values.cpu()
        old, new = self.count[data], float(len(values))
        mean, square = values.mean(0), (values - values.mean(0)).square().sum(0)
        step = mean - self.mean[data]
        # If one of the means is infinite, the common mean is their sum.
        self.mean[data] += torch.where(step.isfinite(), step * new / (old + new), mean)
        self.square[data] += square + step.square() * old * new / (old + new)
        self.count[data] += new

    def estimate(self, name: str, kind: dict[str, str]) -> Estimate:
        variance = self.square / (self.count - 1)  # 0/0 = NaN for a single draw, which has no spread
        return Estimate(name, self.mean, (variance / self.count).sqrt(), int(self.count[0]), kind=kind)


def known(number: float) -> float | None:
    """Returns the number for a report, or None for one that is NaN or infinite."""
    return number if math.isfinite(number) else None
