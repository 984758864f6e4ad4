"""The effect of networks in bfloat16 on the ELBO: the same parameters, data and draws, in both precisions."""

from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.evaluation.data_fingerprint import fingerprint
from pyro_vae.evaluation.estimators import Estimate, mean_and_error, of_data, read_terms
from pyro_vae.evaluation.weights import draw_columns
from pyro_vae.model.networks import in_precision, networks
from pyro_vae.model.traces import Traces


def is_rounded(vae: Any) -> bool:
    """Returns whether a network of the program computes in less than float32.

    Example:
        >>> import pyro_vae as pv
        >>> is_rounded(pv.networks.MLP((2,), (3,), precision="bfloat16")), is_rounded(nn.Linear(2, 3))
        (True, False)
    """
    return isinstance(vae, nn.Module) and any(network.precision != "float32" for network in networks(vae))


def rounding_loss(
    vae: Any, x: Tensor, num_samples: int, y: Tensor | None = None, *, seed: int, first_block: int = 0
) -> Estimate:
    """Estimates how much rounding in the networks lowers the ELBO of each datum, in nats.

    It is the ELBO with float32 networks - the ELBO with the networks as they are, above 0 if bfloat16 lowers the ELBO.
    Both sides have the same parameters and the same draws, so the Monte Carlo error of the difference is far below that
    of either ELBO. A plain autoencoder has no ELBO: its reconstructions are compared instead, and `Estimate.name` says
    so.

    Args:
        vae: a program with networks of `pyro_vae.networks`.
        x: data (N, *x_shape).
        num_samples: K, the draws of z for each datum; the Monte Carlo error needs two or more.
        y: one-hot labels (N, C).
        seed: an integer, the seed of the draws on both sides.
        first_block: for a shard of a larger data set, the number of blocks of 128 data that come before it.

    Returns:
        The differences; all are 0 if the networks are in float32, or the program in float64.

    Raises:
        DataError: data outside the support of the likelihood.
        ValueError: no data, K < 1, or a program that contains no `Network`.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.StandardNormal(2),
        ...              pv.posteriors.DiagonalNormal(pv.networks.MLP((4,), (4,), precision="bfloat16"), 2),
        ...              pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (4,), precision="bfloat16")))
        >>> bool(0 < rounding_loss(vae, torch.zeros(3, 4), num_samples=10, seed=0).value.abs().max() < 0.1)
        True
    """
    with in_precision(vae, "float32"):
        exact, name = _draws(vae, x, num_samples, y, seed, first_block)
    lost = exact - _draws(vae, x, num_samples, y, seed, first_block)[0]
    loss = Estimate(f"{name}, float32 - bfloat16", *mean_and_error(lost), num_samples)
    return of_data(loss, fingerprint(x), y)


def rounding_summary(loss: Estimate) -> dict[str, Any]:
    """Summarises a `rounding_loss` for a report: the change of the mean, and the largest changes of single data."""
    size = loss.value.abs()
    return {"name": loss.name, **loss.to_dict(), "mean_absolute": size.mean().item(), "largest": size.max().item()}


def _draws(vae: Any, x: Tensor, num_samples: int, y: Tensor | None, seed: int, first_block: int) -> tuple[Tensor, str]:
    """Draws of the ELBO or the reconstruction (K, N), on the CPU, and which of the two they are."""
    names = set()

    def read(pair: Traces) -> Tensor:
        terms = read_terms(pair)
        is_point = "infinite" in terms.kind.values()
        names.add("reconstruction" if is_point else "ELBO")
        return (terms.reconstruction if is_point else terms.reconstruction - terms.kl).cpu()

    columns = draw_columns(vae, x, num_samples, y, seed, read, first_block)
    return torch.cat([torch.cat(blocks) for _, blocks in columns], 1), names.pop()
