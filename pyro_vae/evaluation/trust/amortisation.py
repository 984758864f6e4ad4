"""The loss from predicting q(z|x) with an encoder instead of fitting it to each datum.

    log p(x) - ELBO(q_encoder)  =  [log p(x) - ELBO(q*)]  +  [ELBO(q*) - ELBO(q_encoder)]           nats
            inference gap              approximation gap            amortisation gap

q* is the best normal with diagonal covariance for that datum. A large amortisation gap calls for a better encoder, a
large approximation gap for a richer posterior; neither helps with the other gap.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Independent

from pyro_vae.evaluation.data_fingerprint import fingerprint
from pyro_vae.evaluation.estimators import Estimate, mean_and_error, of_data
from pyro_vae.evaluation.memory import DATA_BLOCK
from pyro_vae.evaluation.weights import draw_blocks, draw_columns, log_weights, read_log_weights
from pyro_vae.model import traces
from pyro_vae.model.program import undisturbed
from pyro_vae.progress import through
from pyro_vae.randomness import preserved, stream


@dataclass(frozen=True)
class Refinement:
    """A guide fitted to each datum, compared with the encoder's. Printing it gives a line for each number.

    Attributes:
        elbo: the ELBO of the program's own guide, per datum: the mean log-weight.
        refined: the ELBO of the fitted guide, with the same noise.
        gap: refined - elbo, the amortisation gap, with the error of that difference. It can be negative if there was
            nothing to gain, or if there were too few steps.
        loc, scale: (N, D), the fitted normals.
    """

    elbo: Estimate
    refined: Estimate
    gap: Estimate
    loc: Tensor
    scale: Tensor

    def __str__(self) -> str:
        return f"{self.elbo}\n{self.refined}\n{self.gap}"


def refine(
    vae: Any,
    x: Tensor,
    y: Tensor | None = None,
    *,
    steps: int = 500,
    step_size: float = 0.05,
    draws_per_step: int = 4,
    num_samples: int = 100,
    seed: int | None = None,
    first_block: int = 0,
) -> Refinement:
    """Estimates the amortisation gap: loc and log scale of each q(z|x) are optimised, with the program frozen.

    Adam starts from the encoder's answer. Its step size falls to 0 along a cosine and is measured in units of the
    encoder's scales: loc can move by steps * step_size / 2 = 12 of them. The gradient is that of the sampled ELBO
    without the score, whose mean is 0, so it has no noise where q* is exact. The fitted guide yields a valid ELBO for
    its datum, so the gap can be too small but, within its error, not too large.

    Args:
        vae: anything with `.model` and `.guide` over one data plate, with one latent site and a guide that is normal
            with diagonal covariance.
        x: data (N, *x_shape).
        y: one-hot labels (N, C).
        steps: the steps of the optimiser for each block of 128 data.
        step_size: Adam's.
        draws_per_step: the draws of z for each gradient.
        num_samples: K, the draws of z for each datum in the ELBO before and after.
        seed: None continues the caller's random stream; an integer is reproducible and leaves that stream alone.
        first_block: for a shard of a larger data set, the number of blocks of 128 data that come before it.

    Raises:
        DataError: data outside the support of the likelihood.
        ValueError: another guide (several sites, full covariance, flow, point), no data, steps below 1.

    Reference:
        Cremer, Li & Duvenaud, "Inference Suboptimality in Variational Autoencoders", ICML 2018.
        https://arxiv.org/abs/1801.03558

        Roeder, Wu & Duvenaud, "Sticking the Landing: Simple, Lower-Variance Gradient Estimators for Variational
        Inference", NeurIPS 2017. https://arxiv.org/abs/1703.09194

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.StandardNormal(2),
        ...              pv.posteriors.DiagonalNormal(pv.networks.MLP((4,), (4,)), 2),
        ...              pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (4,))))
        >>> refine(vae, torch.zeros(3, 4), steps=50, seed=0).gap.value.shape
        torch.Size([3])
    """
    if steps < 1 or draws_per_step < 1:
        raise ValueError(f"steps and draws_per_step must be at least 1; got {steps} and {draws_per_step}")
    before, after, normals = [], [], []
    for data, blocks in draw_columns(vae, x, num_samples, y, seed, _read, first_block):
        starts, weights = zip(*blocks, strict=True)
        block, rest = first_block + data.start // DATA_BLOCK, (x[data],) if y is None else (x[data], y[data])
        with nullcontext() if seed is None else stream(seed, "refine", block, device=x.device), undisturbed(vae):
            normal = _fitted(vae.model, starts[0], rest, steps, step_size, draws_per_step)
        before.append(torch.cat(weights))
        after.append(_log_weights(vae, normal, rest, num_samples, seed, block))
        normals.append(normal)
    refinement = _refinement(torch.cat(before, 1), torch.cat(after, 1), normals)
    seen, names = fingerprint(x), ("elbo", "refined", "gap")
    return replace(refinement, **{name: of_data(getattr(refinement, name), seen, y) for name in names})


def refinable(vae: Any, x: Tensor, y: Tensor | None = None) -> bool:
    """Returns whether `refine` applies: one latent site, and a guide that is normal with diagonal covariance.

    Args:
        vae, x, y: as for `refine`; only one datum is used.

    Example:
        >>> import pyro_vae as pv
        >>> encoder, decoder = pv.networks.MLP((4,), (5,)), pv.networks.MLP((2,), (4,))
        >>> vae = pv.VAE(pv.priors.StandardNormal(2), pv.posteriors.FullNormal(encoder, 2),
        ...              pv.likelihoods.Bernoulli(decoder))
        >>> refinable(vae, torch.zeros(3, 4))
        False
    """
    with preserved(x.device):
        drawn = draw_blocks(vae, x[:1], 1, None if y is None else y[:1], None, _diagonal)
        return all(normal is not None for _, normal in drawn)


class _Normal(NamedTuple):
    """The guide's normals of one block of data: the site, loc and scale (b, D)."""

    site: str
    loc: Tensor
    scale: Tensor

    def guide(self) -> Callable[..., Tensor]:
        def guide(x: Tensor, y: Tensor | None = None) -> Tensor:
            with pyro.plate("data", len(x), dim=-1):
                return pyro.sample(self.site, dist.Normal(self.loc, self.scale).to_event(1))

        return guide


def _read(pair: traces.Traces) -> tuple[_Normal, Tensor]:
    return _normal(pair), read_log_weights(pair).cpu()


def _normal(pair: traces.Traces) -> _Normal:
    if (normal := _diagonal(pair)) is not None:
        return normal
    sites = ", ".join(f"{name} ~ {type(site['fn']).__name__}" for name, site in traces.latent_sites(pair.guide).items())
    raise ValueError(
        "refine needs a guide with one latent site that is normal with diagonal covariance, such as "
        f"posteriors.DiagonalNormal; this guide has {sites}"
    )


def _diagonal(pair: traces.Traces) -> _Normal | None:
    """The guide's normals, if it has one latent site, which is a normal with diagonal covariance."""
    sites = traces.latent_sites(pair.guide)
    for name, site in sites.items():
        q: Any = site["fn"]
        normal = isinstance(q, Independent) and isinstance(q.base_dist, torch.distributions.Normal)
        if normal and q.event_dim == 1 and len(sites) == 1:
            return _Normal(name, q.base_dist.loc[0], q.base_dist.scale[0])
    return None


@torch.enable_grad()
def _fitted(
    model: Callable[..., Any], start: _Normal, data: tuple[Tensor, ...], steps: int, step_size: float, draws: int
) -> _Normal:
    shift = torch.zeros_like(start.loc, requires_grad=True)
    log_ratio = torch.zeros_like(start.loc, requires_grad=True)
    # In nats per standard deviation: at smaller slopes a bare Adam would turn rounding errors into full steps.
    optimizer = torch.optim.Adam([shift, log_ratio], lr=step_size, eps=1e-2)
    for step in through("", range(steps)):
        optimizer.param_groups[0]["lr"] = step_size * (1 + math.cos(math.pi * step / steps)) / 2
        normal = start._replace(loc=start.loc + start.scale * shift, scale=start.scale * log_ratio.exp())
        loss = -_elbo_without_score(model, normal, data, draws).sum()
        shift.grad, log_ratio.grad = torch.autograd.grad(loss, [shift, log_ratio])
        optimizer.step()
    with torch.no_grad():
        return start._replace(loc=start.loc + start.scale * shift, scale=start.scale * log_ratio.exp())


def _elbo_without_score(model: Callable[..., Any], normal: _Normal, data: tuple[Tensor, ...], draws: int) -> Tensor:
    """The ELBO (b,), whose parameters reach log q only through z."""
    pair = traces.run(model, normal.guide(), draws, *data)
    z = pair.guide.nodes[normal.site]["value"]
    log_q = dist.Normal(normal.loc.detach(), normal.scale.detach()).to_event(1).log_prob(z)
    return (traces.reconstruction(pair) + traces.log_prior(pair) - log_q).mean(0)


def _log_weights(
    vae: Any, normal: _Normal, data: tuple[Tensor, ...], num_samples: int, seed: int | None, block: int
) -> Tensor:
    x, y = data if len(data) == 2 else (data[0], None)
    program = SimpleNamespace(model=vae.model, guide=normal.guide())
    with undisturbed(vae):
        return log_weights(program, x, num_samples, y, seed, first_block=block).cpu()


def _refinement(before: Tensor, after: Tensor, normals: list[_Normal]) -> Refinement:
    def estimate(name: str, values: Tensor) -> Estimate:
        return Estimate(name, *mean_and_error(values), len(values), kind={normals[0].site: "sampled"})

    loc = torch.cat([normal.loc for normal in normals])
    scale = torch.cat([normal.scale for normal in normals])
    elbo, refined = estimate("ELBO", before), estimate("refined ELBO", after)
    return Refinement(elbo, refined, estimate("amortisation gap", after - before), loc, scale)
