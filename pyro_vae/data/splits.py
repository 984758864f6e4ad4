"""What a model sees of the data.

Storage is small: integer levels v in 0..L-1, as bytes. The model sees floats x, made batch by batch:

    none           x = v / (L - 1)                        the intensity, no randomness
    dynamic        x ~ Bernoulli(v / (L - 1))             anew in every epoch; evaluation sees one fixed draw
    static         the same, drawn once                   every epoch and evaluation see the same draw
    threshold      x = 1 if v / (L - 1) >= 1/2 else 0     no randomness
    levels         x = v                                  the level, or count, no randomness
    dequantize     x = (v + u) / L,  u ~ U(0, 1)          anew in every epoch; evaluation sees one fixed draw

Every draw is a function of (seed, epoch), or of the data seed and the name of the split: the global random
state is neither read nor changed.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae.errors import DataError, UsageError
from pyro_vae.randomness import generator

_BLOCK = 4096  # data per block of a fixed draw; part of what a fixed draw is
_HALF_STEPS = 1 << 15


def _intensity(levels: Tensor, num_levels: int | None, noise: torch.Generator) -> Tensor:
    return levels.float() if num_levels is None else levels.float() / (num_levels - 1)


def _bernoulli(levels: Tensor, num_levels: int | None, noise: torch.Generator) -> Tensor:
    return torch.bernoulli(_intensity(levels, num_levels, noise), generator=noise)


def _threshold(levels: Tensor, num_levels: int | None, noise: torch.Generator) -> Tensor:
    return (_intensity(levels, num_levels, noise) >= 0.5).float()


def _levels(levels: Tensor, num_levels: int | None, noise: torch.Generator) -> Tensor:
    return levels.float()


def _dequantized(levels: Tensor, num_levels: int | None, noise: torch.Generator) -> Tensor:
    # Midpoints of 2**15 cells: v + u is exact in float32 for v < 256, so no x rounds to the next level.
    cells = torch.randint(_HALF_STEPS, levels.shape, generator=noise, dtype=torch.int32)
    return (levels.float() + (cells.float() + 0.5) / _HALF_STEPS) / (num_levels or 1)


RECIPES: dict[str, Callable[[Tensor, int | None, torch.Generator], Tensor]] = {
    "none": _intensity,
    "dynamic": _bernoulli,
    "static": _bernoulli,
    "threshold": _threshold,
    "levels": _levels,
    "dequantize": _dequantized,
}


@dataclass(frozen=True, eq=False)
class Split:
    """One of the three splits: levels in storage and the recipe that makes x of them.

    Arguments:
        name: "train", "valid" or "test"; names the stream of the fixed draw.
        levels: (N, *x_shape), uint8 with values 0..L-1, or float32 for a user's floats.
        labels: (N,) int64, or None.
        num_levels: L; None for floats.
        recipe: a key of `RECIPES`.
        data_seed: fixes the draw that evaluation sees.
        drawn: (N, *x_shape) uint8, the draw of the static recipe; `Split.make` fills it in.

    >>> split = Split.make("test", torch.tensor([[0], [255]], dtype=torch.uint8), None, 256, "threshold", 0)
    >>> len(split), split.fixed().tolist()
    (2, [[0.0], [1.0]])
    """

    name: str
    levels: Tensor = field(repr=False)
    labels: Tensor | None = field(repr=False)
    num_levels: int | None
    recipe: str
    data_seed: int
    drawn: Tensor | None = field(default=None, repr=False)

    @classmethod
    def make(
        cls, name: str, levels: Tensor, labels: Tensor | None, num_levels: int | None, recipe: str, seed: int
    ) -> "Split":
        """A split whose static draw, if the recipe is static, has been made."""
        split = cls(name, levels, labels, num_levels, recipe, seed)
        if recipe != "static":
            return split
        return cls(name, levels, labels, num_levels, recipe, seed, split._fixed_draw(torch.uint8))

    def __len__(self) -> int:
        return len(self.levels)

    def one_hot(self, num_classes: int) -> Tensor:
        """(N, num_classes) float32: the labels as a conditional program takes them.

        Raises:
            DataError: there are no labels.
        """
        if self.labels is None:
            raise DataError("these data have no labels, which a conditional program needs: leave --conditional out")
        return one_hot(self.labels, num_classes)

    def intensities(self, index: slice | Tensor = slice(None)) -> Tensor:
        """Level / (L - 1) as float32 in [0, 1], before any draw; a user's floats as they are."""
        return _intensity(self.levels[index], self.num_levels, torch.default_generator)

    def expected(self) -> Tensor:
        """(N, *x_shape) float32: the mean of x over the draws of training. Starts the decoder's output bias."""
        return self.intensities() if self.recipe == "dynamic" else self.fixed()

    @property
    def log_jacobian(self) -> float:
        """-d log L in nats for dequantised x of d numbers, otherwise 0.

        With x = (v + u) / L, the density on the scale of the levels is p(v + u) = p(x) L**-d, so

            log P(v) = log int_[0,1]^d p(v + u) du >= E_u [log p(x)] - d log L

        by Jensen's inequality: the mean of log p(x) over the noise plus this number bounds the
        log-probability of the discrete image from below (section 3.1 of Theis, van den Oord and Bethge, "A
        note on the evaluation of generative models", 2016). So it makes densities comparable with discrete
        likelihoods.
        """
        if self.recipe != "dequantize" or self.num_levels is None:
            return 0.0
        return -self.levels[0].numel() * math.log(self.num_levels)

    def batches(self, batch_size: int, *, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """One pass over all data in random order: x (B, *x_shape) float32 and labels (B,) int64 or None.

        Order and noise are functions of (seed, epoch) alone, given the batch size. The last batch may be
        short.

        Raises:
            UsageError: a batch size below 1.
        """
        if batch_size < 1:
            raise UsageError(f"batch size must be at least 1; got {batch_size}")
        return self._pass(batch_size, seed, epoch)

    def _pass(self, batch_size: int, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        order = torch.randperm(len(self), generator=generator(seed, "order", epoch))
        noise = generator(seed, self._stream, epoch)
        for index in order.split(batch_size):
            yield self._x(index, noise), None if self.labels is None else self.labels[index]

    def fixed(self) -> Tensor:
        """(N, *x_shape) float32: what evaluation sees, a function of the data seed and the split's name."""
        return self._fixed_draw(torch.float32)

    def _fixed_draw(self, dtype: torch.dtype) -> Tensor:
        noise = generator(self.data_seed, self._stream, self.name)
        x = torch.empty(self.levels.shape, dtype=dtype)
        for start in range(0, len(self), _BLOCK):
            block = slice(start, start + _BLOCK)
            x[block] = self._x(block, noise)
        return x

    @property
    def _stream(self) -> str:
        return "dequantise" if self.recipe == "dequantize" else "binarise"

    def _x(self, index: slice | Tensor, noise: torch.Generator) -> Tensor:
        if self.drawn is not None:
            return self.drawn[index].float()
        return RECIPES[self.recipe](self.levels[index], self.num_levels, noise)


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Labels (B,) of whole numbers below C as float32 (B, C).

    >>> one_hot(torch.tensor([2, 0]), 3)
    tensor([[0., 0., 1.],
            [1., 0., 0.]])
    """
    return torch.nn.functional.one_hot(labels, num_classes).float()


class Form(NamedTuple):
    """What a program must know of data: the shape of one, L where they are levels 0..L-1, the number of classes."""

    x_shape: tuple[int, ...]
    num_levels: int | None = None
    num_classes: int = 0


@dataclass(frozen=True, eq=False)
class Splits:
    """Three disjoint splits and the record of where they come from.

    Arguments:
        x_shape: the shape of one datum, (C, H, W) for images, (D,) for vectors.
        num_classes: C of the labels; 0 where there are none.
        protocol: what a reader must know to repeat or compare a number; JSON, the same on every machine.
    """

    train: Split
    valid: Split
    test: Split
    x_shape: tuple[int, ...]
    num_classes: int
    protocol: dict[str, Any]

    @property
    def form(self) -> Form:
        """What a program must know of these data."""
        return Form(self.x_shape, self.train.num_levels, self.num_classes)
