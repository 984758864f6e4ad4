r"""The aggregate posterior of N data, a mixture with all N terms evaluated.

.. math:: q(z) = \frac{1}{N} \sum_{n=1}^{N} q(z|x_n)

    1/N sum_n KL(q(z|x_n) || p(z))  =  I_q(x; z)  +  KL(q(z) || p(z))           in nats
               rate                    at most log N   marginal KL

It is often said that the KL term of the ELBO pulls q(z) towards the prior; this module measures whether it does. Every
site that is not observed is a latent. z stands for all latents together, so a program of two layers has one I_q(x; z1,
z2).

N data are a sample, and their mixture is closer to its own draws than the mixture over the whole population. So the
plug-in value exceeds KL(q(z) || p(z)) of the population mixture, often by many standard errors. With each datum left
out of its own mixture,

    log 1/(N-1) sum_(m != n) q(z|x_m)     at z ~ q(z|x_n)

the bias has the other sign, and the truth lies between the two in expectation: a `Bracket`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_vae.evaluation.estimators import Estimate, mean_and_error
from pyro_vae.evaluation.latent.dimensions import factors
from pyro_vae.evaluation.memory import DATA_BLOCK
from pyro_vae.evaluation.weights import draw_columns
from pyro_vae.model import traces
from pyro_vae.model.distributions.mixtures import Mixture
from pyro_vae.model.program import undisturbed
from pyro_vae.notebook_html import Row
from pyro_vae.progress import through

POOL = 256  # draws that are evaluated against one block of data at a time
_ROUNDING = 1e-3  # nats; if more could be lost, every density is computed separately, which takes longer


@dataclass(frozen=True)
class MutualInformation(Estimate):
    """An estimate of I_q(x; z), which cannot exceed log N. Printing it names both.

    Example:
        >>> print(MutualInformation("I(x; z)", torch.tensor([0.5, 0.7]), torch.tensor([0.1, 0.1]), 10))
        I(x; z)                   0.600 nats   ±0.100 over 2 data   ±0.071 Monte Carlo (K = 10)   log N = 0.693 (N = 2)
    """

    @property
    def bound(self) -> float:
        """The largest possible value, log N."""
        return math.log(self.num_data)

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "bound": self.bound}

    def __str__(self) -> str:
        return f"{super().__str__()}   log N = {self.bound:.3f} (N = {self.num_data})"


@dataclass(frozen=True, kw_only=True)
class Bracket(Estimate):
    """A plug-in estimate of a KL from N data, and a lower end. Printing it gives a line for each.

    For the population the estimate itself is the upper end; for these N data it is unbiased.

    Attributes:
        leave_one_out: the lower end: the same with each datum left out of its own mixture; NaN for a single datum.
        are_ends: False if no theorem says that the truth lies between the two, as for the total correlation.

    Example:
        >>> value, error = torch.tensor([0.5, 0.7]), torch.tensor([0.1, 0.1])
        >>> lower = Estimate("leave-one-out", value - 0.4, error, 10)
        >>> print(Bracket("KL(q(z)||p(z))", value, error, 10, leave_one_out=lower))
        KL(q(z)||p(z))            0.600 nats   ±0.100 over 2 data   ±0.071 Monte Carlo (K = 10)   at most
          leave-one-out           0.200 nats   ±0.100 over 2 data   ±0.071 Monte Carlo (K = 10)   at least
    """

    leave_one_out: Estimate
    are_ends: bool = True

    @property
    def is_above_zero(self) -> bool:
        """Whether 0 is excluded: the lower end lies above 0 by more than two standard errors over the data."""
        return self.leave_one_out.mean > 2 * self.leave_one_out.standard_error

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "leave_one_out": self.leave_one_out.to_dict()}

    def __str__(self) -> str:
        lower = replace(self.leave_one_out, name="  leave-one-out")
        most, least = ("   at most", "   at least") if self.are_ends else ("   plug-in", "")
        return f"{super().__str__()}{most}\n{lower}{least}"

    def table_rows(self) -> list[Row]:
        most, least = ("at most", "at least") if self.are_ends else ("plug-in", "")
        lower = replace(self.leave_one_out, name="leave-one-out")
        return [{**row, "end": most} for row in super().table_rows()] + [
            {**row, "end": least} for row in lower.table_rows()
        ]


class AggregateTerms(NamedTuple):
    """The rate and its two parts: rate = mutual_information + marginal_kl, draw by draw."""

    rate: Estimate
    mutual_information: MutualInformation
    marginal_kl: Bracket


def aggregate_terms(
    vae: Any, x: Tensor, num_samples: int = 10, y: Tensor | None = None, seed: int | None = None
) -> AggregateTerms:
    """Estimates the rate KL(q(z|x) || p(z)) and its two parts, I_q(x; z) and KL(q(z) || p(z)), per datum, in nats.

    With z_nk ~ q(z|x_n), k = 1 ... K, the value for datum n is the mean over k of

        rate                log q(z_nk|x_n) - log p(z_nk)
        mutual information  log q(z_nk|x_n) - log q(z_nk)          q(z) = 1/N sum_m q(z|x_m), datum n included
        marginal KL         log q(z_nk)     - log p(z_nk)

    Every mean is unbiased for these N data, but biased for the population: as long as I is near log N, more data would
    raise it, and lower the marginal KL. `marginal_kl.leave_one_out` has a bias of the opposite sign: datum n is left
    out of q(z) for its own draws. `standard_error` treats the mixture as fixed, which is right to first order (a
    quarter too small for the lower end at N = 150 in ten dimensions, right at 600). It does not include the bias of
    either end.

    This works for any program; z stands for all its latent sites together. It evaluates N^2 K densities, and holds 256
    x 128 of them in memory.

    Args:
        vae: anything with `.model` and `.guide` over one data plate.
        x: data (N, *x_shape).
        num_samples: K, the draws of z for each datum; the Monte Carlo error needs two or more.
        y: one-hot labels (N, C).
        seed: None continues the caller's random stream; an integer is reproducible and leaves that stream alone.

    Raises:
        DataError: data outside the support of the likelihood.
        ValueError: no data, K < 1, a guide without a density, or a prior p(z|y) that differs between these labels.

    Reference:
        Hoffman & Johnson, "ELBO surgery: yet another way to carve up the variational evidence lower bound", NIPS
        workshop on Advances in Approximate Bayesian Inference 2016.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.StandardNormal(2),
        ...              pv.posteriors.DiagonalNormal(pv.networks.MLP((4,), (4,)), 2),
        ...              pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (4,))))
        >>> terms = aggregate_terms(vae, torch.eye(4), seed=0)
        >>> abs(terms.rate.mean - terms.mutual_information.mean - terms.marginal_kl.mean) < 1e-5
        True
    """
    draws = _draws(vae, x, num_samples, y, seed)
    if y is not None:
        _check_one_prior(vae, x, y, draws.z)
    mixture, others = (log.reshape(draws.log_q.shape) for log in _log_mixtures(vae, x, y, draws.z, _joint))
    return AggregateTerms(
        _estimate("rate KL(q(z|x)||p(z))", draws.log_q - draws.log_p),
        _information(draws.log_q - mixture),
        _bracket("KL(q(z)||p(z))", mixture - draws.log_p, others - draws.log_p),
    )


def mutual_information(
    vae: Any, x: Tensor, num_samples: int = 10, y: Tensor | None = None, seed: int | None = None
) -> MutualInformation:
    r"""Estimates how much information z carries about which of the N data it came from, in nats: at most log N.

    .. math:: I_q(x; z) = \frac{1}{N} \sum_{n=1}^{N} \mathrm{KL}(q(z|x_n) \,\|\, q(z))

    With labels, this is the information about which (x, y) it came from. p(z) plays no part, so a prior p(z|y) can
    differ between the labels.

    Args:
        vae, x, num_samples, y, seed: as for `aggregate_terms`.

    Raises:
        DataError: data outside the support of the likelihood.
        ValueError: no data, K < 1, or a guide without a density.

    Reference:
        Hoffman & Johnson, "ELBO surgery: yet another way to carve up the variational evidence lower bound", NIPS
        workshop on Advances in Approximate Bayesian Inference 2016.
    """
    draws = _draws(vae, x, num_samples, y, seed)
    mixture, _ = _log_mixtures(vae, x, y, draws.z, _joint)
    return _information(draws.log_q - mixture.reshape(draws.log_q.shape))


def marginal_kl(
    vae: Any, x: Tensor, num_samples: int = 10, y: Tensor | None = None, seed: int | None = None
) -> Bracket:
    """Estimates KL(q(z) || p(z)), the distance of the aggregate posterior of N data from the prior, in nats.

    The value refers to these N data, and is an upper end for the mixture over the population; `leave_one_out` is the
    lower end.

    Args:
        vae, x, num_samples, y, seed: as for `aggregate_terms`.

    Raises:
        DataError, ValueError: as for `aggregate_terms`.
    """
    return aggregate_terms(vae, x, num_samples, y, seed).marginal_kl


def total_correlation(
    vae: Any, x: Tensor, num_samples: int = 10, y: Tensor | None = None, seed: int | None = None
) -> Bracket:
    r"""Estimates how much the dimensions of the aggregate posterior depend on each other, in nats.

    .. math:: \mathrm{KL}\Big(q(z) \,\Big\|\, \prod_j q(z_j)\Big), \qquad q(z_j) = \frac{1}{N} \sum_{n=1}^{N} q(z_j|x_n)

    q(z) and every q(z_j) are exact mixtures over the N data; the paper uses minibatches. If the dimensions depend
    little on each other, the value exceeds that of the population mixture, since N data fill one dimension far better
    than many. `leave_one_out`, with each datum left out of all its mixtures, then falls short of it. If dimensions copy
    each other, both fall short: these are not bounds.

    Args:
        vae, x, num_samples, y, seed: as for `aggregate_terms`.

    Raises:
        DataError: data outside the support of the likelihood.
        ValueError: no data, K < 1, more than one latent site, or a guide that does not factorise over the dimensions
            of z.

    Reference:
        Chen, Li, Grosse & Duvenaud, "Isolating Sources of Disentanglement in Variational Autoencoders", NeurIPS 2018,
        section 3. https://arxiv.org/abs/1802.04942
    """
    draws = _draws(vae, x, num_samples, y, seed)
    if len(draws.z) > 1:
        raise ValueError(f"total correlation is defined for one latent site; the program has {sorted(draws.z)}")
    mixtures = _log_mixtures(vae, x, y, draws.z, _joint_and_factors)
    both = _bracket("total correlation", *(_joint_less_factors(each).reshape(draws.log_q.shape) for each in mixtures))
    return replace(both, are_ends=False)


def _joint_less_factors(mixture: Tensor) -> Tensor:
    return mixture[:, 0] - mixture[:, 1:].sum(-1)


class _Draws(NamedTuple):
    """log_q = log q(z|x) and log_p = log p(z), (K, N), at z: site -> (K N, *event), one row for each draw."""

    z: dict[str, Tensor]
    log_q: Tensor
    log_p: Tensor


def _draws(vae: Any, x: Tensor, num_samples: int, y: Tensor | None, seed: int | None) -> _Draws:
    whole = _joined([_joined(blocks, 0) for _, blocks in draw_columns(vae, x, num_samples, y, seed, _read)], 1)
    return whole._replace(z={name: value.flatten(0, 1) for name, value in whole.z.items()})


def _read(pair: traces.Traces) -> _Draws:
    log_q, log_p = traces.log_posterior(pair).double(), traces.log_prior(pair).double()
    sites = traces.latent_sites(pair.guide)
    return _Draws({n: s["value"].expand(log_q.shape + s["fn"].event_shape) for n, s in sites.items()}, log_q, log_p)


def _joined(blocks: Sequence[_Draws], dim: int) -> _Draws:
    z = {name: torch.cat([block.z[name] for block in blocks], dim) for name in blocks[0].z}
    return _Draws(
        z, torch.cat([block.log_q for block in blocks], dim), torch.cat([block.log_p for block in blocks], dim)
    )


@torch.no_grad()
def _log_mixtures(
    vae: Any, x: Tensor, y: Tensor | None, z: dict[str, Tensor], read: Callable[[poutine.Trace], Tensor]
) -> tuple[Tensor, Tensor]:
    """log 1/N sum_n q(z|x_n), or the same of what `read` returns, for S given z; then each without the datum of that z.

    `read` returns one block, (S, B, ...). The draws of datum n are at n, n + N, n + 2N, ... among all: (S, ...).
    """
    N, size = len(x), len(next(iter(z.values())))
    own, pools = torch.arange(size, device=x.device) % N, []
    with undisturbed(vae):
        for start in through("", range(0, size, POOL)):
            rows, pairs = slice(start, start + POOL), []
            pool = {name: value[rows] for name, value in z.items()}
            for first in range(0, N, DATA_BLOCK):
                log_q = read(_at(vae.guide, pool, *_rows(x, y, slice(first, first + DATA_BLOCK))))
                pairs.append(_with_and_without(log_q, own[rows] - first))
            pools.append(torch.stack(pairs).logsumexp(0))
    both = torch.cat(pools, 1)
    return both[0] - math.log(N), both[1] - (math.log(N - 1) if N > 1 else math.nan)


def _with_and_without(log_q: Tensor, own: Tensor) -> Tensor:
    """log sum_b q(z_s|x_b) of a block (S, B, ...), then without the datum at own[s] if that is in it: (2, S, ...)."""
    whole = log_q.logsumexp(1)
    others, held = whole.clone(), ((own >= 0) & (own < log_q.shape[1])).nonzero()[:, 0]
    if len(held) > 0:
        left = log_q[held]
        left[torch.arange(len(held)), own[held]] = -math.inf
        others[held] = left.logsumexp(1)
    return torch.stack([whole, others])


def _rows(x: Tensor, y: Tensor | None, rows: Any) -> tuple[Tensor, ...]:
    return (x[rows],) if y is None else (x[rows], y[rows])


def _at(program: Callable[..., Any], z: dict[str, Tensor], *args: Tensor) -> poutine.Trace:
    """The trace of a guide or a model at S given latents, each with every one of B data: (S, B)."""
    each = {name: v.unsqueeze(1).expand(len(v), len(args[0]), *v.shape[1:]) for name, v in z.items()}
    draws = pyro.plate("draws", len(next(iter(z.values()))), dim=-2)
    return prune_subsample_sites(
        poutine.trace(poutine.replay(draws(program), trace=traces.holding(each))).get_trace(*args)
    )


def _joint(guide: poutine.Trace) -> Tensor:
    """log q(z|x_b) of all latents together, for the data of one trace: (S, B)."""
    sites = list(traces.latent_sites(guide).values())
    q = factors(sites[0])
    is_normal = len(sites) == 1 and sites[0]["fn"].event_dim == 1 and isinstance(q, torch.distributions.Normal)
    if is_normal and _rounding(q, sites[0]["value"]) < _ROUNDING:
        normals = dist.Normal(q.loc[0].double(), q.scale[0].double()).to_event(1)  # the same for every draw
        z = sites[0]["value"][:, 0].double()
        return Mixture(normals.base_dist.loc.new_zeros(q.loc.shape[1]), normals).log_parts(z)
    guide.compute_log_prob()
    return traces.log_posterior(traces.Traces(guide, guide)).double()


def _rounding(q: Any, z: Tensor) -> float:
    """What a `Mixture` of normals can lose to rounding, since it multiplies out the squares, in nats."""
    reach = (z.abs().max().double() + q.loc.abs().max()) / q.scale.min()
    return reach.square().item() * z.shape[-1] * torch.finfo(torch.float64).eps


def _joint_and_factors(guide: poutine.Trace) -> Tensor:
    """log q(z|x_b), and the same for every z_j: (S, B, 1 + D)."""
    (site,) = traces.latent_sites(guide).values()
    factor = factors(site)
    if factor is None:
        raise ValueError(
            f"the guide's site {site['name']} does not factorise over the dimensions of z, so no q(z_j|x) is known. "
            "Total correlation needs a posterior such as DiagonalNormal"
        )
    each = factor.log_prob(site["value"]).double()
    each = each.reshape(*each.shape[:2], -1)
    return torch.cat([each.sum(-1, keepdim=True), each], -1)


@torch.no_grad()
def _check_one_prior(vae: Any, x: Tensor, y: Tensor, z: dict[str, Tensor]) -> None:
    """Raises ValueError if p(z|y) of one z differs between the labels."""
    places = list({tuple(label): i for i, label in enumerate(y.flatten(1).tolist())}.values())[:DATA_BLOCK]
    with undisturbed(vae):
        model = _at(vae.model, {name: value[:1] for name, value in z.items()}, *_rows(x, y, places))
        model.compute_log_prob()
    log_p = traces.log_prior(traces.Traces(model, model))
    if not torch.allclose(log_p, log_p[:, :1].expand_as(log_p), rtol=1e-4, atol=1e-4):
        raise ValueError(
            "p(z|y) differs between these labels, so there is no single prior to compare q(z) with. "
            "Pass the data of one label at a time"
        )


def _information(values: Tensor) -> MutualInformation:
    return MutualInformation("I(x; z)", *mean_and_error(values.cpu()), len(values))


def _estimate(name: str, values: Tensor) -> Estimate:
    return Estimate(name, *mean_and_error(values.cpu()), len(values))


def _bracket(name: str, values: Tensor, left_out: Tensor) -> Bracket:
    lower = _estimate(f"{name}, leave-one-out", left_out)
    return Bracket(name, *mean_and_error(values.cpu()), len(values), leave_one_out=lower)
