"""Normalising flows: transforms of zuko, as Pyro distributions.

    z = f^-1(u),  u ~ base,        log p(z) = log base(f(z)) + log |det df/dz|

A flow is cheap in one direction or in both. With D dimensions and one pass through the networks as the unit:

    kind                     draw    draw and its own density    density of another z
    spline (coupling)          2                3                         1
    autoregressive             D              D + 1                       1
    inverse autoregressive     1                1                       D + 1
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from pyro.contrib.zuko import ZukoToPyro
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.choices import Flow, words


class FlowDistribution(ZukoToPyro):
    """`pyro.contrib.zuko.ZukoToPyro` with what Pyro's effects ask of a distribution: sample, rsample, support.

    A flow has no closed mean: `mean` is not implemented.

    Args:
        dist: a `zuko.distributions.NormalizingFlow`.
    """

    support = constraints.real_vector

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        self.cache.clear()  # what is kept is the density of the last draw, with its graph
        return self(torch.Size(sample_shape))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            return self.dist.sample(torch.Size(sample_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> "FlowDistribution":
        return FlowDistribution(self.dist.expand(torch.Size(batch_shape)))


def flow(transform: Any, loc: Tensor, scale: Tensor) -> FlowDistribution:
    """z = transform^-1(u),  u ~ N(loc, diag scale^2)."""
    distributions = zuko("distributions")
    return FlowDistribution(distributions.NormalizingFlow(transform, distributions.DiagNormal(loc, scale)))


def zuko(module: str) -> Any:
    """A module of zuko. Its import switches the validation of distributions off for the whole process: undone here."""
    validates = Distribution._validate_args
    try:
        return import_module(f"zuko.{module}")
    finally:
        Distribution.set_default_validate_args(validates)


def spline(latent_dim: int, transforms: int, hidden: tuple[int, ...]) -> nn.Module:
    """Neural spline flow with coupling, identity outside [-5, 5]. Durkan et al., NeurIPS 2019."""
    if latent_dim < 2:
        raise ValueError(
            "a coupling flow transforms one half of z given the other and needs latent_dim 2 or more; got 1. "
            "Use an autoregressive flow"
        )
    return zuko("flows").NSF(latent_dim, transforms=_checked(transforms), hidden_features=hidden, passes=2)


def autoregressive(latent_dim: int, transforms: int, hidden: tuple[int, ...]) -> nn.Module:
    """Masked autoregressive flow. Papamakarios, Pavlakou & Murray, NeurIPS 2017."""
    return zuko("flows").MAF(latent_dim, transforms=_checked(transforms), hidden_features=hidden)


def inverse_autoregressive(latent_dim: int, context: int, transforms: int, hidden: tuple[int, ...]) -> nn.Module:
    """The transform of an inverse autoregressive flow, given a context. Kingma et al., NeurIPS 2016."""
    flow = zuko("flows").MAF(latent_dim, context, transforms=_checked(transforms), hidden_features=hidden)
    return flow.transform.inv


def _checked(transforms: int) -> int:
    if transforms < 1:
        raise ValueError(f"a flow needs at least one transform; got flow_transforms={transforms}")
    return transforms


FLOWS: dict[str, Callable[..., nn.Module]] = {name: globals()[name] for name in words(Flow)}  # the functions above
