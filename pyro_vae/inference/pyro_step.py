"""One gradient step as Pyro runs it, with all its checks. A step that is made in another way must equal it.

    Call       the caller's arguments: tensors, plain values, the loss weights
    Attempt    the arguments of model and guide, made from a call, and where the draws of the step begin
    PyroStep   model, guide, optimiser and loss; the step, and what is wrong with one that may not be applied

`SVI` and the graphs of `pyro_vae.inference.step_graphs` share them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn, Self

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_vae.errors import DivergenceError, PyroVAEError
from pyro_vae.graphs.capture import buffers_kept
from pyro_vae.inference.divergence import NO_SITE, Fault, Noise, first_fault, first_gradient
from pyro_vae.inference.objectives import weigh
from pyro_vae.model.parameter_store import store_kept

Make = Callable[..., tuple[Any, ...]]
Share = tuple[tuple[Any, ...], dict[str, Any], float]
Halves = tuple[Callable[..., Any], Callable[..., Any]]


class Call(NamedTuple):
    """The arguments of one step.

    Attributes:
        make: makes the positional arguments of model and guide from the values; None if they are the values.
        values: all arguments of the step.
        names: the names of the last of them, which are keyword arguments.
        reconstruction_weight, kl_weight: see `pyro_vae.inference.weighted`.
    """

    make: Make | None
    values: tuple[Any, ...]
    names: tuple[str, ...]
    reconstruction_weight: float
    kl_weight: float

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of model and guide, positional and by keyword."""
        cut = len(self.values) - len(self.names)
        args, named = self.values[:cut], self.values[cut:]
        return args if self.make is None else self.make(*args), dict(zip(self.names, named, strict=True))

    def tensors(self) -> list[Tensor]:
        """The values that are tensors."""
        return [value for value in self.values if isinstance(value, Tensor)]

    def with_tensors(self, tensors: Sequence[Tensor]) -> Call:
        """The same call with other tensors."""
        left = iter(tensors)
        return self._replace(values=tuple(next(left) if isinstance(v, Tensor) else v for v in self.values))

    def noise(self) -> Noise:
        """The state of the random streams on the CPU and on the device of the data."""
        return Noise(next(iter(self.tensors()), None))


class Attempt(NamedTuple):
    """A step that is being made.

    Attributes:
        call: the call of this step.
        args, kwargs: the arguments of model and guide.
        noise: the state of the random streams where its draws began.
    """

    call: Call
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    noise: Noise

    @classmethod
    def of(cls, call: Call, noise: Noise) -> Self:
        """The attempt of a call whose draws begin at this noise."""
        return cls(call, *call.arguments(), noise)


class PyroStep:
    """The step of `pyro.infer.SVI`, with one torch optimiser over all parameters.

    Args:
        model, guide, optimizer, loss, max_grad_norm: as for `pyro_vae.inference.SVI`.

    Raises:
        TypeError: the optimiser is not a torch optimiser.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        optimizer: torch.optim.Optimizer,
        loss: Any,
        max_grad_norm: float = math.inf,
    ) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(
                f"SVI takes one torch optimiser over all parameters, e.g. torch.optim.Adam(vae.parameters(), lr=1e-3); "
                f"got {type(optimizer).__module__}.{type(optimizer).__qualname__}. For pyro.optim use pyro.infer.SVI"
            )
        self.model, self.guide, self.optimizer, self.loss = model, guide, optimizer, loss
        self.max_grad_norm = max_grad_norm
        self.num_steps = 0

    def modules(self) -> list[nn.Module]:
        """The modules that model and guide belong to, or that they are."""
        owners = (getattr(half, "__self__", half) for half in (self.model, self.guide))
        return [owner for owner in owners if isinstance(owner, nn.Module)]

    def held(self) -> list[Tensor]:
        """The parameters that the optimiser knows."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def weighted(self, call: Call) -> Halves:
        """Model and guide with the weights of a call, which are already checked and can be tensors."""
        weights = call.reconstruction_weight, call.kl_weight
        unweighted = all(isinstance(weight, float) and weight == 1.0 for weight in weights)
        return (self.model, self.guide) if unweighted else weigh(self.model, self.guide, *weights)

    def share(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Share:
        """The arguments that this process computes on, and the weight of their loss: all of them."""
        return args, kwargs, 1.0

    def largest_norm(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
        """The bound on the norm of the gradient, a sum over the batch, whether x is positional or a keyword."""
        x = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
        return self.max_grad_norm * (1 if x is None or x.dim() == 0 else len(x))

    def _step_by_pyro(self, call: Call) -> float:
        """Makes the step with all checks, and returns its loss."""
        attempt = Attempt.of(call, call.noise())
        self.optimizer.zero_grad(set_to_none=True)
        with poutine.trace(param_only=True) as capture:
            loss = self._loss_and_grads(attempt)
        self.check_held(capture.trace)
        for parameter in self.hidden(capture.trace):
            parameter.grad = None
        self._check_finite(loss, attempt)
        self.optimizer.step()
        return loss

    def _loss_and_grads(self, attempt: Attempt) -> float:
        """The loss, summed over the batch; adds its gradient to the parameters."""
        with self.explaining(attempt):
            return as_float(self.loss.loss_and_grads(*self.weighted(attempt.call), *attempt.args, **attempt.kwargs))

    def _refuse(self, call: Call, noise: Noise, loss: float) -> NoReturn:
        """Raises the error of this step for a call, on the same draws, or an error that loss or gradient is not finite.

        Args:
            call: whose step was made in another way, and may not be applied.
            noise: where its draws began.
            loss: its loss.
        """
        attempt = Attempt.of(call, noise)
        with noise.again(), buffers_kept(self.modules()), store_kept():
            try:
                self._check_finite(self._loss_and_grads(attempt), attempt)
            finally:
                self.optimizer.zero_grad(set_to_none=True)
        # Rounding differs here, and the result can be finite.
        raise self._diverged("gradient is not finite" if math.isfinite(loss) else f"loss is {loss}", NO_SITE)

    @contextmanager
    def explaining(self, attempt: Attempt) -> Iterator[None]:
        """Turns errors of a loss computed inside into DivergenceError if numbers are not finite."""
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Encountered NaN")  # it becomes an error with more details
                yield
        except (ValueError, torch.linalg.LinAlgError) as error:
            # Pyro validates the parameters of distributions, and a diverged network shows there first.
            fault = NO_SITE if isinstance(error, PyroVAEError) else self._first_fault(attempt)
            if isinstance(error, ValueError) and fault is NO_SITE:
                raise
            raise self._diverged("loss is not finite", fault) from error

    def check_held(self, trace: poutine.Trace) -> None:
        """Raises ValueError if a parameter of this trace is not in the optimiser."""
        known = set(map(id, self.held()))
        for name, site in trace.nodes.items():
            if site["type"] == "param" and id(_unconstrained(site["value"])) not in known:
                raise ValueError(
                    f"parameter {name} is not in the optimiser and would silently not train (was a member replaced?). "
                    "Make a new optimiser, or call optimizer.add_param_group({'params': [...]})"
                )

    def hidden(self, trace: poutine.Trace) -> list[Tensor]:
        """The optimiser's parameters that Pyro knows and this trace lacks, hidden by `poutine.block` for example."""
        shown = {id(_unconstrained(site["value"])) for site in trace.nodes.values() if site["type"] == "param"}
        listed = pyro.get_param_store()._param_to_name
        return [parameter for parameter in self.held() if parameter in listed and id(parameter) not in shown]

    def check_loss(self, loss: float, attempt: Attempt) -> None:
        """Raises DivergenceError, naming the first site at fault, for a loss that is not finite."""
        if not math.isfinite(loss):
            raise self._diverged(f"loss is {loss}", self._first_fault(attempt))

    def _check_finite(self, loss: float, attempt: Attempt) -> None:
        self.check_loss(loss, attempt)
        norm = nn.utils.get_total_norm([p.grad for p in self.held() if p.grad is not None])
        if not math.isfinite(norm.item()):
            raise self._diverged("gradient is not finite", NO_SITE._replace(where=first_gradient(self.modules())))
        if norm > (limit := self.largest_norm(attempt.args, attempt.kwargs)):
            nn.utils.clip_grads_with_norm_(self.held(), limit, norm)

    def _diverged(self, what: str, fault: Fault) -> DivergenceError:
        self.optimizer.zero_grad(set_to_none=True)
        return DivergenceError(
            fault.after(f"step {self.num_steps + 1}: the {what}{fault.where}; the step was not applied", self.num_steps)
        )

    def _first_fault(self, attempt: Attempt) -> Fault:
        with attempt.noise.again(), buffers_kept(self.modules()):
            return first_fault(self.loss, *self.weighted(attempt.call), *attempt.args, **attempt.kwargs)


def _unconstrained(value: Any) -> Tensor:
    return value.unconstrained()


def as_float(loss: Any) -> float:
    """Returns a loss as a number: Pyro's losses are floats or tensors."""
    return loss.item() if isinstance(loss, Tensor) else float(loss)
