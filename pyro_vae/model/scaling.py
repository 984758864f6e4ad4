r"""Scalings: units in which a network sees columns of data that come in units of any size.

    u = scale.see(x)     what an encoder sees         x = scale.undo(u)     back, in the data's own units

Nothing happens to the data. A scaling is a part of the program: the encoder sees u, and what the decoder says of u is
taken back, so that p(x|z) is over x as it is. So log p(x), draws and reconstructions are in the data's own units, and
no Jacobian is left to anybody.

    scale = ColumnScale((13,))
    scale.fit(x)
    posterior = DiagonalNormal(Rescaled(MLP((13,), (8,)), scale), latent_dim=4)
    likelihood = Normal(MLP((4,), (13,)), scale=1.0, learn_scale="pixel", x_shape=(13,), column_scale=scale)

`fit` sets its numbers from training data, and so does `VAE.start_at`. They are buffers: a checkpoint holds them. One
scaling may be in several members, which then share its numbers.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pyro_vae.errors import DataError

_BLOCK = 1 << 20  # numbers that are float64 at a time
# Beyond it squares of errors, in float32, end in 0 or infinity.
_LARGEST = 1e15
# The spread, relative to the mean, that float64 leaves to a column that never changes is below it.
_ROUNDING = 1e-12


class Scaling(nn.Module):
    """Base class of scalings: `see` and its inverse `undo`, of data (*, *x_shape), and `fit`, which may do nothing.

    NaN, a missing number, stays NaN.
    """

    def fit(self, x: Tensor) -> None:
        """Sets what depends on training data x (N, *x_shape); NaN counts as missing."""

    def see(self, x: Tensor) -> Tensor:
        """Returns u, what an encoder sees of data x (*, *x_shape)."""
        raise NotImplementedError(f"{type(self).__name__} has no see()")

    def undo(self, u: Tensor) -> Tensor:
        """Returns the x (*, *x_shape) of which an encoder sees u."""
        raise NotImplementedError(f"{type(self).__name__} has no undo()")


class ColumnScale(Scaling):
    r"""Standardising: each column minus its mean, in units of its spread.

    .. math:: u_i = \frac{x_i - c_i}{s_i}, \qquad x_i = c_i + s_i u_i

    Before `fit` all c are 0 and all s are 1. A column that never changes has s = 1.

    A density of u, such as a decoder's, is one of x with the Jacobian of this map. A likelihood that is given the scale
    has it in itself, since it moves and stretches its own distribution:

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
        """Sets centre and spread to mean and standard deviation of x (N, *x_shape), which are computed in float64.

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
                "square float32 does not hold: give this column in another unit"
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
        mean: m (*x_shape), the mean of the training data by `mean_of_counts`, of which no column has 0.

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
        """Sets the mean to that of counts x (N, *x_shape), see `mean_of_counts`."""
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
    r"""The logarithm of counts 0, 1, 2, ..., which may reach 2^24.

    .. math:: u = \log(1 + x), \qquad x = e^u - 1

    Below 0, where no counts are but pseudo-inputs may come, it goes on as its mirror image, -log(1 - x).

    Example:
        >>> LogCounts().see(torch.tensor([0.0, 1e6])), LogCounts().undo(torch.tensor([0.0, math.log(8)]))
        (tensor([ 0.0000, 13.8155]), tensor([0., 7.]))
    """

    def see(self, x: Tensor) -> Tensor:
        # Not sign(x) log(1 + |x|), whose gradient at 0, where many counts are, would be 0.
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
    r"""Each number less its mean over the training data, so that the zeros that stand for missing ones say nothing.

    .. math:: u = s(x) - c, \qquad c = \frac{1}{N} \sum_n s(x_n) \text{ over the observed ones}

    On images whose gaps are random, an encoder that sees zeros for dark pixels and for missing ones alike spends itself
    on telling them apart, and most latents collapse.

    Args:
        x_shape: shape of one datum.
        inner: the scaling s that comes first; None for none.

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
        """Sets the centre to the mean of each number over those data (N, *x_shape) that have it; 0 where none has."""
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
    """A network that sees u = scale.see(x) in place of x. Labels go to it as they are.

    Args:
        network: an encoder, of u (N, *x_shape) and, where there are any, labels (N, C).
        scale: a scaling, perhaps one that a likelihood has too.

    Example:
        >>> from pyro_vae.model.networks import MLP
        >>> Rescaled(MLP((50,), (40,)), LogCounts())(torch.zeros(5, 50)).shape
        torch.Size([5, 40])
    """

    def __init__(self, network: Callable[..., Tensor], scale: Scaling) -> None:
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, x: Tensor, *y: Tensor) -> Tensor:
        seen = self.scale.see(x).to(x.dtype)  # of the type given, which the network may refuse
        return self.network(seen, *y)


def check_columns(scale: Scaling, x: Tensor, x_shape: tuple[int, ...]) -> None:
    """Raises ValueError where x is not (*, *x_shape): broadcasting would make (B, 5) of (B, 1)."""
    lead = x.dim() - len(x_shape)
    if lead < 0 or x.shape[lead:] != x_shape:
        raise ValueError(f"{type(scale).__name__} was built for x_shape={x_shape}; got {tuple(x.shape)}")


def column_means(x: Tensor, of: Callable[[Tensor], Tensor] = lambda rows: rows) -> Tensor:
    """Returns the mean of each column of x (N, *x_shape) in float64, of the numbers that are not NaN; of none, 0.

    Args:
        x: data.
        of: what is averaged, of rows in float64.
    """
    total = torch.zeros(x.shape[1:], dtype=torch.float64, device=x.device)
    number = torch.zeros_like(total)
    for rows in x.split(max(1, _BLOCK // math.prod(x.shape[1:]))):
        values = of(rows.double())
        total += values.nansum(0)
        number += (~values.isnan()).sum(0)
    return total / number.clamp(min=1)


def mean_of_counts(x: Tensor) -> Tensor:
    r"""Returns the mean of each column of counts x (N, *x_shape) in float64, with half a count more: none is 0.

    .. math:: m_i = \frac{1}{n_i} \Big( \frac{1}{2} + \sum_n x_{ni} \Big)

    n_i is the number of observed counts, or 1 where there are none.

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
