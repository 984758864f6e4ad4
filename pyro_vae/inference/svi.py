"""SVI: the step of `pyro.infer.SVI`, with one torch optimiser over all parameters."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import RenyiELBO
from torch import Tensor, nn

from pyro_vae.errors import DivergenceError, PyroVAEError
from pyro_vae.inference.objectives import weighted
from pyro_vae.model.program import undisturbed
from pyro_vae.randomness import preserved


class SVI:
    """Stochastic variational inference, as `pyro.infer.SVI`, step for step.

    Three differences: one torch optimiser for all parameters (Pyro's own builds one for each tensor, so that clipping
    is per tensor); the loss weights are arguments of the step, so that a warm-up can not leak into anything else; and
    a loss or gradient that is not finite is an error, and is not applied.

    Args:
        model, guide: Pyro functions, e.g. `vae.model` and `vae.guide`.
        optimizer: a torch optimiser over the parameters of both.
        loss: any Pyro ELBO.
        max_grad_norm: bound on the norm of the gradient of all parameters together, per datum of the batch.

    Raises:
        TypeError: a `pyro.optim` object instead of a torch optimiser.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.StandardNormal(2),
        ...              pv.posteriors.DiagonalNormal(pv.networks.MLP((4,), (4,)), 2),
        ...              pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (4,))))
        >>> svi = SVI(vae.model, vae.guide, torch.optim.Adam(vae.parameters(), lr=1e-3), pyro.infer.Trace_ELBO())
        >>> loss = svi.step(torch.zeros(16, 4), kl_weight=0.5)
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

    def step(self, *args: Any, kl_weight: float = 1.0, reconstruction_weight: float = 1.0, **kwargs: Any) -> float:
        """One gradient step. Returns the loss, summed over the batch, in nats.

        Args:
            args, kwargs: what model and guide take, usually x (B, *x_shape) and y (B, C).
            kl_weight, reconstruction_weight: see `pyro_vae.inference.weighted`.

        Raises:
            DivergenceError: the loss or a gradient is not finite; parameters and optimiser are as before the step (the
                running statistics of a batch norm have seen the batch).
            ValueError: a parameter got a gradient that the optimiser does not know.
        """
        model, guide = self._weighted(kl_weight, reconstruction_weight)
        self.optimizer.zero_grad(set_to_none=True)
        with poutine.trace(param_only=True) as capture:
            loss = self._loss_and_grads(model, guide, args, kwargs)
        held = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._check_held(capture.trace, held)
        self._check_finite(loss, held, args, kwargs)
        self.optimizer.step()
        self.num_steps += 1
        return loss

    def evaluate_loss(
        self, *args: Any, kl_weight: float = 1.0, reconstruction_weight: float = 1.0, **kwargs: Any
    ) -> float:
        """The loss, summed over the batch, without a step."""
        model, guide = self._weighted(kl_weight, reconstruction_weight)
        with torch.no_grad():
            return _as_float(self.loss.loss(model, guide, *args, **kwargs))

    def _weighted(self, kl: float, reconstruction: float) -> tuple[Callable[..., Any], Callable[..., Any]]:
        if isinstance(self.loss, RenyiELBO) and not kl == reconstruction == 1.0:
            raise ValueError("an importance-weighted bound has no separate KL: its weights must be 1")
        return weighted(self.model, self.guide, reconstruction=reconstruction, kl=kl)

    def _loss_and_grads(
        self, model: Callable[..., Any], guide: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> float:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Encountered NaN")  # it becomes an error, with more to say
                return _as_float(self.loss.loss_and_grads(model, guide, *args, **kwargs))
        except ValueError as error:
            # Pyro validates the parameters of distributions: a diverged network surfaces there first.
            if isinstance(error, PyroVAEError) or not self._first_not_finite(args, kwargs):
                raise
            raise self._diverged("loss is not finite", args, kwargs) from error

    def _check_held(self, trace: poutine.Trace, held: list[Tensor]) -> None:
        known = set(map(id, held))
        for name, site in trace.nodes.items():
            if site["type"] == "param" and id(_unconstrained(site["value"])) not in known:
                raise ValueError(
                    f"parameter {name} is not in the optimiser and would silently not train (was a member replaced?): "
                    "make the optimiser anew, or optimizer.add_param_group({'params': [...]})"
                )

    def _check_finite(self, loss: float, held: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not math.isfinite(loss):
            raise self._diverged(f"loss is {loss}", args, kwargs)
        norm = nn.utils.get_total_norm([p.grad for p in held if p.grad is not None])
        if not math.isfinite(norm.item()):
            raise self._diverged("gradient is not finite", args, kwargs)
        x = _first_tensor(args, kwargs)
        limit = self.max_grad_norm * (1 if x is None or x.dim() == 0 else len(x))
        if norm > limit:
            nn.utils.clip_grads_with_norm_(held, limit, norm)

    def _diverged(self, what: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> DivergenceError:
        self.optimizer.zero_grad(set_to_none=True)
        return DivergenceError(
            f"step {self.num_steps + 1}: the {what}{self._first_not_finite(args, kwargs)}; the step was not applied. "
            "Use a smaller learning rate (--lr), or bound the gradient (--max-grad-norm)"
        )

    def _first_not_finite(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Names the first site whose value or log-probability is not finite, on a draw of its own; else ''."""
        program = getattr(self.model, "__self__", None)
        x = _first_tensor(args, kwargs)
        device = None if x is None else x.device
        with torch.no_grad(), undisturbed(program), preserved(device), pyro.validation_enabled(False):
            guide = poutine.trace(self.guide).get_trace(*args, **kwargs)
            model = poutine.trace(poutine.replay(self.model, trace=guide)).get_trace(*args, **kwargs)
            for side, trace in (("guide", guide), ("model", model)):
                trace.compute_log_prob()
                for name, site in trace.nodes.items():
                    if site["type"] == "sample" and not _all_finite(site["value"], site["log_prob"]):
                        return f" (first at site {name} of the {side})"
        return ""


def _unconstrained(value: Any) -> Tensor:
    return value.unconstrained()


def _all_finite(*tensors: Any) -> bool:
    return all(bool(torch.isfinite(t).all()) for t in tensors if isinstance(t, Tensor))


def _as_float(loss: Any) -> float:
    return loss.item() if isinstance(loss, Tensor) else float(loss)


def _first_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The data, be they given by place or by name."""
    return next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
