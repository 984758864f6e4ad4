"""The negative binomial, on 0, 1, 2, ..."""

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


class NegativeBinomial(dist.NegativeBinomial):
    """The negative binomial on 0, 1, 2, ..., with r = total_count and mean m = r e^logits.

        log P(x) = log Gamma(x + r) / (Gamma(r) x!) - r log(1 + m / r) + x log(m / (r + m))

    Computed in float64 whatever the arguments, since terms of the size of x log x nearly cancel: in float32 they cost
    0.2 nats a number at x = 1e5. Pyro's own loses as much in r log r, 1 nat a number at r = 1e6, towards which a
    learned r moves on Poisson data; here that is Stirling's series.

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
        log_prob = _log_rising(r, x) - torch.lgamma(x + 1) + r * logsigmoid(-logits) + x * logsigmoid(logits)
        return log_prob.to(self.logits)


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
