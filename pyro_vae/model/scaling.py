r"""Scalings: the units in which a network sees columns of data, whatever units the data come in.

    u = scale.see(x)     what an encoder sees         x = scale.undo(u)     back, in the data's own units

The data do not change. A scaling is part of the program: the encoder sees u, and the decoder's statement about u is
transformed back, so p(x|z) is over x as it is. So log p(x), draws and reconstructions are in the units of the data, and
there is no Jacobian to add.

    scale = ColumnScale((13,))
    scale.fit(x)
    posterior = DiagonalNormal(Rescaled(MLP((13,), (8,)), scale), latent_dim=4)
    likelihood = Normal(MLP((4,), (13,)), scale=1.0, learn_scale="pixel", x_shape=(13,), column_scale=scale)

`fit` sets its numbers from training data, and so does `VAE.start_at`. They are buffers, so a checkpoint holds them.
Several members can hold the same scaling and then share its numbers.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pyro_vae.errors import DataError

_BLOCK = 1 << 20  # numbers held in float64 at a time
# Beyond this, squares of errors in float32 become 0 or infinity.
_LARGEST = 1e15
# A constant column has a relative spread below this in float64.
_ROUNDING = 1e-12


class Scaling(nn.Module):
    """Base class of scalings: `see` and its inverse `undo`, for data (*, *x_shape), and `fit`, which can do nothing.

    NaN, a missing number, stays NaN.
    """

    def fit(self, x: Tensor) -> None:
        """Sets whatever depends on training data x (N, *x_shape); NaN counts as missing."""

    def see(self, x: Tensor) -> Tensor:
        """Returns u, the encoder's view of data x (*, *x_shape)."""
        raise NotImplementedError(f"{type(self).__name__} has no see()")

    def undo(self, u: Tensor) -> Tensor:
        """Returns the x (*, *x_shape) that an encoder sees as u."""
        raise NotImplementedError(f"{type(self).__name__} has no undo()")


class ColumnScale(Scaling):
    r"""Standardising: each column minus its mean, in units of its spread.

    .. math:: u_i = \frac{x_i - c_i}{s_i}, \qquad x_i = c_i + s_i u_i

    Before `fit` all c are 0 and all s are 1. A constant column has s = 1.

    A density of u, such as the decoder's, becomes a density of x with the Jacobian of this map. A likelihood that is
    given the scale contains the Jacobian, since it moves and stretches its own distribution:

    .. math:: \log p(x) = \log p(u) - \sum_i \log s_i

    Args:
        x_shape: shape of one datum.

    Attributes:
        centre: c (*x_shape), the mean of the training data.
        spread: s (*x_shape), their standard deviation (of N, not of N - 1, data).

    Example:
        >>> scale = ColumnScale((2,))
        >>> scale.fit(torch.tensor([[1.0, 100.0], [3.0, 300.0]]))
        >>> scale.see(torch.tensor([3.0, 200.0])), scale.undo(torch.tensor([1.0, 0.0]))
        (tensor([1., 0.]), tensor([  3., 200.]))
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, x_shape: Sequence[int]) -> None:
        super().__init__()
        self.x_shape = tuple(x_shape)
        self.register_buffer("centre", torch.zeros(self.x_shape))
        self.register_buffer("spread", torch.ones(self.x_shape))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Sets centre and spread to the mean and standard deviation of x (N, *x_shape), computed in float64.

        Raises:
            DataError: the spread of a column is below 1e-15 or above 1e15, where float32 loses squares of errors.
            ValueError: x has another shape.
        """
        check_columns(self, x, self.x_shape)
        centre = column_means(x)
        spread = column_means(x, lambda rows: (rows - centre).square()).sqrt()
        spread = torch.where(spread > _ROUNDING * centre.abs(), spread, 1.0)
        if (wrong := (spread > _LARGEST) | (spread < 1 / _LARGEST)).any():
            place = tuple(wrong.nonzero()[0].tolist())
            raise DataError(
                f"column {', '.join(map(str, place))} has the standard deviation {spread[place].item():.3g}, whose "
                "square does not fit into float32: use another unit for this column"
            )
        self.centre.copy_(centre)
        self.spread.copy_(spread)

    def see(self, x: Tensor) -> Tensor:
        check_columns(self, x, self.x_shape)
        return (x - self.centre) / self.spread

    def undo(self, u: Tensor) -> Tensor:
        check_columns(self, u, self.x_shape)
        return self.centre + self.spread * u

    def extra_repr(self) -> str:
        return f"x_shape={self.x_shape}"


class ColumnMean(Scaling):
    r"""Counts in units of the mean of their column.

    .. math:: u_i = \frac{x_i}{m_i}, \qquad x_i = m_i u_i

    Before `fit` all m are 1.

    Args:
        x_shape: shape of one datum.

    Attributes:
        mean: m (*x_shape), the mean of the training data by `mean_of_counts`, which is never 0.

    Example:
        >>> scale = ColumnMean((2,))
        >>> scale.fit(torch.tensor([[0.0, 1e5], [0.0, 3e5]]))
        >>> scale.undo(torch.tensor([1.0, 0.5]))
        tensor([2.5000e-01, 1.0000e+05])
    """

    mean: Tensor

    def __init__(self, x_shape: Sequence[int]) -> None:
        super().__init__()
        self.x_shape = tuple(x_shape)
        self.register_buffer("mean", torch.ones(self.x_shape))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Sets the mean to the mean of counts x (N, *x_shape), see `mean_of_counts`."""
        check_columns(self, x, self.x_shape)
        self.mean.copy_(mean_of_counts(x))

    def see(self, x: Tensor) -> Tensor:
        check_columns(self, x, self.x_shape)
        return x / self.mean

    def undo(self, u: Tensor) -> Tensor:
        check_columns(self, u, self.x_shape)
        return self.mean * u

    def extra_repr(self) -> str:
        return f"x_shape={self.x_shape}"


class LogCounts(Scaling):
    r"""The logarithm of counts 0, 1, 2, ..., which can reach 2^24.

    .. math:: u = \log(1 + x), \qquad x = e^u - 1

    Below 0, where there are no counts but pseudo-inputs can be, it continues as its mirror image, -log(1 - x).

    Example:
        >>> LogCounts().see(torch.tensor([0.0, 1e6])), LogCounts().undo(torch.tensor([0.0, math.log(8)]))
        (tensor([ 0.0000, 13.8155]), tensor([0., 7.]))
    """

    def see(self, x: Tensor) -> Tensor:
        # Not sign(x) log(1 + |x|): its gradient at 0, where many counts are, would be 0.
        return x.masked_fill(x < 0, 0).log1p() - x.masked_fill(x >= 0, 0).neg().log1p()

    def undo(self, u: Tensor) -> Tensor:
        return u.masked_fill(u < 0, 0).expm1() - u.masked_fill(u >= 0, 0).neg().expm1()


class Times(Scaling):
    r"""Every number times a factor, such as 1 / 255 for grey levels.

    .. math:: u = f x, \qquad x = u / f

    Args:
        factor: f.

    Example:
        >>> Times(1 / 255).see(torch.tensor([0.0, 255.0]))
        tensor([0., 1.])
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def see(self, x: Tensor) -> Tensor:
        return x * self.factor

    def undo(self, u: Tensor) -> Tensor:
        return u / self.factor

    def extra_repr(self) -> str:
        return f"factor={self.factor:g}"


class Centred(Scaling):
    r"""Each number minus its mean over the training data, so that zeros in place of missing numbers say nothing.

    .. math:: u = s(x) - c, \qquad c = \frac{1}{N} \sum_n s(x_n) \text{ over the observed ones}

    On images with random gaps, an encoder that sees zeros both for dark pixels and for missing ones spends its capacity
    on telling them apart, and most latents collapse.

    Args:
        x_shape: shape of one datum.
        inner: the scaling s that is applied first; None for none.

    Example:
        >>> centred = Centred((2,))
        >>> centred.fit(torch.tensor([[1.0, 0.0], [3.0, torch.nan]]))
        >>> centred.see(torch.tensor([[1.0, 5.0]])), centred.undo(torch.zeros(1, 2))
        (tensor([[-1.,  5.]]), tensor([[2., 0.]]))
    """

    centre: Tensor

    def __init__(self, x_shape: Sequence[int], inner: Scaling | None = None) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("centre", torch.zeros(tuple(x_shape)))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Sets the centre to the mean of each number over the data (N, *x_shape) that have it; 0 if none has."""
        check_columns(self, x, tuple(self.centre.shape))
        if self.inner is not None:
            self.inner.fit(x)
        self.centre.copy_(column_means(x, self._first))

    def see(self, x: Tensor) -> Tensor:
        return self._first(x) - self.centre

    def undo(self, u: Tensor) -> Tensor:
        x = u + self.centre
        return x if self.inner is None else self.inner.undo(x)

    def _first(self, x: Tensor) -> Tensor:
        return x if self.inner is None else self.inner.see(x)


class Rescaled(nn.Module):
    """A network that sees u = scale.see(x) instead of x. Labels are passed on as they are.

    Args:
        network: an encoder of u (N, *x_shape) and, if there are any, labels (N, C).
        scale: a scaling, perhaps the same as in a likelihood.

    Example:
        >>> from pyro_vae.model.networks import MLP
        >>> Rescaled(MLP((50,), (40,)), LogCounts())(torch.zeros(5, 50)).shape
        torch.Size([5, 40])
    """

    def __init__(self, network: Callable[..., Tensor], scale: Scaling) -> None:
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, x: Tensor, *y: Tensor) -> Tensor:
        seen = self.scale.see(x).to(x.dtype)  # in the type of the input, which the network can refuse
        return self.network(seen, *y)


def check_columns(scale: Scaling, x: Tensor, x_shape: tuple[int, ...]) -> None:
    """Raises ValueError if x is not (*, *x_shape): broadcasting would turn (B, 1) into (B, 5)."""
    lead = x.dim() - len(x_shape)
    if lead < 0 or x.shape[lead:] != x_shape:
        raise ValueError(f"{type(scale).__name__} was built for x_shape={x_shape}; got {tuple(x.shape)}")


def column_means(x: Tensor, of: Callable[[Tensor], Tensor] = lambda rows: rows) -> Tensor:
    """Returns the mean of each column of x (N, *x_shape) in float64, over the numbers that are not NaN; 0 if none.

    Args:
        x: data.
        of: the function of rows, in float64, that is averaged.
    """
    total = torch.zeros(x.shape[1:], dtype=torch.float64, device=x.device)
    number = torch.zeros_like(total)
    for rows in x.split(max(1, _BLOCK // math.prod(x.shape[1:]))):
        values = of(rows.double())
        total += values.nansum(0)
        number += (~values.isnan()).sum(0)
    return total / number.clamp(min=1)


def mean_of_counts(x: Tensor) -> Tensor:
    r"""Returns the mean of each column of counts x (N, *x_shape) in float64, with half a count added, so none is 0.

    .. math:: m_i = \frac{1}{n_i} \Big( \frac{1}{2} + \sum_n x_{ni} \Big)

    n_i is the number of observed counts, or 1 if there are none.

    Example:
        >>> mean_of_counts(torch.tensor([[0.0, 3.0], [0.0, torch.nan]]))
        tensor([0.2500, 3.5000], dtype=torch.float64)
    """
    observed = (~x.isnan()).sum(0).clamp(min=1)
    return column_means(x) + 0.5 / observed.double()


def fit_scalings(module: nn.Module, x: Tensor) -> None:
    """Fits every scaling in a module, once, to training data x (N, *x_shape)."""
    for inner in module.modules():
        if isinstance(inner, Scaling):
            inner.fit(x)
