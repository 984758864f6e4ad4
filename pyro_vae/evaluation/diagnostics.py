"""How far importance weights can be trusted, per datum. ArviZ is used here and nowhere else."""

import warnings

import torch
from torch import Tensor


def psis_khat(log_weights: Tensor) -> Tensor:
    """The shape k-hat of the generalised Pareto tail of the importance weights, for each datum: (K, B) -> (B,).

    Below 1/2 the weights have a finite variance; above 0.7 no affordable K makes log p(x) reliable, and the stated
    Monte Carlo error is too small. Vehtari et al., "Pareto Smoothed Importance Sampling", JMLR 2024. Minus infinity
    where the weights all agree within a thousandth, as under an exact posterior, where only rounding tells them apart;
    NaN for fewer than 25 draws, whose tail has too few points to fit.

    Args:
        log_weights: (K, B), see `pyro_vae.evaluation.log_weights`.

    Example:
        >>> psis_khat(torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))) < 0.7
        tensor([True, True, True])
    """
    if len(log_weights) < 25:
        return torch.full(log_weights.shape[1:], torch.nan, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ArviZ announces its next major version, and logs what k-hat says anyway
        from arviz import psislw

        _, khat = psislw(log_weights.T.double().cpu().numpy())
    equal = (log_weights.amax(0) - log_weights.amin(0) < 1e-3).cpu()
    return torch.as_tensor(khat).masked_fill(equal, -torch.inf)
