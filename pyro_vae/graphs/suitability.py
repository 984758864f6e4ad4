"""Decides which programs can be a graph of tensor operations, and which Pyro has to run."""

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
    """Means that Pyro has to run the program; the message explains why."""


def is_surrounded() -> bool:
    """Returns whether Pyro handlers or autocast surround the program, which a graph would ignore."""
    autocast = torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")
    return autocast or bool(poutine.runtime._PYRO_STACK)


def check_hooks(modules: Iterable[nn.Module], parameters: Iterable[Tensor]) -> None:
    """Checks that no hook of the user must be called at each run.

    Args:
        modules: their hooks count, and those of their submodules.
        parameters: their hooks count.

    Raises:
        NoGraph: there is such a hook.
    """
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    parts = [part for module in modules for part in module.modules()]
    if any(map(has_hook, parameters)) or any(getattr(part, kind) for part in parts for kind in kinds):
        raise NoGraph("a module or a parameter has a hook, which would not be called")


@contextmanager
def drawing_by_torch() -> Iterator[None]:
    """Restores the generators of Python and numpy after whatever runs inside.

    Raises:
        NoGraph: the code inside drew from them.
    """
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
    """Restores watched numbers and tensors after whatever runs inside.

    Raises:
        NoGraph: the code inside set one.
    """
    try:
        yield
    finally:
        if changed := watch.put_back():
            raise NoGraph(f"running it sets {', '.join(changed)}")
