"""Folds leading dimensions into one before a user's network, and unfolds them after it.

Draws, particles and paths put dimensions in front of the data, but nearly every `nn.Module` knows only one such
dimension: batch norm takes the second for channels, and `softmax(dim=1)` would normalise over data. So a user's network
always sees (N, *). The networks of `pyro_vae.networks` fold on their own.
"""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_vae.errors import UsageError, first_line
from pyro_vae.model.networks import Network

_OF_FORM = re.compile(
    "same dtype|scalar type|type .* should be the same|cannot be multiplied|must match|match the size|size mismatch|"
    "is invalid for input|normalized_shape|expected input|Expected .*D.* input|Expected size|must be equal to|"
    "should contain"
)


def folded(
    network: Callable[..., Any],
    x: Tensor,
    y: Tensor | None,
    event_dim: int,
    names: tuple[str, str] = ("the network", "x"),
) -> Tensor:
    """Calls a network at x and labels y, whose leading dimensions are broadcast against each other.

    Args:
        network: maps (N, *event_shape) and, if y is given, (N, C) to (N, *out_shape).
        x: (*, *event_shape).
        y: (*, C), or None.
        event_dim: the number of dimensions of event_shape.
        names: of the network and of its input, for a message, such as ("the decoder of Bernoulli", "z").

    Returns:
        (*, *out_shape).

    Raises:
        UsageError: the network does not take tensors of this shape or type.
        TypeError: the network does not return a tensor.
        ValueError: it does not return one row for each row that it was given.

    Example:
        >>> folded(torch.nn.Softmax(dim=1), torch.zeros(5, 3, 2), None, event_dim=1)[0, 0]
        tensor([0.5000, 0.5000])
    """
    if getattr(type(network), "forward", None) is Network.forward:
        return network(x) if y is None else network(x, y)
    lead, rows = _rows([(x, event_dim)] if y is None else [(x, event_dim), (y, 1)])
    try:
        output = network(*rows)
    except RuntimeError as error:
        if not _OF_FORM.search(str(error)):
            raise
        raise _misfit(network, rows, names, error) from error
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


def _misfit(network: Any, rows: list[Tensor], names: tuple[str, str], error: RuntimeError) -> UsageError:
    what, letter = names
    given = " and ".join(
        f"{name} {tuple(value.shape)} of {_plain(value.dtype)}"
        for name, value in zip((letter, "y"), rows, strict=False)
    )
    cure = f"Build it for {letter} (N, {', '.join(map(str, rows[0].shape[1:]))}), or pass what it was built for"
    own = {p.dtype for p in network.parameters()} if isinstance(network, torch.nn.Module) else set()
    if (others := own - {rows[0].dtype}) and len(own) == 1:
        (kept,), got = others, rows[0].dtype
        other = f", or make the program {_plain(got)}, program.to({got})" if got.is_floating_point else ""
        cure = f"Its parameters are {_plain(kept)}: pass such numbers, {letter}.to({kept}){other}"
    return UsageError(f"{what}, {_name(network)}, cannot take {given}: {first_line(error)}. {cure}")


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _name(network: Any) -> str:
    return getattr(network, "__name__", type(network).__name__)


def _check_rows(network: Any, output: Any, number: int) -> None:
    name = _name(network)
    if not isinstance(output, Tensor):
        raise TypeError(
            f"{name} must return one tensor; got a {type(output).__name__}. Put the outputs of an encoder side by "
            "side, torch.cat([loc, scale.log()], -1), and the outputs of a decoder for each pixel into an axis of "
            "their own, torch.stack([loc, scale.log()], 1)"
        )
    if output.dim() == 0 or len(output) != number:
        raise ValueError(
            f"{name} must return one row for each row that it is given; got {tuple(output.shape)} for {number} rows. "
            "Leading dimensions are folded before it, so it only sees (N, *)"
        )
