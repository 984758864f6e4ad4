"""Expandable, the base class, and what its members share."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor


class Expandable(TorchDistribution):
    """Base class: each argument named in `arg_constraints` has the shape batch_shape + (dimensions of its own)."""

    has_rsample = False

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "Expandable":
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


def invert(function: Callable[[Tensor], Tensor], value: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """The arguments, between low and high, at which an increasing elementwise function has the given value."""
    goal = value.double()
    low, high = (as_tensor(bound, goal).double() for bound in (low, high))
    for _ in range(64):
        middle = (low + high) / 2
        below = function(middle) < goal
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return ((low + high) / 2).to(value)


def as_tensor(number: Tensor | float, like: Tensor) -> Tensor:
    # new_full, as a tensor made from a Python float would pass through float32.
    return number if isinstance(number, Tensor) else like.new_full((), number)


def uniform(shape: torch.Size, like: Tensor) -> Tensor:
    return torch.rand(shape, dtype=like.dtype, device=like.device)


def log_rising(start: Tensor, count: Tensor) -> Tensor:
    """log Gamma(r + x) / Gamma(r), by Stirling's series where r is large enough for four terms to be exact to 1e-12."""
    start, count = torch.broadcast_tensors(start, count)
    is_large = start > 20
    small, large = start.masked_fill(is_large, 20.0), start.masked_fill(~is_large, 20.0)
    series = count * ((large + count).log() - 1) + (large - 0.5) * torch.log1p(count / large)
    series = series + _stirling_rest(large + count) - _stirling_rest(large)
    return torch.where(is_large, series, torch.lgamma(small + count) - torch.lgamma(small))


def _stirling_rest(number: Tensor) -> Tensor:
    return (1 / 12 - (1 / 360 - 1 / 1260 / number.square()) / number.square()) / number
