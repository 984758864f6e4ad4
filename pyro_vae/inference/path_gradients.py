r"""Gradients along the path of each draw, without the score of the guide, whose mean is 0 or known.

A latent is drawn as :math:`z = T_\phi(\epsilon)`. The gradient of a bound with respect to the parameters of the guide
has two parts: one along the path through z, and one through the parameters of log q themselves, the score:

.. math:: \nabla_\phi \log w = \frac{\partial \log w}{\partial z} \frac{\partial z}{\partial \phi}
          - \frac{\partial \log q_\phi(z|x)}{\partial \phi}, \qquad \log w = \log p_\theta(x, z) - \log q_\phi(z|x)

The score has mean 0, but not variance 0. Without it ("sticking the landing") the gradient is 0 for every draw if the
guide is the posterior, since log w is then constant in z. For the importance-weighted bound the score has another mean.
A second path replaces it, which turns the weights of the first into their squares ("doubly reparametrised"):

.. math:: \nabla_\phi L_K = E \sum_{k=1}^K v_k^2 \, \frac{\partial \log w_k}{\partial z_k}
          \frac{\partial z_k}{\partial \phi}, \qquad v_k = \frac{w_k}{\sum_j w_j}

The parameters of the model keep their gradient, :math:`\sum_k v_k \nabla_\theta \log p_\theta(x, z_k)`. So do
parameters that prior and guide share, as in a VampPrior: its part of log p is a function of theta like any other.

Guide and model run once. Each draw enters the rest of the guide as one tensor, and the model as another. So the partial
derivatives of log q with respect to each draw, with the others fixed, do not need the network that made the draw. One
backward pass covers all paths through guide and model, including those of draws that others depend on.

Reference:
    Roeder, Wu & Duvenaud, "Sticking the Landing: Simple, Lower-Variance Gradient Estimators for Variational Inference",
    NeurIPS 2017, https://arxiv.org/abs/1703.09194

    Eq. 8 of Tucker, Lawson, Gu & Maddison, "Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives",
    ICLR 2019, https://arxiv.org/abs/1810.04152
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vae.loss_requirements import check_reparametrised
from pyro_vae.model import traces

_DRAWN = "drawn"  # in a site's `infer`: the value as it was drawn
_KNOWS_DRAWS_ALONE = "intermediates cache"  # in the error of Pyro's transforms without an inverse


@contextmanager
def draws_apart() -> Iterator[None]:
    """Inside, guide and model see each draw as separate tensors with the same numbers.

    Raises:
        ValueError: a latent without `rsample`, or one whose density is known only at its own draws.
    """
    try:
        with _DrawsApart():
            yield
    except KeyError as error:
        if _KNOWS_DRAWS_ALONE not in str(error):
            raise
        raise ValueError(
            "this gradient needs log q(z|x) as a function of z, but a transform of the guide has no inverse. Use "
            "`gradient='total'`"
        ) from error


class _DrawsApart(Messenger):
    def __init__(self) -> None:
        super().__init__()
        self._fresh: set[str] = set()

    def _pyro_sample(self, msg: Any) -> None:
        if msg["value"] is None and not msg["is_observed"] and not site_is_subsample(msg):
            self._fresh.add(msg["name"])

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self._fresh:
            self._fresh.remove(msg["name"])
            check_reparametrised(msg["name"], msg["fn"].has_rsample)
            msg["infer"] = {**msg["infer"], _DRAWN: msg["value"]}
            msg["value"] = _same(msg["value"])
        elif _DRAWN in msg["infer"]:  # the model, at a draw of the guide
            msg["value"] = _same(msg["value"])


def _same(value: Tensor) -> Tensor:
    return value.view_as(value)


def keep_densities(guide: poutine.Trace) -> None:
    """Sets log q(z|x) to its value at the draw itself: at any other tensor, flows compute it in another way.

    Args:
        guide: the trace of a guide that ran within `draws_apart`, with densities; it is changed.
    """
    for site in _of_draws(guide):
        if _remembers(site["fn"]):
            known = site["fn"].log_prob(site["infer"][_DRAWN]).detach()
            log_prob = site["log_prob"]
            site["log_prob"] = scale_and_mask(known, site["scale"], site["mask"]) + (log_prob - log_prob.detach())
            site["log_prob_sum"] = site["log_prob"].sum()


def _remembers(distribution: Any) -> bool:
    """Whether it caches the density of its last draw, or a part of it, under the drawn tensor."""
    while hasattr(distribution, "base_dist") and not hasattr(distribution, "transforms"):
        distribution = distribution.base_dist
    return hasattr(distribution, "cache") or hasattr(distribution, "transforms")


def path_bound(model: poutine.Trace, guide: poutine.Trace, weights: Tensor | None = None) -> Tensor:
    """Returns a number of which only the gradient matters: the gradient of the bound, along paths.

    Args:
        model, guide: traces that ran within `draws_apart`, with densities.
        weights: v (K, B), constants that sum to 1 over the K draws; None is 1 everywhere.

    Returns:
        (), summed over draws and data.

    Raises:
        ValueError: there are weights, and batch norm makes the log-weight of a draw depend on other draws.
    """
    sites = [site for site in _of_draws(guide) if site["value"].requires_grad]
    of_model = [model.nodes[site["name"]] for site in sites if site["name"] in model]
    log_p = [site["log_prob"] for site in model.nodes.values() if site["type"] == "sample"]
    log_q = [site["log_prob"] for site in guide.nodes.values() if site["type"] == "sample"]
    if weights is None:
        bound, density = _summed(log_p), _summed(log_q)
    else:
        if len(weights) > 1:
            _check_apart([*log_p, *log_q], [site["value"] for site in (*of_model, *sites)])
        for site in of_model:
            _scale_gradient(site["value"], _along(weights, site))
        bound, density = _summed(log_p, weights), _summed(log_q, weights.square())
    for site, slope in zip(sites, _partial_derivatives(density, sites), strict=True):
        if slope is not None:
            bound = bound - (slope * site["value"]).sum()
    return bound


def _of_draws(guide: poutine.Trace) -> list[traces.Site]:
    sites: list[traces.Site] = [site for site in guide.nodes.values() if site["type"] == "sample"]
    return [site for site in sites if _DRAWN in site["infer"]]


def _summed(log_probs: Sequence[Tensor], weights: Tensor | None = None) -> Tensor:
    parts = [(log_prob if weights is None else weights * log_prob).sum() for log_prob in log_probs]
    return sum(parts[1:], parts[0])


def _along(weights: Tensor, site: traces.Site) -> Tensor:
    return weights.reshape(weights.shape + (1,) * site["fn"].event_dim)


def _scale_gradient(value: Any, factor: Tensor) -> None:
    value.register_hook(lambda gradient: gradient * factor)


def _partial_derivatives(density: Tensor, sites: Sequence[traces.Site]) -> Sequence[Tensor | None]:
    """Derivatives with respect to each draw, with all others fixed."""
    if not (sites and density.requires_grad):
        return [None] * len(sites)
    with _draws_fixed([site["infer"][_DRAWN] for site in sites]):
        values = [site["value"] for site in sites]
        return torch.autograd.grad(density, values, retain_graph=True, allow_unused=True)


@contextmanager
def _draws_fixed(drawn: Sequence[Tensor]) -> Iterator[None]:
    """Inside, derivatives stop at these draws, and do not reach what they were drawn from."""
    handles = [value.register_hook(torch.zeros_like) for value in drawn]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check_apart(log_probs: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Raises ValueError if autograd knows that a draw reaches a density through batch norm over the batch."""
    ends = {value.grad_fn for value in values}
    if any(_mixes_draws(log_prob.grad_fn, ends) for log_prob in log_probs if log_prob.grad_fn is not None):
        raise ValueError(
            "batch norm in training mode, in a network that takes z, mixes the draws of a datum with other data, and "
            "`gradient='doubly_reparametrised'` would be biased. Use `gradient='total'`, or a norm within each row "
            "(torch.nn.LayerNorm)"
        )


def _mixes_draws(start: Any, ends: set[Any]) -> bool:
    """Whether a path of the graph from `start` back to one of `ends` has a batch norm with batch statistics."""
    leads: dict[Any, bool] = {}
    stack = [(start, False)]
    while stack:
        node, seen_below = stack.pop()
        below = [child for child, _ in node.next_functions if child is not None] if node not in ends else []
        if not seen_below:
            if node not in leads:
                leads[node] = node in ends
                stack += [(node, True), *((child, False) for child in below)]
            continue
        leads[node] = leads[node] or any(leads[child] for child in below)
        if leads[node] and "BatchNorm" in node.name() and getattr(node, "_saved_training", True):
            return True
    return False
