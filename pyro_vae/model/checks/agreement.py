r"""The integral of a density, and how well it agrees with the draws of its sampler.

A distribution is treated as n independent factors over d numbers each: 784 independent pixels are 784 factors of one
number. If the draws follow p / c, where c is the integral of p, then for every normalised density g

.. math:: c = \frac{E_g[p / (p + g)]}{E_{\mathrm{draws}}[g / (p + g)]} \qquad (1)

Both are means of numbers in [0, 1], so no tail can spoil them. (g / p has the same mean over the draws, but its
variance is finite only if g has the lighter tails.) If g is close to p, no other estimate is more precise. Up to three
numbers, c is known from quadrature, and for discrete values from a sum; above that, from the g that overlaps best. All
other g must agree, or the draws do not follow the density. The g are normals fitted to draws, one and several, the
product of mixtures fitted to each dimension, and p itself, moved.

Reference:
    Bennett, "Efficient Estimation of Free Energy Differences from Monte Carlo Data", Journal of Computational Physics
    22, 1976. https://doi.org/10.1016/0021-9991(76)90078-4

    Meng & Wong, "Simulating ratios of normalizing constants via a simple identity", Statistica Sinica 6, 1996.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal

from pyro_vae.model.checks import cubature
from pyro_vae.model.conditions import base_constraint

_TOLERANCE = 1e-4  # of an integral, in addition to its error
_COARSE = 0.018  # largest relative error of a reported integral
_TINY = 1e-290
_ROUNDED = 1e-10
_NUMBERS = 2_000_000  # most numbers in one evaluation of a density
_FITTED = 64  # most numbers for which mixtures of normals are fitted
_CLUSTERS = 8
_BRIDGE = "bridge sampling"
_SURFACES = (constraints.sphere, constraints.corr_cholesky, constraints.corr_matrix, constraints.positive_definite)


class Measurement(NamedTuple):
    """The integral of a distribution, and how far its draws and its density disagree.

    Args:
        how: how the integral was measured, or why it was not.
        integral: of each factor (n,); None if it was not measured.
        error: of each integral (n,).
        gap: the largest disagreement of draws and density divided by what is allowed; above 1 they do not agree.
        against: the g that disagrees most.
        draws: N, on each side.
    """

    how: str
    integral: Tensor | None
    error: Tensor
    gap: float
    against: str
    draws: int

    @property
    def by_draws(self) -> bool:
        """True if the integral needs draws that follow the density."""
        return self.how == _BRIDGE

    @property
    def integrates(self) -> bool:
        """True if each integral is 1, up to 1e-4 and its error: quadrature's, or 5 standard errors or more."""
        if self.integral is None:
            return False
        limit = threshold(len(self.error)) if self.by_draws else 1.0
        return bool(((self.integral - 1).abs() <= _TOLERANCE + limit * self.error).all())


@torch.no_grad()
def measure(p: Any) -> Measurement:
    """Measures the integral of a distribution over R^d or discrete values, and how well its draws agree with it.

    Each disagreement is allowed 5 standard errors + 25 / N, and a little more if there are many factors.

    Args:
        p: with any batch_shape and event_shape; float64 is best.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> measured = measure(dist.Laplace(torch.zeros(2).double(), 1.0).to_event(1))
        >>> measured.how, measured.integral.numpy().round(4), measured.gap < 1
        ('quadrature', array([1., 1.]), True)
    """
    f = _Factors.of(p)
    if base_constraint(_support(f.p)) in _SURFACES:
        return Measurement("its values lie on a surface", None, torch.ones(f.n), 0.0, "nothing", 0)
    return _measure_discrete(f) if is_discrete(f.p) else _measure_continuous(f)


def threshold(comparisons: int) -> float:
    """Returns how many standard errors this many comparisons exceed about as rarely as one exceeds 5 (6e-7).

    Example:
        >>> threshold(1)
        5.0
    """
    return math.sqrt(25 + 2 * math.log(comparisons))


def in_support(p: Any, value: Tensor) -> Tensor:
    """Checks whether values are in the support of p or, if p names none, whether they are finite.

    Args:
        p: a distribution.
        value: (*, *event_shape).

    Returns:
        Booleans (*).
    """
    support = _support(p)
    inside = torch.isfinite(value) if support is None else support.check(value)
    return inside.reshape(*value.shape[: value.dim() - len(p.event_shape)], -1).all(-1)


def is_discrete(p: Any) -> bool:
    """Returns whether p names a support and it is discrete."""
    return bool(getattr(_support(p), "is_discrete", False))


def _on_a_simplex(p: Any) -> bool:
    return base_constraint(_support(p)) is constraints.simplex


def _support(p: Any) -> Any:
    try:
        return p.support
    except (NotImplementedError, AttributeError):
        return None


@dataclass(frozen=True)
class _Factors:
    """n independent factors over d numbers each, for every datum; on a simplex these are its `_sticks`."""

    p: Any
    n: int
    d: int

    @classmethod
    def of(cls, p: Any) -> "_Factors":
        while type(p) in (Independent, dist.Independent):  # a subclass can have its own density
            p = p.base_dist
        d = math.prod(p.event_shape)
        return cls(p, math.prod(p.batch_shape), d - _on_a_simplex(p))  # Pyro's `expand` leaves tuples

    def bound(self, name: str, otherwise: float) -> float:
        """`lower_bound` or `upper_bound` of the support, if it is the same number for all."""
        if _on_a_simplex(self.p):
            return float(name == "upper_bound")
        bound = torch.as_tensor(getattr(base_constraint(_support(self.p)), name, otherwise)).flatten()
        return float(bound[0]) if (bound == bound[0]).all() else otherwise

    def draw(self) -> Tensor:
        """(N, n, d), N from 1000 to 10,000."""
        size = max(1000, min(10_000, _NUMBERS // (4 * self.n * self.d)))
        draws = self.p.sample((size,)).reshape(size, self.n, -1).double()
        return _sticks(draws) if _on_a_simplex(self.p) else draws

    def log_prob(self, value: Tensor) -> Tensor:
        """(N, n, d) -> (N, n): minus infinity outside the support, where many distributions return numbers too."""
        rows = max(1, _NUMBERS // (self.n * self.d))
        return torch.cat([self._log_prob(part) for part in value.split(rows)])

    def _log_prob(self, value: Tensor) -> Tensor:
        log_slope: Tensor | float = 0.0
        if _on_a_simplex(self.p):
            value, log_slope = _from_sticks(value)
        shaped = value.reshape(len(value), *self.p.batch_shape, *self.p.event_shape)
        inside = in_support(self.p, shaped)
        known = torch.where(inside.reshape(*inside.shape, *[1] * len(self.p.event_shape)), shaped, self.p.sample())
        return torch.where(inside, self.p.log_prob(known).double(), -torch.inf).reshape(len(value), self.n) + log_slope


def _sticks(z: Tensor) -> Tensor:
    """The share that each coordinate takes of what the previous ones left: a simplex (*, d + 1) onto a cube (*, d)."""
    left = 1 - z.cumsum(-1) + z
    return (z / left)[..., :-1].nan_to_num(0.5).clamp(0.0, 1.0)


def _from_sticks(v: Tensor) -> tuple[Tensor, Tensor]:
    """z (*, d + 1) from sticks v (*, d), and log |dz / dv| (*) of its first d coordinates, which the density uses."""
    left = torch.cat([torch.ones_like(v[..., :1]), (1 - v).cumprod(-1)], -1)
    return left * torch.cat([v, torch.ones_like(v[..., :1])], -1), left[..., :-1].clamp_min(_TINY).log().sum(-1)


# Discrete values: a sum, and frequencies


def _measure_discrete(f: _Factors) -> Measurement:
    draws = f.draw()
    values, zero = _values(f, draws), torch.zeros(f.n, dtype=torch.float64)
    if values is None:
        return Measurement(
            "the values cannot be listed, or there are too many", None, zero, 0.0, "frequencies", len(draws)
        )
    probability = f.log_prob(values).exp()
    frequency = torch.stack([(draws == value).all(-1).double().mean(0) for value in values])
    integral = probability.sum(0)
    # A last row for draws that are not among the values.
    expected = torch.cat([probability / integral, zero[None]])
    observed = torch.cat([frequency, 1 - frequency.sum(0, keepdim=True)])
    ratio = _gap(observed - expected, expected * (1 - expected) / len(draws), len(draws))
    return Measurement(f"sum over {len(values)} values", integral, zero, ratio, "frequencies", len(draws))


def _values(f: _Factors, draws: Tensor) -> Tensor | None:
    """All values (V, n, d); for counts, those up to 50 standard deviations above the draws."""
    if getattr(f.p, "has_enumerate_support", False):
        values = f.p.enumerate_support(expand=True)
        return values.reshape(len(values), f.n, f.d).double()
    reach = 50 * (1 + draws.std(0).max().item())
    low = max(f.bound("lower_bound", -math.inf), math.floor(draws.min().item() - reach))
    high = min(f.bound("upper_bound", math.inf), math.ceil(draws.max().item() + reach))
    if f.d > 1 or (high - low) * draws.numel() > 1000 * _NUMBERS:
        return None
    return torch.arange(low, high + 1, dtype=torch.float64)[:, None, None].expand(-1, f.n, 1)


def _gap(difference: Tensor, variance: Tensor, size: int) -> float:
    """The largest |difference| divided by what is allowed, over n factors (*, n) and their mean."""
    mean, limit = difference.mean(-1).abs(), threshold(difference.numel())
    one = difference.abs() / (limit * variance.sqrt() + limit**2 / size)
    n = difference.shape[-1]
    every = mean / (limit * (variance.sum(-1)).sqrt() / n + limit**2 / (size * n))
    return max(one.max().nan_to_num(math.inf).item(), every.max().nan_to_num(math.inf).item())


# Densities: quadrature or the best g, compared with the other g


def _measure_continuous(f: _Factors) -> Measurement:
    fit, draws = _without_tails(f.draw()), f.draw()
    log_p = f.log_prob(draws)
    compared = [_compare(f, g, draws, log_p) for g in _references(f, fit)]
    unknown = torch.zeros(f.n), torch.ones(f.n)
    how, (integral, error) = "quadrature", unknown
    if f.d <= cubature.LARGEST_DIM:
        ends = f.bound("lower_bound", -math.inf), f.bound("upper_bound", math.inf)
        integral, error = cubature.integrate(f.log_prob, fit, *ends)
        if _on_a_simplex(f.p):  # if 1 - v is rounded, so is a pole at v = 1
            error = error + (draws > 1 - _ROUNDED).any(-1).double().mean(0)
    if _is_coarse(integral, error):
        how = _BRIDGE
        estimates = [c.integral() for c in compared if not c.moved]
        integral, error = min(estimates, key=lambda pair: pair[1].max().item(), default=unknown)
    known = not _is_coarse(integral, error)
    scale = (integral, error) if known else (torch.ones_like(error), torch.zeros_like(error))
    gap = max((c.gap(*scale), c.name) for c in compared)
    how = how if known else f"no g comes close enough to a density of {f.d} dependent numbers"
    return Measurement(how, integral if known else None, error, *gap, len(draws))


def _is_coarse(integral: Tensor, error: Tensor) -> bool:
    return not bool((error <= _COARSE * integral).all())


def _without_tails(draws: Tensor) -> Tensor:
    # Draws far out, as from a Cauchy, would make a normal too wide to resemble anything.
    ends = draws.quantile(torch.tensor([0.005, 0.995], dtype=torch.float64), 0)
    return draws.clamp(ends[0], ends[1])


class _Reference(NamedTuple):
    """A density g: `draw()` (N, n, d), log g (N, n). `moved`: g is p itself, moved, and has the same integral."""

    name: str
    draw: Callable[[], Tensor]
    log_prob: Callable[[Tensor], Tensor]
    moved: bool = False


class _Comparison(NamedTuple):
    """p / (p + g) at draws from g, and g / (p + g) at draws of the member, both (N, n)."""

    name: str
    at_g: Tensor
    at_draws: Tensor
    moved: bool

    def integral(self) -> tuple[Tensor, Tensor]:
        """c by equation (1), and its standard error."""
        above, below = self.at_g.mean(0), self.at_draws.mean(0)
        size = len(self.at_g)
        relative = (self.at_g.var(0) / above**2 + self.at_draws.var(0) / below**2) / size
        error = (above / below) * (relative.sqrt() + 1 / (size * torch.minimum(above, below)))
        return above / below, error.nan_to_num(math.inf)

    def gap(self, c: Tensor, error: Tensor) -> float:
        c, error = (torch.ones_like(c), 0 * error) if self.moved else (c, error)
        size, below = len(self.at_g), self.at_draws.mean(0)
        variance = (self.at_g.var(0) + c**2 * self.at_draws.var(0)) / size + (error * below) ** 2
        return _gap(self.at_g.mean(0) - c * below, variance, size)


def _compare(f: _Factors, g: _Reference, draws: Tensor, log_p: Tensor) -> _Comparison:
    own = g.draw()
    # At the end of a support, rounding can put a draw from g outside both: -inf - -inf.
    at_g = torch.sigmoid((f.log_prob(own) - g.log_prob(own)).nan_to_num(0.0, torch.inf, -torch.inf))
    return _Comparison(g.name, at_g, torch.sigmoid(g.log_prob(draws) - log_p), g.moved)


def _references(f: _Factors, fit: Tensor) -> Iterator[_Reference]:
    if f.d <= _FITTED:
        yield _fitted("one normal", _normals(fit, 1), f, len(fit))
    if f.n * f.d <= _FITTED:
        yield _fitted(f"{_CLUSTERS} normals", _normals(fit, _CLUSTERS), f, len(fit))
        if f.d > 1:
            each = _normals(fit.reshape(len(fit), -1, 1), _CLUSTERS)
            yield _fitted("product of marginals", each, f, len(fit))
    for step in (0.5, 0.1):
        yield _moved(f, fit, step / math.sqrt(f.d))


def _fitted(name: str, g: Any, f: _Factors, size: int) -> _Reference:
    """g: over d numbers for each of n factors, or over one number for each of n d."""
    return _Reference(
        name,
        lambda: g.sample((size,)).reshape(size, f.n, f.d),
        lambda z: g.log_prob(z.reshape(size, *g.batch_shape, *g.event_shape)).reshape(size, f.n, -1).sum(-1),
    )


def _normals(fit: Tensor, number: int) -> MixtureSameFamily:
    """A mixture of this many normals for each of n factors, fitted to draws (N, n, d)."""
    loc = fit.mean(0)
    scale = fit.std(0) + 1e-12 * (1 + loc.abs())
    z = ((fit - loc) / scale).transpose(0, 1)
    weights, mean = torch.ones(len(z), 1).double(), torch.zeros_like(loc)[:, None]
    covariance = (z.mT @ z / len(fit))[:, None]
    if number > 1:
        mixtures = zip(*(_mixture(one, number) for one in z), strict=True)
        weights, mean, covariance = (torch.stack(each) for each in mixtures)
    tril = torch.linalg.cholesky(covariance + 1e-9 * torch.eye(fit.shape[-1]).double())
    components = MultivariateNormal(loc[:, None] + scale[:, None] * mean, scale_tril=scale[:, None, :, None] * tril)
    return MixtureSameFamily(Categorical(weights), components)


def _mixture(z: Tensor, number: int) -> tuple[Tensor, Tensor, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a better fit exists: any g will do
        mixture = GaussianMixture(number, reg_covar=1e-6, tol=1e-2, max_iter=20, random_state=0).fit(z.numpy())
    return torch.from_numpy(mixture.weights_), torch.from_numpy(mixture.means_), torch.from_numpy(mixture.covariances_)


def _moved(f: _Factors, fit: Tensor, step: float) -> _Reference:
    """g(z) = p(m + e^s (z - m) + t) e^(s d): tests whether the draws have the place and width of the density."""
    centre = fit.median(0).values
    shift = step * fit.std(0) * (torch.randint(2, centre.shape) * 2 - 1)

    def log_prob(z: Tensor) -> Tensor:
        return f.log_prob(centre + math.exp(step) * (z - centre) + shift) + step * f.d

    draw = lambda: centre + math.exp(-step) * (f.draw() - centre - shift)  # noqa: E731
    return _Reference(f"the density moved by {step:.2g}", draw, log_prob, moved=True)
