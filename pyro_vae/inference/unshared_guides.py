"""Automatic guides whose parameters are their own."""

import itertools
import weakref
from typing import TypeVar

import pyro
from pyro.nn import PyroModule

from pyro_vae.model.parameter_store import unlist

Guide = TypeVar("Guide", bound=PyroModule)

_serial = itertools.count()


def unshared(guide: Guide, name: str | None = None) -> Guide:
    """Gives a guide of Pyro's, `AutoNormal` say, a name of its own in Pyro's parameter store.

    Pyro knows the parameters of every AutoNormal as `AutoNormal.locs...`. Where two of them are over a site of the same
    name, in programs of two seeds say, the second takes over the first one's tensors and goes on training them, in
    both programs. Under a name of its own each keeps its own, which leave the store when the guide dies.

    Args:
        guide: a PyroModule that has not run yet. A copy needs a name of its own again.
        name: in every process the same; by default the class with a number.

    Returns:
        The guide.

    Raises:
        TypeError: it is no PyroModule.
        ValueError: it has run, and its parameters are listed.

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
        raise TypeError(
            f"a guide of Pyro's is a PyroModule; got {type(guide).__name__}, which has no name in the store"
        )
    if guide._pyro_context.used:
        raise ValueError(f"this {type(guide).__name__} has run, and the store knows its parameters: name it before")
    prefix = name or f"{type(guide).__name__}-{next(_serial)}"
    guide._pyro_set_supermodule(prefix, guide._pyro_context)
    weakref.finalize(guide, _leave, prefix).atexit = False
    return guide


def _leave(prefix: str) -> None:
    for name in [name for name in pyro.get_param_store()._params if name.startswith(f"{prefix}.")]:
        unlist(name)
