"""All latent sites of a program in one vector z of D real numbers, which grids and chains move."""

from typing import Any

import torch
from pyro import poutine
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Independent

from pyro_vae.model import traces
from pyro_vae.model.conditions import base_constraint


class Coordinates:
    """The places of the latent sites in z.

    Args:
        sites: name -> site, in the order of their places in z; see `traces.latent_sites`.

    Attributes:
        shapes: name -> event shape.
        dim: D.
    """

    def __init__(self, sites: dict[str, traces.Site]) -> None:
        self.shapes = {name: site["fn"].event_shape for name, site in sites.items()}
        self.dim = sum(shape.numel() for shape in self.shapes.values())

    def read(self, trace: Any) -> Tensor:
        """Reads the latents of a trace, (*, B, D)."""
        values = [(trace.nodes[name]["value"], len(shape)) for name, shape in self.shapes.items()]
        return torch.cat([value.reshape(*value.shape[: value.dim() - n], -1) for value, n in values], -1)

    def hold(self, z: Tensor) -> poutine.Trace:
        """Returns a trace for `poutine.replay` that sets the latents to z (*, B, D)."""
        values = z.split([shape.numel() for shape in self.shapes.values()], -1)
        placed = zip(self.shapes.items(), values, strict=True)
        return traces.holding({name: value.reshape(*z.shape[:-1], *shape) for (name, shape), value in placed})


def check_real(name: str, distribution: Any, work: str) -> None:
    """Refuses a latent site that does not range over all real numbers.

    Args:
        name: the name of the site.
        distribution: its distribution, perhaps within `Independent`.
        work: what needs real numbers, for the message, such as "a grid".

    Raises:
        ValueError: another support.
    """
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    support = base_constraint(distribution.support)
    if support not in (constraints.real, constraints.real_vector):
        raise ValueError(
            f"site {name} is a {type(distribution).__name__} over {support}: {work} needs latents over all real numbers"
        )
