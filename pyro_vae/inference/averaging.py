r"""The average of a program's tensors over the last part of a training, which has less noise than the last step.

.. math:: \bar\theta_t = (1 - w_t) \bar\theta_{t-1} + w_t \theta_t, \qquad w_t = \frac{1 + \eta}{t + \eta}, \qquad
   \eta = \frac{1}{s} - 1

s = 1 is the mean of all values. A smaller s forgets early values: a share 1 - (1 - s)^(1/s) of the weight, two thirds
for a small s, lies on the last share s of the training, however long that gets, and the rest on what came before.

Reference:
    Section 4 of Shamir & Zhang, "Stochastic Gradient Descent for Non-smooth Optimization", ICML 2013.
    https://arxiv.org/abs/1212.1824
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from pyro_vae.model.program import Program

_EVERY = 100  # steps; the noise of steps that are nearer to each other is nearly the same


def interval(steps: int) -> int:
    """Returns after how many steps the average takes another value: 100, or an epoch if that has fewer.

    So what is validated at the end of an epoch can be up to 99 steps old.

    Example:
        >>> interval(2500), interval(10)
        (100, 10)
    """
    return min(_EVERY, steps)


@torch.no_grad()
def updated(
    average: Mapping[str, Tensor], tensors: Mapping[str, Tensor], count: int, share: float
) -> dict[str, Tensor]:
    """Adds the present tensors to an average, in place, and returns it.

    Args:
        average: of the values so far, by name; empty before the first.
        tensors: the present values. Those that are no floats have no mean, and are copied.
        count: the number of values with this one, from 1.
        share: of the training, s.

    Example:
        >>> average = {}
        >>> for count, value in enumerate([1.0, 2.0, 6.0], start=1):
        ...     average = updated(average, {"w": torch.tensor(value)}, count, share=1.0)
        >>> average["w"]
        tensor(3.)
    """
    if not average:
        return {name: tensor.clone() for name, tensor in tensors.items()}
    power = 1 / share - 1
    moved = [name for name, tensor in tensors.items() if not torch.equal(average[name], tensor)]  # an infinity stays
    floats = [name for name in moved if tensors[name].is_floating_point()]
    if floats:  # which torch asks for
        torch._foreach_lerp_(
            [average[name] for name in floats], [tensors[name] for name in floats], (1 + power) / (count + power)
        )
    for name in set(moved) - set(floats):
        average[name].copy_(tensors[name])
    return dict(average)


@contextmanager
def holding(program: Program, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Gives a program these tensors inside, and afterwards its own again.

    Args:
        program: it is changed in place.
        tensors: by name, as `tensors()` of the program returns them; if there are none, nothing is done.
    """
    own = {name: tensor.clone() for name, tensor in program.tensors().items()} if tensors else {}
    try:
        if tensors:
            program.set_tensors(tensors)
        yield
    finally:
        if own:
            program.set_tensors(own)
