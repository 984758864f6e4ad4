"""Conditions on data: raised if they are not met, or collected as tensors for a graph."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor

IF_MISSING = "If NaN stands for a missing number, build the program with `missing=True`; otherwise leave such data out."

_AROUND = ("Independent", "MaskedDistribution", "ExpandedDistribution")

_conditions: ContextVar[list[Tensor] | None] = ContextVar("conditions", default=None)


def require(met: Tensor, explain: Callable[[], Exception]) -> None:
    """Raises the error from `explain` unless `met`; inside `collected` that is left to the code that runs the graph.

    Args:
        met: boolean tensor of shape ().
        explain: makes the error.

    Example:
        >>> import torch
        >>> require(torch.tensor(1.0).isfinite(), lambda: ValueError("not finite"))
        >>> with collected() as conditions:
        ...     require(torch.tensor(False), lambda: ValueError("not raised"))
        >>> conditions
        [tensor(False)]
    """
    conditions = _conditions.get()
    if conditions is not None:
        conditions.append(met)
    elif not met:
        raise explain()


@contextmanager
def collected() -> Iterator[list[Tensor]]:
    """Keeps `require` from raising inside, and yields the list of the truth values that it was given."""
    conditions: list[Tensor] = []
    token = _conditions.set(conditions)
    try:
        yield conditions
    finally:
        _conditions.reset(token)


def base_constraint(support: Any) -> Any:
    """Returns the constraint of a support without the wrappers of an event or a mixture.

    Example:
        >>> from torch.distributions import constraints
        >>> base_constraint(constraints.real_vector)
        Real()
    """
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def law(distribution: Any) -> Any:
    """Returns a distribution without its wrappers: a declared event, an expansion, a mask.

    Example:
        >>> import pyro.distributions as dist
        >>> type(law(dist.Gamma(1.0, 1.0).expand((3,)).to_event(1))).__name__
        'Gamma'
    """
    while hasattr(distribution, "base_dist") and type(distribution).__name__ in _AROUND:
        distribution = distribution.base_dist
    return distribution


def in_words(value: Tensor) -> str:
    """Writes a number, or the first four of several, for a message.

    Args:
        value: (*).

    Example:
        >>> import torch
        >>> in_words(torch.tensor(0.25)), in_words(torch.arange(6.0))
        ('0.25', '(0, 1, 2, 3, ...)')
    """
    numbers = [f"{number:.6g}" for number in value.flatten()[:4].tolist()]
    return f"({', '.join(numbers)}{', ...' if value.numel() > 4 else ''})" if value.dim() else numbers[0]
