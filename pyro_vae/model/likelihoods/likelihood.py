"""Likelihood, the base class of p(x|z), and what its members share."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_vae.errors import DataError
from pyro_vae.model.conditions import IF_MISSING, base_constraint, in_words, require
from pyro_vae.model.distributions.missing import inside, observed_numbers
from pyro_vae.model.folding import folded

_logger = logging.getLogger(__name__)


@contextmanager
def unsaid() -> Iterator[None]:
    """Hides, inside, the note that a decoder stays as it is, for a program whose training does not begin."""

    def nothing(record: logging.LogRecord) -> bool:
        return False

    _logger.addFilter(nothing)
    try:
        yield
    finally:
        _logger.removeFilter(nothing)


class Likelihood(nn.Module):
    """Base class of p(x|z). Members set `support`, a constraint on a pixel or a vector, and `advice` for other data.

    Args:
        decoder: maps z `(N, D)` (and labels `(N, C)`, if given) to `(N, *decoder_shape(x_shape))`.

    Example:
        >>> from pyro_vae.model.networks import MLP
        >>> class Cauchy(Likelihood):
        ...     def forward(self, z, y=None):
        ...         loc = self.decode(z, y)
        ...         return dist.Cauchy(loc, torch.ones_like(loc)).to_event(3)
        >>> Cauchy(MLP((20,), (1, 8, 8)))(torch.zeros(5, 20)).event_shape
        torch.Size([1, 8, 8])
    """

    support: constraints.Constraint = constraints.real
    advice = ""

    def __init__(self, decoder: Callable[..., Tensor]) -> None:
        super().__init__()
        self.decoder = decoder

    @staticmethod
    def decoder_shape(x_shape: Sequence[int]) -> tuple[int, ...]:
        """Returns the event shape of the decoder's output: x_shape, unless a member needs more numbers per pixel.

        A member adds the constructor arguments that the shape depends on, with the same names and defaults.

        Args:
            x_shape: shape of one datum.
        """
        return tuple(x_shape)

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Calls the decoder at latents z (*, D) and labels y (*, C), broadcast against each other.

        Your own decoder sees them as (N, D) and (N, C): draws, particles and data are its rows. So batch norm in
        training takes its statistics over all of them, K B rows under K vectorised particles.

        Returns:
            (*, *decoder_shape).

        Raises:
            TypeError: the decoder does not return a tensor.
            ValueError: it does not return one row for each row that it was given.
        """
        return folded(self.decoder, z, y, 1, (f"the decoder of {type(self).__name__}", "z"))

    def decode_parts(self, z: Tensor, y: Tensor | None, count: int) -> Tensor:
        """Calls the decoder and moves its axis of several numbers per pixel to the front.

        Args:
            z: latents (*, D).
            y: one-hot labels (*, C).
            count: how many numbers per pixel there are.

        Returns:
            (count, *, *x_shape), from the decoder's (*, count, *x_shape).

        Raises:
            ValueError: the decoder's output has no such axis.
        """
        output, axis = self.decode(z, y), leading_dims(z, y)
        if output.dim() <= axis or output.shape[axis] != count:
            raise ValueError(
                f"{type(self).__name__} needs a decoder whose output has shape (*, {count}, *x_shape), {count} "
                f"numbers per pixel; got {tuple(output.shape)} for z {tuple(z.shape)}: build it with decoder_shape()"
            )
        return output.movedim(axis, 0)

    def forward(self, z: Tensor, y: Tensor | None = None) -> dist.Distribution:
        """Builds p(x|z) for latents z (*, D), or p(x|z, y) for labels y (B, C)."""
        raise NotImplementedError(f"{type(self).__name__} has no forward()")

    def scales(self) -> dict[str, Any]:
        """Describes each scale of this likelihood, and its floor, in plain numbers and words for reports."""
        return {}

    def scale_by_column(self) -> dict[str, Tensor]:
        """Returns, by name, scales and floors that differ between columns of a table, (D,), in each column's unit."""
        return {}

    def start(self, x: Tensor) -> Tensor:
        """Returns the decoder output (*decoder_shape) under which x has the mean of the data x (N, *x_shape)."""
        return observed_mean(x)

    @torch.no_grad()
    def start_at(self, x: Tensor) -> None:
        """Sets the decoder's output bias so that training starts at the mean of the data.

        A decoder without an `output_bias`, such as a plain `nn.Sequential`, stays as it is, and a line of the log says
        so. The same happens if a member that needs several numbers per pixel has no `start` of its own.

        Args:
            x: data (N, *x_shape). If they are binarised again in each epoch, pass their grey levels, the means of the
                draws. NaN is a missing number, and left out.

        Raises:
            ValueError: its `output_bias` has another shape.
        """
        bias = getattr(self.decoder, "output_bias", None)
        if bias is None:
            self._stay("%s has no parameter output_bias", type(self.decoder).__name__)
            return
        wanted = self.start(x)
        if bias.shape != wanted.shape and type(self).start is Likelihood.start:
            self._stay("%s has no `start` that says which of the decoder's numbers are", type(self).__name__)
            return
        if bias.shape != wanted.shape:
            raise ValueError(
                f"to start at the mean of the data the decoder needs a parameter output_bias of shape "
                f"{tuple(wanted.shape)}; {type(self.decoder).__name__} has {tuple(bias.shape)}"
            )
        bias.copy_(wanted)

    def _stay(self, why: str, name: str) -> None:
        _logger.warning(f"note: training starts where the decoder is, not at the mean of the data: {why}", name)

    def check_missing(self) -> None:
        """Raises ValueError if p(x_obs|z) of some numbers of x cannot be derived from p(x|z), see `observed_part`."""
        if getattr(self.support, "event_dim", 0):
            raise ValueError(
                f"{type(self).__name__} is over whole vectors ({_describe(self.support)}), whose single numbers "
                "cannot be missing (`missing=True`)"
            )

    def observed_part(self, p: Any, mask: Tensor) -> Any:
        """Returns p(x_obs|z), whose log p of x counts only the observed numbers.

        By default it masks independent numbers. A member whose numbers depend on each other integrates out the missing
        ones. It returns a distribution with an attribute `observed`, the mask, and two methods for
        `pyro_vae.evaluation.impute`: `completed(x)` draws the missing numbers given the observed ones, and
        `expected(x)` returns their means.

        Args:
            p: p(x|z), what `forward` returned.
            mask: boolean (B, *x_shape), True where a number was observed.

        Raises:
            ValueError: p(x|z) is not a product over single numbers.
        """
        return observed_numbers(p, mask)

    def filled(self, x: Tensor) -> Tensor:
        """Returns data x (N, *x_shape) with a number inside the support in place of each NaN, a missing number."""
        return torch.where(x.isnan(), inside(base_constraint(self.support)), x) if x.is_floating_point() else x

    def check(self, x: Tensor, first: int = 0, place: Callable[[int], str] = "datum {}".format) -> None:
        """Refuses data that are outside the support or not finite, and names the first such datum.

        NaN is refused too: a program with `missing=True` checks the result of `filled`.

        Args:
            x: data (N, *x_shape).
            first: the position of x[0] among the data, if x is a block of them.
            place: describes a position among the data in words.

        Raises:
            DataError: a datum is refused; the message names the value, its place and the cure.
        """
        if x.is_complex():
            raise DataError(f"{type(self).__name__} needs x to be real; got {x.dtype}: pass x.real")
        inside = self.support.check(x)  # for each number, or for each vector, such as probabilities that add up to 1
        inside = inside & torch.isfinite(x).reshape(*inside.shape, -1).all(-1)
        require(inside.all(), lambda: self._outside(x, inside, first, place))

    def _outside(self, x: Tensor, inside: Tensor, first: int, place: Callable[[int], str]) -> DataError:
        at = (~inside).nonzero()[0].tolist()
        where = place(first + at[0]) + (f", position {tuple(at[1:])}" if at[1:] else "")
        found = x[tuple(at)]
        advice = IF_MISSING if found.isnan().any() and self._takes_missing() else self.advice
        return DataError(
            f"{type(self).__name__} needs x {_describe(self.support)}; got {in_words(found)} at {where}. "
            f"{advice}".rstrip()
        )

    def _takes_missing(self) -> bool:
        try:
            self.check_missing()
        except ValueError:
            return False
        return True


def leading_dims(z: Tensor, y: Tensor | None) -> int:
    """Counts the leading dimensions of latents z (*, D) and labels y (*, C), broadcast against each other."""
    return max(z.dim(), 0 if y is None else y.dim()) - 1


def over_pixels(p: TorchDistributionMixin, z: Tensor, y: Tensor | None = None) -> dist.Distribution:
    """Declares all batch dimensions of p beyond those of z (*, D) and labels y (*, C) as an event."""
    return p.to_event(len(p.batch_shape) - leading_dims(z, y))


def observed_mean(x: Tensor, otherwise: float = 0.0) -> Tensor:
    """Returns the mean of data x (N, *x_shape) over those that are not NaN; `otherwise` if all of them are.

    Example:
        >>> observed_mean(torch.tensor([[1.0, torch.nan], [torch.nan, torch.nan]]))
        tensor([1., 0.])
    """
    total, number = _observed(x)
    return torch.where(number > 0, total / number.clamp(min=1), otherwise)


def _observed(x: Tensor) -> tuple[Tensor, Tensor]:
    missing = x.isnan()
    return torch.where(missing, 0.0, x).sum(0), (~missing).sum(0)


def mean_with_one_more(x: Tensor, value: float) -> Tensor:
    """Returns the mean of data x (N, *x_shape) and one more datum, `value`, in the middle of their range.

    It gives a finite start to a pixel that never changes, or that was never observed. NaN is left out.

    Reference:
        Krichevsky & Trofimov, "The Performance of Universal Encoding", IEEE Transactions on Information Theory 27,
        1981.
    """
    total, number = _observed(x)
    return (total + value) / (number + 1)


def _describe(support: constraints.Constraint) -> str:
    if isinstance(support, constraints.integer_interval):
        return f"to be a whole number from {support.lower_bound} to {support.upper_bound}"
    known = {
        constraints.boolean: "in {0, 1}",
        constraints.unit_interval: "in [0, 1]",
        constraints.real: "to be finite",
        constraints.nonnegative_integer: "to be a whole number, 0 or more",
        constraints.positive: "above 0",
        constraints.simplex: "to be probabilities that add up to 1",
        constraints.one_hot: "to be one-hot",
    }
    return known.get(support, f"in the support {support}")
