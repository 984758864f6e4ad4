"""Distributions of counts 0, 1, 2, ..."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_vae.model.distributions.expandable import InOneType, log_rising

# From here on torch's sampler, which counts in 64-bit integers, comes near their limit.
_LARGEST_RATE = 2.0**53


class Poisson(InOneType, dist.Poisson):
    r"""The Poisson distribution.

    .. math:: \log P(x) = x \log m - m - \log x!

    It is computed in float64 whatever the arguments, since its terms are of the size of x log x and nearly cancel:
    torch's own loses 0.8 nats per number at x = 1e6 in float32.

    Args:
        rate: m (*).

    Example:
        >>> Poisson(torch.tensor(1e6)).log_prob(torch.tensor(1e6)), dist.Poisson(1e6).log_prob(torch.tensor(1e6))
        (tensor(-7.8267), tensor(-7.))
    """

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        m, x = self.rate.double(), value.double()
        return (x.xlogy(m) - m - torch.lgamma(x + 1)).to(self.rate)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            return _counts(self.rate.expand(self._extended_shape(torch.Size(sample_shape))))


class NegativeBinomial(InOneType, dist.NegativeBinomial):
    r"""The negative binomial on 0, 1, 2, ..., with r = total_count and mean m = r e^logits.

    .. math:: \log P(x) = \log \frac{\Gamma(x + r)}{\Gamma(r) \, x!} - r \log(1 + m / r) + x \log \frac{m}{r + m}

    It is computed in float64 whatever the arguments, since terms of the size of x log x nearly cancel: in float32 they
    cost 0.2 nats per number at x = 1e5. Pyro's own also loses digits in r log r, 1 nat per number at r = 1e6, and a
    learned r becomes that large on Poisson data. Here that term is Stirling's series.

    Args:
        total_count: r (*).
        logits: log(m / r) (*).

    Example:
        >>> p = NegativeBinomial(total_count=torch.tensor(1e6), logits=torch.tensor(5e-6).log())
        >>> p.log_prob(torch.tensor(5.0)), dist.Poisson(torch.tensor(5.0)).log_prob(torch.tensor(5.0))
        (tensor(-1.7403), tensor(-1.7403))
    """

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        r, logits, x = (number.double() for number in (self.total_count, self.logits, value))
        log_prob = log_rising(r, x) - torch.lgamma(x + 1) + r * logsigmoid(-logits) + x * logsigmoid(logits)
        return log_prob.to(self.logits)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            return _counts(self._gamma.sample(torch.Size(sample_shape)))


def _counts(rate: Tensor) -> Tensor:
    # Beyond the largest rate torch's draws become negative; the rate itself is within 1e-8 of the right draw.
    draws = torch.poisson(rate.clamp(max=_LARGEST_RATE))
    return torch.where(rate < _LARGEST_RATE, draws, rate.clamp(max=torch.finfo(rate.dtype).max))
