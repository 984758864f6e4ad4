"""The continuous Bernoulli, on [0, 1]."""

import math
from collections.abc import Callable, Sequence

import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_vae.model.distributions.expandable import Expandable, in_one_type, invert, uniform

# B_2n / (2n (2n)!), n = 1..9, with the Bernoulli numbers B: the series of log(sinh(l/2) / (l/2)) in l^2.
_BERNOULLI_NUMBERS = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510, 43867 / 798)
_SERIES = tuple((2 * n, b / (2 * n * math.factorial(2 * n))) for n, b in enumerate(_BERNOULLI_NUMBERS, start=1))
# Where the closed form takes over: the tenth term of the series is below 1e-15, and no digit is lost yet.
_SERIES_END = 1.0


class ContinuousBernoulli(Expandable):
    r"""The continuous Bernoulli on [0, 1], as an exponential family.

    .. math:: \log p(x) = l x - A(l), \qquad A(l) = \log \frac{e^l - 1}{l}, \qquad E[x] = A'(l), \qquad
              \mathrm{Var}[x] = A''(l)

    torch has one too, as a function of the probability sigmoid(l), which it clamps. In float32 it treats every |l|
    above 16 as the same, without a gradient, although the density of a black pixel still grows with |l|. In float64 its
    log p is off by 0.3 at l = 50. Here A is a function of l itself, exact to rounding on both sides of its switch to a
    series.

    Args:
        logits: l (*).

    Reference:
        Eq. 5-8 of Loaiza-Ganem & Cunningham, "The continuous Bernoulli: fixing a pervasive error in variational
        autoencoders", NeurIPS 2019. https://arxiv.org/abs/1907.06845

    Example:
        >>> ContinuousBernoulli(torch.tensor([0.0, 1e4])).log_prob(torch.ones(2))   # log 1 and log 1e4
        tensor([0.0000, 9.2103])
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012
    support = constraints.unit_interval

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        (self.logits,) = in_one_type(logits)
        super().__init__(logits.shape, validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        return self._by_size(
            lambda logits: (value - 0.5) * logits - _log_sinhc(logits), lambda logits: _log_decay(logits, value)
        )

    @property
    def mean(self) -> Tensor:
        return self._by_size(lambda logits: 0.5 + _log_sinhc_slope(logits), _mean_of_decay)

    @property
    def variance(self) -> Tensor:
        return self._by_size(_log_sinhc_curvature, _variance_of_decay)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        # Inverse cdf of exp(-|l| x) on [0, 1], reversed if l > 0.
        with torch.no_grad():
            u = uniform(self._extended_shape(torch.Size(sample_shape)), self.logits)
            decay = self.logits.abs().clamp(min=torch.finfo(u.dtype).eps)
            x = (-torch.log1p(u * torch.expm1(-decay)) / decay).clamp(0, 1)
            return torch.where(self.logits > 0, 1 - x, x)

    def _by_size(self, near: Callable[[Tensor], Tensor], far: Callable[[Tensor], Tensor]) -> Tensor:
        # Each branch sees only its own arguments: a gradient of 0 * inf would be NaN.
        is_near = self.logits.abs() < _SERIES_END
        return torch.where(
            is_near,
            near(self.logits.masked_fill(~is_near, 0.0)),
            far(self.logits.masked_fill(is_near, _SERIES_END)),
        )


def continuous_bernoulli_logits(mean: Tensor) -> Tensor:
    """Finds the logits under which the continuous Bernoulli has the given mean, in (0, 1).

    Example:
        >>> ContinuousBernoulli(continuous_bernoulli_logits(torch.tensor([0.01, 0.5, 0.8]))).mean
        tensor([0.0100, 0.5000, 0.8000])
    """
    # The mean lies within 1/|l| of an end.
    bound = 1 / torch.minimum(mean, 1 - mean)
    return invert(lambda logits: ContinuousBernoulli(logits, validate_args=False).mean, mean, -bound, bound)


def _log_decay(logits: Tensor, value: Tensor) -> Tensor:
    # l x - A(l) = -|l| (distance from the likelier end) - log((1 - e^-|l|) / |l|), without cancellation.
    decay = logits.abs()
    return logits * (value - (logits > 0).to(value)) - torch.log(-torch.expm1(-decay) / decay)


def _mean_of_decay(logits: Tensor) -> Tensor:
    distance = 1 / logits.abs() - _odds(logits)
    return torch.where(logits > 0, 1 - distance, distance)


def _variance_of_decay(logits: Tensor) -> Tensor:
    return 1 / logits.square() - _odds(logits) * (1 + _odds(logits))


def _odds(logits: Tensor) -> Tensor:
    # 1 / (e^|l| - 1), without overflow.
    decay = logits.abs()
    return torch.exp(-decay) / -torch.expm1(-decay)


def _log_sinhc(logits: Tensor) -> Tensor:
    # log(sinh(l/2) / (l/2)), the even part of A; its slope and its curvature below.
    square = logits.square()
    return square * _horner(square, [c for _, c in _SERIES])


def _log_sinhc_slope(logits: Tensor) -> Tensor:
    return logits * _horner(logits.square(), [n * c for n, c in _SERIES])


def _log_sinhc_curvature(logits: Tensor) -> Tensor:
    return _horner(logits.square(), [n * (n - 1) * c for n, c in _SERIES])


def _horner(square: Tensor, coefficients: Sequence[float]) -> Tensor:
    total = torch.full_like(square, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * square + coefficient
    return total
