"""Expandable, the base class of our distributions, and what they share."""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor


class Expandable(TorchDistribution):
    """Base class whose arguments in `arg_constraints` have the shape batch_shape + (own dimensions)."""

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


class InOneType:
    """A base class to put before one of Pyro's distributions; it gives that one parameters `in_one_type`."""

    def __init__(self, *parameters: Any, **options: Any) -> None:
        values = in_one_type(*parameters, *options.values())
        super().__init__(*values[: len(parameters)], **dict(zip(options, values[len(parameters) :], strict=True)))

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        new = type(self).__new__(type(self)) if _instance is None else _instance
        return super().expand(batch_shape, _instance=new)  # type: ignore[misc]


def in_one_type(*parameters: Any) -> tuple[Any, ...]:
    """Returns parameters with all tensors among them in one floating type; others stay as they are.

    A density has the type of a parameter, so an integer parameter would truncate it. torch would also truncate a number
    next to a tensor of integers.

    Example:
        >>> in_one_type(torch.tensor(5), torch.tensor(0.5, dtype=torch.float64), 2.0)
        (tensor(5., dtype=torch.float64), tensor(0.5000, dtype=torch.float64), 2.0)
    """
    types = [parameter.dtype for parameter in parameters if isinstance(parameter, Tensor)]
    common = floating(*types) if types else None
    return tuple(p.to(common) if isinstance(p, Tensor) and p.dtype != common else p for p in parameters)


def floating(*types: torch.dtype) -> torch.dtype:
    """Returns the common floating type of numbers of these types; the default one if all are integers."""
    common = reduce(torch.promote_types, types)
    return common if common.is_floating_point else torch.get_default_dtype()


def invert(function: Callable[[Tensor], Tensor], value: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Finds by bisection the arguments at which an increasing elementwise function has the given value.

    Args:
        function: of float64 tensors.
        value: (*).
        low, high: bounds of the arguments, which broadcast to (*).

    Example:
        >>> invert(torch.exp, torch.tensor([2.0, 4.0]), -10.0, 10.0)
        tensor([0.6931, 1.3863])
    """
    goal = value.double()
    low, high = (as_tensor(bound, goal).double() for bound in (low, high))
    for _ in range(64):
        middle = (low + high) / 2
        below = function(middle) < goal
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return ((low + high) / 2).to(floating(value.dtype))


def as_tensor(number: Tensor | float, like: Tensor) -> Tensor:
    # new_full, since a tensor made from a Python float would pass through float32.
    """Returns a number as a tensor with the type and device of `like`; a tensor stays as it is."""
    return number if isinstance(number, Tensor) else like.new_full((), number)


def uniform(shape: torch.Size, like: Tensor) -> Tensor:
    """Draws from U[0, 1) in a shape, with the type and device of `like`."""
    return torch.rand(shape, dtype=like.dtype, device=like.device)


def log_rising(start: Tensor, count: Tensor) -> Tensor:
    r"""Computes the logarithm of a rising factorial, exact to 1e-12, by Stirling's series for large r.

    .. math:: \log \frac{\Gamma(r + x)}{\Gamma(r)}

    Args:
        start: r (*).
        count: x (*).

    Example:
        >>> log_rising(torch.tensor(3.0), torch.tensor(2.0)).exp()   # 3 * 4
        tensor(12.)
    """
    start, count = torch.broadcast_tensors(start, count)
    is_large = start > 20
    small, large = start.masked_fill(is_large, 20.0), start.masked_fill(~is_large, 20.0)
    series = count * ((large + count).log() - 1) + (large - 0.5) * torch.log1p(count / large)
    series = series + _stirling_rest(large + count) - _stirling_rest(large)
    return torch.where(is_large, series, torch.lgamma(small + count) - torch.lgamma(small))


def _stirling_rest(number: Tensor) -> Tensor:
    return (1 / 12 - (1 / 360 - 1 / 1260 / number.square()) / number.square()) / number
