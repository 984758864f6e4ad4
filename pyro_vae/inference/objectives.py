r"""Objectives: what SVI minimises, and the weights that act on it from outside the program.

`pyro.infer.Trace_ELBO`, and `SampledELBO` with a choice of its gradient, sample all of the first bound. `MeanFieldELBO`
computes the KL of the second in closed form, and `ImportanceWeightedELBO` is the third:

.. math::

    L &= E_q[\log p(x, z) - \log q(z|x)] \\
    L &= E_q[\log p(x|z)] - \mathrm{KL}(q(z|x) \,\|\, p(z)) \\
    L_K &= E \log \frac{1}{K} \sum_{k=1}^K \frac{p(x, z_k)}{q(z_k|x)}

A loss is minus the bound, summed over the batch, as everywhere in Pyro. With weights it is no longer a bound and is not
called an ELBO. `reconstruction_weight` is often called alpha in teaching material; `kl_weight` is the beta of Higgins
et al.:

.. math::

    -\alpha \, E_q[\log p(x|z)] + \beta \, \mathrm{KL}(q(z|x) \,\|\, p(z))

Reference:
    Higgins et al., "beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework", ICLR 2017,
    https://openreview.net/forum?id=Sy2fzU9gl
"""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from pyro.distributions import constraints
from pyro.infer import ELBO, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_vae.inference.path_gradients import draws_apart, keep_densities, path_bound
from pyro_vae.loss_requirements import (
    check_gradient,
    check_order,
    check_reparametrised,
    check_total_gradient,
    check_unweighted,
)
from pyro_vae.model import traces
from pyro_vae.model.conditions import base_constraint
from pyro_vae.option_words import Gradient, check_word

PyroFunction = Callable[..., Any]

__all__ = ["ImportanceWeightedELBO", "MeanFieldELBO", "Objective", "Trace_ELBO", "weighted"]


class MeanFieldELBO(TraceMeanField_ELBO):
    """`pyro.infer.TraceMeanField_ELBO`, with its warning turned into an error.

    If a KL is registered, it is analytic; otherwise (mixtures, flows) it is sampled, as in Pyro. If a guide samples in
    another order than the model, the stock objective warns and then reports a loss that can be too good by any number
    of nats. This one raises an error.

    Args:
        num_particles, max_plate_nesting, vectorize_particles, options: as for `pyro.infer.TraceMeanField_ELBO`.
        gradient: only "total"; an analytic KL has no sampled score that another gradient could leave out.

    Raises:
        ValueError: another gradient; model and guide sample their latent sites in different orders; or an automatic
            guide is over a site that does not range over all real numbers, whose Jacobian Pyro leaves out.
    """

    def __init__(
        self,
        num_particles: int = 1,
        max_plate_nesting: float = math.inf,
        *,
        vectorize_particles: bool = False,
        gradient: Gradient = "total",
        **options: Any,
    ) -> None:
        check_word("gradient", gradient, Gradient)
        check_total_gradient(gradient)
        super().__init__(num_particles, max_plate_nesting, vectorize_particles=vectorize_particles, **options)

    def _get_trace(self, model: PyroFunction, guide: PyroFunction, args: Any, kwargs: Any) -> tuple[Any, Any]:
        model_trace, guide_trace = super()._get_trace(model, guide, args, kwargs)
        wanted = list(traces.latent_sites(model_trace))
        order = [name for name in traces.latent_sites(guide_trace) if name in wanted]
        check_order(wanted, order)
        _check_jacobians(model_trace, guide_trace)
        return model_trace, guide_trace


class ImportanceWeightedELBO(ELBO):
    r"""The importance-weighted bound, the one of `pyro.infer.RenyiELBO` at order 0.

    .. math::

        L_K = E \log \frac{1}{K} \sum_{k=1}^K \frac{p(x, z_k)}{q(z_k|x)}

    K = 1 is the sampled ELBO. The K draws are combined per datum, inside the data plate. Gradients flow through the
    draws, so every latent must be reparametrised.

    "doubly_reparametrised" has the same mean as the total gradient. Its noise for the guide is smaller near the
    posterior, and the advantage grows with K. The value of the loss is the same, see
    `pyro_vae.inference.path_gradients`:

    .. math:: \nabla_\phi L_K = E \sum_{k=1}^K v_k^2 \, \frac{\partial \log w_k}{\partial z_k}
              \frac{\partial z_k}{\partial \phi}, \qquad w_k = \frac{p(x, z_k)}{q(z_k|x)}, \qquad
              v_k = \frac{w_k}{\sum_j w_j}

    Args:
        num_particles: K.
        gradient: "total" or "doubly_reparametrised"; at K = 1 "sticking_the_landing" equals the latter.

    Raises:
        ValueError: K < 1, another gradient, a latent without `rsample`, a site outside the data plate, or loss weights
            other than 1; from a doubly reparametrised step, for batch norm between z and x, which mixes draws.

    Example:
        >>> ImportanceWeightedELBO(num_particles=5).num_particles
        5

    Reference:
        Eq. 8 of Burda, Grosse & Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016,
        https://arxiv.org/abs/1509.00519

        Eq. 8 of Tucker, Lawson, Gu & Maddison, "Doubly Reparameterized Gradient Estimators for Monte Carlo
        Objectives", ICLR 2019, https://arxiv.org/abs/1810.04152
    """

    def __init__(self, num_particles: int = 1, gradient: Gradient = "total") -> None:
        if num_particles < 1:
            raise ValueError(f"an importance-weighted bound needs at least one particle; got {num_particles}")
        check_word("gradient", gradient, Gradient)
        check_gradient(gradient, num_particles, importance_weighted=True)
        super().__init__(num_particles=num_particles, max_plate_nesting=1, vectorize_particles=True)
        self.gradient = gradient

    def differentiable_loss(self, model: PyroFunction, guide: PyroFunction, *args: Any, **kwargs: Any) -> Tensor:
        """Computes -L_K with its gradient, summed over the batch."""
        along_paths = self.gradient != "total" and torch.is_grad_enabled()
        with draws_apart() if along_paths else nullcontext():
            pair = traces.run(model, guide, self.num_particles, *args, **kwargs)
        for name, site in traces.latent_sites(pair.guide).items():
            check_reparametrised(name, site["fn"].has_rsample)
        if along_paths:
            keep_densities(pair.guide)
        log_weights = traces.log_weights(pair)
        loss = -log_mean_exp(log_weights).sum()
        if not along_paths:
            return loss
        surrogate = -path_bound(pair.model, pair.guide, log_weights.detach().softmax(0))
        return loss.detach() + (surrogate - surrogate.detach())

    def loss(self, model: PyroFunction, guide: PyroFunction, *args: Any, **kwargs: Any) -> float:
        """Computes -L_K, summed over the batch."""
        with torch.no_grad():
            return self.differentiable_loss(model, guide, *args, **kwargs).item()

    def loss_and_grads(self, model: PyroFunction, guide: PyroFunction, *args: Any, **kwargs: Any) -> float:
        """Computes -L_K, summed over the batch, and adds its gradient to the parameters."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward()
        return loss.item()

    def _get_trace(self, model: PyroFunction, guide: PyroFunction, args: Any, kwargs: Any) -> tuple[Any, Any]:
        pair = traces.run(model, guide, self.num_particles, *args, **kwargs)
        return pair.model, pair.guide


def _check_jacobians(model: Any, guide: Any) -> None:
    """Refuses an automatic guide over a constrained site: a Delta at a transformed draw, without the Jacobian."""
    if not any((site["infer"] or {}).get("is_auxiliary") for site in traces.latent_sites(guide).values()):
        return
    for name, site in traces.latent_sites(guide).items():
        if name in model.nodes and traces.is_point(site["fn"]):
            support = base_constraint(model.nodes[name]["fn"].support)
            if support not in (constraints.real, constraints.real_vector):
                raise ValueError(
                    f"site {name} has the support {support}, and an automatic guide transforms it to get there: an "
                    "analytic KL would leave out the Jacobian. Use Trace_ELBO (`objective='trace_elbo'`)"
                )


def log_mean_exp(log_weights: Tensor) -> Tensor:
    """Computes log (1/K) sum_k exp(log_weights[k]): (K, B) -> (B,), stable for weights of any size."""
    return torch.logsumexp(log_weights, 0) - math.log(len(log_weights))


class Objective(nn.Module):
    """A program and a loss as one module: `objective(x, y)` is the differentiable loss, summed over the batch.

    `DistributedDataParallel` wraps this one, since Pyro's own `Trace_ELBO()(vae.model, vae.guide)` on bound methods
    has no parameters.

    Args:
        program: a module with `.model` and `.guide`.
        loss: an ELBO with `differentiable_loss`.

    Raises:
        TypeError: the program has no model and guide, or the loss is not an ELBO.
        ValueError: the loss has no `differentiable_loss`.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.StandardNormal(2),
        ...              pv.posteriors.DiagonalNormal(pv.networks.MLP((4,), (4,)), 2),
        ...              pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (4,))))
        >>> Objective(vae, Trace_ELBO())(torch.zeros(3, 4)).backward()
    """

    def __init__(self, program: Any, loss: ELBO) -> None:
        super().__init__()
        if not (callable(getattr(program, "model", None)) and callable(getattr(program, "guide", None))):
            raise TypeError(f"a program has a model and a guide, Objective(vae, loss); got {type(program).__name__}")
        if isinstance(loss, type) or not isinstance(loss, ELBO):
            raise TypeError(f"loss must be an ELBO, e.g. pyro.infer.Trace_ELBO(); got {loss!r}")
        if not hasattr(loss, "differentiable_loss"):
            raise ValueError(f"{type(loss).__name__} has no differentiable_loss; at order 0 use ImportanceWeightedELBO")
        self.program, self.loss = program, loss

    def forward(
        self, x: Tensor, y: Tensor | None = None, *, kl_weight: float = 1.0, reconstruction_weight: float = 1.0
    ) -> Tensor:
        model, guide = weighted(
            self.program.model, self.program.guide, reconstruction=reconstruction_weight, kl=kl_weight
        )
        return self.loss.differentiable_loss(model, guide, x, y)


def weighted(
    model: PyroFunction, guide: PyroFunction, reconstruction: float = 1.0, kl: float = 1.0
) -> tuple[PyroFunction, PyroFunction]:
    """Weighs observed sites by `reconstruction` and latent sites by `kl`, on both sides, and changes nothing else.

    It weighs both sides, because `TraceMeanField_ELBO` reads only the guide's scale if it has a closed form, and
    `Trace_ELBO` reads the scale of each side. So a weight means the same under both objectives, and for every prior. An
    exact 0 becomes a mask ("only reconstruction", "only KL"), since Pyro's scale must be positive.

    Importance-weighted bounds have no separate KL: `ImportanceWeightedELBO` and `pyro_vae.inference.SVI` refuse a
    weighted program. Pyro's own `RenyiELBO` does not notice the weights if it is used without that SVI.

    Args:
        model, guide: the two halves of a program; they are not changed.
        reconstruction: weight on E_q[log p(x|z)].
        kl: weight on KL(q(z|x) || p(z)).

    Returns:
        Model and guide, for a loss to use in place of the originals.

    Raises:
        ValueError: a weight that is negative or not finite.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def half(): return pyro.sample("z", dist.Normal(0.0, 1.0))
        >>> model, guide = weighted(half, half, kl=0.5)
        >>> pyro.poutine.trace(guide).get_trace().nodes["z"]["scale"]
        0.5
    """
    check_weights(reconstruction, kl)
    if reconstruction == kl == 1.0:
        return model, guide
    return weigh(model, guide, reconstruction, kl)


def check_weights(reconstruction: float, kl: float, loss: Any = None) -> None:
    """Checks the weights of a loss.

    Args:
        reconstruction, kl: the weights.
        loss: the Pyro ELBO to be weighted, or its class; None for any.

    Raises:
        ValueError: a weight is negative or not finite, or it is not 1 although the loss has no separate KL.

    Example:
        >>> check_weights(1.0, 0.5, Trace_ELBO)
        >>> check_weights(1.0, 0.5, ImportanceWeightedELBO)
        Traceback (most recent call last):
        ...
        ValueError: an importance-weighted bound has no separate KL, so its loss weights must be 1; got `kl_weight=0.5`
    """
    weights = {"reconstruction_weight": reconstruction, "kl_weight": kl}
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"{name} must be a finite number, 0 or above; got {weight}")
    if is_importance_weighted(loss):
        check_unweighted(reconstruction, kl)


def is_importance_weighted(loss: Any) -> bool:
    """Returns whether a loss, or the class of one, has no separate KL.

    Example:
        >>> is_importance_weighted(ImportanceWeightedELBO(5)), is_importance_weighted(Trace_ELBO)
        (True, False)
    """
    return issubclass(loss if isinstance(loss, type) else type(loss), RenyiELBO | ImportanceWeightedELBO)


def weigh(
    model: PyroFunction, guide: PyroFunction, reconstruction: float | Tensor, kl: float | Tensor
) -> tuple[PyroFunction, PyroFunction]:
    """Does the work of `weighted` with weights that are already checked; they can be tensors of shape ()."""
    return _Weights(reconstruction, kl)(model), _Weights(reconstruction, kl)(guide)


class _Weights(Messenger):
    def __init__(self, reconstruction: float | Tensor, kl: float | Tensor) -> None:
        super().__init__()
        self.reconstruction, self.kl = reconstruction, kl

    def _pyro_sample(self, msg: Any) -> None:
        weight = self.reconstruction if msg["is_observed"] else self.kl
        if not isinstance(weight, Tensor) and weight == 0.0:
            msg["mask"] = False
        else:
            msg["scale"] = msg["scale"] * weight
