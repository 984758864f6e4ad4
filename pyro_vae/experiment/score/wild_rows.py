"""Rows so far from the training data that the program computes no finite number of them, found among their block."""

from collections.abc import Callable

import torch
from torch import Tensor

from pyro_vae.errors import DivergenceError

Attempt = Callable[[Tensor, Tensor | None], object]
_MOST_COLUMNS = 100  # that are tried one by one


def wild(attempt: Attempt, x: Tensor, y: Tensor | None) -> list[int]:
    """Finds the rows of a block that cannot be scored, by halves.

    Args:
        attempt: scores data and labels.
        x: (B, *x_shape).
        y: (B, C), or None.

    Example:
        >>> def attempt(x, y):
        ...     if x.max() > 9:
        ...         raise DivergenceError("too large")
        >>> wild(attempt, torch.tensor([[1.0], [10.0], [2.0]]), None)
        [1]
    """
    if works(attempt, x, y):
        return []
    if len(x) == 1:
        return [0]
    half = len(x) // 2
    labels = (None, None) if y is None else (y[:half], y[half:])
    return [*wild(attempt, x[:half], labels[0]), *(half + i for i in wild(attempt, x[half:], labels[1]))]


def works(attempt: Attempt, x: Tensor, y: Tensor | None) -> bool:
    """Returns whether data can be scored."""
    try:
        attempt(x, y)
    except DivergenceError:
        return False
    return True


def column(attempt: Attempt, x: Tensor, y: Tensor | None, usual: Tensor) -> int | None:
    """Finds the one column of a row of a table without which the row could be scored; None where there is none.

    Args:
        attempt: scores data and labels.
        x: the row, (1, D).
        y: its label (1, C), or None.
        usual: another row, (1, D), that can be scored.

    Example:
        >>> def attempt(x, y):
        ...     if x.max() > 9:
        ...         raise DivergenceError("too large")
        >>> column(attempt, torch.tensor([[1.0, 10.0, 3.0]]), None, torch.zeros(1, 3))
        1
    """
    if x.dim() != 2 or x.shape[1] > _MOST_COLUMNS:
        return None
    for d in range(x.shape[1]):
        other = torch.cat([x[:, :d], usual[:, d : d + 1], x[:, d + 1 :]], 1)
        if works(attempt, other, y):
            return d
    return None
