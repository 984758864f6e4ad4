r"""p(x_obs|z), the marginal of p(x|z) over the observed numbers of x.

.. math:: p(x_{obs}|z) = \int p(x|z) \, dx_{mis}

For independent numbers it is the product over the observed ones, which is a mask (`observed_numbers`). For a normal it
is normal again (`MaskedLowRankNormal`). `mask_of` finds the mask of such a distribution, and `completed` draws the
missing numbers.
"""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Independent

from pyro_vae.model.distributions.real_vectors import LowRankNormal


class MaskedLowRankNormal(LowRankNormal):
    r"""A `LowRankNormal` with only some of its d numbers observed: its density is the density of those.

    .. math:: \log p(x_{obs}) = \log N(x_{obs}; m_{obs}, W_{obs} W_{obs}' + \mathrm{diag}(v_{obs}))

    For missing numbers the rows of W count as 0, the variances as 1 and the errors as 0, and d in the constant -d/2
    log(2 pi) is the number of observed ones. Draws, mean and variance are those of all numbers.

    Args:
        whole: the distribution of all numbers.
        observed: boolean (*, *event_shape), True where a number was observed; broadcast against the batch.

    Example:
        >>> whole = LowRankNormal(torch.zeros(3), torch.ones(3, 1), torch.ones(3), event_shape=(3,))
        >>> p = MaskedLowRankNormal(whole, torch.tensor([True, False, False]))
        >>> p.log_prob(torch.zeros(3)), dist.Normal(0.0, 2**0.5).log_prob(torch.tensor(0.0))
        (tensor(-1.2655), tensor(-1.2655))
    """

    arg_constraints = {  # noqa: RUF012
        **LowRankNormal.arg_constraints,
        "seen": constraints.independent(constraints.boolean, 1),
    }

    def __init__(self, whole: LowRankNormal, observed: Tensor, validate_args: bool | None = None) -> None:
        flat = observed.reshape(*observed.shape[: observed.dim() - whole.event_dim], -1)
        batch_shape = torch.broadcast_shapes(whole.batch_shape, flat.shape[:-1])
        whole = whole.expand(batch_shape)
        self.seen = flat.expand(*batch_shape, -1)
        super().__init__(whole.loc, whole.cov_factor, whole.cov_diag, whole.event_shape, validate_args)

    @property
    def observed(self) -> Tensor:
        """Where a number was observed, (*, *event_shape)."""
        return self._shaped(self.seen)

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        error, factor, variance = self._counted(value)
        quadratic, log_det = self._eliminated(error, factor, variance)
        constant = self.seen.sum(-1).double() * math.log(2 * math.pi)
        return (-0.5 * (quadratic + log_det + constant)).to(self.loc)

    def completed(self, value: Tensor) -> Tensor:
        r"""Draws the missing numbers from their normal distribution given the observed ones.

        .. math:: c \sim N(M^{-1} V' e, M^{-1}), \quad M = I + V'V, \quad x_{mis} = m + W c + \sqrt{v} \, \epsilon

        V and e are the observed rows of W and of x - m, both divided by the standard deviations.

        Args:
            value: x (*, *event_shape); any number stands where one is missing.

        Returns:
            x with the missing numbers drawn, (*batch_shape, *event_shape).
        """
        c, root = self._common(value)
        c = c + torch.linalg.solve_triangular(root.mT, torch.randn_like(c), upper=True)
        own = self.cov_diag.double().sqrt() * torch.randn_like(self.loc, dtype=torch.float64)
        return self._joined(value, c, own)

    def expected(self, value: Tensor) -> Tensor:
        """Returns x with the mean of each missing number given the observed ones; arguments as for `completed`."""
        return self._joined(value, self._common(value)[0], torch.zeros_like(self.loc))

    def _common(self, value: Tensor) -> tuple[Tensor, Tensor]:
        # The mean of c given the observed numbers, and the Cholesky factor of M.
        error, factor, variance = (part.double() for part in self._counted(value))
        scale = variance.sqrt()
        V = factor / scale.unsqueeze(-1)
        root = torch.linalg.cholesky(V.mT @ V + torch.eye(V.shape[-1], dtype=V.dtype, device=V.device))
        return torch.cholesky_solve(V.mT @ (error / scale).unsqueeze(-1), root), root

    def _joined(self, value: Tensor, c: Tensor, own: Tensor) -> Tensor:
        rest = self.loc + (self.cov_factor.double() @ c).squeeze(-1) + own
        return torch.where(self.observed, value, self._shaped(rest).to(self.loc))

    def _counted(self, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # Error, factor and variance with missing numbers masked.
        flat = value.reshape(*value.shape[: value.dim() - self.event_dim], -1)
        error = torch.where(self.seen, flat - self.loc, 0.0)
        factor = torch.where(self.seen.unsqueeze(-1), self.cov_factor, 0.0)
        return error, factor, torch.where(self.seen, self.cov_diag, 1.0)


def observed_numbers(p: Any, mask: Tensor) -> Any:
    """Masks a distribution of independent numbers: missing ones add nothing to log p.

    Args:
        p: perhaps with batch dimensions declared as an event.
        mask: boolean, broadcast against the numbers of p; True where a number was observed.

    Raises:
        ValueError: p does not visibly factorise over single numbers.

    Example:
        >>> p = observed_numbers(dist.Normal(torch.zeros(3), 1.0).to_event(1), torch.tensor([True, False, False]))
        >>> p.log_prob(torch.zeros(3)) == dist.Normal(0.0, 1.0).log_prob(torch.tensor(0.0))
        tensor(True)
    """
    base = p
    while isinstance(base, Independent):
        base = base.base_dist
    if base.event_shape:
        raise ValueError(
            f"p(x|z) is a {type(base).__name__} over a whole event {tuple(base.event_shape)}, which is not a product "
            "over single numbers, so log p of only the observed ones is not known (`missing=True`). Use a likelihood "
            "of independent numbers, such as likelihoods.Normal, or LowRankNormal; or say in observed_part() of your "
            "own what p(x_obs|z) is"
        )
    return base.mask(mask).to_event(len(p.event_shape))


def mask_of(p: Any) -> Tensor | None:
    """Returns the mask of a distribution of observed numbers, broadcast to its shape; None if it has none.

    Example:
        >>> mask = torch.tensor([True, False, False])
        >>> mask_of(observed_numbers(dist.Normal(torch.zeros(3), 1.0).to_event(1), mask)) is None
        False
        >>> mask_of(dist.Normal(0.0, 1.0)) is None
        True
    """
    while isinstance(p, Independent):
        p = p.base_dist
    if isinstance(p, dist.MaskedDistribution):
        return p._mask if isinstance(p._mask, Tensor) else None
    return getattr(p, "observed", None) if hasattr(p, "completed") else None


def completed(p: Any, value: Tensor) -> Tensor:
    """Draws the missing numbers given the observed ones, which stay as they are.

    Args:
        p: p(x_obs|z), as `Likelihood.observed_part` returns it.
        value: x (*, *event_shape); any number stands where one is missing.

    Returns:
        (*batch_shape, *event_shape).

    Raises:
        ValueError: p has no mask.

    Example:
        >>> p = observed_numbers(dist.Normal(torch.zeros(2), 1.0).to_event(1), torch.tensor([True, False]))
        >>> completed(p, torch.tensor([5.0, torch.nan])).isfinite()
        tensor([True, True])
    """
    if hasattr(p, "completed"):
        return p.completed(value)
    mask = mask_of(p)
    if mask is None:
        raise ValueError(f"p(x|z) is a {type(p).__name__} without a mask: build the program with `missing=True`")
    return torch.where(mask, value, p.sample())


def expected(p: Any, value: Tensor) -> Tensor:
    """Returns x with the mean of each missing number given the observed ones; NaN if p has no mean.

    Args:
        p, value: as for `completed`.

    Example:
        >>> p = observed_numbers(dist.Normal(torch.ones(2), 1.0).to_event(1), torch.tensor([True, False]))
        >>> expected(p, torch.tensor([5.0, torch.nan]))
        tensor([5., 1.])
    """
    if hasattr(p, "expected"):
        return p.expected(value)
    try:
        return torch.where(mask_of(p), value, p.mean)  # type: ignore[arg-type]
    except NotImplementedError:
        return torch.where(mask_of(p), value, math.nan)  # type: ignore[arg-type]


def inside(support: Any) -> Any:
    """Returns a number to put into a gap: inside a support of single numbers, and not at an end of a continuous one.

    Args:
        support: a constraint on one number, whose bounds can be tensors.

    Raises:
        ValueError: the support holds vectors, or is not known.

    Example:
        >>> inside(constraints.unit_interval), inside(constraints.positive), inside(constraints.boolean)
        (0.5, 1.0, 0.0)
    """
    if support is constraints.real or support is constraints.boolean:
        return 0.0
    low, high = (getattr(support, name, None) for name in ("lower_bound", "upper_bound"))
    if low is not None and support.is_discrete:
        return low * 1.0
    if low is not None:
        return low + 1.0 if high is None else (low + high) / 2
    if high is not None:
        return high - 1.0
    raise ValueError(
        f"no number inside the support {support} is known that could stand for a missing one (`missing=True`): use a "
        "likelihood of independent numbers"
    )
