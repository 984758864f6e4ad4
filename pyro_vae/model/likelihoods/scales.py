"""The scales of likelihoods: fixed, or learned or predicted from z above a floor."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.model.likelihoods.likelihood import Likelihood, leading_dims, observed_mean
from pyro_vae.model.scaling import ColumnScale
from pyro_vae.option_words import LearnScale, words

# exp(raw) continues along its tangent from here on: no overflow, and a gradient that never vanishes.
_LARGEST_EXPONENT = 20.0


class LocationScale(Likelihood):
    """Base class of members with one location per pixel and a scale that is fixed, learned or predicted from z.

    A scale that is not fixed is scale_floor + exp(raw). The arguments are those of `Normal`.
    """

    symbol = "sigma"

    def __init__(
        self,
        decoder: Callable[..., Tensor],
        scale: float = 0.1,
        learn_scale: LearnScale = "no",
        scale_floor: float = 1e-3,
        x_shape: Sequence[int] | None = None,
        column_scale: ColumnScale | None = None,
    ) -> None:
        super().__init__(decoder)
        self.column_scale = column_scale
        # A number, not a buffer: a float32 buffer would stay rounded after .double().
        self.scale, self.scale_floor = positive("scale", scale), positive("scale_floor", scale_floor)
        self.learn_scale = known_mode(self, learn_scale, words(LearnScale))
        if learn_scale == "one":
            self.learned_scale = Learned("scale", scale, scale_floor)
        elif learn_scale == "pixel":
            self.learned_scale = Learned("scale", scale, scale_floor, needed_shape(self, x_shape, learn_scale))
        elif learn_scale == "predicted":
            self.start_raw = raw_for("scale", scale, scale_floor)

    @staticmethod
    def decoder_shape(x_shape: Sequence[int], learn_scale: LearnScale = "no") -> tuple[int, ...]:
        return (2, *x_shape) if learn_scale == "predicted" else tuple(x_shape)

    def location_and_scale(self, z: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor | float]:
        """Returns the location (*, *x_shape) at latents z (*, D), and the scale, which broadcasts to it."""
        loc, scale = self._decoded(z, y)
        if self.column_scale is None:
            return loc, scale
        return self.column_scale.undo(loc), self.column_scale.spread * scale

    def _decoded(self, z: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | float]:
        if self.learn_scale == "predicted":
            loc, raw = self.decode_parts(z, y, 2)
            return loc, above(self.scale_floor, raw)
        loc = self.decode(z, y)
        if self.learn_scale == "no":
            return loc, self.scale
        scale = self.learned_scale()
        if scale.dim():
            check_shape(self, loc, leading_dims(z, y), scale.shape)
        return loc, scale

    def start(self, x: Tensor) -> Tensor:
        mean = self.start_location(x)
        return torch.stack([mean, torch.full_like(mean, self.start_raw)]) if self.learn_scale == "predicted" else mean

    def start_location(self, x: Tensor) -> Tensor:
        """Returns the location (*x_shape) under which x has the mean of the data x (N, *x_shape)."""
        return mean_seen(x, self.column_scale)

    @torch.no_grad()
    def scales(self) -> dict[str, Any]:
        if self.learn_scale == "no":
            return in_own_units({self.symbol: self.scale}, self.column_scale)
        if self.learn_scale == "predicted":
            predicted = {self.symbol: "predicted from z", "floor": self.scale_floor}
            return in_own_units(predicted, self.column_scale)
        return in_own_units({self.symbol: self.learned_scale(), **self.learned_scale.how()}, self.column_scale)

    @torch.no_grad()
    def scale_by_column(self) -> dict[str, Tensor]:
        if self.learn_scale == "predicted":
            return {}
        is_learned = self.learn_scale != "no"
        scale = torch.as_tensor(self.learned_scale() if is_learned else self.scale)
        unit = torch.ones_like(scale) if self.column_scale is None else self.column_scale.spread
        own = {self.symbol: scale * unit, **({"floor": self.scale_floor * unit} if is_learned else {})}
        return own if unit.dim() == 1 else {}


class Learned(nn.Module):
    """Learned numbers above a floor, floor + exp(raw): one, or one for each pixel.

    Args:
        name: of the number, for the message.
        start: the value before training.
        floor: the smallest value.
        shape: () for one number.

    Raises:
        ValueError: it would start below its floor.

    Example:
        >>> Learned("scale", 0.5, floor=0.1).how()
        {'floor': 0.1, 'learned': 'one number'}
    """

    def __init__(self, name: str, start: float, floor: float, shape: Sequence[int] = ()) -> None:
        super().__init__()
        self.floor = floor
        self.raw = nn.Parameter(torch.full(tuple(shape), raw_for(name, start, floor)))

    def forward(self) -> Tensor:
        return above(self.floor, self.raw)

    @torch.no_grad()
    def summary(self) -> float | dict[str, float]:
        """Returns the number, or the smallest, the median and the largest of many."""
        return summary(self())

    def how(self) -> dict[str, Any]:
        """Returns the floor, and the number of values in words."""
        many = "per column" if self.raw.dim() == 1 else "per pixel"
        return {"floor": self.floor, "learned": many if self.raw.dim() else "one number"}


def summary(values: Tensor) -> float | dict[str, float]:
    """Returns the number, or the smallest, the median and the largest of many."""
    if not values.dim():
        return values.item()
    return {"min": values.min().item(), "median": values.median().item(), "max": values.max().item()}


def in_own_units(scales: dict[str, Any], column_scale: ColumnScale | None) -> dict[str, Any]:
    """Returns `Likelihood.scales` with numbers in units of each column's spread converted into the data's own units.

    Args:
        scales: by name, a number, a tensor or words; the rank is not a scale.
        column_scale: the units; None if they are the data's own.
    """
    spread: Tensor | float = 1.0 if column_scale is None else column_scale.spread
    numbers = {name: value for name, value in scales.items() if not isinstance(value, str) and name != "rank"}
    own = {name: value * spread for name, value in numbers.items()}
    told = {name: summary(value) if isinstance(value, Tensor) else value for name, value in own.items()}
    return {**scales, **told, **({} if column_scale is None else {"unit": "that of each column"})}


def mean_seen(x: Tensor, column_scale: ColumnScale | None) -> Tensor:
    """Returns the mean (*x_shape) of data x (N, *x_shape), in units of the scale if there is one."""
    if column_scale is None:
        return observed_mean(x)
    return column_scale.see(observed_mean(x.double())).to(x.dtype)


def above(floor: float, raw: Tensor) -> Tensor:
    # Not raw - excess: for large raw, float32 would round that away from the largest exponent.
    """Maps a raw number to floor + exp(raw), continued along its tangent where exp would overflow."""
    bounded = raw.masked_fill(raw > _LARGEST_EXPONENT, _LARGEST_EXPONENT)
    return floor + bounded.exp() * (1 + (raw - _LARGEST_EXPONENT).relu())


def raw_for(name: str, value: float, floor: float) -> float:
    """Returns the raw number that `above` maps to this value; raises ValueError unless it is above the floor."""
    if not positive("scale_floor", floor) < positive(name, value):
        raise ValueError(f"{name} is the start of a learned scale and must be above its floor {floor:g}; got {value:g}")
    largest = math.exp(_LARGEST_EXPONENT)
    return math.log(min(value - floor, largest)) + max((value - floor) / largest - 1, 0.0)


def positive(name: str, value: float) -> float:
    """Returns the value; raises ValueError, naming it, unless it is finite and above 0."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a finite number above 0; got {value}")
    return float(value)


def known_mode(member: Likelihood, learn_scale: str, modes: tuple[str, ...]) -> str:
    """Returns `learn_scale`; raises ValueError if the member has no such mode."""
    if learn_scale not in modes:
        raise ValueError(
            f"{type(member).__name__} takes `learn_scale` {' or '.join(map(repr, modes))}; "
            f"got `learn_scale={learn_scale!r}`"
        )
    return learn_scale


def needed_shape(member: Likelihood, x_shape: Sequence[int] | None, learn_scale: str) -> tuple[int, ...]:
    """Returns x_shape as a tuple; raises ValueError if a mode that needs it has none."""
    if x_shape is None:
        raise ValueError(
            f"{type(member).__name__} with learn_scale={learn_scale!r} needs the shape of one datum: pass it, e.g. "
            "x_shape=(1, 28, 28)"
        )
    return tuple(x_shape)


def check_shape(member: Likelihood, loc: Tensor, lead: int, x_shape: Sequence[int]) -> None:
    """Raises ValueError if loc, after `lead` dimensions, does not have the shape that the member was built for."""
    if loc.shape[lead:] != tuple(x_shape):
        raise ValueError(
            f"{type(member).__name__} was built for x_shape={tuple(x_shape)}; its decoder gives "
            f"{tuple(loc.shape[lead:])}"
        )
