"""Keeps the networks of a member in range while its contract is checked.

The contract is about what a member does with the numbers of its networks. An untrained network that sees a table in
units of 100 returns numbers of 100, and so exp(100) as a scale. There even a correct density is too steep for
differences and for float32. So if the inputs of a network are large, its outputs are multiplied by one constant that
makes the largest of them 3.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.model.likelihoods import Likelihood
from pyro_vae.model.posteriors import Posterior

LARGE = 10.0  # larger inputs are neither standardised data nor latents
_LARGEST = 3.0  # largest output then: exp(-3) and exp(3) are scales that float32 and differences can handle


class Gain:
    """A forward hook that multiplies outputs by a constant, which the first call determines if none is given."""

    def __init__(self, gain: float | None = None) -> None:
        self.gain = gain

    def __call__(self, network: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        """Returns the outputs in range; anything but a tensor is left for the member to refuse."""
        if not isinstance(output, Tensor) or not inputs:
            return output
        if self.gain is None:
            self.gain = _gain(_largest(inputs[0]), _largest(output))
        return output if self.gain == 1.0 else self.gain * output


def _gain(largest_in: float, largest_out: float) -> float:
    is_needed = largest_in > LARGE and _LARGEST < largest_out < torch.inf
    return _LARGEST / largest_out if is_needed else 1.0


def _largest(numbers: Any) -> float:
    if not isinstance(numbers, Tensor) or not numbers.numel():
        return 0.0
    return float(numbers.detach().double().abs().nan_to_num(0.0, posinf=torch.inf).max())


def gains(member: nn.Module, call: Callable[[nn.Module], Any]) -> dict[str, float]:
    """Returns the constant of each network of a member, by the name of the network, from one call.

    An error in that call is left to the lines of the contract.
    """
    with moderated(member) as hooks, torch.no_grad(), suppress(Exception):
        call(member)
    return {name: hook.gain for name, hook in hooks.items() if hook.gain is not None}


def moderate(member: nn.Module, known: Mapping[str, float]) -> None:
    """Multiplies the outputs of the networks of a member by these constants from now on."""
    for name, network in networks(member):
        if known.get(name, 1.0) != 1.0:
            network.register_forward_hook(Gain(known[name]))


@contextmanager
def moderated(module: nn.Module) -> Iterator[dict[str, Gain]]:
    """Keeps the networks of a member, or of a program's members, in range inside; yields the hooks by name."""
    hooks = {name: Gain() for name, _ in networks(module)}
    handles = [network.register_forward_hook(hooks[name]) for name, network in networks(module)]
    try:
        yield hooks
    finally:
        for handle in handles:
            handle.remove()


def networks(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Lists the encoders and decoders of posteriors and likelihoods, each once."""
    seen: set[int] = set()
    for name, part in module.named_modules():
        kind = {Posterior: "encoder", Likelihood: "decoder"}
        for attribute in (attribute for base, attribute in kind.items() if isinstance(part, base)):
            network = getattr(part, attribute, None)
            if isinstance(network, nn.Module) and id(network) not in seen:
                seen.add(id(network))
                yield f"{name}.{attribute}".lstrip("."), network
