"""What models and guides are given, checked at the door: data, labels, and densities at the ends of their support."""

import math
from functools import reduce
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Independent

from pyro_vae.errors import DataError
from pyro_vae.model.conditions import IF_MISSING, base_constraint, require
from pyro_vae.model.distributions import ContinuousBernoulli
from pyro_vae.model.program import check_tensor

_CLOSED = (constraints.interval, constraints.greater_than_eq, constraints.half_open_interval)


def check_data(x: Tensor | None, y: Tensor | None = None, missing: bool = False) -> None:
    """Checks the data that a guide is given.

    Args:
        x: (B, *x_shape), or None.
        y: one-hot labels (B, C), or None.
        missing: whether NaN is a missing number, and let through.

    Raises:
        TypeError: x or y is no tensor.
        ValueError: there are no data, or labels of another shape or number.
        DataError: a number is not finite, and no missing one.
    """
    if x is None:
        raise ValueError("the guide is q(z|x) and needs the data: guide(x). Without data, use the model alone")
    check_tensor(x)
    right = ~x.isinf() if missing else torch.isfinite(x)
    require(right.all(), lambda: _not_finite("x", x, right))
    check_labels(y, len(x))


def check_labels(y: Tensor | None, number: int) -> None:
    """Checks the labels of so many data.

    Args:
        y: (B, C), or None.
        number: B.

    Raises:
        TypeError: y is no tensor.
        ValueError: it has another shape, or is of another number of data.
        DataError: a number is not finite.
    """
    if y is None:
        return
    if not isinstance(y, Tensor):
        raise TypeError(f"labels y must be a tensor; got {type(y).__name__}: torch.as_tensor(y)")
    if y.dim() != 2:
        raise ValueError(
            f"labels y are one-hot, (B, C); got shape {tuple(y.shape)}: torch.nn.functional.one_hot(y, C).float()"
        )
    if len(y) != number:
        raise ValueError(f"each datum needs its label: there are {number} data and {len(y)} labels")
    right = torch.isfinite(y)
    require(right.all(), lambda: _not_finite("y", y, right))


def _not_finite(name: str, x: Tensor, right: Tensor) -> DataError:
    datum, *place = (~right).nonzero()[0].tolist()
    number = x[datum][tuple(place)].item()
    cure = f". {IF_MISSING}" if math.isnan(number) and name == "x" else ""
    return DataError(f"{name} holds {number} at datum {datum}, position {tuple(place)}{cure}")


def check_ends(p: Any, x: Tensor) -> None:
    """Refuses data at an end of a closed support at which log p is not finite, as that of a Beta is at exactly 0.

    There the loss would be -inf and an evaluation NaN.

    Args:
        p: p(x|z), perhaps with batch dimensions declared an event.
        x: data (B, *x_shape).

    Raises:
        DataError: with the value, its place and the cure.

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
    require(~bad.any(), lambda: _at_an_end(p, x, bad))


def _ends(p: Any) -> list[float | Tensor]:
    """Returns the ends of a closed support of real numbers; none for open ones, and for those of whole numbers."""
    try:
        support = base_constraint(p.support)
    except NotImplementedError:
        return []
    if support is constraints.simplex:
        return [0.0]
    if support.is_discrete or not isinstance(support, _CLOSED):
        return []
    return [getattr(support, name) for name in ("lower_bound", "upper_bound") if hasattr(support, name)]


def _at_an_end(p: Any, x: Tensor, bad: Tensor) -> DataError:
    datum, *place = bad.nonzero()[0].tolist()
    return DataError(
        f"the density of {type(p).__name__} is not finite at {x[datum][tuple(place)].item():g}, an end of its support, "
        f"where x is at datum {datum}, position {tuple(place)}. Move the data off the ends, or use a distribution that "
        "is finite there, as likelihoods.ContinuousBernoulli is on [0, 1]"
    )
