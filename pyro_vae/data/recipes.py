"""Recipes of x: what a model sees of stored levels, x = make(levels, noise). Everything random is in the noise.

Storage is small: integer levels v in 0..L-1 as bytes, a user's floats p in [0, 1], or any floats if nothing is drawn.
The model sees floats x, made batch by batch:

    none           x = v / (L - 1)                               the intensity, no randomness
    dynamic        x = 1 if u < v else 0, u ~ U{0, ..., L-2}     again in every epoch; evaluation sees one fixed draw
    static         the same, drawn once                          every epoch and evaluation see the same draw
    threshold      x = 1 if v / (L - 1) >= 1/2 else 0            no randomness
    levels         x = v                                         the level, or count, no randomness
    dequantize     x = (v + u) / L,       u ~ U(0, 1)            again in every epoch; evaluation sees one fixed draw

Exactly v of the L - 1 equally likely integers u are below v, so P(x = 1) = v / (L - 1) without rounding, and a draw
costs one random byte. Floats are drawn in the same way, x = 1 if u < p, u ~ U[0, 1) in steps of 2**-24: never at p = 0,
always at p = 1.

A missing number is NaN among the floats and NaN in x under every recipe.

`make` is a pure function of tensors, without data-dependent Python, so a larger graph with levels and noise as inputs
can trace it. To add a recipe, write `noise` and `make` and name it in `RECIPES`.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

_CELLS = 1 << 15


@dataclass(frozen=True)
class Recipe:
    """Base class: a recipe makes x from levels; by default it draws nothing.

    Args:
        num_levels: L; None for floats.
        missing: whether levels can be NaN; they are then floats.

    Attributes:
        stream: names the stream of the noise; empty if nothing is drawn.

    Example:
        >>> levels, draws = torch.tensor([[0, 8, 16]], dtype=torch.uint8), torch.Generator().manual_seed(0)
        >>> recipe = RECIPES["dynamic"](17)
        >>> recipe.make(levels, recipe.noise(levels.shape, draws))
        tensor([[0., 0., 1.]])
    """

    num_levels: int | None
    missing: bool = False
    stream: ClassVar[str] = ""

    def noise(self, shape: torch.Size, generator: torch.Generator) -> Tensor | None:
        """Draws the noise that `make` takes for levels of this shape, on the generator's device; None if it takes
        none."""
        return None

    def make(self, levels: Tensor, noise: Tensor | None) -> Tensor:
        """Makes x, float32, of the shape of the levels (B, *x_shape): a function of only these two arguments."""
        raise NotImplementedError

    def _bits(self, levels: Tensor, bits: Tensor) -> Tensor:
        """Returns bits as float32, with NaN where a level is missing."""
        return torch.where(levels.isnan(), torch.nan, bits.float()) if self.missing else bits.float()


class Intensity(Recipe):
    """The recipe x = v / (L - 1); floats stay as they are."""

    def make(self, levels: Tensor, noise: Tensor | None) -> Tensor:
        return levels.float() if self.num_levels is None else levels.float() / (self.num_levels - 1)


class Bernoulli(Recipe):
    """The recipe x = 1 where u < v, u uniform on 0..L-2, so that P(x = 1) = v / (L - 1) exactly.

    For floats v in [0, 1], u is uniform on [0, 1).
    """

    stream = "binarise"

    def noise(self, shape: torch.Size, generator: torch.Generator) -> Tensor | None:
        if self.num_levels is None:
            return torch.rand(shape, generator=generator, device=generator.device)
        whole = torch.uint8 if self.num_levels <= 256 else torch.int32
        return torch.randint(self.num_levels - 1, shape, generator=generator, dtype=whole, device=generator.device)

    def make(self, levels: Tensor, noise: Tensor | None) -> Tensor:
        return self._bits(levels, noise < levels)  # type: ignore[operator]  # of these draws, never None


class Threshold(Recipe):
    """The recipe x = 1 where v / (L - 1) >= 1/2, which is v >= L // 2 in whole numbers."""

    def make(self, levels: Tensor, noise: Tensor | None) -> Tensor:
        return self._bits(levels, levels >= (0.5 if self.num_levels is None else self.num_levels // 2))


class Levels(Recipe):
    """The recipe x = v."""

    def make(self, levels: Tensor, noise: Tensor | None) -> Tensor:
        return levels.float()


class Dequantized(Recipe):
    """The recipe x = (v + u) / L with u on the midpoints of 2**15 cells, or of fewer if L is above 256.

    v + u is exact in float32, so no x rounds to the next level.
    """

    stream = "dequantise"

    @property
    def _cells(self) -> int:
        return min(_CELLS, 1 << 23 - ((self.num_levels or 1) - 1).bit_length())

    def noise(self, shape: torch.Size, generator: torch.Generator) -> Tensor | None:
        return torch.randint(self._cells, shape, generator=generator, dtype=torch.int32, device=generator.device)

    def make(self, levels: Tensor, noise: Tensor | None) -> Tensor:
        u = (noise.float() + 0.5) / self._cells  # type: ignore[union-attr]  # of these draws, never None
        return (levels.float() + u) / (self.num_levels or 1)


RECIPES: dict[str, type[Recipe]] = {
    "none": Intensity,
    "dynamic": Bernoulli,
    "static": Bernoulli,
    "threshold": Threshold,
    "levels": Levels,
    "dequantize": Dequantized,
}
