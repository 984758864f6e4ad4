"""What the graph of a step returns, and what is read from it: in one process, and summed over many.

In one process the graph returns the loss, whether it is sound, and the gradients, which it has bounded.

In many it returns one flat tensor, so that one sum over the processes carries everything: the gradients, and the bytes
of the loss of each process, each byte as a number. Every floating type holds such numbers exactly, so no precision of a
loss is lost, whatever the type of the gradients.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae.graphs.suitability import NoGraph
from pyro_vae.inference.world import ALONE, World

Replay = Callable[[], Sequence[Tensor]]

_BYTES = torch.float64.itemsize


class Replayed(NamedTuple):
    """The result of a graph, before anything is applied.

    Attributes:
        loss: summed over the batch, in nats.
        is_sound: whether loss and gradients are finite and the data are valid for the program.
        gradients: in the order of the graph's parameters.
    """

    loss: float
    is_sound: bool
    gradients: Sequence[Tensor]


class Outputs:
    """What the graph of a step returns in one process.

    Args:
        parameters: those that the loss depends on.
        limit: bound on the norm of their gradient, which is a sum over the batch.
        world: the processes whose gradients are summed.
    """

    def __init__(self, parameters: Sequence[Tensor], limit: float, world: World = ALONE) -> None:
        self.parameters, self.limit, self.world = parameters, limit, world

    def made(self, loss: Tensor, is_sound: Tensor, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Makes them, within the graph.

        Args:
            loss: of shape ().
            is_sound: whether it is finite and the data are valid, of shape ().
            gradients: in the order of the parameters.
        """
        gradients = list(map(_laid_out_as, self.parameters, gradients))
        norm = _norm(gradients)
        is_sound = is_sound & torch.isfinite(norm)
        if math.isinf(self.limit):
            return [loss, is_sound, *gradients]
        factor = torch.where(norm > self.limit, _factor(norm, self.limit), 1.0)
        return [loss, is_sound, *(gradient * factor for gradient in gradients)]

    def read(self, replay: Replay) -> Replayed:
        """Replays the graph and reads what it returns."""
        loss, is_sound, *gradients = replay()
        return Replayed(loss.item(), bool(is_sound), gradients)


class SharedOutputs(Outputs):
    """What it returns in each of many processes, which read the sum: gradients that are the same to the last bit.

    A process that refuses its slice tells NaN as its loss, and so all refuse the step.

    Args:
        parameters, limit, world: as for `Outputs`; the bound is on the norm of the sum.

    Raises:
        NoGraph: the parameters do not fit into one tensor.
    """

    def __init__(self, parameters: Sequence[Tensor], limit: float, world: World) -> None:
        super().__init__(parameters, limit, world)
        if not parameters:
            raise NoGraph("no parameter gets a gradient")
        if len({(parameter.dtype, parameter.device) for parameter in parameters}) > 1:
            raise NoGraph("its parameters are of several types, and one sum cannot carry their gradients")

    def made(self, loss: Tensor, is_sound: Tensor, gradients: Sequence[Tensor]) -> list[Tensor]:
        told = torch.where(is_sound, loss.double(), math.nan).reshape(1).view(torch.uint8)
        before, after = self.world.rank * _BYTES, (self.world.size - self.world.rank - 1) * _BYTES
        like = self.parameters[0]
        flat = [gradient.reshape(-1) for gradient in gradients]
        return [torch.cat([*flat, like.new_zeros(before), told.to(like.dtype), like.new_zeros(after)])]

    def read(self, replay: Replay) -> Replayed:
        """Replays the graph and reads the sum of what it returns in all processes.

        Raises:
            ProcessError: another process has ended.
        """
        try:
            (flat,) = replay()
        except Exception:  # of any kind: the others wait for this sum. Pyro's own step meets it again
            (flat,) = self._refusal()
        sizes = [parameter.numel() for parameter in self.parameters]
        *parts, losses = self.world.sum(flat).split([*sizes, self.world.size * _BYTES])
        loss = losses.to(torch.uint8).view(torch.float64).sum().item()
        gradients = [part.view(p.shape) for part, p in zip(parts, self.parameters, strict=True)]
        norm = _norm(gradients)
        if norm > self.limit:
            flat.mul_(_factor(norm, self.limit))
        is_sound = math.isfinite(loss) and math.isfinite(norm.item())
        return Replayed(loss, is_sound, list(map(_laid_out_as, self.parameters, gradients)))

    def _refusal(self) -> list[Tensor]:
        gradients = [torch.zeros_like(parameter) for parameter in self.parameters]
        loss = self.parameters[0].new_zeros(())
        return self.made(loss, torch.isnan(loss), gradients)


def outputs(parameters: Sequence[Tensor], limit: float, world: World) -> Outputs:
    """Returns the outputs of a graph in a world of one or many processes."""
    return (Outputs if world.size == 1 else SharedOutputs)(parameters, limit, world)


def _laid_out_as(parameter: Tensor, gradient: Tensor) -> Tensor:
    """Returns the gradient in the memory layout of the parameter, since optimisers go through both in memory order."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter, requires_grad=False).copy_(gradient)


def _norm(gradients: Sequence[Tensor]) -> Tensor:
    """Like `torch.nn.utils.get_total_norm`, with operations that a compiler can fuse."""
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients]))


def _factor(norm: Tensor, limit: float) -> Tensor:
    """The factor of `torch.nn.utils.clip_grads_with_norm_`, for a norm above the limit."""
    return limit / (norm + 1e-6)
