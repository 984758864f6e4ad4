"""Exponential and logarithm of float32 as polynomials, which compilers vectorise and fuse with what is around them.

The densities of many pixels are exponentials and logarithms, and the library functions take two to five times as long.
Both are accurate to two units in the last place. Other types, and other devices than the CPU, keep the library's.

Reference:
    The polynomials are those of expf and logf in S. L. Moshier's Cephes library, https://www.netlib.org/cephes/
"""

import math

import torch
from torch import Tensor

_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
_LOG = (
    *(7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1),
    *(-1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1),
)
_LN2 = 0.693359375, -2.12194440e-4  # their sum; the first has so few digits that its multiples are exact
_BITS, _BIAS = 23, 127  # of the fraction of a float32, and of its exponent
_LEAST, _MOST = -104.0, 89.0  # exp is 0 below, and infinite above


def exp(x: Tensor) -> Tensor:
    """Computes e^x = 2^n e^r, with n whole and |r| <= log(2) / 2.

    Example:
        >>> exp(torch.tensor([0.0, 1.0, -200.0, 200.0]))
        tensor([1.0000, 2.7183, 0.0000,    inf])
    """
    if not _is_ours(x):
        return NotImplemented
    x = x.clamp(_LEAST, _MOST)
    n = (x * (1 / math.log(2))).round()
    r = x - n * _LN2[0] - n * _LN2[1]
    value = _polynomial(_EXP, r) * (r * r) + r + 1
    power = n.to(torch.int32)
    half = power >> 1  # in two steps, since 2^n alone can be out of range
    return value * _power_of_two(half) * _power_of_two(power - half)


def log1p(x: Tensor) -> Tensor:
    """Computes log(1 + x): the logarithm of the rounded sum u, and a first-order correction.

    Reference:
        Theorem 4 of Goldberg, "What Every Computer Scientist Should Know About Floating-Point Arithmetic", ACM
        Computing Surveys 1991, https://doi.org/10.1145/103162.103163

    Example:
        >>> log1p(torch.tensor([0.0, 1e-10, -1.0, 1.0]))
        tensor([0.0000e+00, 1.0000e-10,       -inf, 6.9315e-01])
    """
    u = 1 + x
    edge = (u == math.inf) | (u == 0)
    return (_log(u) if _is_ours(u) else u.log()) + torch.where(edge, 0.0, (x - (u - 1)) / u)


def _log(u: Tensor) -> Tensor:
    """Computes log(u) = n log(2) + log(1 + f), with n whole and 1 + f in sqrt(1/2) ... sqrt(2); not of a denormal u."""
    bits = u.view(torch.int32)
    n = (bits - _SQRT_HALF) >> _BITS
    f = (bits - (n << _BITS)).view(torch.float32) - 1
    exponent, square = n.to(torch.float32), f * f
    value = f + (_polynomial(_LOG, f) * f * square + exponent * _LN2[1] - 0.5 * square) + exponent * _LN2[0]
    at_edge = torch.where(u == 0, -math.inf, torch.where(u > 0, u, math.nan))  # infinity, and NaN for what is negative
    return torch.where((u > 0) & (u < math.inf), value, at_edge)


_SQRT_HALF = int(torch.tensor(math.sqrt(0.5), dtype=torch.float32).view(torch.int32))


def _is_ours(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.device.type == "cpu"


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    value = x * coefficients[0] + coefficients[1]
    for coefficient in coefficients[2:]:
        value = value * x + coefficient
    return value


def _power_of_two(n: Tensor) -> Tensor:
    return ((n + _BIAS) << _BITS).view(torch.float32)
