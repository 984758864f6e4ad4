r"""How the importance-weighted bound rises with the number of draws.

.. math:: L_k = E \log \frac{1}{k} \sum_{i=1}^{k} w_i, \qquad w_i = \frac{p(x, z_i)}{q(z_i|x)}, \qquad z_i \sim q(z|x)

L_k rises with k from the ELBO (k = 1) to log p(x). Blocks that share no draws estimate every L_k without bias. K draws
contain floor(K/k) blocks of k, so one pass of K draws gives the whole curve, with an error at every k < K/2 that needs
no theory. The bias at the end of the curve falls like 1/k, and the jackknife removes that term.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae.evaluation.data_fingerprint import fingerprint
from pyro_vae.evaluation.estimators import Estimate, of_data, relative_error
from pyro_vae.evaluation.trust.diagnostics import effective_sample_size, psis_khat
from pyro_vae.evaluation.weights import draw_columns, read_log_weights
from pyro_vae.notebook_html import html_table


@dataclass(frozen=True)
class IWAECurve:
    """Importance-weighted bounds at several k, from the same draws. Printing it gives a line for each.

    Attributes:
        bounds: k -> `Estimate` of L_k; its `num_samples` is k, the number of draws in the bound.
        jackknife: the value at K with a bias of order 1/K^2 instead of 1/K. It is **not a bound**: it can lie above log
            p(x), and does so if the weights have heavy tails. NaN for K = 1.
        khat: (N,), `psis_khat` of all K weights of each datum.
        effective: (N,), `effective_sample_size` of the same weights.
    """

    bounds: dict[int, Estimate]
    jackknife: Estimate
    khat: Tensor
    effective: Tensor

    def to_dict(self) -> dict[str, Any]:
        """Converts to plain numbers for a report, with None for one that is unknown or infinite."""
        bounds = {str(k): estimate.to_dict() for k, estimate in self.bounds.items()}
        return {"bounds": bounds, "jackknife_no_bound": self.jackknife.to_dict()}

    def __str__(self) -> str:
        return "\n".join(str(estimate) for estimate in (*self.bounds.values(), self.jackknife))

    def _repr_html_(self) -> str:
        return html_table([row for each in (*self.bounds.values(), self.jackknife) for row in each.table_rows()])


class Moment(NamedTuple):
    """A value for each datum and its Monte Carlo standard error, both (B,)."""

    value: Tensor
    error: Tensor


def iwae_curve(
    vae: Any,
    x: Tensor,
    num_samples: int,
    y: Tensor | None = None,
    seed: int | None = None,
    *,
    first_block: int = 0,
) -> IWAECurve:
    r"""Estimates the importance-weighted bound at k = 1, 2, 5, 10, ..., K from one pass of K draws, per datum, in nats.

    .. math:: L_k = E \log \frac{1}{k} \sum_{i=1}^{k} \frac{p(x, z_i)}{q(z_i|x)}, \qquad z_i \sim q(z|x)

    The last bound is `iwae` of the same draws. In addition there is the jackknife, whose bias is of a higher order. The
    error of a bound is measured over its blocks of k draws; a bound with a single block has the error of `iwae`. The
    jackknife has an error of its own. The weights are held for one block of data at a time, (K, 128), never for all
    data.

    Args:
        vae: anything with `.model` and `.guide` over one data plate.
        x: data (N, *x_shape).
        num_samples: K, the draws of z for each datum, and the last k.
        y: one-hot labels (N, C).
        seed: None continues the caller's random stream; an integer is reproducible and leaves that stream alone.
        first_block: for a shard of a larger data set, the number of blocks of 128 data that come before it.

    Raises:
        DataError: data outside the support of the likelihood.
        ValueError: no data, K < 1 or K > 131,072, or a guide without a density.

    Reference:
        Burda, Grosse & Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016, theorem 1.
        https://arxiv.org/abs/1509.00519

        Nowozin, "Debiasing Evidence Approximations: On Importance-weighted Autoencoders and Jackknife Variational
        Inference", ICLR 2018. https://iclr.cc/virtual/2018/poster/114

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.StandardNormal(2),
        ...              pv.posteriors.DiagonalNormal(pv.networks.MLP((4,), (4,)), 2),
        ...              pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (4,))))
        >>> list(iwae_curve(vae, torch.zeros(3, 4), num_samples=64, seed=0).bounds)
        [1, 2, 5, 10, 20, 50, 64]
    """
    columns = draw_columns(vae, x, num_samples, y, seed, read_log_weights, first_block)
    curves = [curve_of(torch.cat([block.cpu() for block in blocks])) for _, blocks in columns]
    data, jackknifed = fingerprint(x), _joined([curve.jackknife for curve in curves])
    bounds = {k: _joined([curve.bounds[k] for curve in curves]) for k in curves[0].bounds}
    bounds = {k: of_data(bound, data, y, f"bound of {k} draws on log p(x)") for k, bound in bounds.items()}
    khat, effective = (torch.cat([getattr(curve, name) for curve in curves]) for name in ("khat", "effective"))
    return IWAECurve(bounds, of_data(jackknifed, data, y, "log p(x)"), khat, effective)


def curve_of(log_weights: Tensor) -> IWAECurve:
    """Computes the curve of bounds from existing weights, see `iwae_curve`.

    Args:
        log_weights: (K, N), see `pyro_vae.evaluation.log_weights`.

    Example:
        >>> list(curve_of(torch.zeros(20, 3)).bounds)
        [1, 2, 5, 10, 20]
    """
    K = len(log_weights)
    bounds = {k: Estimate("bound on log p(x)", *block_bound(log_weights, k), k) for k in steps(K)}
    corrected = Estimate("jackknife, no bound", *jackknife(log_weights), K)
    return IWAECurve(bounds, corrected, psis_khat(log_weights), effective_sample_size(log_weights))


def steps(num_samples: int) -> list[int]:
    """The numbers of draws k at which a curve has a bound: 1, 2, 5, 10, 20, 50, ... up to K, and K itself.

    Example:
        >>> steps(30)
        [1, 2, 5, 10, 20, 30]
    """
    tens = [10**power for power in range(len(str(max(num_samples, 1))))]
    return sorted({k for ten in tens for k in (ten, 2 * ten, 5 * ten) if k <= num_samples} | {num_samples})


def block_bound(log_weights: Tensor, k: int) -> Moment:
    """Estimates L_k: the mean, over floor(K/k) blocks of k draws, of the logarithm of a block's mean weight.

    Draws after the last full block are left out. The error is the error of a mean of floor(K/k) independent blocks,
    which is rough for a few blocks, and right on average over the data. For a single block it is the error of the
    logarithm of a mean, sd(w) / (sqrt(k) mean(w)), as in `iwae`; for a single draw it is unknown (NaN).

    Args:
        log_weights: (K, B), see `pyro_vae.evaluation.log_weights`.
        k: the draws in each block, 1 ... K.

    Raises:
        ValueError: k outside 1 ... K.

    Example:
        >>> block_bound(torch.tensor([[0.0], [0.0], [-1.0], [-1.0], [9.0]]), 2).value
        tensor([-0.5000], dtype=torch.float64)
    """
    log_weights, K = log_weights.double(), len(log_weights)
    if not 1 <= k <= K:
        raise ValueError(f"k must be within 1 ... {K}, the number of draws; got {k}")
    blocks = K // k
    rows = log_weights[: blocks * k].unflatten(0, (blocks, k))
    values = torch.logsumexp(rows, 1) - math.log(k)
    if blocks > 1:
        return Moment(values.mean(0), values.std(0) / math.sqrt(blocks))
    return Moment(values[0], relative_error(rows[0]))


def jackknife(log_weights: Tensor) -> Moment:
    r"""Estimates log p(x) without the term of the bias that falls as 1/K. It is not a bound.

    .. math:: K L_K - (K - 1) \frac{1}{K} \sum_{i=1}^{K} L_{(i)}

    L_(i) is the bound of the K - 1 draws without draw i. The error is the jackknife's own:

    .. math:: \sqrt{\frac{K - 1}{K} \sum_{i=1}^{K} \Big(L_{(i)} - \frac{1}{K} \sum_{j=1}^{K} L_{(j)}\Big)^2}

    Args:
        log_weights: (K, B), see `pyro_vae.evaluation.log_weights`.

    Returns:
        Value and error, (B,) each, in nats. Both are NaN for K = 1, where no draw can be left out, and for a datum
        whose weights are all 0 or include NaN. The value is plus infinity if only one weight is above 0.

    Reference:
        Nowozin, "Debiasing Evidence Approximations: On Importance-weighted Autoencoders and Jackknife Variational
        Inference", ICLR 2018. https://iclr.cc/virtual/2018/poster/114

    Example:
        >>> jackknife(torch.zeros(5, 1)).value
        tensor([0.], dtype=torch.float64)
    """
    log_weights, K = log_weights.double(), len(log_weights)
    if K == 1:
        unknown = torch.full_like(log_weights[0], math.nan)
        return Moment(unknown, unknown)
    without = _leave_one_out(log_weights) - math.log(K - 1)
    whole = torch.logsumexp(log_weights, 0) - math.log(K)
    spread = (without - without.mean(0)).square().sum(0)
    return Moment(whole + (K - 1) * (whole - without.mean(0)), (spread * (K - 1) / K).sqrt())


def _leave_one_out(log_weights: Tensor) -> Tensor:
    """log sum_(j != i) w_j for every i, (K, B): by sums from both ends, since subtracting w_i would cancel."""
    none = torch.full_like(log_weights[:1], -math.inf)
    before = torch.cat([none, log_weights[:-1].logcumsumexp(0)])
    after = torch.cat([none, log_weights[1:].flip(0).logcumsumexp(0)]).flip(0)
    return torch.logaddexp(before, after)


def _joined(estimates: list[Estimate]) -> Estimate:
    value, error = (torch.cat([getattr(each, name) for each in estimates]) for name in ("value", "value_error"))
    return replace(estimates[0], value=value, value_error=error)
