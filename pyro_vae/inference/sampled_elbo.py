"""The sampled ELBO, with a choice of the gradient."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro import poutine
from pyro.infer import Trace_ELBO

from pyro_vae.inference.path_gradients import draws_apart, keep_densities, path_bound
from pyro_vae.loss_requirements import check_gradient
from pyro_vae.option_words import Gradient, check_word


class SampledELBO(Trace_ELBO):
    r"""`pyro.infer.Trace_ELBO`, with a choice of the gradient.

    .. math:: L = E_q[\log p(x, z) - \log q(z|x)]

    On the same draws, the value equals Pyro's to the last bit, and so does the gradient "total". "sticking_the_landing"
    has the same mean, and leaves out the score of the guide, which has mean 0:

    .. math:: \nabla_\phi L = E \left[ \frac{\partial}{\partial z} \left( \log p(x, z) - \log q_\phi(z|x) \right)
              \frac{\partial z}{\partial \phi} \right]

    It has less noise if the guide is near the posterior, none for the guide if it is the posterior, and can have more
    if it is far. Loss weights act on both gradients in the same way, see `pyro_vae.inference.weighted`.
    `pyro_vae.inference.path_gradients` describes what this gradient needs from the density of a guide.

    Args:
        num_particles: draws of all latents, over which the bound is averaged.
        gradient: "total" or "sticking_the_landing".
        max_plate_nesting, vectorize_particles, retain_graph: as for `pyro.infer.Trace_ELBO`; vectorised particles are
            drawn at once.

    Raises:
        ValueError: another gradient; from a step along paths, for a latent that has no `rsample` (the message names
            it), or whose density is known only at its own draws.

    Reference:
        Eq. 6 of Roeder, Wu & Duvenaud, "Sticking the Landing: Simple, Lower-Variance Gradient Estimators for
        Variational Inference", NeurIPS 2017, https://arxiv.org/abs/1703.09194

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.StandardNormal(2),
        ...              pv.posteriors.DiagonalNormal(pv.networks.MLP((4,), (4,)), 2),
        ...              pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (4,))))
        >>> adam = torch.optim.Adam(vae.parameters(), lr=1e-3)
        >>> svi = pv.inference.SVI(vae.model, vae.guide, adam, SampledELBO(gradient="sticking_the_landing"))
        >>> loss = svi.step(torch.zeros(16, 4), kl_weight=0.5)
    """

    def __init__(
        self,
        num_particles: int = 1,
        gradient: Gradient = "total",
        *,
        max_plate_nesting: float = math.inf,
        vectorize_particles: bool = False,
        retain_graph: bool | None = None,
    ) -> None:
        check_word("gradient", gradient, Gradient)
        check_gradient(gradient, num_particles)
        super().__init__(
            num_particles,
            max_plate_nesting=max_plate_nesting,
            vectorize_particles=vectorize_particles,
            retain_graph=retain_graph,
        )
        self.gradient = gradient

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[poutine.Trace, poutine.Trace]:
        if self.gradient == "total" or not torch.is_grad_enabled():
            return super()._get_trace(model, guide, args, kwargs)
        with draws_apart():
            model_trace, guide_trace = super()._get_trace(model, guide, args, kwargs)
        keep_densities(guide_trace)
        return model_trace, guide_trace

    def _differentiable_loss_particle(self, model_trace: Any, guide_trace: Any) -> tuple[Any, Any]:
        loss, surrogate = super()._differentiable_loss_particle(model_trace, guide_trace)
        return loss, surrogate if self.gradient == "total" else -path_bound(model_trace, guide_trace)
