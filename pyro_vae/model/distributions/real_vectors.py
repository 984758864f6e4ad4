"""Distributions of vectors of real numbers that do not factorise."""

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_vae.model.distributions.expandable import Expandable, as_tensor, in_one_type


class ExponentialNorm(Expandable):
    r"""The density whose minus log is rate * RMSE, up to its constant.

    .. math:: \log p(x) = -a r + d \log a - \log S_d - \log \Gamma(d), \qquad a = \frac{\mathrm{rate}}{\sqrt{d}}, \quad
              r = |x - m|_2, \quad S_d = \frac{2 \pi^{d/2}}{\Gamma(d/2)}

    S_d is the area of the unit sphere. The direction of x - m is uniform and r is Gamma(d, a), so the variance of a
    coordinate is (d + 1) / a^2; for d = 1 it is the Laplace. The gradient at x = m, where there is none, is 0.

    Args:
        loc: m (*, *event_shape).
        rate: (*), of the root mean squared error.
        event_dim: number of dimensions of the event, whose d numbers share one norm.

    Reference:
        Gomez, Gomez-Villegas & Marin, "A multivariate generalization of the power exponential family of distributions",
        Communications in Statistics 27, 1998, where it has kappa = 1/2. https://doi.org/10.1080/03610929808832115

    Example:
        >>> p = ExponentialNorm(torch.zeros(5, 1, 8, 8), 1000.0, event_dim=3)
        >>> p.batch_shape, p.event_shape
        (torch.Size([5]), torch.Size([1, 8, 8]))
    """

    arg_constraints = {"loc": constraints.real, "rate": constraints.positive}  # noqa: RUF012

    def __init__(self, loc: Tensor, rate: Tensor | float, event_dim: int, validate_args: bool | None = None) -> None:
        split = loc.dim() - event_dim
        loc, rate = in_one_type(loc, rate)
        rate = as_tensor(rate, loc)
        batch_shape = torch.broadcast_shapes(loc.shape[:split], rate.shape)
        self.loc, self.rate = loc.expand(*batch_shape, *loc.shape[split:]), rate.expand(batch_shape)
        super().__init__(torch.Size(batch_shape), torch.Size(loc.shape[split:]), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        d = self.event_shape.numel()
        # float64, because of squares of numbers above 1e19 and below 1e-19, and constants of the size of d log d.
        error, slope = _flat(value - self.loc, self.event_dim), self._slope.double()
        radius = torch.linalg.vector_norm(error, dim=-1, dtype=torch.float64)
        log_area = math.log(2) + d / 2 * math.log(math.pi) - math.lgamma(d / 2)
        return (d * slope.log() - slope * radius - (log_area + math.lgamma(d))).to(self.loc)

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


class LowRankNormal(Expandable):
    r"""The normal N(m, W W' + diag(v)) over an event of any shape with d numbers; W has `rank` columns.

    .. math:: \log p(x) = -\frac{1}{2} (x - m)' \Sigma^{-1} (x - m) - \frac{1}{2} \log |\Sigma|
              - \frac{d}{2} \log(2 \pi), \qquad \Sigma = W W' + \mathrm{diag}(v)

    Both quadratic form and determinant come from Gram-Schmidt on the columns [V; I], V = diag(v)^(-1/2) W, with the
    whitened x - m as an additional column: the rest of that column is the quadratic form. torch's
    `LowRankMultivariateNormal` uses the Cholesky factor of I + V'V instead, which squares the condition number. In
    float32, with sqrt(v) at 1e-3, it is off by 4 nats in 64 dimensions, and fails if two columns are equal. Here
    everything is computed in float64 whatever the arguments, which can handle equal columns with V up to 1e8.

    Args:
        loc: m (*, d), flattened as in torch's.
        cov_factor: W (*, d, rank).
        cov_diag: v (*, d), variances.
        event_shape: shape of x, d numbers.

    Raises:
        ValueError: the shapes do not fit one another.

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
        loc, cov_factor, cov_diag = in_one_type(loc, cov_factor, cov_diag)
        batch_shape = torch.broadcast_shapes(loc.shape[:-1], cov_factor.shape[:-2], cov_diag.shape[:-1])
        self.loc, self.cov_diag = loc.expand(*batch_shape, d), cov_diag.expand(*batch_shape, d)
        self.cov_factor = cov_factor.expand(*batch_shape, d, rank)
        super().__init__(batch_shape, torch.Size(event_shape), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        quadratic, log_det = self._eliminated(_flat(value, self.event_dim) - self.loc, self.cov_factor, self.cov_diag)
        return (-0.5 * (quadratic + log_det + self.loc.shape[-1] * math.log(2 * math.pi))).to(self.loc)

    @property
    def mean(self) -> Tensor:
        return self._shaped(self.loc)

    @property
    def variance(self) -> Tensor:
        return self._shaped(self.cov_diag + self.cov_factor.square().sum(-1))

    @property
    def covariance_matrix(self) -> Tensor:
        """The covariance of the flattened event, (*, d, d)."""
        return self.cov_factor @ self.cov_factor.mT + self.cov_diag.diag_embed()

    def entropy(self) -> Tensor:
        _, log_det = self._eliminated(torch.zeros_like(self.loc), self.cov_factor, self.cov_diag)
        return (0.5 * (log_det + self.loc.shape[-1] * (1 + math.log(2 * math.pi)))).to(self.loc)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        lead = torch.Size(sample_shape) + self.batch_shape
        common = torch.randn(*lead, self.cov_factor.shape[-1], 1, dtype=self.loc.dtype, device=self.loc.device)
        own = torch.randn(*lead, self.loc.shape[-1], dtype=self.loc.dtype, device=self.loc.device)
        return self._shaped(self.loc + (self.cov_factor @ common).squeeze(-1) + self.cov_diag.sqrt() * own)

    def _eliminated(self, error: Tensor, factor: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        # Quadratic form and log-determinant of the covariance.
        scale = variance.double().sqrt()
        quadratic, log_det = _eliminate(factor.double() / scale.unsqueeze(-1), error.double() / scale)
        return quadratic, log_det + 2 * scale.log().sum(-1)

    def _shaped(self, flat: Tensor) -> Tensor:
        return flat.reshape(flat.shape[:-1] + self.event_shape)


def _eliminate(factor: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    # error' (V V' + I)^-1 error and log|V V' + I|, by modified Gram-Schmidt on the columns of [V; I] and [error; 0]:
    # |[error; 0]|^2 after projection is the least squares min_c |error - V c|^2 + |c|^2, which is the quadratic form.
    rank = factor.shape[-1]
    eye = torch.eye(rank, dtype=factor.dtype, device=factor.device).expand(*factor.shape[:-2], rank, rank)
    columns = torch.cat([factor, eye], -2)
    rest = torch.cat([error, error.new_zeros(*error.shape[:-1], rank)], -1)
    log_det = factor.new_zeros(factor.shape[:-2])
    while columns.shape[-1]:
        first, columns = columns[..., 0], columns[..., 1:]
        norm = torch.linalg.vector_norm(first, dim=-1, keepdim=True)
        unit = first / norm
        columns = columns - unit.unsqueeze(-1) * (unit.unsqueeze(-1) * columns).sum(-2, keepdim=True)
        rest = rest - unit * (unit * rest).sum(-1, keepdim=True)
        log_det = log_det + 2 * norm.squeeze(-1).log()
    return rest.square().sum(-1), log_det


def _flat(value: Tensor, event_dim: int) -> Tensor:
    split = value.dim() - event_dim
    return value.reshape(*value.shape[:split], -1)
