"""The negative binomial, on 0, 1, 2, ..."""

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


class NegativeBinomial(dist.NegativeBinomial):
    """The negative binomial on 0, 1, 2, ..., with r = total_count and mean m = r e^logits.

        log P(x) = log Gamma(x + r) / (Gamma(r) x!) - r log(1 + m / r) + x log(m / (r + m))

    Pyro's own takes the difference of two log-gammas, each about r log r: in float32 that is off by 0.008 a number at
    r = 1e4 and by 1 at r = 1e6, towards which a learned r moves on Poisson data. Here it is Stirling's series.

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
        odds = self.total_count * logsigmoid(-self.logits) + value * logsigmoid(self.logits)
        return odds + _log_rising(self.total_count, value) - torch.lgamma(value + 1)


def _log_rising(start: Tensor, count: Tensor) -> Tensor:
    # log Gamma(r + x) / Gamma(r), by Stirling's series where r is large enough for four terms to be exact to 1e-12.
    start, count = torch.broadcast_tensors(start, count)
    is_large = start > 20
    small, large = start.masked_fill(is_large, 20.0), start.masked_fill(~is_large, 20.0)
    series = count * ((large + count).log() - 1) + (large - 0.5) * torch.log1p(count / large)
    series = series + _stirling_rest(large + count) - _stirling_rest(large)
    return torch.where(is_large, series, torch.lgamma(small + count) - torch.lgamma(small))


def _stirling_rest(number: Tensor) -> Tensor:
    return (1 / 12 - (1 / 360 - 1 / 1260 / number.square()) / number.square()) / number
