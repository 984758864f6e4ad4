"""SVI: the step of `pyro.infer.SVI`, with one torch optimiser over all parameters, as a graph if that is faster."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pyro_vae.graphs.allocation import keep_freed_memory
from pyro_vae.inference.objectives import check_weights
from pyro_vae.inference.pyro_step import Call, Make, PyroStep, as_float
from pyro_vae.inference.step_graphs import Compile, StepGraph, StepGraphs


class SVI(PyroStep):
    """Stochastic variational inference, step by step like `pyro.infer.SVI`.

    There are four differences. One torch optimiser holds all parameters (Pyro builds one for each tensor, so clipping
    is per tensor). The loss weights are arguments of the step, so a warm-up cannot affect anything else. A loss or
    gradient that is not finite is an error, and is not applied. The step can be a graph, see `compile`.

    A graph is a recording of one run of the program. The values of tensors can change (parameters, buffers, data, loss
    weights, learning rate). If a member, a flag or another attribute of a module changes, a new graph is made. Pyro
    runs programs that count their calls, draw random numbers in Python or have hooks, and steps inside a handler or
    autocast. A graph cannot see changes of globals, closures and classes: a model that reads such values must run
    without a graph.

    Args:
        model, guide: Pyro functions, e.g. `vae.model` and `vae.guide`.
        optimizer: a torch optimiser over the parameters of both.
        loss: any Pyro ELBO.
        max_grad_norm: bound on the norm of the gradient with respect to all parameters together, per datum of the
            batch.
        compile: With False, Pyro runs each step. True makes a graph of the first step and compiles it (for
            `Trace_ELBO`, `TraceMeanField_ELBO`, `SampledELBO` and `ImportanceWeightedELBO`, and programs of static
            structure; Pyro runs what cannot be a graph, and a logged sentence says so). "auto" does this if it saves
            time, and if model and guide are methods of modules. It makes a graph, whose numbers are the same to the
            last bit, after 1,000 steps or if 2,000 are expected (see `expect`). It compiles the graph after 20,000
            steps or if 40,000 are expected.

    Attributes:
        num_steps: how many steps were made.

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
        super().__init__(model, guide, optimizer, loss, max_grad_norm)
        keep_freed_memory()
        self.graphs = StepGraphs(compile)

    def step(self, *args: Any, kl_weight: float = 1.0, reconstruction_weight: float = 1.0, **kwargs: Any) -> float:
        """Makes one gradient step.

        Args:
            args, kwargs: what model and guide take, usually x (B, *x_shape) and y (B, C).
            kl_weight, reconstruction_weight: see `pyro_vae.inference.weighted`.

        Returns:
            The loss, summed over the batch, in nats.

        Raises:
            DivergenceError: the loss or a gradient is not finite. Parameters and optimiser are as before the step, but
                the random state is as after it, and the running statistics of a batch norm have seen the batch.
            ValueError: a parameter that is not in the optimiser got a gradient, or the loss does not accept such
                weights.
        """
        return self.step_from(None, *args, kl_weight=kl_weight, reconstruction_weight=reconstruction_weight, **kwargs)

    def step_from(
        self, make: Make | None, *args: Any, kl_weight: float = 1.0, reconstruction_weight: float = 1.0, **kwargs: Any
    ) -> float:
        """Makes `step(*make(*args), ...)`, with `make` as a part of the graph, such as the binarisation of a batch.

        Args:
            make: tensors to the positional arguments of model and guide; without random numbers of its own.
            args: what `make` takes.
            kl_weight, reconstruction_weight, kwargs: as for `step`.

        Returns:
            The loss, summed over the batch, in nats.
        """
        call = self._call(make, args, kwargs, kl_weight, reconstruction_weight)
        graph = self.graphs.find(self, call)
        loss = self._step_by_pyro(call) if graph is None else self._step_by_graph(graph, call)
        self.num_steps += 1
        return loss

    @contextmanager
    def steady(self) -> Iterator[None]:
        """Promises that no one changes the program between the steps inside, so that it is inspected only once.

        This excludes train() and eval(), to(), and replacing or freezing members. The values of tensors and the numbers
        in the optimiser's groups can change. With fused Adam or AdamW, without hooks and schedulers, steps that are
        graphs call the kernel directly. They give the same numbers, take a fifth less time for small networks, and
        leave no `.grad`. With other optimisers nothing changes. `fit` runs each epoch in this context.

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

    def expect(self, steps: int, *, largest: int = 0, done: int | None = None) -> None:
        """Announces the steps to come, for compile="auto" to decide by; `fit` does so before its first epoch.

        Args:
            steps: the total number, including those already made.
            largest: the number of data in a full batch; 0 if it is not known. Smaller batches are not compiled.
            done: how many were made already, for example by an SVI before this one; None if `num_steps` is right.
        """
        self.graphs.expected, self.graphs.largest = steps, largest
        self.num_steps = self.num_steps if done is None else done

    def evaluate_loss(
        self, *args: Any, kl_weight: float = 1.0, reconstruction_weight: float = 1.0, **kwargs: Any
    ) -> float:
        """Computes the loss without a step.

        Args:
            args, kwargs, kl_weight, reconstruction_weight: as for `step`.

        Returns:
            The loss, summed over the batch, in nats.
        """
        call = self._call(None, args, kwargs, kl_weight, reconstruction_weight)
        with torch.no_grad():
            return as_float(self.loss.loss(*self.weighted(call), *args, **kwargs))

    def _call(
        self, make: Make | None, args: tuple[Any, ...], kwargs: dict[str, Any], kl_weight: float, reconstruction: float
    ) -> Call:
        call = Call(make, (*args, *kwargs.values()), tuple(kwargs), float(reconstruction), float(kl_weight))
        check_weights(call.reconstruction_weight, call.kl_weight, self.loss)
        return call

    def _step_by_graph(self, graph: StepGraph, call: Call) -> float:
        update = self.graphs.update(self, graph)
        # Before the graph runs: its gradients then take the memory of the last ones, which the processor has cached.
        for parameter in self.held():
            parameter.grad = None
        noise = call.noise()
        loss, is_sound, gradients = graph(call)
        if not is_sound:
            self._refuse(call, noise, loss)
        if update is not None:
            update(gradients)
        else:
            for parameter, gradient in zip(graph.parameters, gradients, strict=True):
                parameter.grad = gradient
            self.optimizer.step()
        return loss
