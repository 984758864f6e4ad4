r"""Normalising flows: zuko's transforms as Pyro distributions.

.. math:: z = f^{-1}(u), \quad u \sim \mathrm{base}, \qquad
          \log p(z) = \log \mathrm{base}(f(z)) + \log \left| \det \frac{\partial f}{\partial z} \right|

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

from pyro_vae.option_words import Flow, words


class FlowDistribution(ZukoToPyro):
    """`pyro.contrib.zuko.ZukoToPyro` with what Pyro's effects need from a distribution: sample, rsample, support.

    A flow has no closed mean: `mean` is not implemented.

    Args:
        dist: a `zuko.distributions.NormalizingFlow`.

    Example:
        >>> p = flow(autoregressive(4, transforms=2, hidden=(8,))().transform, torch.zeros(4), torch.ones(4))
        >>> p.rsample((3,)).shape, p.log_prob(torch.zeros(3, 4)).shape
        (torch.Size([3, 4]), torch.Size([3]))
    """

    support = constraints.real_vector

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        self.cache.clear()  # it keeps the density of the last draw, with its graph
        return self(torch.Size(sample_shape))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            return self.dist.sample(torch.Size(sample_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> "FlowDistribution":
        return FlowDistribution(self.dist.expand(torch.Size(batch_shape)))


def flow(transform: Any, loc: Tensor, scale: Tensor) -> FlowDistribution:
    """Returns the distribution of z = transform^-1(u) for u ~ N(loc, diag scale^2).

    Args:
        transform: one of zuko's, (*, D) -> (*, D).
        loc, scale: mean and standard deviation of the base, both (*, D).
    """
    distributions = zuko("distributions")
    return FlowDistribution(distributions.NormalizingFlow(transform, distributions.DiagNormal(loc, scale)))


def zuko(module: str) -> Any:
    """Imports a module of zuko, and switches the validation of distributions on again, which that import stops."""
    validates = Distribution._validate_args
    try:
        return import_module(f"zuko.{module}")
    finally:
        Distribution.set_default_validate_args(validates)


def spline(latent_dim: int, transforms: int, hidden: tuple[int, ...]) -> nn.Module:
    """Builds a neural spline flow with coupling, which is the identity outside [-5, 5].

    Args:
        latent_dim: D, 2 or more.
        transforms: their number.
        hidden: hidden widths of each transform's network.

    Raises:
        ValueError: D is 1, or there are no transforms.

    Reference:
        Durkan, Bekasov, Murray & Papamakarios, "Neural Spline Flows", NeurIPS 2019. https://arxiv.org/abs/1906.04032
    """
    if latent_dim < 2:
        raise ValueError(
            "a coupling flow transforms one half of z given the other, so it needs latent_dim 2 or more; got 1. Use "
            "an autoregressive flow"
        )
    return zuko("flows").NSF(latent_dim, transforms=_checked(transforms), hidden_features=hidden, passes=2)


def autoregressive(latent_dim: int, transforms: int, hidden: tuple[int, ...]) -> nn.Module:
    """Builds a masked autoregressive flow; it takes the arguments of `spline`, and D can be 1.

    Reference:
        Papamakarios, Pavlakou & Murray, "Masked Autoregressive Flow for Density Estimation", NeurIPS 2017.
        https://arxiv.org/abs/1705.07057
    """
    return zuko("flows").MAF(latent_dim, transforms=_checked(transforms), hidden_features=hidden)


def inverse_autoregressive(latent_dim: int, context: int, transforms: int, hidden: tuple[int, ...]) -> nn.Module:
    """Builds the transform of an inverse autoregressive flow, given a context of this many numbers.

    Reference:
        Kingma et al., "Improving Variational Inference with Inverse Autoregressive Flow", NeurIPS 2016.
        https://arxiv.org/abs/1606.04934
    """
    flow = zuko("flows").MAF(latent_dim, context, transforms=_checked(transforms), hidden_features=hidden)
    return flow.transform.inv


def _checked(transforms: int) -> int:
    if transforms < 1:
        raise ValueError(f"a flow needs at least one transform; got flow_transforms={transforms}")
    return transforms


FLOWS: dict[str, Callable[..., nn.Module]] = {name: globals()[name] for name in words(Flow)}  # the functions above
