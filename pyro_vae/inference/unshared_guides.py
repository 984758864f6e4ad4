"""Automatic guides that share no parameters."""

import itertools
import weakref
from typing import TypeVar

import pyro
from pyro.nn import PyroModule

from pyro_vae.model.parameter_store import unlist

Guide = TypeVar("Guide", bound=PyroModule)

_serial = itertools.count()


def unshared(guide: Guide, name: str | None = None) -> Guide:
    """Gives a Pyro guide, such as `AutoNormal`, its own name in Pyro's parameter store.

    Pyro knows the parameters of every AutoNormal as `AutoNormal.locs...`. If two of them have a site of the same name,
    for example in programs of two seeds, the second takes over the tensors of the first and trains them in both
    programs. With its own name each guide keeps its own parameters, and they leave the store when the guide is deleted.

    Args:
        guide: a PyroModule that has not run yet. A copy needs its own name again.
        name: the name, the same in every process; by default the class with a number.

    Returns:
        The guide.

    Raises:
        TypeError: the guide is not a PyroModule.
        ValueError: the guide has run, so its parameters are already in the store.

    Example:
        >>> import pyro.distributions as dist, torch
        >>> from pyro.infer.autoguide import AutoNormal
        >>> def model(): return pyro.sample("shift", dist.Normal(0.0, 1.0))
        >>> first, second = unshared(AutoNormal(model)), unshared(AutoNormal(model))
        >>> drawn = first(), second()
        >>> first.locs.shift is second.locs.shift
        False
    """
    if not isinstance(guide, PyroModule):
        raise TypeError(f"guide must be a PyroModule, which has a name in the store; got {type(guide).__name__}")
    if guide._pyro_context.used:
        raise ValueError(f"this {type(guide).__name__} has run already. Call `unshared` before the guide runs")
    prefix = name or f"{type(guide).__name__}-{next(_serial)}"
    guide._pyro_set_supermodule(prefix, guide._pyro_context)
    weakref.finalize(guide, _leave, prefix).atexit = False
    return guide


def _leave(prefix: str) -> None:
    for name in [name for name in pyro.get_param_store()._params if name.startswith(f"{prefix}.")]:
        unlist(name)
