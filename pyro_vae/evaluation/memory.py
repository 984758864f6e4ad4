"""The number of draws in a block: as many as fit its tensors into a memory budget.

The noise of a block depends on its size. So the size depends only on the program and the shape of a datum, not on the
machine or the number of data.
"""

from collections.abc import Iterator
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae.model import traces
from pyro_vae.model.program import undisturbed
from pyro_vae.randomness import SAMPLE_BLOCK, preserved

DATA_BLOCK = 128
_FEW = 8  # draws that always make one block, whatever the program
_FEWEST = 2  # so that one seed has separate noise for at least 8,192 draws
_seen_to_read: WeakSet[nn.Module] = WeakSet()  # so that a training, which validates each epoch, checks only once
_BUDGET = 1 << 27  # numbers, 512 MiB, that all operations on a block produce; few of its tensors exist at a time


def sample_block(vae: Any, x: Tensor, num_samples: int, labels: tuple[Tensor, ...] = ()) -> int:
    """Returns the number of draws in a block: 32, or fewer if a program computes more than 32,768 numbers per draw.

    Args:
        vae: anything with `.model` and `.guide` over one data plate.
        x: the first block of data (B, *x_shape); the whole block, since a guide can have parameters for each datum.
        num_samples: K; eight draws or fewer are always one block.
        labels: empty, or one tensor (B, C).

    Raises:
        ValueError: the model does not read x, so the estimate would be for other data.
    """
    if num_samples <= _FEW and isinstance(vae, nn.Module) and vae in _seen_to_read:
        return SAMPLE_BLOCK
    with torch.no_grad(), undisturbed(vae), preserved(x.device):
        one = _numbers(vae, 1, x, *labels)
        if isinstance(vae, nn.Module):
            _seen_to_read.add(vae)
        if num_samples <= _FEW:
            return SAMPLE_BLOCK
        two = _numbers(vae, 2, x, *labels)
    return max(_FEWEST, min(SAMPLE_BLOCK, _BUDGET // (DATA_BLOCK * max(1, (two - one) // len(x)))))


class _Count(TorchDispatchMode):
    """Counts the numbers in all tensors that operations return, and notes whether any operation takes `x`."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.numbers, self.is_read, self._x = 0, False, x

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.is_read = self.is_read or any(each is self._x for each in _flat([*args, *(kwargs or {}).values()]))
        output = func(*args, **(kwargs or {}))
        self.numbers += output.numel() if isinstance(output, Tensor) else 0
        return output


def _flat(arguments: list[Any]) -> Iterator[Any]:
    """The arguments of an operation, with lists of tensors flattened; these hold no other lists."""
    for argument in arguments:
        yield from argument if isinstance(argument, list | tuple) else (argument,)


def _numbers(vae: Any, num_samples: int, *given: Tensor) -> int:
    x, *labels = given
    own = x.clone()  # only for the model, so that a guide that reads x does not count

    def model(_: Tensor, *labels: Tensor) -> Any:
        return vae.model(own, *labels)

    with _Count(own) as count:
        traces.run(model, vae.guide, num_samples, x, *labels)
    if not count.is_read:
        raise ValueError(
            f"the model of {type(vae).__name__} does not read the x that it is given, so the estimate would be for "
            "other data. Observe the argument of model(x), by `obs=x` or `vae.generative(x)`, and not other data"
        )
    return count.numbers
