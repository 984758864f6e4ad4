"""Distributions of grey levels 0..L-1."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_vae.model.distributions.expandable import Expandable, as_tensor, in_one_type, uniform


class DiscretizedLogistic(Expandable):
    r"""A logistic distribution rounded to the levels 0..L-1; the end levels take the tails.

    .. math:: P(v) = \mathrm{sigmoid}(b) - \mathrm{sigmoid}(a), \quad
              a = \frac{v - 1/2 - \mathrm{loc}}{\mathrm{scale}}, \quad b = \frac{v + 1/2 - \mathrm{loc}}{\mathrm{scale}}

    It is computed without this cancellation, as

    .. math::

        \log P(v) &= \log \mathrm{sigmoid}(b) + \log \mathrm{sigmoid}(-a) + \log(1 - e^{-1/\mathrm{scale}}) \\
        \log P(0) &= \log \mathrm{sigmoid}(b), \qquad \log P(L-1) = \log \mathrm{sigmoid}(-a)

    Args:
        loc: (*), on the scale of the levels.
        scale: (*), on the scale of the levels.
        num_levels: L.

    Reference:
        Section 5.2 of Kingma et al., "Improving Variational Inference with Inverse Autoregressive Flow", NeurIPS 2016.
        https://arxiv.org/abs/1606.04934

        Eq. 2 of Salimans, Karpathy, Chen & Kingma, "PixelCNN++", ICLR 2017. https://arxiv.org/abs/1701.05517

    Example:
        >>> p = DiscretizedLogistic(torch.tensor(100.0), torch.tensor(3.0), num_levels=256)
        >>> print(f"{p.log_prob(torch.arange(256.0)).exp().sum():.4f}")
        1.0000
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012

    def __init__(self, loc: Tensor, scale: Tensor | float, num_levels: int, validate_args: bool | None = None) -> None:
        loc, scale = in_one_type(loc, scale)
        self.loc, self.scale = torch.broadcast_tensors(loc, as_tensor(scale, loc))
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
            u = uniform(self._extended_shape(torch.Size(sample_shape)), self.loc)
            x = self.loc + self.scale * torch.logit(u, eps=torch.finfo(u.dtype).tiny)
            return x.round().clamp(0, self.num_levels - 1)

    def _moments(self) -> tuple[Tensor, Tensor]:
        # E[X - c] and E[(X - c)^2] as sums of P(X >= v) above a central level c and of P(X < v) up to it, so that
        # neither is a small difference of large sums. A loop, since all levels at once would take L times the memory.
        centre = self.loc.detach().round().clamp(0, self.num_levels - 1)
        first = second = torch.zeros_like(self.loc)
        for v in range(1, self.num_levels):
            side = torch.where(v > centre, 1.0, -1.0).to(self.loc)
            tail = side * torch.sigmoid(side * (self.loc - v + 0.5) / self.scale)
            first, second = first + tail, second + (2 * (v - centre) - 1) * tail
        return centre + first, second - first.square()


class GreyLevels(Expandable):
    r"""A categorical distribution over the levels 0..L-1, treated as numbers.

    .. math:: P(v) = \mathrm{softmax}(\mathrm{logits})_v, \qquad E[v] = \sum_v v P(v), \qquad
              \mathrm{Var}[v] = \sum_v (v - E[v])^2 P(v)

    Unlike `Categorical`, whose values are names, it has a mean and a variance, and its values are floats.

    Args:
        logits: (*, L), not necessarily normalised.

    Reference:
        Section 3.4 of van den Oord, Kalchbrenner & Kavukcuoglu, "Pixel Recurrent Neural Networks", ICML 2016.
        https://arxiv.org/abs/1601.06759

    Example:
        >>> GreyLevels(torch.tensor([0.0, 0.0, 0.0, 0.0])).mean
        tensor(1.5000)
    """

    arg_constraints = {"logits": constraints.independent(constraints.real, 1)}  # noqa: RUF012

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        (self.logits,) = in_one_type(logits)
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    @property
    def num_levels(self) -> int:
        """The number L of levels."""
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
