"""Densities far from their draws, which the guide of an untrained network, or a far datum, can reach."""

from typing import Any

import torch
from torch import Tensor

from pyro_vae.model.checks.agreement import in_support, is_discrete
from pyro_vae.model.conditions import in_words

DISTANCES = (10, 20, 40)  # standard deviations
_SIGNS = 8  # directions for each distance: all up, all down, and at random


@torch.no_grad()
def not_finite_at(p: Any, draws: Tensor) -> str:
    """Describes where, far from its draws but in its support, the log-density of p is not finite; '' for nowhere.

    The standard deviation is that of a normal with the same inner nine tenths as the draws.

    Args:
        p: a distribution.
        draws: of p, (N, *batch_shape, *event_shape).

    Example:
        >>> p = torch.distributions.Normal(torch.zeros(3), 1.0)
        >>> not_finite_at(p, p.sample((200,)))
        ''
    """
    ordered = draws.double().sort(0).values
    low, centre, high = (ordered[int(share * (len(draws) - 1))] for share in (0.05, 0.5, 0.95))
    signs = torch.randint(2, (_SIGNS, *draws.shape[1:])) * 2.0 - 1.0
    signs[0], signs[1] = 1.0, -1.0
    for distance in DISTANCES:
        value = (centre + distance * (high - low) / 3.29 * signs.double()).to(draws.dtype)
        value = value.round() if is_discrete(p) else value
        inside = in_support(p, value)
        event = (..., *[None] * len(p.event_shape))
        log_prob = p.log_prob(torch.where(inside[event], value, draws[0]))
        if (bad := inside & ~log_prob.isfinite()).any():
            place = tuple(bad.nonzero()[0])
            return f"{log_prob[place]:g} at {in_words(value[place])}, {distance} standard deviations from its draws"
    return ""
