r"""Simple densities of vectors, each fitted to rows (N, D) by a formula. Baselines consist of them.

    bernoulli          p_j = (sum_i x_ij + 1/2) / (N + 1)                  0 and 1, or intensities in [0, 1]
    frequencies        p_jv = (#{i: x_ij = v} + 1/L) / (N + 1)              whole numbers 0 ... L - 1
    poisson            m_j = (sum_i x_ij + 1/2) / N                         counts
    negative_binomial  mean m_j, variance m_j + m_j^2 / r_j                 counts
    normals            mean_j, variance_j with N - 1                        real numbers
    full_normal        means, covariance s_i s_j C_ij                       real numbers

Each function takes rows, float32 or float64, and returns x (B, D) float64 -> log p(x) (B,), in nats, summed over
columns. All compute in float64. NaN marks a missing number: N is then the number of observed values in the column, and
log p covers only the observed numbers.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from pyro_vae.evaluation.normal_with_gaps import fit_with_gaps, log_density_of_the_rest
from pyro_vae.model.scaling import mean_of_counts

MOST_COLUMNS = 500  # of a full covariance: with more, it is not worth its time
_BLOCK_NUMBERS = 1 << 22  # converted to float64 at a time
_MOST_NUMBERS = 1 << 22  # used to fit the dispersion of counts; of more, every n-th row
_LARGEST_R = 1e6  # here a negative binomial is a Poisson

LogDensity = Callable[[Tensor], Tensor]


class NoFitError(ValueError):
    """A density cannot be fitted to the rows, or is not defined for them; the message says why."""


def bernoulli(rows: Tensor) -> LogDensity:
    """Fits a Bernoulli distribution to each column, by the estimate of Krichevsky and Trofimov.

    Reference:
        Krichevsky & Trofimov, "The Performance of Universal Encoding", IEEE Transactions on Information Theory 27,
        1981. https://doi.org/10.1109/TIT.1981.1056331

    Example:
        >>> log_p = bernoulli(torch.tensor([[1.0], [1.0], [0.0]]))
        >>> log_p(torch.tensor([[1.0]]).double()).exp()
        tensor([0.6250], dtype=torch.float64)
    """
    count, total = _sums(rows)
    p = (total + 0.5) / (count + 1)
    return _of_columns(lambda x: x * p.log() + (1 - x) * (-p).log1p())


def frequencies(rows: Tensor, num_levels: int) -> LogDensity:
    """Fits the frequencies of L levels in each column, with one extra datum spread evenly over them.

    Args:
        rows: (N, D), whole numbers 0 ... L - 1.
        num_levels: L.

    Example:
        >>> log_p = frequencies(torch.tensor([[0.0], [0.0], [2.0]]), num_levels=4)
        >>> log_p(torch.tensor([[0.0], [1.0]]).double()).exp()
        tensor([0.5625, 0.0625], dtype=torch.float64)
    """
    D = rows.shape[1]
    column = torch.arange(D) * num_levels
    counted = torch.zeros(D * num_levels, dtype=torch.float64)
    for block in _blocks(rows):
        counted += torch.bincount((block.long() + column)[~block.isnan()], minlength=len(counted))
    counted = counted.view(D, num_levels) + 1 / num_levels
    log_p = (counted / counted.sum(1, keepdim=True)).log().flatten()
    return _of_columns(lambda x: log_p[x.long() + column])


def poisson(rows: Tensor) -> LogDensity:
    """Fits a Poisson distribution to each column, with half a count added, so that no rate is 0.

    Example:
        >>> log_p = poisson(torch.tensor([[1.0], [2.5]]))   # the rate is 2
        >>> log_p(torch.tensor([[0.0]]).double())
        tensor([-2.], dtype=torch.float64)
    """
    return _of_columns(_poisson(mean_of_counts(rows)))


def negative_binomial(rows: Tensor) -> LogDensity:
    """Fits a negative binomial to each column; if the variance is not above the mean, it is Poisson.

    With more than 4 million numbers, r is fitted to every n-th row; the means use all rows.

    Example:
        >>> log_p = negative_binomial(torch.tensor([[3.0], [3.0], [3.0]]))   # no spread: Poisson of rate 3.5 / 3
        >>> torch.equal(*(fit(torch.tensor([[2.0]]).double()) for fit in (log_p, poisson(torch.full((3, 1), 3.0)))))
        True
    """
    m, r = mean_of_counts(rows), _dispersion(rows[:: -(-rows.numel() // _MOST_NUMBERS)])
    is_poisson = r >= _LARGEST_R
    r = torch.where(is_poisson, 1.0, r)
    of_poisson = _poisson(m)

    def terms(x: Tensor) -> Tensor:
        binomial = torch.lgamma(x + r) - torch.lgamma(r) - torch.lgamma(x + 1)
        spread = binomial + r * (r / (r + m)).log() + x * (m / (r + m)).log()
        return torch.where(is_poisson, of_poisson(x), spread)

    return _of_columns(terms)


def normals(rows: Tensor) -> LogDensity:
    """Fits independent normals.

    Raises:
        NoFitError: a column is constant, or has fewer than two numbers.

    Example:
        >>> log_p = normals(torch.tensor([[-1.0], [1.0]]))   # variance 2
        >>> log_p(torch.zeros(1, 1).double()) + 0.5 * math.log(4 * math.pi)
        tensor([0.], dtype=torch.float64)
    """
    mean, scale = _moments(rows)
    constant = 0.5 * math.log(2 * math.pi)
    return _of_columns(lambda x: -0.5 * ((x - mean) / scale).square() - scale.log() - constant)


def full_normal(rows: Tensor) -> LogDensity:
    r"""Fits a normal with a full covariance, shrunk in units of the columns' own spread.

    .. math:: \log N(x; \mu, S C S) = \log N(S^{-1} (x - \mu); 0, C) - \sum_j \log s_j

    C is the estimate of Ledoit and Wolf or, if numbers are missing, the result of EM, see `normal_with_gaps`.

    Raises:
        NoFitError: a column is constant, there are more than 500 columns, or numbers are missing in rows of many
            columns.

    Reference:
        Ledoit & Wolf, "A Well-Conditioned Estimator for Large-Dimensional Covariance Matrices", Journal of Multivariate
        Analysis 88, 2004. https://doi.org/10.1016/S0047-259X(03)00096-4

    Example:
        >>> noise = torch.randn(1000, 1, generator=torch.Generator().manual_seed(0))
        >>> rows, x = noise.expand(-1, 2), torch.zeros(1, 2).double()
        >>> bool(full_normal(rows)(x) > normals(rows)(x))   # the columns have one distribution
        True
    """
    if rows.shape[1] > MOST_COLUMNS:
        raise NoFitError(f"left out, since there are {rows.shape[1]:,} columns, more than {MOST_COLUMNS}")
    mean, scale = _moments(rows)
    centre, covariance = _correlations((rows - mean) / scale)
    lower, info = torch.linalg.cholesky_ex(covariance)
    if info:
        raise NoFitError("left out, since its covariance is singular")
    constant = lower.diagonal().log().sum() + scale.log().sum() + 0.5 * len(mean) * math.log(2 * math.pi)

    def log_p(x: Tensor) -> Tensor:
        r = (x - mean) / scale
        if (missing := x.isnan()).any():
            jacobian = scale.log().expand_as(x).masked_fill(missing, 0.0).sum(1)
            return log_density_of_the_rest(r, centre, covariance) - jacobian
        white = torch.linalg.solve_triangular(lower, (r - centre).T, upper=False)
        return -0.5 * white.square().sum(0) - constant

    return log_p


def _correlations(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Fits mean (D,) and covariance (D, D) to rows in units of their columns' spread."""
    if rows.isnan().any():
        if (fit := fit_with_gaps(rows)) is None:
            raise NoFitError(f"left out, since values are missing and {rows.shape[1]} columns are too many for EM")
        return fit
    from sklearn.covariance import ledoit_wolf

    covariance, _ = ledoit_wolf(rows.numpy(), assume_centered=True)
    return rows.new_zeros(rows.shape[1]), torch.from_numpy(covariance)


def _of_columns(terms: Callable[[Tensor], Tensor]) -> LogDensity:
    """Sums the log-densities of the columns, without missing numbers."""

    def log_p(x: Tensor) -> Tensor:
        missing = x.isnan()
        return terms(x.masked_fill(missing, 0.0)).masked_fill(missing, 0.0).sum(1)

    return log_p


def _poisson(rate: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: x * rate.log() - rate - torch.lgamma(x + 1)


def _dispersion(rows: Tensor) -> Tensor:
    """Finds the maximum-likelihood r by Newton's method in log r, starting from the moment estimate.

    The derivative of the mean log-likelihood of a column is mean psi(x + r) - psi(r) + log(r / (r + m)), m its mean.
    """
    x, seen = rows.double(), ~rows.isnan()
    x, count = x.masked_fill(~seen, 0.0), seen.sum(0).clamp(min=1)

    def mean(values: Tensor) -> Tensor:
        return values.masked_fill(~seen, 0.0).sum(0) / count

    m = mean(x)
    excess = mean((x - m).square()) - m
    r = torch.where(excess > 0, m.square() / excess, _LARGEST_R).clamp(max=_LARGEST_R)
    at = (excess > 0) & (m > 0)
    for _ in range(50):
        slope = mean(torch.digamma(x + r)) - torch.digamma(r) + (r / (r + m)).log()
        curve = r * (mean(torch.polygamma(1, x + r)) - torch.polygamma(1, r) + 1 / r - 1 / (r + m))
        step = torch.where(curve < 0, -slope / curve, slope.sign()).clamp(-1, 1).where(at, 0.0)
        r = (r * step.exp()).clamp(1e-6, _LARGEST_R)
        if step.abs().max() < 1e-9:
            break
        at = at & (r < _LARGEST_R)
    return r


def _moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column, (D,) float64."""
    count, total = _sums(rows)
    mean = total / count
    squares = _sums(rows, lambda x: (x - mean).square())[1]
    lowest, highest = (rows.nan_to_num(nan=fill) for fill in (math.inf, -math.inf))
    constant = (count < 2) | (lowest.amin(0) >= highest.amax(0))
    if constant.any():
        few = constant.nonzero()[:, 0].tolist()
        which = ", ".join(map(str, few[:5])) + (", ..." if len(few) > 5 else "")
        raise NoFitError(
            f"no density, since {len(few)} of {len(constant)} columns are constant in the training data ({which})"
        )
    return mean, (squares / (count - 1)).sqrt()


def _sums(rows: Tensor, of: Callable[[Tensor], Tensor] = lambda x: x) -> tuple[Tensor, Tensor]:
    """Counts the numbers of each column, and sums a function of them, (D,) float64 each."""
    count, total = (torch.zeros(rows.shape[1], dtype=torch.float64) for _ in range(2))
    for block in _blocks(rows):
        missing = block.isnan()
        count += (~missing).sum(0)
        total += of(block).masked_fill(missing, 0.0).sum(0)
    return count, total


def _blocks(rows: Tensor) -> Iterator[Tensor]:
    return (block.double() for block in rows.split(max(1, _BLOCK_NUMBERS // rows.shape[1])))
