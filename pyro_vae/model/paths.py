r"""Paths in the latent space, from the code of one datum to that of another.

Straight:

.. math:: z(t) = (1 - t) a + t b

Spherical, with w the angle of a and b:

.. math:: z(t) = \frac{(1 - t) |a| + t |b|}{\sin w}
          \left( \sin((1 - t) w) \frac{a}{|a|} + \sin(t w) \frac{b}{|b|} \right)

Through the base of a prior z = f^-1(u), u ~ base, with u(t) spherical from f(a) to f(b):

.. math:: z(t) = f^{-1}(u(t))

In many dimensions nearly all draws of N(0, I) have a norm close to sqrt(D), and the straight line between two of them
passes through smaller norms, where the prior hardly ever draws. The spherical path keeps the norm. If the prior is a
flow from such a base, the same holds in the base, and the path bends around regions that the flow leaves empty.

t runs from 0 to 1 in equal steps. Every path starts and ends at its codes, up to rounding.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, TransformedDistribution
from torch.distributions.transforms import ComposeTransform

from pyro_vae.errors import UsageError, unknown
from pyro_vae.model.distributions.flows import FlowDistribution
from pyro_vae.option_words import PathKind, words

PATHS: tuple[str, ...] = words(PathKind)

Map = Callable[[Tensor], Tensor]


def path(kind: str, start: Tensor, end: Tensor, steps: int, prior: Any = None) -> Tensor:
    """Computes a path between two codes.

    Args:
        kind: one of `PATHS`.
        start, end: its ends, both (B, D).
        steps: points, both ends counted.
        prior: the distribution p(z), needed for "base".

    Returns:
        (steps, B, D).

    Raises:
        UsageError: the kind is unknown, or it is "base" and the prior is not a flow.
        ValueError: fewer than two steps.

    Example:
        >>> path("straight", torch.zeros(1, 2), torch.ones(1, 2), steps=3)[:, 0]
        tensor([[0.0000, 0.0000],
                [0.5000, 0.5000],
                [1.0000, 1.0000]])
    """
    if kind == "straight":
        return straight(start, end, steps)
    if kind == "spherical":
        return spherical(start, end, steps)
    if kind == "base":
        return through_base(start, end, steps, prior)
    raise unknown("path", kind, PATHS)


def straight(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Returns points on the straight lines from start to end, both (B, D), ends included: (steps, B, D)."""
    return start + _times(start, steps) * (end - start)


def spherical(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Returns points on great circles about 0, whose norm changes linearly and whose angle grows in equal steps.

    If the ends are parallel or opposite, or one of them is 0, no circle is determined, and the line is straight.

    Args:
        start, end: (B, D).
        steps: points, both ends counted.

    Returns:
        (steps, B, D).

    Reference:
        Section 3.3 of Shoemake, "Animating Rotation with Quaternion Curves", SIGGRAPH 1985.
        https://doi.org/10.1145/325334.325242

        For latent codes: section 2.1 of White, "Sampling Generative Networks", 2016. https://arxiv.org/abs/1609.04468

    Example:
        >>> spherical(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]]), steps=3)[1]
        tensor([[1.4142, 1.4142]])
    """
    t = _times(start, steps)
    norms = start.norm(dim=-1, keepdim=True), end.norm(dim=-1, keepdim=True)
    tiny = torch.finfo(start.dtype).tiny
    directions = start / norms[0].clamp(min=tiny), end / norms[1].clamp(min=tiny)
    angle = _angle(*directions)
    # Near 0 and pi the quotient of sines loses digits because sin(angle) is small.
    none = (angle.sin() < math.sqrt(torch.finfo(start.dtype).eps)) | (norms[0] == 0) | (norms[1] == 0)
    sine = torch.where(none, 1.0, angle.sin())
    circle = (((1 - t) * angle).sin() * directions[0] + (t * angle).sin() * directions[1]) / sine
    return torch.where(none, straight(start, end, steps), circle * straight(*norms, steps))


def through_base(start: Tensor, end: Tensor, steps: int, prior: Any, between: Any = spherical) -> Tensor:
    """Computes the path f^-1(u(t)) for a prior z = f^-1(u), u ~ base.

    Args:
        start, end: (B, D).
        steps: points, both ends counted.
        prior: p(z), a flow (`pyro_vae.priors.FlowPrior`) or any `TransformedDistribution`.
        between: the path in the base, `spherical` or `straight`.

    Returns:
        (steps, B, D).

    Raises:
        UsageError: the prior is of neither kind.

    Example:
        >>> import pyro.distributions as dist
        >>> from torch.distributions.transforms import ExpTransform
        >>> prior = dist.TransformedDistribution(dist.Normal(torch.zeros(2), 1.0), [ExpTransform()]).to_event(1)
        >>> through_base(torch.tensor([[1.0, 1.0]]), torch.tensor([[4.0, 9.0]]), 3, prior, straight)[1]
        tensor([[2., 3.]])
    """
    maps = base_maps(prior)
    if maps is None:
        prior_here = "there is none over these latents" if prior is None else f"here p(z) is a {_name(prior)}"
        raise UsageError(f"the path 'base' goes through the base of a flow prior; {prior_here}. Use 'spherical'")
    to_base, from_base = maps
    return from_base(between(to_base(start), to_base(end), steps))


def base_maps(prior: Any) -> tuple[Map, Map] | None:
    """Returns f and f^-1 of a distribution z = f^-1(u), u ~ base: to the base and back; None for any other."""
    while isinstance(prior, Independent):
        prior = prior.base_dist
    if isinstance(prior, FlowDistribution):
        flow: Any = prior.dist
        return flow.transform, flow.transform.inv
    if isinstance(prior, TransformedDistribution):
        transform = ComposeTransform(prior.transforms)
        return transform.inv, transform
    return None


def _times(like: Tensor, steps: int) -> Tensor:
    if steps < 2:
        raise ValueError(f"a path has two ends, so steps must be 2 or more; got {steps}")
    return torch.linspace(0, 1, steps, dtype=like.dtype, device=like.device)[:, None, None]


def _angle(a: Tensor, b: Tensor) -> Tensor:
    """Computes angles of unit vectors (B, D): (B, 1). Exact near 0 and pi, where acos loses half the digits (Kahan)."""
    return 2 * torch.atan2((a - b).norm(dim=-1, keepdim=True), (a + b).norm(dim=-1, keepdim=True))


def _name(prior: Any) -> str:
    while isinstance(prior, Independent):
        prior = prior.base_dist
    return type(prior).__name__
