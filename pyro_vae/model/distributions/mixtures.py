r"""Finite mixtures of whole vectors.

.. math:: \log p(z) = \log \sum_{k=1}^m w_k \, c_k(z), \qquad z \in R^D

The logarithm of the sum is taken over components after the sum over dimensions. Taken per dimension, it would be the
density of a product of D one-dimensional mixtures, which also integrates to 1 but has m^D modes and other samples.
"""

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions import constraints as support
from torch import Tensor
from torch.distributions import Independent, Normal

from pyro_vae.model.distributions.expandable import floating


class Mixture(TorchDistribution):
    """A mixture whose components are one batched distribution, which is never expanded.

    (`pyro.distributions.MixtureSameFamily` expands its components, which a flow does not allow, and holds (*, m, D)
    numbers although diagonal normals need only two matrix products.)

    Args:
        log_weights: log w (m,), normalised.
        components: c, with batch_shape (m,) and event_shape (D,).
        batch_shape: of the mixture, usually ().

    Example:
        >>> import pyro.distributions as dist
        >>> halves = torch.full((2,), 0.5).log()
        >>> p = Mixture(halves, dist.Normal(torch.tensor([[-1.0], [1.0]]), 0.1).to_event(1))
        >>> p.expand((7,)).sample().shape, p.mean
        (torch.Size([7, 1]), tensor([0.]))
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 - as torch declares it
    support = support.real_vector
    has_rsample = False

    def __init__(self, log_weights: Tensor, components: Any, batch_shape: torch.Size = torch.Size()) -> None:  # noqa: B008
        self.log_weights, self.components = log_weights, components
        super().__init__(batch_shape, components.event_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Mixture":
        return Mixture(self.log_weights, self.components, torch.Size(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        log_prob = torch.logsumexp(self.log_parts(value), -1)
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))

    def log_parts(self, value: Tensor) -> Tensor:
        """Computes log(w_k c_k(z)) of each component at z (*, D): (*, m)."""
        return self.log_weights + _log_prob(self.components, value)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        shape = torch.Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            chosen = torch.distributions.Categorical(logits=self.log_weights).sample((shape.numel(),))
            turn, turns = _turns(chosen, len(self.log_weights))
            return self.components.sample((turns,))[turn, chosen].reshape(shape + self.event_shape)

    @property
    def mean(self) -> Tensor:
        mean = (self.log_weights.exp()[:, None] * self.components.mean).sum(-2)
        return mean.expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        weights, means = self.log_weights.exp()[:, None], self.components.mean
        # Relative to one component, not to 0: weights sum to 1 up to rounding, which is more than a variance far out.
        apart = means - means[:1]
        apart = apart - (weights * apart).sum(-2)
        return (
            (weights * (self.components.variance + apart.square())).sum(-2).expand(self.batch_shape + self.event_shape)
        )


def _turns(chosen: Tensor, number: int) -> tuple[Tensor, int]:
    """Counts how often each entry occurred before, and how often the most frequent one occurs.

    That many draws from every component are enough. One draw per entry would be `number` times what is needed.
    """
    counts = chosen.bincount(minlength=number)
    order = chosen.argsort()
    turn = torch.empty_like(chosen)
    turn[order] = torch.arange(len(chosen), device=chosen.device) - (counts.cumsum(0) - counts)[chosen[order]]
    return turn, int(counts.max())


def _log_prob(components: Any, z: Tensor) -> Tensor:
    """Computes log c_k(z) for z (*, D): (*, m)."""
    if isinstance(components, Independent) and isinstance(components.base_dist, Normal):
        return _log_prob_of_normals(components.base_dist.loc, components.base_dist.scale, z)
    return components.log_prob(z.unsqueeze(-2))


def _log_prob_of_normals(loc: Tensor, scale: Tensor, z: Tensor) -> Tensor:
    # Expanding |z - m|^2 / s^2 cancels numbers of about z^2 / s^2: hence float64, which loses 1e-16 of that.
    mean, precision, value = loc.double(), scale.double().pow(-2), z.double()
    square = value.square() @ precision.T - 2 * value @ (mean * precision).T + (mean.square() * precision).sum(-1)
    constant = scale.double().log().sum(-1) + 0.5 * loc.shape[-1] * math.log(2 * math.pi)
    return (-0.5 * square - constant).to(floating(z.dtype, loc.dtype))
