"""Which steps can be a graph, in addition to the conditions of `pyro_vae.graphs.suitability` for every program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae.inference.objectives import ImportanceWeightedELBO
from pyro_vae.inference.sampled_elbo import SampledELBO
from pyro_vae.model.conditions import require

COVERED = (Trace_ELBO, TraceMeanField_ELBO, SampledELBO, ImportanceWeightedELBO)


def is_covered(loss: Any) -> bool:
    """Returns whether its step is that of a covered loss: subclasses can have a step of their own."""
    kind = next((kind for kind in reversed(COVERED) if isinstance(loss, kind)), None)
    own = ("loss", "differentiable_loss", "loss_and_grads", "_differentiable_loss_particle")
    return kind is not None and all(getattr(type(loss), name, None) is getattr(kind, name, None) for name in own)


def requiring_support(model: Callable[..., Any]) -> Callable[..., Any]:
    """Turns Pyro's validation of a model's observed values into conditions of its graph."""
    return _Supported()(model)


class _Supported(Messenger):
    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["is_observed"] and isinstance(msg["value"], Tensor):
            require(_inside(msg["fn"], msg["value"]), lambda: ValueError(f"site {msg['name']}: outside its support"))


def _inside(distribution: Any, value: Tensor) -> Tensor:
    try:
        return distribution.support.check(value).all()
    except (NotImplementedError, ValueError):  # the support is not known, and torch's own check lets it pass too
        return torch.ones((), dtype=torch.bool, device=value.device)
