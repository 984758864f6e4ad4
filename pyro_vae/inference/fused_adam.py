"""The update of torch's fused Adam, without the overhead of `optimizer.step()`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.optim import optimizer as torchs

# Functions of torch, by whether the weights decay apart from the gradient. Without them `optimizer.step()` is used.
_KERNELS = {False: getattr(torch, "_fused_adam_", None), True: getattr(torch, "_fused_adamw_", None)}
_SELDOM = ("amsgrad", "capturable", "differentiable", "foreach")


class Update:
    """Updates parameters to the same bits as `optimizer.step()`, as long as the optimiser keeps its state.

    At each call, `optimizer.step()` collects parameters, gradients and state again in Python, which takes longer than
    the arithmetic of a small network. An update collects them only once. It reads rates and other numbers of the
    optimiser's groups at each call.

    Args:
        optimizer: whose step it is.
        groups: those that `Update.of` finds.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> adam = torch.optim.Adam([weight], lr=0.1, fused=True)
        >>> weight.grad = torch.ones(2)
        >>> adam.step()  # the first one makes the optimiser's state
        >>> update = Update.of(adam, [weight])
        >>> update([torch.ones(2)])
        >>> weight.detach()
        tensor([0.8000, 0.8000])
    """

    def __init__(self, optimizer: torch.optim.Optimizer, groups: list[_Group]) -> None:
        self._groups = groups
        self._of = optimizer, optimizer.state, optimizer.param_groups

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> Self | None:
        """Collects parameters and state, or returns None if `optimizer.step()` does more than Adam.

        Args:
            optimizer: whose step it is.
            parameters: in the order in which their gradients will be given.
        """
        if type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW) or _has_hooks(optimizer):
            return None
        places = {parameter: i for i, parameter in enumerate(parameters)}
        groups = []
        for settings in optimizer.param_groups:
            members = [parameter for parameter in settings["params"] if parameter in places]
            kernel = _KERNELS[settings.get("decoupled_weight_decay", type(optimizer) is torch.optim.AdamW)]
            has_state = all(optimizer.state.get(parameter) for parameter in members)
            if kernel is None or not has_state or not _is_plain(settings, members):
                return None
            if members:
                means, squares = ([optimizer.state[p][name] for p in members] for name in ("exp_avg", "exp_avg_sq"))
                counters = _counted_together([optimizer.state[p] for p in members])
                places_of = [places[p] for p in members]
                groups.append(_Group(kernel, settings, places_of, members, means, squares, *counters))
        return cls(optimizer, groups)

    def is_current(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether the optimiser is still this one, with the same state and without new hooks."""
        then, state, groups = self._of
        same = optimizer is then and optimizer.state is state and optimizer.param_groups is groups
        return same and not _has_hooks(optimizer)

    @torch.no_grad()
    def __call__(self, gradients: Sequence[Tensor]) -> None:
        for group in self._groups:
            group.apply(gradients)


class _Group(NamedTuple):
    kernel: Any
    settings: dict[str, Any]
    places: list[int]
    parameters: list[Tensor]
    means: list[Tensor]
    squares: list[Tensor]
    counters: list[Tensor]
    together: Tensor | None

    def apply(self, gradients: Sequence[Tensor]) -> None:
        settings, (beta1, beta2) = self.settings, self.settings["betas"]
        if self.together is None:
            torch._foreach_add_(self.counters, 1.0)
        else:
            self.together.add_(1.0)
        self.kernel(
            self.parameters,
            [gradients[i] for i in self.places],
            self.means,
            self.squares,
            [],
            self.counters,
            amsgrad=False,
            lr=settings["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=settings["weight_decay"],
            eps=settings["eps"],
            maximize=settings["maximize"],
        )


def _counted_together(states: Sequence[dict[str, Any]]) -> tuple[list[Tensor], Tensor | None]:
    """Makes the counters of the optimiser's steps parts of one tensor, so that one operation counts them all.

    Returns:
        The counters, and that tensor; None where some of them are parts of one already, of other parameters.
    """
    counters = [state["step"] for state in states]
    bases = {id(base): base for counter in counters if (base := counter._base) is not None}
    if not bases:
        together = torch.stack(counters)
        counters = list(together.unbind())
        for state, counter in zip(states, counters, strict=True):
            state["step"] = counter
        return counters, together
    base = next(iter(bases.values()))
    is_whole = len(bases) == 1 and len(base) == len(counters) and all(counter._base is base for counter in counters)
    return counters, base if is_whole else None


def _has_hooks(optimizer: torch.optim.Optimizer) -> bool:
    """Whether there are hooks on each step; a scheduler replaces the `step` of the optimiser."""
    own = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    names = ("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks")
    everyones = any(getattr(torchs, name, True) for name in names)
    return bool(own or everyones or "step" in vars(optimizer))


def _is_plain(settings: dict[str, Any], members: Sequence[Tensor]) -> bool:
    """Whether this group is a single call of the fused kernel."""
    kinds = {(parameter.dtype, parameter.device) for parameter in members}
    numbers = [settings["lr"], *settings["betas"]]
    return (
        bool(settings.get("fused"))
        and not any(settings.get(name) for name in _SELDOM)
        and not any(isinstance(number, Tensor) for number in numbers)
        and len(kinds) <= 1
    )
