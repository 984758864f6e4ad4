"""Checks what models and guides are given: data, labels, and densities at the ends of their support."""

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Independent

from pyro_vae.errors import DataError, UsageError
from pyro_vae.model.conditions import IF_MISSING, base_constraint, require
from pyro_vae.model.distributions import ContinuousBernoulli
from pyro_vae.model.open_plates import HALVES, check_in_plates, check_labels_in_plates
from pyro_vae.model.program import check_tensor

NO_DATA = "the guide is q(z|x) and needs the data: guide(x). Without data, use only the model"
_MOST_SHOWN = 10  # numbers of a row
_CLOSED = (constraints.interval, constraints.greater_than_eq, constraints.half_open_interval)


def check_data(x: Tensor | None, y: Tensor | None = None, missing: bool = False) -> None:
    """Checks the data that a guide is given.

    Args:
        x: (B, *x_shape), or None.
        y: one-hot labels (B, C), or None.
        missing: whether NaN is a missing number, and let through.

    Raises:
        TypeError: x or y is not a tensor.
        ValueError: there are no data, or the labels have another shape or number.
        DataError: a number is neither finite nor missing.
    """
    if x is None:
        raise ValueError(NO_DATA)
    check_tensor(x)
    _check_finite("x", x, 1, missing)
    check_labels(y, len(x))


def check_data_in_plates(x: Tensor, y: Tensor | None, missing: bool, event_dim: int) -> None:
    """Checks the data that a guide is given under plates that others opened.

    Args:
        x: (*plates, *x_shape).
        y: one-hot labels (*, C), or None.
        missing: whether NaN is a missing number, and let through.
        event_dim: the number of dimensions of x_shape.

    Raises:
        TypeError, ValueError, DataError: as `check_data`.
        UsageError: a batch dimension belongs to no open plate, or has another size."""
    check_in_plates("x", x, event_dim)
    _check_finite("x", x, x.dim() - event_dim, missing)
    check_label_rows(y)


def check_label_rows(y: Tensor | None) -> None:
    """Checks labels under plates that others opened, perhaps enumerated.

    Args:
        y: (*, C), or None. Each batch dimension belongs to an open plate, has size 1, or is enumerated by Pyro.

    Raises:
        TypeError: y is not a tensor.
        UsageError: a batch dimension belongs to no plate that is open, or has another size.
        DataError: a number is not finite.
    """
    if y is None:
        return
    _check_is_labels(y)
    if not y.is_floating_point():
        require((y <= 1).all(), lambda: _class_numbers(y))
    try:
        check_labels_in_plates(y)
    except UsageError as error:
        if (y == y.to(torch.int64)).all() and (y.shape[-1] == 1 or (y > 1).any()):
            raise _class_numbers(y) from error
        raise
    _check_finite("y", y, y.dim() - 1)


def check_labels(y: Tensor | None, number: int) -> None:
    """Checks the labels of this many data.

    Args:
        y: (B, C), or None.
        number: B.

    Raises:
        TypeError: y is not a tensor.
        ValueError: it has another shape, or belongs to another number of data.
        DataError: a number is not finite.
    """
    if y is None:
        return
    _check_is_labels(y)
    if y.dim() > 2:
        raise ValueError(
            f"labels y are one-hot, (B, C); got shape {tuple(y.shape)}. For labels that Pyro enumerates, or that lie "
            f"in your own plates, use {HALVES}, under those plates"
        )
    if y.dim() != 2:
        raise ValueError(
            f"labels y are one-hot, (B, C); got shape {tuple(y.shape)}: torch.nn.functional.one_hot(y, C).float()"
        )
    if len(y) != number:
        one = f". For labels that Pyro enumerates, one after another or at once, use {HALVES}, under your own plate"
        raise ValueError(
            f"each datum needs its label: there are {number} data and {len(y)} labels{one if len(y) == 1 else ''}"
        )
    _check_finite("y", y, 1)


def check_one_hot(y: Tensor) -> None:
    """Checks that each row of labels is a class: zeros and a single 1.

    Args:
        y: (N, C), of any type.

    Raises:
        DataError: a row is something else, such as a soft label.

    Example:
        >>> check_one_hot(torch.tensor([[0.0, 1.0], [0.5, 0.5]]))
        Traceback (most recent call last):
        ...
        pyro_vae.errors.DataError: `y` are one-hot labels, zeros and a single 1 for each datum; row 1 is [0.5, 0.5]: ...
    """
    right = ((y == 0) | (y == 1)).all(1) & ((y == 1).sum(1) == 1)
    if right.all():
        return
    row = int((~right).nonzero()[0])
    values = y[row].tolist()
    shown = ", ".join(f"{value:.4g}" for value in values[:_MOST_SHOWN]) + ", ..." * (len(values) > _MOST_SHOWN)
    raise DataError(
        f"`y` are one-hot labels, zeros and a single 1 for each datum; row {row} is [{shown}]: "
        "torch.nn.functional.one_hot(labels, C).float() makes them from class numbers, and for soft labels "
        "one_hot(y.argmax(1), C) keeps the likeliest class"
    )


def _check_is_labels(y: Any) -> None:
    if not isinstance(y, Tensor):
        raise TypeError(f"labels y must be a tensor; got {type(y).__name__}: torch.as_tensor(y)")
    if y.dim() == 0:
        raise ValueError("labels y are one-hot, (*, C); got a single number: torch.nn.functional.one_hot(y, C).float()")


def _class_numbers(y: Tensor) -> UsageError:
    return UsageError(
        f"labels y are one-hot, (*, C); got numbers of classes, of shape {tuple(y.shape)}: sample y from "
        "dist.OneHotCategorical instead of dist.Categorical, or torch.nn.functional.one_hot(y, C).float()"
    )


def _check_finite(name: str, x: Tensor, batch_dim: int, missing: bool = False) -> None:
    right = ~x.isinf() if missing else torch.isfinite(x)
    require(right.all(), lambda: _not_finite(name, x, right, batch_dim))


def _not_finite(name: str, x: Tensor, right: Tensor, batch_dim: int) -> DataError:
    at = (~right).nonzero()[0].tolist()
    number = x[tuple(at)].item()
    cure = f". {IF_MISSING}" if math.isnan(number) and name == "x" else ""
    return DataError(f"{name} holds {number} at {_datum(at[:batch_dim])}, position {tuple(at[batch_dim:])}{cure}")


def in_rows(x: Tensor, batch_dim: int) -> tuple[Tensor, Callable[[int], str]]:
    """Returns data (*, *x_shape) with their batch dimensions as one, and a function that names a row of them.

    Args:
        x: data.
        batch_dim: the number of batch dimensions.

    Example:
        >>> rows, place = in_rows(torch.zeros(3, 5, 1, 8, 8), batch_dim=2)
        >>> rows.shape, place(7)
        (torch.Size([15, 1, 8, 8]), 'datum (1, 2)')
    """
    lead = x.shape[:batch_dim]
    rows = x.reshape(-1, *x.shape[batch_dim:])
    return rows, lambda row: _datum([int(at) for at in torch.unravel_index(torch.tensor(row), lead)] if lead else [])


def _datum(at: list[int]) -> str:
    return f"datum {at[0] if len(at) == 1 else tuple(at)}" if at else "the datum"


def check_ends(p: Any, x: Tensor, batch_dim: int = 1) -> None:
    """Refuses data at an end of a closed support where log p is not finite, as with a Beta at exactly 0.

    There the loss would be -inf and an evaluation NaN.

    Args:
        p: p(x|z), perhaps with batch dimensions declared as an event.
        x: data (B, *x_shape), or (*, *x_shape) with batch_dim dimensions before x_shape.
        batch_dim: the number of batch dimensions.

    Raises:
        DataError: there is such a datum; the message names the value, its place and the cure.

    Example:
        >>> check_ends(torch.distributions.Beta(0.5, 0.5), torch.tensor([0.5, 0.0]))
        Traceback (most recent call last):
        ...
        pyro_vae.errors.DataError: the density of Beta is not finite at 0, an end of its support, where x is ...
    """
    while isinstance(p, Independent):
        p = p.base_dist
    if isinstance(p, ContinuousBernoulli):
        return
    ends = _ends(p)
    if not ends:
        return
    with torch.no_grad():
        log_prob = p.log_prob(x)
    log_prob = log_prob[(..., *[None] * len(p.event_shape))]
    bad = reduce(torch.logical_or, (x == end for end in ends)) & ~log_prob.isfinite()
    bad = bad.reshape(-1, *x.shape).any(0)  # at any of several draws of z
    require(~bad.any(), lambda: _at_an_end(p, x, bad, batch_dim))


def _ends(p: Any) -> list[float | Tensor]:
    """Returns the ends of a closed support of real numbers; none if the support is open or holds whole numbers."""
    try:
        support = base_constraint(p.support)
    except NotImplementedError:
        return []
    if support is constraints.simplex:
        return [0.0]
    if support.is_discrete or not isinstance(support, _CLOSED):
        return []
    return [getattr(support, name) for name in ("lower_bound", "upper_bound") if hasattr(support, name)]


def _at_an_end(p: Any, x: Tensor, bad: Tensor, batch_dim: int) -> DataError:
    at = bad.nonzero()[0].tolist()
    return DataError(
        f"the density of {type(p).__name__} is not finite at {x[tuple(at)].item():g}, an end of its support, where x "
        f"is at {_datum(at[:batch_dim])}, position {tuple(at[batch_dim:])}. Move the data off the ends, or use a "
        "distribution that is finite there, such as likelihoods.ContinuousBernoulli on [0, 1]"
    )
