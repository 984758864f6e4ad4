r"""A normal with a full covariance for rows with missing numbers: its fit by EM, and log p of the observed numbers.

With M the diagonal matrix that is 1 where a row has a number, r the row with 0 for the others, and A = M C M + I - M,

.. math:: E[r | r_{obs}] = C M A^{-1} r, \qquad \mathrm{Cov}[r | r_{obs}] = C - C M A^{-1} M C

The M-step shrinks C towards the identity by D extra rows, with independent columns of mean 0 and spread 1. The fit is
valid if gaps depend only on observed numbers.

Reference:
    Section 11.2 of Little & Rubin, "Statistical Analysis with Missing Data", second edition, 2002, for the two steps.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

_ROWS_AT_ONCE = 1 << 20  # numbers in the matrices of these rows
_MOST_NUMBERS = 1 << 20  # in all matrices of an iteration, so that a fit takes a second or two
_ITERATIONS = 200
_CLOSE = 1e-4  # EM ends when no mean or correlation changes by more


def fit_with_gaps(rows: Tensor) -> tuple[Tensor, Tensor] | None:
    """Fits mean (D,) and covariance (D, D), float64, to rows in units of their columns' spread.

    If there are many rows, every n-th one is used.

    Args:
        rows: (N, D) float64, of mean about 0 and spread about 1; NaN where a number is missing.

    Returns:
        None if there are fewer than five usable rows per column.

    Example:
        >>> noise = torch.randn(400, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> rows = noise.repeat(1, 2)
        >>> rows[::2, 1] = math.nan
        >>> bool(fit_with_gaps(rows)[1][0, 1] > 0.9)
        True
    """
    N, D = rows.shape
    rows = rows[:: max(1, -(-N * D * D // _MOST_NUMBERS))]
    if len(rows) < 5 * D:
        return None
    mean, covariance = rows.new_zeros(D), torch.eye(D, dtype=rows.dtype)
    for _ in range(_ITERATIONS):
        first, second = _expected(rows, mean, covariance)
        before, shift = (mean, covariance), first / len(rows)
        mean = mean + shift
        scatter = second - len(rows) * torch.outer(shift, shift)
        covariance = (scatter + D * torch.eye(D, dtype=rows.dtype)) / (len(rows) + D)
        if max((mean - before[0]).abs().max(), (covariance - before[1]).abs().max()) < _CLOSE:
            break
    return mean, covariance


def log_density_of_the_rest(x: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Computes log p of the observed numbers, (B,), in nats.

    Args:
        x: (B, D) float64, NaN where a number is missing.
        mean, covariance: (D,) and (D, D).

    Example:
        >>> x = torch.tensor([[0.0, math.nan], [math.nan, math.nan]], dtype=torch.float64)
        >>> log_density_of_the_rest(x, torch.zeros(2).double(), torch.eye(2).double()).exp()
        tensor([0.3989, 1.0000], dtype=torch.float64)
    """
    parts = []
    for seen, r, lower in _masked(x, mean, covariance):
        white = torch.linalg.solve_triangular(lower, r[..., None], upper=False)[..., 0]
        log_det = lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        parts.append(-0.5 * white.square().sum(-1) - log_det - 0.5 * math.log(2 * math.pi) * seen.sum(-1))
    return torch.cat(parts)


def _expected(rows: Tensor, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Sums the expected r of all rows, (D,), and the expected outer products, (D, D)."""
    first, second = torch.zeros_like(mean), torch.zeros_like(covariance)
    for seen, r, lower in _masked(rows, mean, covariance):
        gain = covariance @ (seen[..., None] * torch.cholesky_inverse(lower) * seen[:, None])  # C M A^-1 M
        whole = (gain @ r[..., None])[..., 0]
        first += whole.sum(0)
        second += whole.T @ whole + len(r) * covariance - gain.sum(0) @ covariance
    return first, second


def _masked(rows: Tensor, mean: Tensor, covariance: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yields the masks, the deviations from the mean, and the Cholesky factors of A, for some rows at a time."""
    for some in rows.split(max(1, _ROWS_AT_ONCE // covariance.numel())):
        seen = (~some.isnan()).to(mean.dtype)
        r = torch.where(some.isnan(), 0.0, some - mean)
        A = seen[..., None] * covariance * seen[:, None] + torch.diag_embed(1 - seen)
        yield seen, r, torch.linalg.cholesky(A)
