"""Slow densities to hold the members against: scipy, loops over components, Jacobians by autograd, quadrature."""

import inspect

import numpy as np
import scipy.special
import scipy.stats
import torch
from torch.autograd.functional import jacobian

from pyro_vae.evaluation.exact.grids import flat


def members(module, base):
    """Names of the public members of a family."""
    found = {name for name, kind in vars(module).items() if inspect.isclass(kind) and issubclass(kind, base)}
    return {name for name in found if not name.startswith("_")} - {base.__name__}


def perturbed(module, by=0.3):
    """The module in float64, its parameters moved away from where they start."""
    with torch.no_grad():
        for parameter in module.double().parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return module


def normal(z, loc, scale):
    return scipy.stats.norm.logpdf(z, loc, scale).sum(-1)


def full_normal(z, loc, covariance):
    return np.reshape(scipy.stats.multivariate_normal(loc, covariance).logpdf(z), np.shape(z)[:-1])


def mixture(log_weights, log_densities):
    """A joint mixture: log_densities is a list of arrays, one for each component."""
    return scipy.special.logsumexp(np.stack(log_densities, -1) + log_weights, axis=-1)


def rows_jacobian(function, z):
    """The Jacobian of each row of `function`, whose rows do not depend on each other: (n, D, D)."""
    return jacobian(lambda rows: function(rows).sum(0), z).transpose(0, 1)


def pushed_forward(function, z, loc=0.0, scale=1.0):
    """log p(z) where function(z) is normal: log base(f(z)) + log |det df/dz|."""
    stretch = torch.linalg.slogdet(rows_jacobian(function, z)).logabsdet
    return normal(function(z).detach().numpy(), loc, scale) + stretch.numpy()


def solve(function, z):
    """u with function(u) = z, for an affine autoregressive function: Newton finds one more dimension in each step."""
    u = z.clone()
    for _ in range(z.shape[-1]):
        u = u - torch.linalg.solve(rows_jacobian(function, u), function(u).detach() - z)
    assert (function(u) - z).abs().max() < 1e-9
    return u


def one_after_another(transforms, context=None):
    """The composition of the lazy transforms of zuko, each called forward."""

    def composed(z):
        for transform in transforms:
            z = transform(context)(z)
        return z

    return composed


def moments(posterior, output):
    """Mean and covariance of a Gaussian posterior from one row of the encoder's numbers, by its docstring."""
    D, numbers = posterior.latent_dim, iter(output)
    loc = np.array([next(numbers) for _ in range(D)])
    log_scale = np.array([next(numbers) for _ in range(D)])
    if getattr(posterior, "encoder_predicts", "log_sigma") == "log_variance":
        log_scale = log_scale / 2
    root = np.diag(posterior.floor + np.exp(log_scale))
    kind = type(posterior).__name__
    if kind == "FullNormal":
        for i in range(D):
            for j in range(i):
                root[i, j] = next(numbers)
    if kind == "LowRankNormal":
        factor = np.array([[next(numbers) for _ in range(posterior.rank)] for _ in range(D)])
        root = np.concatenate([root, factor], axis=1)
    assert next(numbers, None) is None
    return loc, root @ root.T


def posterior_log_prob(posterior, output, z):
    """log q(z|x) at z (n, D) for one row of the encoder's numbers."""
    if type(posterior).__name__ != "FlowPosterior":
        return full_normal(z.numpy(), *moments(posterior, output.numpy()))
    loc, log_scale, context = output.reshape(3, posterior.latent_dim)
    transforms, u = posterior.transform.transform.transforms, z
    for transform in reversed(transforms):
        u = solve(transform(context), u)
    draw = one_after_another(transforms, context)
    shrink = torch.linalg.slogdet(rows_jacobian(draw, u)).logabsdet
    return normal(u.numpy(), loc.numpy(), posterior.floor + log_scale.exp().numpy()) - shrink.numpy()


def statistics(z):
    """Bounded functions of z in two dimensions, so that heavy tails have means as well; two are joint ones."""
    a, b = z.unbind(-1)
    return torch.stack([a.tanh(), b.tanh(), a.tanh() * b.tanh(), a.cos(), (2 * b).cos(), (a - b).sin()], -1)


def integral(f, rule, support, n):
    """The integral of f (P, D) -> (P,) over a support, (low, high) for each axis, on the grid of a rule: n^D points."""
    z, log_weight = flat(support).place(rule, n, stretch=False)
    return (f(z[:, 0]) * log_weight[:, 0].exp()).sum().item()


def quadrature(log_prob, points=250, reach=5.0):
    """The integrals of a density over the plane and of `statistics` under it; trapezoids in asinh(z), |z| < 74."""
    t = torch.linspace(-reach, reach, points, dtype=torch.float64)
    z = torch.cartesian_prod(t.sinh(), t.sinh())
    mass = log_prob(z).exp() * torch.cartesian_prod(t.cosh(), t.cosh()).prod(-1) * (t[1] - t[0]) ** 2
    return mass.sum(), mass @ statistics(z)


@torch.no_grad()
def check_sampler(p, draws=20_000, sigmas=5.0):
    """Draws of p (batch shape ()) against its density: six means, each a false alarm once in 1.7 million."""
    mass, expected = quadrature(p.log_prob)
    assert abs(mass - 1) < 2e-3
    found = statistics(p.sample((draws,)))
    assert found.shape == (draws, 6)
    assert ((found.mean(0) - expected).abs() < sigmas * found.std(0) / draws**0.5 + 1e-3).all()
