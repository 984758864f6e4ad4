"""How far importance weights and chains can be trusted, and draws in the containers of ArviZ."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_vae.evaluation.trust import arviz_adapter
from pyro_vae.evaluation.trust.pareto_tail import tail_shapes
from pyro_vae.evaluation.weights import draw_columns, read_log_weights
from pyro_vae.model import traces
from pyro_vae.randomness import preserved

if TYPE_CHECKING:
    from arviz import InferenceData
    from xarray import Dataset, DataTree

FEWEST_FOR_KHAT = 25  # draws: the tail of fewer has too few points to fit
NO_KHAT = f"no k-hat, which needs {FEWEST_FOR_KHAT} draws or more"
KHAT_THRESHOLD = 0.7  # above it no affordable K makes log p(x) reliable, Vehtari et al. 2024

SAMPLING = (
    "independent draws from the guide q(z|x), not MCMC: R-hat and MCMC's effective sample size say nothing about them. "
    "They follow p(z|x) only when weighted by exp(log_weight)"
)


def psis_khat(log_weights: Tensor) -> Tensor:
    """Fits the shape k-hat of the generalised Pareto tail of the importance weights, for each datum: (K, B) -> (B,).

    Below 1/2 the weights have a finite variance; above 0.7 no affordable K makes log p(x) reliable, and the stated
    Monte Carlo error is too small. Vehtari et al., "Pareto Smoothed Importance Sampling", JMLR 2024. It is minus
    infinity if all weights agree within a thousandth, as under an exact posterior, where only rounding distinguishes
    them. It is plus infinity if one weight outweighs all others, none is above 0, or one is NaN. It is NaN for fewer
    than 25 draws, whose tail has too few points to fit.

    Args:
        log_weights: (K, B), see `pyro_vae.evaluation.log_weights`.

    Example:
        >>> psis_khat(torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))) < 0.7
        tensor([True, True, True])
    """
    if len(log_weights) < FEWEST_FOR_KHAT:
        return torch.full(log_weights.shape[1:], torch.nan, dtype=torch.float64)
    equal = (log_weights.amax(0) - log_weights.amin(0) < 1e-3).cpu()
    return tail_shapes(log_weights).masked_fill(equal, -torch.inf)


def share_above(khat: Tensor, threshold: float = KHAT_THRESHOLD) -> float | None:
    """Returns the share of the data whose k-hat lies above the threshold, from 0 to 1; None if no k-hat is known.

    A datum with an unknown k-hat (NaN) counts in the denominator, but not as above the threshold.

    Args:
        khat: of any shape, see `psis_khat`.
        threshold: 0.7 by Vehtari et al. 2024.

    Returns:
        None if every k-hat is NaN, as for fewer than 25 draws, or if there are no data.

    Example:
        >>> share_above(torch.tensor([0.1, 0.8, -torch.inf, 1.2]))
        0.5
        >>> share_above(torch.tensor([torch.nan, torch.nan])) is None
        True
    """
    return None if khat.isnan().all() else (khat > threshold).double().mean().item()


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """Computes the effective number of K weighted draws, (sum w)^2 / sum w^2, for each datum: (K, B) -> (B,).

    It lies between 1 and K. Kong, "A Note on Importance Sampling using Standardized Weights", technical report 348,
    University of Chicago, 1992. It cannot account for large weights that were not drawn: if the tail is heavy
    (`psis_khat` above 0.7) it is too large. It is NaN if all weights are 0, or if one of them is infinite or NaN.

    Args:
        log_weights: (K, B), see `pyro_vae.evaluation.log_weights`.

    Example:
        >>> effective_sample_size(torch.tensor([[0.0, 0.0], [0.0, -100.0]]))
        tensor([2., 1.], dtype=torch.float64)
    """
    return 1 / log_weights.double().softmax(0).square().sum(0)


class Mixing(NamedTuple):
    """How well chains mixed, for each number that they draw: shape (*event), float64.

    Attributes:
        rhat: R-hat; below 1.01 the chains agree.
        ess_bulk: the effective number of independent draws, for the centre.
        ess_tail: the same for the 5 % and 95 % quantiles, whichever is smaller.
        error: Monte Carlo standard error of the mean over all draws.
    """

    rhat: Tensor
    ess_bulk: Tensor
    ess_tail: Tensor
    error: Tensor


def mixing(draws: Tensor) -> Mixing:
    """Computes R-hat, effective sample sizes and the error of the mean of chains: (chains, draws, *event) -> (*event).

    R-hat is the rank-normalised split R-hat of Vehtari et al., "Rank-Normalization, Folding, and Localization: An
    Improved R-hat for Assessing Convergence of MCMC", Bayesian Analysis 2021. The effective sample sizes are from the
    same paper. R-hat is NaN for one chain, for fewer than 4 draws, and for a number that never changes.

    Args:
        draws: (chains, draws, *event).

    Example:
        >>> draws = torch.randn(4, 500, 2, generator=torch.Generator().manual_seed(0))
        >>> mixing(draws).rhat < 1.01
        tensor([True, True])
    """
    chains = _dataset({"draws": draws.double()}, ("chain", "draw"))
    return Mixing(*(torch.as_tensor(each["draws"].values) for each in arviz_adapter.chain_statistics(chains)))


class Datum(NamedTuple):
    """Position of a datum and its k-hat."""

    datum: int
    khat: float


def worst_data(khat: Tensor, num_data: int = 10, threshold: float = KHAT_THRESHOLD) -> list[Datum]:
    """Lists the data whose k-hat lies above the threshold, the largest first, at most num_data of them.

    Above 0.7 no affordable K makes log p(x) of that datum reliable. Data without a k-hat (NaN) are left out.

    Args:
        khat: (B,), see `psis_khat`.
        num_data: how many at most.
        threshold: 0.7 by Vehtari et al. 2024; -inf lists the largest in any case.

    Example:
        >>> [found.datum for found in worst_data(torch.tensor([0.1, 0.8, torch.nan, 1.2]))]
        [3, 1]
    """
    order = khat.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf).argsort(descending=True, stable=True)
    listed = [Datum(i, khat[i].item()) for i in order.tolist() if khat[i] > threshold]
    return listed[:num_data]


def to_inference_data(
    vae: Any, x: Tensor, num_samples: int, y: Tensor | None = None, seed: int | None = None
) -> "InferenceData | DataTree":
    """Collects draws from the guide, with their weights and densities, in the containers of ArviZ.

    The groups have the dimensions chain (1), draw (K), data (N) and those of each site:

        posterior        every latent site                          (chain, draw, data, <site>_dim_0, ...)
        sample_stats     log_weight = log p(x, z) - log q(z|x)      (chain, draw, data), nats
                         khat, ess: `psis_khat` and `effective_sample_size` of the weights                  (data,)
        log_likelihood   log p(x|z) of every observed site          (chain, draw, data), nats
        observed_data    every observed site                        (data, <site>_dim_0, ...)

    The attribute `sampling` says that the draws are independent draws from q(z|x), not MCMC. The latents are local, one
    z per datum, so `arviz.loo` and `arviz.waic` of the log-likelihood are meaningless here.

    The container is the `InferenceData` of ArviZ 0.23, or the `DataTree` of xarray under ArviZ 1.x. Both versions can
    open the file that its `to_netcdf` writes.

    This works for any program. The draws are the same as in `log_weights` under the same seed. All K N draws are held
    in memory. A site "left/z" becomes the variable left.z.

    Args:
        vae: anything with `.model` and `.guide` over one data plate.
        x: data (N, *x_shape).
        num_samples: K.
        y: one-hot labels (N, C).
        seed: None continues the caller's random stream; an integer is reproducible and leaves that stream alone.

    Raises:
        DataError: data outside the support of the likelihood.
        ValueError: no data, K < 1, or a guide without a density.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.StandardNormal(2),
        ...              pv.posteriors.DiagonalNormal(pv.networks.MLP((4,), (4,)), 2),
        ...              pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (4,))))
        >>> to_inference_data(vae, torch.zeros(3, 4), num_samples=30, seed=0).posterior["z"].shape
        (1, 30, 3, 2)
    """
    return draws_to_inference_data(guide_draws(vae, x, num_samples, y, seed))


Groups = dict[str, dict[str, Tensor]]


def guide_draws(
    vae: Any, x: Tensor, num_samples: int, y: Tensor | None = None, seed: int | None = None, *, first_block: int = 0
) -> Groups:
    """Returns the contents of `to_inference_data`: group -> name -> (N, K, *event), or (N, *event) in `observed_data`.

    Arguments and errors are the same; first_block is the number of blocks of 128 data before these.
    """
    gathered = _gathered(draw_columns(vae, x, num_samples, y, seed, _read_draws, first_block))
    drawn = {group: {name: each.transpose(0, 1) for name, each in sites.items()} for group, sites in gathered.items()}
    return {**drawn, "observed_data": _observed(vae, x, y)}


def draws_to_inference_data(drawn: Groups) -> "InferenceData | DataTree":
    """Puts the results of `guide_draws`, for all data, into the containers of ArviZ."""
    return arviz_adapter.container(draw_tree(drawn))


def draw_tree(drawn: Groups, data: Tensor | None = None, **named: Any) -> "DataTree":
    """Names the groups, dimensions and coordinates of the results of `guide_draws`, for all data.

    Args:
        drawn: group -> name -> (N, K, *event).
        data: (N,), the positions of these data among all; None for 0 to N - 1.
        named: further coordinates (N,) of the data, such as their rows in a file; None leaves one out.
    """
    sites = {name: drawn[name] for name in ("posterior", "log_likelihood", "sample_stats")}
    weights = sites["sample_stats"]["log_weight"].T
    stats = {"khat": psis_khat(weights), "ess": effective_sample_size(weights)}
    groups = {name: _dataset(_one_chain(draws), ("chain", "draw", "data")) for name, draws in sites.items()}
    groups["sample_stats"].update(_dataset(stats, ("data",)))
    groups["observed_data"] = _dataset(drawn["observed_data"], ("data",))
    if data is not None:
        groups = {name: group.assign_coords(data=data.numpy()) for name, group in groups.items()}
    more = {name: ("data", np.asarray(values)) for name, values in named.items() if values is not None}
    groups = {name: group.assign_coords(more) for name, group in groups.items()}
    return _tree(groups, {"sampling": SAMPLING, "inference_library": "pyro_vae", "num_samples": len(weights)})


def chains_to_inference_data(
    draws: dict[str, Tensor], diverging: Tensor, observed: dict[str, Tensor], about: dict[str, Any]
) -> "InferenceData | DataTree":
    """Puts Markov chains for one datum into the containers of ArviZ, whose tables and pictures apply to them.

    Args:
        draws: site -> (chains, draws, *event), the group `posterior`.
        diverging: (chains, draws), which transitions diverged, in the group `sample_stats`.
        observed: site -> (*event), the group `observed_data`.
        about: attributes of all groups.

    Example:
        >>> z, still = torch.zeros(4, 100, 2), torch.zeros(4, 100, dtype=torch.bool)
        >>> chains_to_inference_data({"z": z}, still, {}, {"sampling": "NUTS"}).posterior["z"].dims
        ('chain', 'draw', 'z_dim_0')
    """
    groups = {
        "posterior": _dataset(draws, ("chain", "draw")),
        "sample_stats": _dataset({"diverging": diverging}, ("chain", "draw")),
        "observed_data": _dataset(observed, ()),
    }
    return arviz_adapter.container(_tree(groups, about))


def _tree(groups: dict[str, "Dataset"], about: dict[str, Any]) -> "DataTree":
    from xarray import Dataset, DataTree

    labelled = {name: group.assign_attrs(about) for name, group in groups.items()}
    return DataTree.from_dict({"/": Dataset(attrs=about), **labelled})


def _one_chain(sites: dict[str, Tensor]) -> dict[str, Tensor]:
    """(N, K, *event) -> (1, K, N, *event)."""
    return {name: tensor.transpose(0, 1)[None].contiguous() for name, tensor in sites.items()}


def _read_draws(pair: traces.Traces) -> dict[str, dict[str, Tensor]]:
    """Group -> name -> (k, b, *event)."""
    weights = read_log_weights(pair)
    observed = traces.observed_sites(pair.model).items()
    likelihood = {name: site["log_prob"].double().expand(weights.shape) for name, site in observed}
    latent = {name: _values(site, weights.shape) for name, site in traces.latent_sites(pair.guide).items()}
    return {"posterior": latent, "sample_stats": {"log_weight": weights}, "log_likelihood": likelihood}


def _observed(vae: Any, x: Tensor, y: Tensor | None) -> dict[str, Tensor]:
    """Site -> (N, *event)."""

    def read(pair: traces.Traces) -> dict[str, dict[str, Tensor]]:
        observed = traces.observed_sites(pair.model).items()
        return {"observed": {name: _values(site, site["log_prob"].shape) for name, site in observed}}

    with preserved(x.device):
        gathered = _gathered(draw_columns(vae, x, 1, y, None, read))
    return {name: value[0] for name, value in gathered["observed"].items()}


def _values(site: traces.Site, batch_shape: torch.Size) -> Tensor:
    return traces.value_of(site).expand(batch_shape + site["fn"].event_shape)


def _gathered(drawn: Iterable[tuple[slice, list[dict[str, dict[str, Tensor]]]]]) -> dict[str, dict[str, Tensor]]:
    """Joins blocks of (k, b, *event), draws along dim 0 and data along dim 1."""
    columns = [blocks for _, blocks in drawn]

    def joined(group: str, name: str) -> Tensor:
        return torch.cat([torch.cat([found[group][name] for found in column]) for column in columns], 1)

    return {group: {name: joined(group, name) for name in names} for group, names in columns[0][0].items()}


def _dataset(sites: dict[str, Tensor], dims: tuple[str, ...]) -> "Dataset":
    """Named numbers with their dimensions: `dims`, then those of each site."""
    from xarray import Dataset

    variables, coordinates = {}, {}
    for site, tensor in sites.items():
        name = site.replace("/", ".")  # xarray would read "/" as a path
        values = tensor.detach().cpu().numpy()
        inner = tuple(f"{name}_dim_{i}" for i in range(values.ndim - len(dims)))
        variables[name] = (*dims, *inner), values
        coordinates.update({dim: range(size) for dim, size in zip((*dims, *inner), values.shape, strict=True)})
    return Dataset(variables, coordinates)
