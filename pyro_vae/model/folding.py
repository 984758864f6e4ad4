"""Leading dimensions folded into one before a network of any user's, and unfolded after it.

Draws, particles and paths put dimensions in front of the data, and nearly every `nn.Module` knows one such dimension
alone: batch norm takes the second for channels, `softmax(dim=1)` normalises over data. So a network of a user's sees
(N, *), whatever it is asked for. Those of `pyro_vae.networks` fold for themselves.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_vae.model.networks import Network


def folded(network: Callable[..., Any], x: Tensor, y: Tensor | None, event_dim: int) -> Tensor:
    """Calls a network at x and labels y, whose leading dimensions are broadcast against each other.

    Args:
        network: maps (N, *event_shape) and, where y is given, (N, C) to (N, *out_shape).
        x: (*, *event_shape).
        y: (*, C), or None.
        event_dim: the number of dimensions of event_shape.

    Returns:
        (*, *out_shape).

    Raises:
        TypeError: the network returns no tensor.
        ValueError: it returns another number of rows than it was given.

    Example:
        >>> folded(torch.nn.Softmax(dim=1), torch.zeros(5, 3, 2), None, event_dim=1)[0, 0]
        tensor([0.5000, 0.5000])
    """
    if getattr(type(network), "forward", None) is Network.forward:
        return network(x) if y is None else network(x, y)
    lead, rows = _rows([(x, event_dim)] if y is None else [(x, event_dim), (y, 1)])
    output = network(*rows)
    _check_rows(network, output, lead.numel())
    return output if len(lead) == 1 else output.reshape(*lead, *output.shape[1:])


def _rows(arguments: list[tuple[Tensor, int]]) -> tuple[torch.Size, list[Tensor]]:
    """Returns the common leading shape of tensors, each with its number of event dimensions, and their folded rows."""
    split = [(value, value.dim() - event_dim) for value, event_dim in arguments]
    lead = torch.broadcast_shapes(*(value.shape[:at] for value, at in split))
    whole = [value if value.shape[:at] == lead else value.expand(*lead, *value.shape[at:]) for value, at in split]
    if len(lead) == 1:
        return lead, whole
    return lead, [value.reshape(lead.numel(), *value.shape[len(lead) :]) for value in whole]


def _check_rows(network: Any, output: Any, number: int) -> None:
    name = getattr(network, "__name__", type(network).__name__)
    if not isinstance(output, Tensor):
        raise TypeError(
            f"{name} must return one tensor; got a {type(output).__name__}. What an encoder gives stands side by side "
            "in it, torch.cat([loc, scale.log()], -1); what a decoder gives for each pixel in an axis of its own, "
            "torch.stack([loc, scale.log()], 1)"
        )
    if output.dim() == 0 or len(output) != number:
        raise ValueError(
            f"{name} must give one row for each that it is given; got {tuple(output.shape)} for {number} rows. "
            "Leading dimensions are folded before it: it sees (N, *) alone"
        )
