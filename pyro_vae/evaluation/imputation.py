r"""Missing numbers drawn given the observed ones, by importance resampling.

.. math:: p(x_{mis}|x_{obs}) = \int p(x_{mis}|x_{obs}, z) \, p(z|x_{obs}) \, dz

z is chosen from K draws of the guide in proportion to the importance weights, and x_mis is drawn from its distribution
given z and the observed numbers. So the encoder only proposes, and the weights correct its errors; k-hat says how well.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae.evaluation.memory import DATA_BLOCK, sample_block
from pyro_vae.evaluation.trust.diagnostics import NO_KHAT, psis_khat, share_above
from pyro_vae.evaluation.weights import data_blocks, draw_columns, read_log_weights
from pyro_vae.model import traces
from pyro_vae.model.distributions.missing import completed, expected
from pyro_vae.model.program import check_tensor, remembering, undisturbed
from pyro_vae.randomness import block_stream, derive_if_given

_MISSING = "impute draws missing numbers, but this program does not accept any. Build it with `missing=True`"


@dataclass(frozen=True)
class Imputation:
    """Draws of the missing numbers. Printing it gives one line.

    Attributes:
        draws: (M, N, *x_shape), M imputations of all data; observed numbers stay as they were given.
        mean: (N, *x_shape), the data with the expected value of each missing number, the mean of E[x_mis|x_obs, z] over
            the M chosen z. It is the best single imputation under squared error, and has less noise than the mean of
            the draws. NaN where p(x|z) has no mean.
        khat: (N,), PSIS k-hat of the weights; do not trust the draws of a datum if it is above 0.7.
        num_samples: K, the draws of z for each datum, from which M are chosen. missing: the share of missing numbers.
    """

    draws: Tensor = field(repr=False)
    mean: Tensor = field(repr=False)
    khat: Tensor = field(repr=False)
    num_samples: int
    missing: float

    def __str__(self) -> str:
        share = share_above(self.khat)
        khat = f"k-hat above 0.7 for {share or 0:.0%} of the data"
        return (
            f"{'imputation':<20} {self.missing:.1%} of the numbers of {len(self.khat)} data, {len(self.draws)} times   "
            f"{NO_KHAT if share is None else khat} (K = {self.num_samples})"
        )


def impute(
    vae: Any,
    x: Any,
    num_imputations: int,
    y: Any = None,
    *,
    num_samples: int = 1000,
    seed: int | None = None,
    first_block: int = 0,
) -> Imputation:
    r"""Draws the missing numbers of each datum given its observed ones, `num_imputations` times.

    .. math:: P(z = z_k) = \frac{w_k}{\sum_j w_j}, \quad w_k = \frac{p(x_{obs}, z_k)}{q(z_k|x)}, \quad z_k \sim q(z|x),
              \qquad x_{mis} \sim p(x_{mis}|x_{obs}, z)

    If the numbers are independent given z, p(x_mis|x_obs, z) is p(x_mis|z). Under `LowRankNormal` it is the normal of
    the missing numbers given z and the observed ones. As K grows the draws follow p(x_mis|x_obs). Several draws show
    how uncertain the missing numbers are: analyse each completed data set separately, and pool the results ("multiple
    imputation").

    Like the program, the draws assume that the gaps depend only on observed values (missing at random). If a number is
    missing because of its own value, the draws are biased, and nothing in the data shows it.

    Args:
        vae: a program with `missing=True`.
        x: data (N, *x_shape), NaN where a number is missing. A program from `pyro_vae.load` accepts what `encode`
            accepts: arrays, frames or tensors in the form of the file. The draws are x as the program sees it: for a
            table, with `vae.intake.origin` subtracted; for grey levels, intensities in [0, 1]; for a dequantised level,
            the middle of its cell.
        num_imputations: M.
        y: one-hot labels (N, C); for a loaded program also class numbers or names.
        num_samples: K, the draws of z for each datum from which M are chosen, with replacement.
        seed: None continues the caller's random stream; an integer is reproducible and leaves that stream alone.
        first_block: for a shard of a larger data set, the number of blocks of 128 data that come before it.

    Raises:
        DataError: data outside the support of the likelihood, or in another form than the training data.
        ValueError: a program without `missing=True`, no data, M or K below 1, or what `log_weights` refuses.

    Reference:
        Section 3 of Mattei & Frellsen, "MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets", ICML
        2019. https://arxiv.org/abs/1812.02633

    Example:
        >>> import pyro_vae as pv
        >>> encoder = pv.networks.WithMask(pv.networks.MLP((8,), (4,)))
        >>> vae = pv.VAE(pv.priors.StandardNormal(2), pv.posteriors.DiagonalNormal(encoder, 2),
        ...              pv.likelihoods.Normal(pv.networks.MLP((2,), (4,))), missing=True)
        >>> x = torch.tensor([[0.5, torch.nan, 2.0, torch.nan]])
        >>> found = impute(vae, x, num_imputations=5, num_samples=100, seed=0)
        >>> found.draws.shape, found.draws[:, 0, 2]
        (torch.Size([5, 1, 4]), tensor([2., 2., 2., 2., 2.]))
    """
    if num_imputations < 1:
        raise ValueError(f"num_imputations must be at least 1; got {num_imputations}")
    if not getattr(vae, "missing", True):
        raise ValueError(_MISSING)
    if getattr(vae, "intake", None) is not None:
        x, y = vae.taken_in(x, y)
    check_tensor(x)
    draws, means, khats = [], [], []
    columns = draw_columns(vae, x, num_samples, y, seed, _read, first_block)
    for (data, blocks), (_, labels) in zip(columns, data_blocks(len(x), y), strict=True):
        i, given = first_block + data.start // DATA_BLOCK, (x[data], *labels)
        weights = [block.log_weights for block in blocks]
        with torch.no_grad():
            latents = _chosen(blocks, num_imputations, _noise(derive_if_given(seed, "choice"), i, x.device))
            noise = _noise(derive_if_given(seed, "missing numbers"), i, x.device)
            drawn, mean = _completed(vae, given, latents, num_imputations, noise)
        draws.append(drawn)
        means.append(mean)
        khats.append(psis_khat(torch.cat(weights)))
    share = x.isnan().double().mean().item()
    return Imputation(torch.cat(draws, 1), torch.cat(means), torch.cat(khats), num_samples, share)


class _Drawn(NamedTuple):
    """One block of draws: log-weights (k, b), and the values of each latent site (k, b, *event)."""

    log_weights: Tensor
    latents: dict[str, Tensor]


def _read(pair: traces.Traces) -> _Drawn:
    weights = read_log_weights(pair)
    sites = traces.latent_sites(pair.guide)
    return _Drawn(weights, {n: s["value"].expand(weights.shape + s["fn"].event_shape) for n, s in sites.items()})


Noise = Callable[[int], Any]


def _noise(seed: int | None, i: int, device: torch.device) -> Noise:
    return lambda j: block_stream(seed, i, j, device)


def _chosen(blocks: list[_Drawn], number: int, noise: Noise) -> dict[str, Tensor]:
    """Chooses latents (M, b, *event) in proportion to their weights, with replacement."""
    log_weights = torch.cat([block.log_weights for block in blocks])
    # A datum without a weight above 0 has no posterior to draw from; its k-hat is NaN and says so.
    log_weights = log_weights.masked_fill(log_weights.isnan(), -math.inf)
    log_weights = torch.where((log_weights == -math.inf).all(0), 0.0, log_weights)
    with noise(0):
        index = torch.multinomial(log_weights.softmax(0).T, number, replacement=True).T
    return {name: _gathered([block.latents[name] for block in blocks], index) for name in blocks[0].latents}


def _gathered(values: list[Tensor], index: Tensor) -> Tensor:
    whole = torch.cat(values)
    return whole[index, torch.arange(whole.shape[1], device=whole.device)]


def _completed(
    vae: Any, given: tuple[Tensor, ...], latents: dict[str, Tensor], number: int, noise: Noise
) -> tuple[Tensor, Tensor]:
    """Draws x (M, b, *x_shape) at latents (M, b, *event), and averages the expected x over them, (b, *x_shape)."""
    memory: dict[Any, Any] = {}
    with undisturbed(vae), remembering(memory):
        size = sample_block(vae, given[0], number, given[1:])
    draws, total = [], torch.zeros((), dtype=given[0].dtype, device=given[0].device)
    for j, first in enumerate(range(0, number, size)):
        some = {name: value[first : first + size] for name, value in latents.items()}
        with undisturbed(vae), remembering(memory), noise(j):
            (site,) = traces.observed_sites(traces.run_at(vae.model, vae.guide, some, *given).model).values()
            draws.append(completed(site["fn"], site["value"]))
            total = total + expected(site["fn"], site["value"]).sum(0)
    seen = ~given[0].isnan()  # exactly as given, not a mean of equal numbers
    return torch.cat(draws), torch.where(seen, given[0], total / number)
