"""The number of draws in a block: as many as keep its tensors within a budget of memory.

The noise of a block depends on its size. So the size depends on the program and the shape of a datum alone, and
neither on the machine nor on the number of data.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae.model import traces
from pyro_vae.model.program import undisturbed
from pyro_vae.randomness import SAMPLE_BLOCK, preserved

DATA_BLOCK = 128
_FEW = 8  # draws that are a block whatever the program
_FEWEST = 2  # so that one seed keeps 8,192 draws apart at least
_BUDGET = 1 << 27  # numbers, 512 MiB, that all operations on a block make; a few of its tensors live at a time


def sample_block(vae: Any, x: Tensor, num_samples: int, labels: tuple[Tensor, ...] = ()) -> int:
    """Counts the draws of a block: 32, or fewer for a program that makes more than 32,768 numbers of each draw.

    Args:
        vae: anything with `.model` and `.guide` over one data plate.
        x: the first block of data (B, *x_shape); all of it, since a guide may have parameters for each datum.
        num_samples: K; eight draws or fewer are always one block.
        labels: empty, or one tensor (B, C).
    """
    if num_samples <= _FEW:
        return SAMPLE_BLOCK
    with torch.no_grad(), undisturbed(vae), preserved(x.device):
        one, two = (_numbers(vae, number, x, *labels) for number in (1, 2))
    return max(_FEWEST, min(SAMPLE_BLOCK, _BUDGET // (DATA_BLOCK * max(1, (two - one) // len(x)))))


class _Count(TorchDispatchMode):
    """Adds up the numbers in all tensors that operations return."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        self.numbers += output.numel() if isinstance(output, Tensor) else 0
        return output


def _numbers(vae: Any, num_samples: int, *given: Tensor) -> int:
    with _Count() as count:
        traces.run(vae.model, vae.guide, num_samples, *given)
    return count.numbers
