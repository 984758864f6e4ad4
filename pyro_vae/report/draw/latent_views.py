"""Computes what a picture of the latent space shows from a program and data.

Each view is a tuple of named tensors, which depend only on the arguments and the seed. `latent_pictures` draws it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Independent

from pyro_vae.model.autoencoder import Autoencoder, labels_along
from pyro_vae.model.program import undisturbed
from pyro_vae.model.vae import VAE
from pyro_vae.randomness import generator, stream

ELLIPSES = 30  # more hide one another
PRIOR_DRAWS = 1 << 14  # from which quantiles are taken where none are known: some 22 lie beyond 3 standard deviations


class Interpolation(NamedTuple):
    """Paths between N pairs of data, of P kinds.

    Attributes:
        start, end: the data (N, *x_shape).
        z: the points of the paths (P, steps, N, D).
        mean: means of p(x|z) there, (P, steps, N, *x_shape).
        paths: the P kinds.
    """

    start: Tensor
    end: Tensor
    z: Tensor
    mean: Tensor
    paths: tuple[str, ...]


@torch.no_grad()
def interpolation(
    vae: Autoencoder,
    start: Tensor,
    end: Tensor,
    *,
    paths: Sequence[str] = ("straight", "spherical"),
    steps: int = 9,
    y: Tensor | None = None,
    y_end: Tensor | None = None,
) -> Interpolation:
    """Computes what `vae.interpolate` shows along each kind of path, with the z on it. Nothing is drawn at random.

    Args:
        vae: the program.
        start, end: data (N, *x_shape).
        paths: the kinds of path, see `Autoencoder.interpolate`.
        steps: the number of points on each path, with both ends.
        y, y_end: one-hot labels (N, C) of the starts and of the ends, for a conditional program.

    Raises:
        UsageError: a path is unknown, or "base" and the prior is not a flow.
    """
    z = torch.stack([vae.latent_path(start, end, steps, y, path=path, y_end=y_end) for path in paths])
    with undisturbed(vae):
        means = [vae.likelihood(points, labels_along(y, y_end, steps)).mean for points in z]
    return Interpolation(start, end, z, torch.stack(means), tuple(paths))


class Traversal(NamedTuple):
    """One datum's code, and what p(x|z) becomes when single dimensions of it are moved.

    Attributes:
        x: the datum (1, *x_shape).
        code: its code (D,).
        reconstruction: the mean of p(x|z) at the code, (1, *x_shape).
        usage: the variance of the codes of all data over that of the prior, (D,).
        dimensions: those that are moved, the most used first, (R,).
        levels: the probabilities to whose quantiles under p(z_j) they are moved, (S,).
        z: the moved codes (R, S, D).
        mean: means of p(x|z) there, (R, S, *x_shape).
    """

    x: Tensor
    code: Tensor
    reconstruction: Tensor
    usage: Tensor
    dimensions: Tensor
    levels: Tensor
    z: Tensor
    mean: Tensor


@torch.no_grad()
def traversal(
    vae: VAE,
    x: Tensor,
    seed: int,
    *,
    datum: int = 0,
    rows: int = 8,
    steps: int = 9,
    reach: float = 3.0,
    y: Tensor | None = None,
) -> Traversal:
    """Moves the most used latent dimensions over the quantiles of the prior, each with the others at one datum's code.

    The use of a dimension is the variance of the codes (the centres of q(z|x)) over that of the prior. Quantiles are
    those of each marginal p(z_j), at the probabilities of -reach ... reach standard deviations of a normal: under a
    standard normal prior a dimension moves from -reach to reach. See `quantiles` for where they are exact.

    Args:
        vae: the program.
        x: data (N, *x_shape), two or more, which say what dimensions are used.
        seed: the seed of the draws from the prior.
        datum: the position in x of the datum whose code is moved.
        rows: R, the number of dimensions; all D where there are fewer.
        steps: S, the number of quantiles.
        reach: how far a dimension is moved, in standard deviations of a normal.
        y: one-hot labels (N, C), for a conditional program.
    """
    chosen = None if y is None else y[datum : datum + 1]
    with undisturbed(vae), stream(seed, "traversal", device=x.device):
        codes = vae.posterior.centre(x, y)
        # Each datum's own prior where it depends on the label: the whole varies as the mixture over labels does.
        prior = vae.prior(y)
        draws = prior.sample((PRIOR_DRAWS // prior.batch_shape.numel() + 1,)).flatten(0, -2)
        usage = codes.var(0) / draws.var(0)
        levels = torch.special.ndtr(torch.linspace(-reach, reach, steps, dtype=codes.dtype, device=x.device))
        grid = quantiles(vae.prior(chosen), levels)
        dimensions = usage.argsort(descending=True)[:rows]
        z = codes[datum].repeat(len(dimensions), steps, 1)
        for row, j in enumerate(dimensions.tolist()):
            z[row, :, j] = grid[:, j]
        mean = vae.likelihood(z, chosen).mean
        shown = vae.likelihood(codes[datum : datum + 1], chosen).mean
    return Traversal(x[datum : datum + 1], codes[datum], shown, usage, dimensions, levels, z, mean)


class Cloud(NamedTuple):
    """The codes of many data in the plane.

    Attributes:
        z: the centres of q(z|x), (N, D).
        points: z itself for D = 1 and D = 2, else its first two principal components, (N, 2).
        prior: as many draws from p(z), seen the same way.
        share: the share of the variance of z along each principal component, the largest first, (D,).
        covariance: that of q(z|x), (N, 2, 2), where D = 2, else None.
        labels: those of the data, (N,), or None.
        ellipses: for each datum, whether its ellipse is shown, (N,).
    """

    z: Tensor
    points: Tensor
    prior: Tensor
    share: Tensor
    covariance: Tensor | None
    labels: Tensor | None
    ellipses: Tensor


@torch.no_grad()
def cloud(vae: VAE, x: Tensor, seed: int, *, labels: Tensor | None = None, y: Tensor | None = None) -> Cloud:
    """Computes where the data lie in the latent space.

    Args:
        vae: the program.
        x: data (N, *x_shape).
        seed: the seed of the draws from p(z), of those that give the covariance of q(z|x) where it is not known, and
            of the choice of data whose ellipses are shown.
        labels: (N,) whole numbers, for the colours.
        y: one-hot labels (N, C), for a conditional program.
    """
    with undisturbed(vae), stream(seed, "cloud", device=x.device):
        z = vae.posterior.centre(x, y)
        draws = vae.prior(y).expand((len(x),)).sample()
        covariance = _covariance(vae.posterior(x, y)) if z.shape[-1] == 2 else None
    share, axes = principal_axes(z)
    ellipses = torch.randperm(len(z), generator=generator(seed, "ellipses")).argsort() < ELLIPSES
    points, prior = z, draws
    if z.shape[-1] > 2:
        points, prior = ((codes - z.mean(0)) @ axes[:, :2] for codes in (z, draws))
    return Cloud(z, points, prior, share, covariance, labels, ellipses)


class Grid(NamedTuple):
    """The means of p(x|z) over the latent plane, for each of P labels; P is 1 where there are none.

    Attributes:
        levels: probabilities (S,).
        z: (P, S, S, 2), z[p, i, j] = (quantile of z_0 at levels[j], quantile of z_1 at levels[i]).
        mean: means of p(x|z) there, (P, S, S, *x_shape).
        labels: (P,), or None.
    """

    levels: Tensor
    z: Tensor
    mean: Tensor
    labels: Tensor | None


@torch.no_grad()
def grid(vae: VAE, seed: int, *, side: int = 21, y: Tensor | None = None) -> Grid:
    """Computes the means of p(x|z) on a grid of prior quantiles, each dimension's own, for D = 2.

    The probabilities are the midpoints of `side` equal parts of (0, 1).

    Args:
        vae: the program.
        seed: the seed of the draws that give the quantiles where they are not known.
        side: S.
        y: one-hot labels (P, C), for a conditional program, which has a grid for each.

    Raises:
        ValueError: the latent space has not two dimensions.

    Reference:
        Kingma & Welling, "Auto-Encoding Variational Bayes", ICLR 2014, figure 4. https://arxiv.org/abs/1312.6114
    """
    if vae.prior.latent_dim != 2:
        raise ValueError(f"a grid over the latent plane needs 2 dimensions; this program has {vae.prior.latent_dim}")
    like = vae.prior.loc
    levels = (torch.arange(side, dtype=like.dtype, device=like.device) + 0.5) / side
    panels = []
    with undisturbed(vae), stream(seed, "grid", device=like.device):
        for label in [None] if y is None else y[:, None]:
            at = quantiles(vae.prior(label), levels)
            z = torch.stack(torch.meshgrid(at[:, 0], at[:, 1], indexing="xy"), -1)
            panels.append((z, vae.likelihood(z, label).mean))
    z, mean = (torch.stack(parts) for parts in zip(*panels, strict=True))
    return Grid(levels, z, mean, None if y is None else y.argmax(-1))


def quantiles(prior: Any, levels: Tensor) -> Tensor:
    """Computes the quantiles of each marginal p(z_j), (S, D), at probabilities (S,).

    They are exact where the prior is made of independent one-dimensional distributions that know their quantiles, else
    those of 16,384 draws.

    Args:
        prior: p(z), of batch shape () or (1,).
        levels: probabilities (S,), inside (0, 1).

    Example:
        >>> import pyro.distributions as dist
        >>> quantiles(dist.Normal(torch.zeros(2), torch.tensor([1.0, 10.0])).to_event(1), torch.tensor([0.5, 0.8413]))
        tensor([[0.0000, 0.0000],
                [0.9998, 9.9982]])
    """
    factor = prior
    while isinstance(factor, Independent):
        factor = factor.base_dist
    if factor.event_shape == ():
        try:
            return factor.icdf(levels[:, None])
        except NotImplementedError:
            pass
    draws = prior.sample((PRIOR_DRAWS,)).reshape(PRIOR_DRAWS, -1)
    return draws.quantile(levels, 0)


def _covariance(q: Any, num_samples: int = 256) -> Tensor:
    """The covariance of q(z|x), (N, D, D), from draws where q does not know it."""
    if hasattr(q, "covariance_matrix"):
        return q.covariance_matrix
    try:
        return q.variance.diag_embed()
    except (NotImplementedError, AttributeError):
        z = q.sample((num_samples,))
        centred = z - z.mean(0)
        return torch.einsum("kni,knj->nij", centred, centred) / (num_samples - 1)


def principal_axes(z: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the principal components of z (N, D): their shares of the variance (D,) and their axes (D, D).

    The largest comes first. An axis is a column. Since it has no sign of its own, its largest weight is made positive.

    Example:
        >>> principal_axes(torch.tensor([[0.0, 3.0], [0.0, -3.0], [1.0, 0.0], [-1.0, 0.0]]))[0]
        tensor([0.9000, 0.1000])
    """
    centred = (z - z.mean(0)).double()
    variance, axes = torch.linalg.eigh(centred.T @ centred)
    variance, axes = variance.flip(0).clamp(min=torch.finfo(torch.double).tiny), axes.flip(1)
    signs = axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    return (variance / variance.sum()).to(z.dtype), (axes * signs).to(z.dtype)
