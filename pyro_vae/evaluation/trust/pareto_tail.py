"""The tail of importance weights: the shape k of a generalised Pareto distribution fitted to the largest of them.

    p(t; k, sigma) = (1 + k t / sigma)^(-1/k - 1) / sigma,    t > 0

Its moments of order 1/k and above are infinite. For a given b = -k / sigma the likelihood of n excesses is largest at
k(b) = mean log(1 - b t), where its logarithm is n (log(-b / k(b)) - k(b) - 1). The estimate treats this profile as a
likelihood of b, and takes the posterior mean of b under a weak prior, as a sum over a grid of the prior's quantiles.

Reference:
    A New and Efficient Estimation Method for the Generalized Pareto Distribution. Zhang & Stephens, Technometrics 2009.
    https://doi.org/10.1198/tech.2009.08017

    Pareto Smoothed Importance Sampling. Vehtari, Simpson, Gelman, Yao & Gabry, JMLR 2024.
    https://jmlr.org/papers/v25/19-556.html
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LEAST_TAIL = 5  # weights; fewer have no fit
LEAST_LOG_WEIGHT = math.log(np.finfo(float).tiny)  # relative to the largest, which is 0
LEAST_SHARE = 10 * np.finfo(float).eps  # of the likelihood; points of the grid below it are left out
PRIOR_SHAPE, PRIOR_SIZE = 0.5, 10  # Vehtari et al. 2024: as if ten more tail weights had shape 1/2

Floats = NDArray[np.float64]


def tail_shapes(log_weights: Tensor) -> Tensor:
    """Fits the shape k of the tail of each column's weights: (K, B) -> (B,), float64, on the CPU.

    The tail consists of the M largest weights, M = min(K / 5, 3 sqrt(K)) by Vehtari et al. 2024. It has fewer if
    weights are equal, or are 0 compared with the largest.

    Args:
        log_weights: (K, B), K of 25 or more.

    Returns:
        plus infinity if the tail has fewer than five weights, or one weight is NaN.

    Example:
        >>> u = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)[:, None]
        >>> tail_shapes(-0.9 * u.log()) > 0.7
        tensor([True])
    """
    num_draws = len(log_weights)
    length = math.ceil(min(num_draws / 5, 3 * num_draws**0.5))
    largest = log_weights.T.cpu().double().topk(length + 1).values
    relative = (largest - largest[:, :1]).flip(1).numpy()
    return torch.tensor([_tail_shape(each) for each in relative], dtype=torch.float64)


def _tail_shape(largest: Floats) -> float:
    """The shape for ascending log-weights; the first is the threshold, and the last is 0."""
    threshold = max(largest[0], LEAST_LOG_WEIGHT)
    tail = largest[largest > threshold]
    return fitted_shape(np.exp(tail) - np.exp(threshold)) if len(tail) >= LEAST_TAIL else math.inf


@np.errstate(divide="ignore", invalid="ignore", over="ignore")  # far from its maximum the likelihood is 0
def fitted_shape(excesses: Floats) -> float:
    """Fits the shape k of ascending positive numbers, (n,), with the prior of Vehtari et al. on it.

    Example:
        >>> u = np.linspace(0.999, 0.001, 999)  # 1 - u follows the uniform distribution
        >>> abs(fitted_shape(u**-0.3 - 1) - 0.3) < 0.01
        True
    """
    size = len(excesses)
    num_points = 30 + int(size**0.5)
    quartile = excesses[int(size / 4 + 0.5) - 1]
    b = 1 - np.sqrt(num_points / (np.arange(1, num_points + 1) - 0.5))
    b = b / (3 * quartile) + 1 / excesses[-1]
    k = np.log1p(-b[:, None] * excesses).mean(1)
    log_likelihood = size * (np.log(-(b / k)) - k - 1)
    share = 1 / np.exp(log_likelihood - log_likelihood[:, None]).sum(1)
    kept = share >= LEAST_SHARE
    mean_b = (b[kept] * (share[kept] / share[kept].sum())).sum()
    shape = np.log1p(-mean_b * excesses).mean()
    return float((size * shape + PRIOR_SIZE * PRIOR_SHAPE) / (size + PRIOR_SIZE))
