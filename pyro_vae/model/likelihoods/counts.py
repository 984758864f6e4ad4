"""Likelihoods of counts 0, 1, 2, ..."""

import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.nn.functional import softplus

from pyro_vae.model import distributions
from pyro_vae.model.likelihoods.likelihood import Likelihood, over_pixels
from pyro_vae.model.likelihoods.scales import Learned
from pyro_vae.model.scaling import ColumnMean, mean_of_counts

# Rates and means stay above this: softplus underflows to 0, where log p of a count is minus infinity.
_SMALLEST_MEAN = 1e-6


class Poisson(Likelihood):
    r"""Independent Poisson counts, one for each pixel.

    .. math:: \log p(x|z) = \sum_i [x_i \log m_i - m_i - \log x_i!], \qquad
              m = \mathrm{softplus}(\mathrm{decoder}(z)) + 10^{-6}

    In nats. Mean and variance are the same; for counts that vary more use `NegativeBinomial`.

    To reach counts of hundreds, this softplus needs outputs of hundreds, which a network takes long to learn. With
    `column_mean`, outputs are relative to the mean M_i of each column, 0 is that mean, and counts of any size train
    equally well:

    .. math:: m_i = M_i \, \frac{\mathrm{softplus}(\mathrm{decoder}(z)_i)}{\log 2} + 10^{-6}

    Give the encoder such counts through `Rescaled(encoder, LogCounts())`, see `pyro_vae.scaling`.

    Args:
        decoder: z (*, D) -> (*, *x_shape), of which softplus is the mean.
        column_mean: M, the mean of each column.

    Raises:
        DataError: from `check`, for values that are not counts.

    Example:
        >>> from pyro_vae.model.networks import MLP
        >>> Poisson(MLP((20,), (50,)))(torch.zeros(5, 20)).event_shape
        torch.Size([50])
    """

    support: constraints.Constraint = constraints.nonnegative_integer
    advice = "For measurements that are not counts, use a density (`likelihood='normal'`)."

    def __init__(self, decoder: Callable[..., Tensor], column_mean: ColumnMean | None = None) -> None:
        super().__init__(decoder)
        self.column_mean = column_mean

    def forward(self, z: Tensor, y: Tensor | None = None) -> dist.Distribution:
        return over_pixels(distributions.Poisson(_mean_of_counts(self.decode(z, y), self.column_mean)), z, y)

    def start(self, x: Tensor) -> Tensor:
        return _start_of_counts(x, self.column_mean)


class NegativeBinomial(Likelihood):
    r"""Independent negative binomial counts, which vary more than Poisson counts of the same mean.

    .. math:: \log p(x|z) = \sum_i \left[ \log \frac{\Gamma(x_i + r)}{\Gamma(r) \, x_i!} + r \log \frac{r}{r + m_i}
              + x_i \log \frac{m_i}{r + m_i} \right], \qquad m = \mathrm{softplus}(\mathrm{decoder}(z)) + 10^{-6}

    In nats. The variance is m + m^2 / r, with one learned r for all pixels; r -> infinity is the Poisson.

    Args:
        decoder: z (*, D) -> (*, *x_shape), of which softplus is the mean.
        total_count: the start of r, which stays above 1e-3.
        column_mean: the mean of each column; outputs are relative to it, as in `Poisson`.

    Raises:
        ValueError: total_count would start below its floor.
        DataError: from `check`, for values that are not counts.

    Reference:
        Lopez et al., "Deep generative modeling for single-cell transcriptomics", Nature Methods 15, 2018, who model
        counts of genes by it. https://doi.org/10.1038/s41592-018-0229-2

    Example:
        >>> from pyro_vae.model.networks import MLP
        >>> NegativeBinomial(MLP((20,), (50,)))(torch.zeros(5, 20)).event_shape
        torch.Size([50])
    """

    support: constraints.Constraint = constraints.nonnegative_integer
    advice = Poisson.advice

    def __init__(
        self, decoder: Callable[..., Tensor], total_count: float = 10.0, column_mean: ColumnMean | None = None
    ) -> None:
        super().__init__(decoder)
        self.column_mean = column_mean
        self.total_count = Learned("total_count", total_count, floor=1e-3)

    def forward(self, z: Tensor, y: Tensor | None = None) -> dist.Distribution:
        mean, total_count = _mean_of_counts(self.decode(z, y), self.column_mean), self.total_count()
        return over_pixels(distributions.NegativeBinomial(total_count, logits=mean.log() - total_count.log()), z, y)

    def start(self, x: Tensor) -> Tensor:
        return _start_of_counts(x, self.column_mean)

    def scales(self) -> dict[str, Any]:
        return {"total_count": self.total_count.summary(), **self.total_count.how()}


def _mean_of_counts(output: Tensor, column_mean: ColumnMean | None) -> Tensor:
    if column_mean is None:
        return softplus(output) + _SMALLEST_MEAN
    return column_mean.undo(softplus(output) / math.log(2)) + _SMALLEST_MEAN


def _start_of_counts(x: Tensor, column_mean: ColumnMean | None) -> Tensor:
    # Half a count more gives a pixel without counts a finite start; then the inverse of softplus.
    mean = mean_of_counts(x)
    if column_mean is not None:
        mean = column_mean.see(mean) * math.log(2)
    return mean + torch.log(-torch.expm1(-mean))
