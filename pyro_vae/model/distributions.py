"""Distributions that Pyro lacks, as Pyro distributions: plates expand them, `to_event` makes their batches events.

    ContinuousBernoulli    l x - A(l) on [0, 1]
    DiscretizedLogistic    a logistic, rounded to the levels 0..L-1
    GreyLevels             any probabilities on the levels 0..L-1, which are numbers here, not names
    NegativeBinomial       Pyro's, exact in float32 for large total counts too
    ExponentialNorm        exp(-rate * RMSE), with its constant
    LowRankNormal          N(m, W W' + diag), over an event of any shape

Log-probabilities are in nats and include every constant. They and their gradients stay finite at the extremes that
training meets (logits of 1e4, scales at their floor, x on the location), in float32 too.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.nn.functional import logsigmoid

# B_2n / (2n (2n)!), n = 1..9, with the Bernoulli numbers B: the series of log(sinh(l/2) / (l/2)) in l^2.
_BERNOULLI_NUMBERS = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510, 43867 / 798)
_SERIES = tuple((2 * n, b / (2 * n * math.factorial(2 * n))) for n, b in enumerate(_BERNOULLI_NUMBERS, start=1))
# Where the series gives way: its tenth term is below 1e-15 there, and the closed form has lost no digit yet.
_SERIES_END = 1.0


class _Expandable(TorchDistribution):
    """Base class: each argument named in `arg_constraints` has the shape batch_shape + (dimensions of its own)."""

    has_rsample = False

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "_Expandable":
        new = self._get_checked_instance(type(self), _instance)
        new.__dict__.update(self.__dict__)
        for name in self.arg_constraints:
            value = getattr(self, name)
            setattr(new, name, value.expand(*batch_shape, *value.shape[len(self.batch_shape) :]))
        new._batch_shape = torch.Size(batch_shape)
        return new

    def _check(self, value: Tensor) -> None:
        if self._validate_args:
            self._validate_sample(value)


class ContinuousBernoulli(_Expandable):
    """The continuous Bernoulli on [0, 1], as an exponential family.

        log p(x) = l x - A(l),   A(l) = log((e^l - 1) / l),   mean A'(l),   variance A''(l)

    Loaiza-Ganem & Cunningham, "The continuous Bernoulli: fixing a pervasive error in variational autoencoders",
    NeurIPS 2019, eq. 5-8.

    torch has one too, a function of the probability sigmoid(l), which it clamps: in float32 every |l| above 16 is the
    same to it and has no gradient, where the density of a black pixel still grows with |l|; in float64 its log p is off
    by 0.3 at l = 50. Here A is a function of l itself, exact to rounding on either side of its switch to a series.

    Args:
        logits: l (*).

    Example:
        >>> ContinuousBernoulli(torch.tensor([0.0, 1e4])).log_prob(torch.ones(2))   # log 1 and log 1e4
        tensor([0.0000, 9.2103])
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012
    support = constraints.unit_interval

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
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
        # Inverse cdf of exp(-|l| x) on [0, 1], turned round where l > 0.
        with torch.no_grad():
            u = _uniform(self._extended_shape(torch.Size(sample_shape)), self.logits)
            decay = self.logits.abs().clamp(min=torch.finfo(u.dtype).eps)
            x = (-torch.log1p(u * torch.expm1(-decay)) / decay).clamp(0, 1)
            return torch.where(self.logits > 0, 1 - x, x)

    def _by_size(self, near: Callable[[Tensor], Tensor], far: Callable[[Tensor], Tensor]) -> Tensor:
        # Each branch sees only arguments of its own: a gradient of 0 * inf would be NaN.
        is_near = self.logits.abs() < _SERIES_END
        return torch.where(
            is_near,
            near(self.logits.masked_fill(~is_near, 0.0)),
            far(self.logits.masked_fill(is_near, _SERIES_END)),
        )


def continuous_bernoulli_logits(mean: Tensor) -> Tensor:
    """The logits under which the continuous Bernoulli has the given mean, in (0, 1).

    Example:
        >>> ContinuousBernoulli(continuous_bernoulli_logits(torch.tensor([0.01, 0.5, 0.8]))).mean
        tensor([0.0100, 0.5000, 0.8000])
    """
    # The mean lies within 1/|l| of an end.
    bound = 1 / torch.minimum(mean, 1 - mean)
    return invert(lambda logits: ContinuousBernoulli(logits, validate_args=False).mean, mean, -bound, bound)


def invert(function: Callable[[Tensor], Tensor], value: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The arguments, between low and high, at which an increasing elementwise function has the given value."""
    low, high, goal = low.double(), high.double(), value.double()
    for _ in range(64):
        middle = (low + high) / 2
        below = function(middle) < goal
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return ((low + high) / 2).to(value)


class DiscretizedLogistic(_Expandable):
    """A logistic distribution rounded to the levels 0..L-1; the end levels take the tails.

        P(v) = sigmoid(b) - sigmoid(a),   a = (v - 1/2 - loc) / scale,   b = (v + 1/2 - loc) / scale
        log P(v) = logsigmoid(b) + logsigmoid(-a) + log(1 - e^(-1/scale)),
        log P(0) = logsigmoid(b),   log P(L-1) = logsigmoid(-a)

    The second line is the first without its cancellation. Kingma et al., "Improved variational inference with inverse
    autoregressive flow", NeurIPS 2016, section 5.2; Salimans et al., "PixelCNN++", ICLR 2017, eq. 2.

    Args:
        loc: (*), on the scale of the levels.
        scale: (*), on the scale of the levels.
        num_levels: L.

    Example:
        >>> p = DiscretizedLogistic(torch.tensor(100.0), torch.tensor(3.0), num_levels=256)
        >>> print(f"{p.log_prob(torch.arange(256.0)).exp().sum():.4f}")
        1.0000
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012

    def __init__(self, loc: Tensor, scale: Tensor | float, num_levels: int, validate_args: bool | None = None) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, _as_tensor(scale, loc))
        self.num_levels = num_levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.num_levels - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        first, last = value <= 0, value >= self.num_levels - 1
        above = logsigmoid((value + 0.5 - self.loc) / self.scale).masked_fill(last, 0.0)
        below = logsigmoid((self.loc - value + 0.5) / self.scale).masked_fill(first, 0.0)
        width = torch.log(-torch.expm1(-1 / self.scale))
        return above + below + torch.where(first | last, torch.zeros_like(width), width)

    @property
    def mean(self) -> Tensor:
        return self._moments()[0]

    @property
    def variance(self) -> Tensor:
        return self._moments()[1]

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            u = _uniform(self._extended_shape(torch.Size(sample_shape)), self.loc)
            x = self.loc + self.scale * torch.logit(u, eps=torch.finfo(u.dtype).tiny)
            return x.round().clamp(0, self.num_levels - 1)

    def _moments(self) -> tuple[Tensor, Tensor]:
        # E[X - c] and E[(X - c)^2] as sums of P(X >= v) above a central level c and of P(X < v) up to it, so that
        # neither is a small difference of large sums. A loop, as all levels at once would take L times the memory.
        centre = self.loc.detach().round().clamp(0, self.num_levels - 1)
        first = second = torch.zeros_like(self.loc)
        for v in range(1, self.num_levels):
            side = torch.where(v > centre, 1.0, -1.0).to(self.loc)
            tail = side * torch.sigmoid(side * (self.loc - v + 0.5) / self.scale)
            first, second = first + tail, second + (2 * (v - centre) - 1) * tail
        return centre + first, second - first.square()


class GreyLevels(_Expandable):
    """A categorical distribution over the levels 0..L-1, taken as numbers.

        P(v) = softmax(logits)_v,   mean sum_v v P(v),   variance sum_v (v - mean)^2 P(v)

    Unlike `Categorical`, whose values are names, it has a mean and a variance, and its values are floats.
    van den Oord, Kalchbrenner & Kavukcuoglu, "Pixel recurrent neural networks", ICML 2016, section 3.4.

    Args:
        logits: (*, L), not necessarily normalised.

    Example:
        >>> GreyLevels(torch.tensor([0.0, 0.0, 0.0, 0.0])).mean
        tensor(1.5000)
    """

    arg_constraints = {"logits": constraints.independent(constraints.real, 1)}  # noqa: RUF012

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    @property
    def num_levels(self) -> int:
        return self.logits.shape[-1]

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.num_levels - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        shape = torch.broadcast_shapes(value.shape, self.batch_shape)
        index = value.long().expand(shape).unsqueeze(-1)
        chosen = self.logits.expand(*shape, self.num_levels).gather(-1, index).squeeze(-1)
        return chosen - self.logits.logsumexp(-1)

    @property
    def mean(self) -> Tensor:
        return (self.logits.softmax(-1) * self._levels()).sum(-1)

    @property
    def variance(self) -> Tensor:
        return (self.logits.softmax(-1) * (self._levels() - self.mean.unsqueeze(-1)).square()).sum(-1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        names = dist.Categorical(logits=self.logits, validate_args=False)
        return names.sample(torch.Size(sample_shape)).to(self.logits)

    def _levels(self) -> Tensor:
        return torch.arange(self.num_levels, dtype=self.logits.dtype, device=self.logits.device)


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


class ExponentialNorm(_Expandable):
    """The density whose minus log is rate * RMSE: p(x) proportional to exp(-rate |x - m|_2 / sqrt(d)).

        log p(x) = -a r + d log a - log S_d - log Gamma(d),   a = rate / sqrt(d),   r = |x - m|_2

    with S_d = 2 pi^(d/2) / Gamma(d/2), the area of the unit sphere. The direction of x - m is uniform and r is
    Gamma(d, a), so the variance of a coordinate is (d + 1) / a^2; for d = 1 it is the Laplace. The gradient at x = m,
    where there is none, is 0.

    A multivariate exponential power distribution with kappa = 1/2: Gomez, Gomez-Villegas & Marin, "A multivariate
    generalization of the power exponential family of distributions", 1998.

    Args:
        loc: m (*, *event_shape).
        rate: (*), of the root mean squared error.
        event_dim: number of dimensions of the event, whose d numbers share one norm.

    Example:
        >>> p = ExponentialNorm(torch.zeros(5, 1, 8, 8), 1000.0, event_dim=3)
        >>> p.batch_shape, p.event_shape
        (torch.Size([5]), torch.Size([1, 8, 8]))
    """

    arg_constraints = {"loc": constraints.real, "rate": constraints.positive}  # noqa: RUF012

    def __init__(self, loc: Tensor, rate: Tensor | float, event_dim: int, validate_args: bool | None = None) -> None:
        split = loc.dim() - event_dim
        rate = _as_tensor(rate, loc)
        batch_shape = torch.broadcast_shapes(loc.shape[:split], rate.shape)
        self.loc, self.rate = loc.expand(*batch_shape, *loc.shape[split:]), rate.expand(batch_shape)
        super().__init__(batch_shape, loc.shape[split:], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        d = self.event_shape.numel()
        radius = torch.linalg.vector_norm(_flat(value - self.loc, self.event_dim), dim=-1)
        log_area = math.log(2) + d / 2 * math.log(math.pi) - math.lgamma(d / 2)
        return d * self._slope.log() - self._slope * radius - (log_area + math.lgamma(d))

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        each = (self.event_shape.numel() + 1) / self._slope.square()
        return each.reshape(*self.batch_shape, *[1] * self.event_dim).expand(self.loc.shape)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            direction = _flat(torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device), self.event_dim)
            direction = direction / torch.linalg.vector_norm(direction, dim=-1, keepdim=True)
            radius = dist.Gamma(float(self.event_shape.numel()), self._slope, validate_args=False).sample(
                torch.Size(sample_shape)
            )
            return self.loc + (radius.unsqueeze(-1) * direction).reshape(shape)

    @property
    def _slope(self) -> Tensor:
        return self.rate / math.sqrt(self.event_shape.numel())


class LowRankNormal(_Expandable):
    """N(m, W W' + diag(v)) over an event of any shape, d numbers of which W has `rank` columns.

        log p(x) = -1/2 (x - m)' (W W' + diag v)^-1 (x - m) - 1/2 log|W W' + diag v| - d/2 log(2 pi)

    Both quadratic form and determinant come from Gram-Schmidt on the columns [V; I], V = diag(v)^(-1/2) W, with the
    whitened x - m as one column more: what is left of it is the quadratic form. torch's `LowRankMultivariateNormal`
    takes the Cholesky factor of I + V'V instead, which squares the condition number: in float32, with sqrt(v) at 1e-3,
    it is off by 4 nats in 64 dimensions, and breaks off where two columns are alike.

    Args:
        loc: m (*, d), flattened as in torch's.
        cov_factor: W (*, d, rank).
        cov_diag: v (*, d), variances.
        event_shape: shape of x, d numbers.

    Example:
        >>> p = LowRankNormal(torch.zeros(5, 12), torch.ones(5, 12, 2), torch.ones(5, 12), event_shape=(1, 3, 4))
        >>> p.batch_shape, p.event_shape
        (torch.Size([5]), torch.Size([1, 3, 4]))
    """

    arg_constraints = {  # noqa: RUF012
        "loc": constraints.real_vector,
        "cov_factor": constraints.independent(constraints.real, 2),
        "cov_diag": constraints.independent(constraints.positive, 1),
    }
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        cov_factor: Tensor,
        cov_diag: Tensor,
        event_shape: Sequence[int],
        validate_args: bool | None = None,
    ) -> None:
        d, rank = cov_factor.shape[-2:]
        if not loc.shape[-1] == cov_diag.shape[-1] == math.prod(event_shape) == d:
            raise ValueError(
                f"event_shape {tuple(event_shape)} needs loc (*, d), cov_factor (*, d, rank) and cov_diag (*, d) with "
                f"d = {math.prod(event_shape)}; got {tuple(loc.shape)}, {tuple(cov_factor.shape)}, "
                f"{tuple(cov_diag.shape)}"
            )
        batch_shape = torch.broadcast_shapes(loc.shape[:-1], cov_factor.shape[:-2], cov_diag.shape[:-1])
        self.loc, self.cov_diag = loc.expand(*batch_shape, d), cov_diag.expand(*batch_shape, d)
        self.cov_factor = cov_factor.expand(*batch_shape, d, rank)
        super().__init__(batch_shape, torch.Size(event_shape), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        scale = self.cov_diag.sqrt()
        error = (_flat(value, self.event_dim) - self.loc) / scale
        quadratic, log_det = _eliminate(self.cov_factor / scale.unsqueeze(-1), error)
        log_det = log_det + self.cov_diag.log().sum(-1)
        return -0.5 * (quadratic + log_det + self.loc.shape[-1] * math.log(2 * math.pi))

    @property
    def mean(self) -> Tensor:
        return self._shaped(self.loc)

    @property
    def variance(self) -> Tensor:
        return self._shaped(self.cov_diag + self.cov_factor.square().sum(-1))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        lead = torch.Size(sample_shape) + self.batch_shape
        common = torch.randn(*lead, self.cov_factor.shape[-1], 1, dtype=self.loc.dtype, device=self.loc.device)
        own = torch.randn(*lead, self.loc.shape[-1], dtype=self.loc.dtype, device=self.loc.device)
        return self._shaped(self.loc + (self.cov_factor @ common).squeeze(-1) + self.cov_diag.sqrt() * own)

    def _shaped(self, flat: Tensor) -> Tensor:
        return flat.reshape(flat.shape[:-1] + self.event_shape)


def _eliminate(factor: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    # error' (V V' + I)^-1 error and log|V V' + I|, by modified Gram-Schmidt on the columns of [V; I] and [error; 0]:
    # |[error; 0]|^2 after projection is the least squares min_c |error - V c|^2 + |c|^2, which is the quadratic form.
    lead = torch.broadcast_shapes(factor.shape[:-2], error.shape[:-1])
    rank = factor.shape[-1]
    eye = torch.eye(rank, dtype=factor.dtype, device=factor.device).expand(*factor.shape[:-2], rank, rank)
    basis = torch.cat([factor, eye], -2).expand(*lead, -1, -1)
    zeros = error.new_zeros(*lead, rank, 1)
    columns = torch.cat([basis, torch.cat([error.expand(*lead, -1).unsqueeze(-1), zeros], -2)], -1)
    log_det = error.new_zeros(lead)
    while columns.shape[-1] > 1:
        first, rest = columns[..., :1], columns[..., 1:]
        norm = torch.linalg.vector_norm(first, dim=-2, keepdim=True)
        unit = first / norm
        columns = rest - unit * (unit * rest).sum(-2, keepdim=True)
        log_det = log_det + 2 * norm[..., 0, 0].log()
    return columns.square().sum((-2, -1)), log_det


def _flat(value: Tensor, event_dim: int) -> Tensor:
    split = value.dim() - event_dim
    return value.reshape(*value.shape[:split], -1)


def _as_tensor(number: Tensor | float, like: Tensor) -> Tensor:
    # new_full, as a tensor made from a Python float would pass through float32.
    return number if isinstance(number, Tensor) else like.new_full((), number)


def _uniform(shape: torch.Size, like: Tensor) -> Tensor:
    return torch.rand(shape, dtype=like.dtype, device=like.device)


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


def _horner(square: Tensor, coefficients: Sequence[float]) -> Tensor:
    total = torch.full_like(square, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * square + coefficient
    return total
