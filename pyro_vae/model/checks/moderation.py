"""Networks of a member, held in range while its contract is checked.

The contract is about what a member makes of its networks' numbers. An untrained network that sees a table in units of
100 gives numbers of 100, and exp(100) as a scale: there a right density is too steep for differences and for float32.
So the outputs of a network whose inputs are large are multiplied by one constant, of which the largest then is 3.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.model.likelihoods import Likelihood
from pyro_vae.model.posteriors import Posterior

LARGE = 10.0  # inputs above are no standardised data and no latents
_LARGEST = 3.0  # of the outputs then: exp(-3) and exp(3) are scales that float32 and differences can bear


class Gain:
    """A forward hook that multiplies outputs by a constant, which the first call decides where none is given."""

    def __init__(self, gain: float | None = None) -> None:
        self.gain = gain

    def __call__(self, network: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        """Returns the outputs in range; what is no tensor stays for the member to refuse."""
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
    """Returns the constant of each network of a member, by its name in it, as one call decides.

    What the call raises is left to the lines of the contract.
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
    """Holds the networks of a member, or of the members of a program, in range inside; yields the hooks by name."""
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
