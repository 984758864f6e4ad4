"""Warns of probabilities in place of logits, for example from a decoder that ends in a Sigmoid.

It is only a warning, since no density is wrong. But if all logits are in [0, 1], every probability lies in [0.5, 0.73],
and training continues at a value far from the right one.
"""

import warnings
from typing import Any

import torch
from torch import Tensor

from pyro_vae.model import traces
from pyro_vae.model.distributions import ContinuousBernoulli, GreyLevels
from pyro_vae.model.program import undisturbed
from pyro_vae.randomness import preserved


def warn_of_squashed_logits(name: str, p: Any) -> None:
    """Warns if p is made of logits that all lie in [0, 1] and are not all the same.

    Args:
        name: of the owner of p, for the message.
        p: a distribution, perhaps with batch dimensions declared as an event.

    Example:
        >>> warn_of_squashed_logits("p(x|z)", torch.distributions.Bernoulli(logits=torch.linspace(-1, 1, 5)))
    """
    logits = _logits(p)
    if logits is None or not 0 <= logits.min() < logits.max() <= 1:
        return
    warnings.warn(
        f"{name} is a distribution with logits, and all {logits.numel()} of them lie in [0, 1], like probabilities: a "
        "decoder of logits must not end in a Sigmoid, Softmax or clamp",
        stacklevel=3,
    )


@torch.no_grad()
def warn_of_squashed_logits_in(program: Any, *args: Tensor) -> None:
    """Warns of such logits in a program, once for each observed site, at one draw of the guide.

    Args:
        program: anything with `.model` and `.guide` over one data plate.
        args: x (B, *x_shape), and labels (B, C) if there are any.
    """
    with undisturbed(program), preserved(args[0].device):
        pair = traces.run(program.model, program.guide, 1, *args)
    for name, site in traces.observed_sites(pair.model).items():
        warn_of_squashed_logits(f"site {name}", site["fn"])


def _logits(p: Any) -> Tensor | None:
    """Returns the logits that p was made from, or None for any other distribution."""
    if isinstance(p, ContinuousBernoulli | GreyLevels):
        return p.logits
    held = vars(p)  # both names of a parameter can be there, once the other was asked for
    if "logits" in held and held.get("_param", held["logits"] if "probs" not in held else None) is held["logits"]:
        return held["logits"]
    part = held.get("base_dist", held.get("_component_distribution"))
    return None if part is None else _logits(part)
