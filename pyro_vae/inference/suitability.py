"""Which steps can be a graph, and which have to be Pyro's own."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae.inference.objectives import ImportanceWeightedELBO
from pyro_vae.model.graphs import require
from pyro_vae.model.watch import has_hook

if TYPE_CHECKING:
    from pyro_vae.inference.svi import SVI

COVERED = (Trace_ELBO, TraceMeanField_ELBO, ImportanceWeightedELBO)


class NoGraph(Exception):  # noqa: N818 - it is an answer, not an error
    """The step has to be Pyro's own; the message says why."""


def is_surrounded() -> bool:
    """Whether something is around the step, handlers of Pyro or autocast, that a graph would not hear."""
    autocast = torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")
    return autocast or bool(poutine.runtime._PYRO_STACK)


def is_covered(loss: Any) -> bool:
    """Whether its step is that of a covered loss: subclasses may have a step of their own."""
    kind = next((kind for kind in reversed(COVERED) if isinstance(loss, kind)), None)
    own = ("loss", "differentiable_loss", "loss_and_grads", "_differentiable_loss_particle")
    return kind is not None and all(getattr(type(loss), name, None) is getattr(kind, name, None) for name in own)


def check_hooks(svi: SVI) -> None:
    """Raises NoGraph where functions of the user's want to be called at each step."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    parts = [part for module in svi.modules() for part in module.modules()]
    if any(map(has_hook, svi.held())) or any(getattr(part, kind) for part in parts for kind in kinds):
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


def requiring_support(model: Callable[..., Any]) -> Callable[..., Any]:
    """The model, with what Pyro's validation asks of observed values as conditions of its graph."""
    return _Supported()(model)


class _Supported(Messenger):
    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["is_observed"] and isinstance(msg["value"], Tensor):
            require(_inside(msg["fn"], msg["value"]), lambda: ValueError(f"site {msg['name']}: outside its support"))


def _inside(distribution: Any, value: Tensor) -> Tensor:
    try:
        return distribution.support.check(value).all()
    except (NotImplementedError, ValueError):  # a support that is not known, as torch's own check lets it pass
        return torch.ones((), dtype=torch.bool, device=value.device)
