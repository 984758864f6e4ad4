"""Which programs can be a graph of tensor operations, and which have to be run by Pyro."""

import pickle
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_vae.graphs.watch import Watch, has_hook


class NoGraph(Exception):  # noqa: N818 - it is an answer, not an error
    """The program has to be run by Pyro; the message says why."""


def is_surrounded() -> bool:
    """Whether something is around the program, handlers of Pyro or autocast, that a graph would not hear."""
    autocast = torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")
    return autocast or bool(poutine.runtime._PYRO_STACK)


def check_hooks(modules: Iterable[nn.Module], parameters: Iterable[Tensor]) -> None:
    """Raises NoGraph where functions of the user's want to be called at each run."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    parts = [part for module in modules for part in module.modules()]
    if any(map(has_hook, parameters)) or any(getattr(part, kind) for part in parts for kind in kinds):
        raise NoGraph("a module or a parameter has a hook, which would not be called")


@contextmanager
def drawing_by_torch() -> Iterator[None]:
    """Raises NoGraph where what runs inside draws random numbers by Python or numpy; they are put back."""
    before, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002 - the user's
    try:
        yield
        now = np.random.get_state()  # noqa: NPY002
        if random.getstate() != before or pickle.dumps(now) != pickle.dumps(numpys):
            raise NoGraph("it draws random numbers that are not torch's")
    finally:
        random.setstate(before)
        np.random.set_state(numpys)  # noqa: NPY002


@contextmanager
def setting_nothing(watch: Watch) -> Iterator[None]:
    """Raises NoGraph where what runs inside sets what is watched; numbers and tensors are put back."""
    try:
        yield
    finally:
        if changed := watch.put_back():
            raise NoGraph(f"running it sets {', '.join(changed)}")
