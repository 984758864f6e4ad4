"""Conditions on data: raised where they are not met, or collected as tensors by those who make graphs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_conditions: ContextVar[list[Tensor] | None] = ContextVar("conditions", default=None)


def require(met: Tensor, explain: Callable[[], Exception]) -> None:
    """Raises what `explain` says unless `met`; inside `collected` that is left to whoever runs the graph.

    Args:
        met: boolean tensor of shape ().
        explain: makes the error.

    Example:
        >>> import torch
        >>> require(torch.tensor(1.0).isfinite(), lambda: ValueError("not finite"))
    """
    conditions = _conditions.get()
    if conditions is not None:
        conditions.append(met)
    elif not met:
        raise explain()


@contextmanager
def collected() -> Iterator[list[Tensor]]:
    """Inside, `require` raises nothing and adds its truth values to the list."""
    conditions: list[Tensor] = []
    token = _conditions.set(conditions)
    try:
        yield conditions
    finally:
        _conditions.reset(token)
