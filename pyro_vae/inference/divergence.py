"""Where a step diverged: the first site, or parameter, whose numbers are not finite.

A step is looked at again on its own draws, since what happens at one draw of many may not happen at the next.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from pyro_vae.model.parameter_store import store_kept
from pyro_vae.randomness import go_to, position, preserved


class Noise:
    """Remembers where the random streams of the CPU, and of the device of x, stand, to go on from there again.

    Args:
        x: the data; None for those on the CPU.

    Example:
        >>> noise = Noise(None)
        >>> first = torch.rand(3)
        >>> with noise.again():
        ...     print(torch.equal(torch.rand(3), first))
        True
    """

    def __init__(self, x: Tensor | None) -> None:
        self.device = None if x is None else x.device
        self._here = position(self.device)

    @contextmanager
    def again(self) -> Iterator[None]:
        """Draws again inside what was drawn after; afterwards the random state is what it was."""
        with preserved(self.device):
            go_to(self._here, self.device)
            yield


@torch.no_grad()
def first_site(loss: Any, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """Names the first site whose value or log-probability is not finite while the loss is computed; '' for none."""
    broken: list[str] = []
    with warnings.catch_warnings(), store_kept(), pyro.validation_enabled(False):
        warnings.simplefilter("ignore")
        with suppress(ValueError, RuntimeError):  # over numbers that are none; the sites before count
            loss.loss(_Finite("model", broken)(model), _Finite("guide", broken)(guide), *args, **kwargs)
    return f" (first at site {broken[0]})" if broken else ""


def first_gradient(modules: Iterable[nn.Module]) -> str:
    """Names the first parameter, of these modules or Pyro's store, whose gradient is not finite; '' for none."""
    of_store: Any = pyro.get_param_store().named_parameters()
    named = [*(pair for module in modules for pair in module.named_parameters()), *of_store]
    bad = next((name for name, p in named if p.grad is not None and not _all_finite(p.grad)), None)
    return f" (first at parameter {bad})" if bad else ""


class _Finite(Messenger):
    """Lists the sites of one half that are not finite, where none was listed before."""

    def __init__(self, half: str, broken: list[str]) -> None:
        super().__init__()
        self.half, self.broken = half, broken

    def _pyro_post_sample(self, msg: Any) -> None:
        if self.broken or site_is_subsample(msg):
            return
        if not _all_finite(msg["value"]) or not _all_finite(msg["fn"].log_prob(msg["value"])):
            self.broken.append(f"{msg['name']} of the {self.half}")


def _all_finite(value: Any) -> bool:
    return not isinstance(value, Tensor) or bool(torch.isfinite(value).all())
