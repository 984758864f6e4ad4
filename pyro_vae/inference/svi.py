"""SVI: the step of `pyro.infer.SVI`, with one torch optimiser over all parameters, as a graph where that is faster."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_vae.errors import DivergenceError, PyroVAEError
from pyro_vae.graphs.allocation import keep_freed_memory
from pyro_vae.graphs.capture import buffers_kept
from pyro_vae.inference.divergence import Noise, first_gradient, first_site
from pyro_vae.inference.objectives import check_weights, weigh
from pyro_vae.inference.step_graphs import Call, Compile, Make, StepGraph, Steps
from pyro_vae.model.program import store_kept


class SVI:
    """Stochastic variational inference, as `pyro.infer.SVI`, step for step.

    Four differences: one torch optimiser for all parameters (Pyro's own builds one for each tensor, so that clipping
    is per tensor); the loss weights are arguments of the step, so that a warm-up can not leak into anything else; a
    loss or gradient that is not finite is an error, and is not applied; and the step can be a graph, see `compile`.

    A graph is the program as it ran once. Values of tensors may change (parameters, buffers, data, loss weights,
    learning rate); where a member, a flag or another attribute of a module does, a new graph is made. A program that
    counts its calls, draws random numbers by Python or has hooks runs by Pyro, and so does a step inside of a handler
    or of autocast. What a graph can not see are globals, closures and classes: a model that reads what changes there
    must run without a graph.

    Args:
        model, guide: Pyro functions, e.g. `vae.model` and `vae.guide`.
        optimizer: a torch optimiser over the parameters of both.
        loss: any Pyro ELBO.
        max_grad_norm: bound on the norm of the gradient of all parameters together, per datum of the batch.
        compile: False runs each step by Pyro. True makes a graph of the first one and compiles it (`Trace_ELBO`,
            `TraceMeanField_ELBO`, `ImportanceWeightedELBO`, programs of static structure; what can not be a graph
            runs by Pyro, which a logged sentence says). "auto" does so where it saves time, if model and guide are
            methods of modules: a graph, whose numbers are the same to the last bit, after 1,000 steps or where 2,000
            are expected, as `fit` knows; a compiled one after 20,000, or where 40,000 are expected.

    Raises:
        TypeError: a `pyro.optim` object instead of a torch optimiser.
        ValueError: another `compile`.

    Example:
        >>> import pyro, pyro_vae as pv
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
        compile: Compile = "auto",  # noqa: A002 - as torch names it
    ) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(
                f"SVI takes one torch optimiser over all parameters, e.g. torch.optim.Adam(vae.parameters(), lr=1e-3); "
                f"got {type(optimizer).__module__}.{type(optimizer).__qualname__}. For pyro.optim use pyro.infer.SVI"
            )
        keep_freed_memory()
        self.model, self.guide, self.optimizer, self.loss = model, guide, optimizer, loss
        self.max_grad_norm = max_grad_norm
        self.num_steps = 0
        self.graphs = Steps(compile)

    def step(self, *args: Any, kl_weight: float = 1.0, reconstruction_weight: float = 1.0, **kwargs: Any) -> float:
        """One gradient step. Returns the loss, summed over the batch, in nats.

        Args:
            args, kwargs: what model and guide take, usually x (B, *x_shape) and y (B, C).
            kl_weight, reconstruction_weight: see `pyro_vae.inference.weighted`.

        Raises:
            DivergenceError: the loss or a gradient is not finite; parameters and optimiser are as before the step (the
                random state is as after it, and the running statistics of a batch norm have seen the batch).
            ValueError: a parameter got a gradient that the optimiser does not know.
        """
        return self.step_from(None, *args, kl_weight=kl_weight, reconstruction_weight=reconstruction_weight, **kwargs)

    def step_from(
        self, make: Make | None, *args: Any, kl_weight: float = 1.0, reconstruction_weight: float = 1.0, **kwargs: Any
    ) -> float:
        """`step(*make(*args), ...)`, with `make` as a part of the graph: the binarisation of a batch, say.

        Args:
            make: tensors to the tensors that model and guide take by place; without random numbers of its own.
            args: what `make` takes.
            kl_weight, reconstruction_weight, kwargs: as for `step`.
        """
        call = Call(make, (*args, *kwargs.values()), tuple(kwargs), float(reconstruction_weight), float(kl_weight))
        self._check_weights(call)
        graph = self.graphs.find(self, call)
        loss = self._eager(call) if graph is None else self._replayed(graph, call)
        self.num_steps += 1
        return loss

    @contextmanager
    def steady(self) -> Iterator[None]:
        """Between the steps inside, nobody changes the program, so that it is looked at once and not at each step.

        That is: no train() or eval(), no to(), no member replaced or frozen. Values of tensors may change, and numbers
        of the optimiser's groups. With Adam or AdamW, fused, without hooks and schedulers, steps that are graphs call
        its kernel directly: the same numbers, in a fifth less time where networks are small, and without `.grad`.
        Other optimisers make their own step, and programs are looked at as ever. `fit` makes an epoch so.

        Example:
            >>> import pyro, pyro_vae as pv
            >>> vae = pv.VAE(pv.priors.StandardNormal(2),
            ...              pv.posteriors.DiagonalNormal(pv.networks.MLP((4,), (4,)), 2),
            ...              pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (4,))))
            >>> adam = torch.optim.Adam(vae.parameters(), lr=1e-3, fused=True)
            >>> svi = SVI(vae.model, vae.guide, adam, pyro.infer.Trace_ELBO())
            >>> with svi.steady():
            ...     losses = [svi.step(x) for x in torch.zeros(3, 16, 4)]
        """
        with self.graphs.steady():
            yield

    def evaluate_loss(
        self, *args: Any, kl_weight: float = 1.0, reconstruction_weight: float = 1.0, **kwargs: Any
    ) -> float:
        """The loss, summed over the batch, without a step."""
        call = Call(None, (*args, *kwargs.values()), tuple(kwargs), float(reconstruction_weight), float(kl_weight))
        self._check_weights(call)
        with torch.no_grad():
            return _as_float(self.loss.loss(*self.weighted(call), *args, **kwargs))

    def _check_weights(self, call: Call) -> None:
        check_weights(call.reconstruction_weight, call.kl_weight, self.loss)

    def modules(self) -> list[nn.Module]:
        """The modules that model and guide belong to, or are."""
        owners = (getattr(half, "__self__", half) for half in (self.model, self.guide))
        return [owner for owner in owners if isinstance(owner, nn.Module)]

    def held(self) -> list[Tensor]:
        """The parameters that the optimiser knows."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def weighted(self, call: Call) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Model and guide with the weights of a call, checked before, among them tensors."""
        weights = call.reconstruction_weight, call.kl_weight
        unweighted = all(isinstance(weight, float) and weight == 1.0 for weight in weights)
        return (self.model, self.guide) if unweighted else weigh(self.model, self.guide, *weights)

    def largest_norm(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
        """The bound on the norm of the gradient, which is a sum over the batch."""
        x = _first_tensor(args, kwargs)
        return self.max_grad_norm * (1 if x is None or x.dim() == 0 else len(x))

    def _eager(self, call: Call) -> float:
        args, kwargs = call.arguments()
        noise = Noise(_first_tensor(args, kwargs))
        self.optimizer.zero_grad(set_to_none=True)
        with poutine.trace(param_only=True) as capture:
            loss = self._loss_and_grads(call, args, kwargs, noise)
        self.check_held(capture.trace)
        self._check_finite(loss, call, args, kwargs, noise)
        self.optimizer.step()
        return loss

    def _replayed(self, graph: StepGraph, call: Call) -> float:
        update = self.graphs.update(self, graph)
        # Before the graph runs: its gradients then lie where the last ones did, which the processor has at hand.
        for parameter in self.held():
            parameter.grad = None
        noise = Noise(next(iter(call.tensors()), None))
        found = graph(call)
        if not found.sound:
            self._explain(found.loss, call, noise)
        if update is not None:
            update(found.gradients)
        else:
            for parameter, gradient in zip(graph.parameters, found.gradients, strict=True):
                parameter.grad = gradient
            self.optimizer.step()
        return found.loss

    def _explain(self, loss: float, call: Call, noise: Noise) -> NoReturn:
        """Raises what Pyro's own step has against a call, on the same draws; what rounds otherwise there, as well."""
        args, kwargs = call.arguments()
        with noise.again(), buffers_kept(self.modules()), store_kept():
            try:
                self._check_finite(self._loss_and_grads(call, args, kwargs, noise), call, args, kwargs, noise)
            finally:
                self.optimizer.zero_grad(set_to_none=True)
        what = "gradient is not finite" if math.isfinite(loss) else f"loss is {loss}"
        raise self._diverged(what, "")

    def _loss_and_grads(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], noise: Noise) -> float:
        with self.explaining(call, args, kwargs, noise):
            return _as_float(self.loss.loss_and_grads(*self.weighted(call), *args, **kwargs))

    @contextmanager
    def explaining(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], noise: Noise) -> Iterator[None]:
        """Errors of a loss that is computed inside become DivergenceError where numbers are not finite."""
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Encountered NaN")  # it becomes an error, with more to say
                yield
        except (ValueError, torch.linalg.LinAlgError) as error:
            # Pyro validates the parameters of distributions: a diverged network surfaces there first.
            site = "" if isinstance(error, PyroVAEError) else self._first_site(call, args, kwargs, noise)
            if isinstance(error, ValueError) and not site:
                raise
            raise self._diverged("loss is not finite", site) from error

    def check_held(self, trace: poutine.Trace) -> None:
        """Raises ValueError where a parameter of this trace is none of the optimiser's."""
        known = set(map(id, self.held()))
        for name, site in trace.nodes.items():
            if site["type"] == "param" and id(_unconstrained(site["value"])) not in known:
                raise ValueError(
                    f"parameter {name} is not in the optimiser and would silently not train (was a member replaced?): "
                    "make the optimiser anew, or optimizer.add_param_group({'params': [...]})"
                )

    def _check_finite(
        self, loss: float, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], noise: Noise
    ) -> None:
        self.check_loss(loss, call, args, kwargs, noise)
        norm = nn.utils.get_total_norm([p.grad for p in self.held() if p.grad is not None])
        if not math.isfinite(norm.item()):
            raise self._diverged("gradient is not finite", first_gradient(self.modules()))
        if norm > (limit := self.largest_norm(args, kwargs)):
            nn.utils.clip_grads_with_norm_(self.held(), limit, norm)

    def check_loss(self, loss: float, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], noise: Noise) -> None:
        """Raises DivergenceError, with the first site that is to blame, for a loss that is not finite."""
        if not math.isfinite(loss):
            raise self._diverged(f"loss is {loss}", self._first_site(call, args, kwargs, noise))

    def _diverged(self, what: str, where: str) -> DivergenceError:
        self.optimizer.zero_grad(set_to_none=True)
        return DivergenceError(
            f"step {self.num_steps + 1}: the {what}{where}; the step was not applied. "
            "Use a smaller learning rate (`lr`), bound the gradient (`max_grad_norm`), or scale the data to about 1"
        )

    def _first_site(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], noise: Noise) -> str:
        with noise.again(), buffers_kept(self.modules()):
            return first_site(self.loss, *self.weighted(call), *args, **kwargs)


def _unconstrained(value: Any) -> Tensor:
    return value.unconstrained()


def _as_float(loss: Any) -> float:
    return loss.item() if isinstance(loss, Tensor) else float(loss)


def _first_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The data, be they given by place or by name."""
    return next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
