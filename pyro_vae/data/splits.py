"""Split: levels in storage, in memory, on a device or in a mapped file, and the batches of x that a model sees.

Every draw is a function of (seed, epoch), or of the data seed and the name of the split; it neither reads nor changes
the global random state. The order of an epoch and what evaluation sees are the same on every device. Training noise is
drawn on the device of the data, and devices draw different numbers.
"""

import math
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.read_ahead import read_ahead
from pyro_vae.data.recipes import RECIPES, Intensity, Levels, Recipe
from pyro_vae.errors import DataError, UsageError
from pyro_vae.randomness import generator

NAMES = ("train", "valid", "test")
_BLOCK_NUMBERS = 1 << 20  # per block of a fixed draw, 4 MiB of floats; it is part of the definition of a fixed draw
# What a mean or a validation needs of a mapped split: with 2**17 data the error of a mean is 0.3 % of the spread of one
# datum, far below the change between epochs. It takes no more than 1 GiB of floats.
_SAMPLE = 1 << 17
_SAMPLE_NUMBERS = 1 << 28


class Batch(NamedTuple):
    """A batch before its x is made: x = split.x(levels, noise).

    Attributes:
        levels: (B, *x_shape), as stored: uint8, or the static draw if there is one; float32 for floats.
        noise: (B, *x_shape), the draws that x takes; None if it takes none.
        labels: (B,) int64, or None.
    """

    levels: Tensor
    noise: Tensor | None
    labels: Tensor | None


@dataclass(frozen=True, eq=False)
class Split:
    """One of the three splits: levels in storage and the recipe that makes x from them.

    Args:
        name: "train", "valid" or "test"; names the stream of the fixed draw.
        levels: (N, *x_shape), uint8 or int32 with values 0..L-1 or counts, or float32 for a user's floats and if
            numbers are missing (NaN); with `rows`, the mapped file.
        labels: (N,) int64, or None.
        num_levels: L; None for floats.
        recipe: a key of `RECIPES`.
        data_seed: fixes the draw that evaluation sees.
        drawn: (N, *x_shape) uint8, the draw of the static recipe; `Split.make` fills it in.
        rows: (N,) int64, the rows of a mapped file that form the split; None for levels in memory.
        target: the device that batches of a mapped file go to; None for the CPU.
        missing: whether numbers can be missing (NaN).
        file_rows: (N,) int64, the row of each datum in the user's file (or in the array of a given split); None if
            that is its position.
        ids: (N,) the names of the rows, if the file has any.

    Example:
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
    rows: Tensor | None = field(default=None, repr=False)
    target: torch.device | None = None
    missing: bool = False
    file_rows: Tensor | None = field(default=None, repr=False)
    ids: np.ndarray | None = field(default=None, repr=False)

    @classmethod
    def make(
        cls,
        name: str,
        levels: Tensor,
        labels: Tensor | None,
        num_levels: int | None,
        recipe: str,
        seed: int,
        rows: Tensor | None = None,
        missing: bool = False,
    ) -> "Split":
        """Makes a split, with its static draw if the recipe is static.

        Args:
            name, levels, labels, num_levels, recipe, rows, missing: as for `Split`.
            seed: its `data_seed`.

        Raises:
            UsageError: the recipe is a static draw and the file is mapped.
        """
        split = cls(name, levels, labels, num_levels, recipe, seed, rows=rows, missing=missing)
        if recipe != "static":
            return split
        if rows is not None:
            raise UsageError(
                "`binarize='static'` keeps its draw in memory, but a file of this size is not read into memory: use "
                "`binarize='dynamic'`, or draw once yourself and save 0 and 1 as uint8"
            )
        return replace(split, drawn=split._whole(torch.float32 if levels.is_floating_point() else torch.uint8))

    def __len__(self) -> int:
        return len(self.levels if self.rows is None else self.rows)

    def row(self, position: int) -> int:
        """Returns the row of the file that holds the datum at a position of the split."""
        return position if self.file_rows is None else int(self.file_rows[position])

    def place(self, position: int) -> str:
        """Returns the name that the file has for the datum at a position of the split.

        Example:
            >>> split = Split.make("test", torch.zeros(3, 2), None, None, "none", 0)
            >>> named = replace(split, file_rows=torch.tensor([7, 1, 4]), ids=np.array(["a", "b", "c"]))
            >>> split.place(1), named.place(2)
            ('row 1', "row 4 ('c')")
        """
        return f"row {self.row(position)}" + ("" if self.ids is None else f" ({str(self.ids[position])!r})")

    @property
    def values(self) -> str:
        """What the numbers are, in words: "17 levels", "0 or 1", "reals"."""
        if self.num_levels is None:
            return "whole numbers" if self.recipe == "levels" else "reals"
        return "0 or 1" if self.num_levels == 2 else f"{self.num_levels} levels"

    @property
    def device(self) -> torch.device:
        """The device on which batches are made: that of the levels or, for a mapped file, the device passed to `to`."""
        return self.target if self.target is not None else self.levels.device

    def to(self, device: torch.device | str) -> "Split":
        """Moves the split to a device, levels (as bytes) and labels once; a mapped file stays, and its batches move.

        If they are on the device already, nothing is copied.
        """
        labels = None if self.labels is None else self.labels.to(device)
        if self.rows is not None:
            return replace(self, labels=labels, target=torch.device(device))
        drawn = None if self.drawn is None else self.drawn.to(device)
        return replace(self, levels=self.levels.to(device), labels=labels, drawn=drawn)

    @property
    def sample_size(self) -> int:
        """The number of data that a mean, a validation or the start of a prior takes.

        It is N in memory. For a mapped split it is at most 2**17, and at most the number of data that take 1 GiB as
        floats.
        """
        if self.rows is None:
            return len(self)
        return min(len(self), _SAMPLE, max(1, _SAMPLE_NUMBERS // self.levels[0].numel()))

    def in_memory(self) -> "Split":
        """Returns the split itself or, if it is mapped, a random subset in memory, in the order of the split.

        The subset is drawn by the data seed and has at most `sample_size` data. If that is all of them, it is the split
        as it would have been read.
        """
        if self.rows is None:
            return self
        order = torch.randperm(len(self), generator=generator(self.data_seed, "sample", self.name))
        chosen = order[: self.sample_size].sort().values
        labels = None if self.labels is None else self.labels[chosen.to(self.labels.device)]
        file_rows = chosen if self.file_rows is None else self.file_rows[chosen]
        ids = None if self.ids is None else self.ids[chosen.numpy()]
        return replace(
            self, levels=self.levels_at(chosen), labels=labels, rows=None, target=None, file_rows=file_rows, ids=ids
        )

    def one_hot(self, num_classes: int) -> Tensor:
        """Returns the labels in the form that a conditional program takes: (N, num_classes) float32.

        Raises:
            DataError: there are no labels.
        """
        if self.labels is None:
            raise DataError(
                "a conditional program needs labels, and these data have none: leave out `conditional=True`"
            )
        return one_hot(self.labels, num_classes)

    def intensities(self, index: slice | Tensor = slice(None)) -> Tensor:
        """Returns level / (L - 1) as float32 in [0, 1], before any draw; a user's floats as they are."""
        return Intensity(self.num_levels).make(self.levels_at(index), None)

    def expected(self) -> Tensor:
        """Returns the mean of x over the training draws, (N, *x_shape) float32, where a decoder starts."""
        return self.intensities() if self.recipe == "dynamic" else self.fixed()

    @property
    def log_jacobian(self) -> float:
        r"""The number -d log L in nats for dequantised x of d numbers, otherwise 0.

        With x = (v + u) / L, the density on the scale of the levels is p(v + u) = p(x) L**-d, so by Jensen's inequality

        .. math:: \log P(v) = \log \int_{[0,1]^d} p(v + u) \, du \ge E_u[\log p(x)] - d \log L

        The mean of log p(x) over the noise plus this number bounds the log-probability of the discrete image from
        below. So it makes densities comparable with discrete likelihoods.

        Reference:
            Section 3.1 of Theis, van den Oord & Bethge, "A note on the evaluation of generative models", ICLR 2016.
            https://arxiv.org/abs/1511.01844
        """
        if self.recipe != "dequantize" or self.num_levels is None:
            return 0.0
        return -self.levels[0].numel() * math.log(self.num_levels)

    def batches(self, batch_size: int, *, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Makes one pass over all data in random order: x (B, *x_shape) float32 and labels (B,) int64 or None.

        Order and noise are functions of (seed, epoch) only, given the batch size and the device. The last batch can be
        short.

        Args:
            batch_size: B.
            seed: of order and noise.
            epoch: counted from 0.

        Raises:
            UsageError: a batch size below 1.
        """
        raw = self.raw_batches(batch_size, seed=seed, epoch=epoch)
        return ((self.x(batch.levels, batch.noise), batch.labels) for batch in raw)

    def raw_batches(self, batch_size: int, *, seed: int, epoch: int, done: int = 0) -> Generator[Batch, None, None]:
        """Yields the batches of `batches` before their x is made, for code that makes x inside a graph.

        Batches of a mapped file are read ahead by a thread, with the same numbers.

        Args:
            batch_size, seed, epoch: as for `batches`.
            done: how many batches of the pass to skip; the others stay the same.

        Raises:
            UsageError: a batch size below 1.

        Example:
            >>> split = Split.make("train", torch.tensor([[0], [1], [2]], dtype=torch.uint8), None, 3, "none", 0)
            >>> [split.x(levels, noise).shape for levels, noise, labels in split.raw_batches(2, seed=0, epoch=0)]
            [torch.Size([2, 1]), torch.Size([1, 1])]
        """
        if batch_size < 1:
            raise UsageError(f"batch size must be at least 1; got {batch_size}")
        batches = self._pass(batch_size, seed, epoch, done)
        return batches if self.rows is None else read_ahead(batches)

    def _pass(self, batch_size: int, seed: int, epoch: int, done: int) -> Generator[Batch, None, None]:
        order = torch.randperm(len(self), generator=generator(seed, "order", epoch)).to(self.levels.device)
        draws = self._draws(seed, epoch, device=self.device)
        for number, index in enumerate(order.split(batch_size)):
            noise = self._noise(torch.Size((len(index), *self.levels.shape[1:])), draws)
            if number < done:
                continue  # its noise is drawn anyway, so that the next batch gets its own
            labels = None if self.labels is None else self.labels.index_select(0, index.to(self.labels.device))
            yield Batch(self._stored(index), noise, labels)

    def x(self, levels: Tensor, noise: Tensor | None) -> Tensor:
        """Makes x (B, *x_shape) float32 from a raw batch: a pure function of its tensors, which a graph can trace."""
        return self.recipe_of_x.make(levels, noise)

    def levels_at(self, index: slice | Tensor) -> Tensor:
        """Returns the levels of these data (B, *x_shape), by position in the split, on its device; uint8 or floats."""
        if self.rows is None:
            return _at(self.levels, index)
        levels = self.levels.index_select(0, self.rows[index])
        are_bytes = self.num_levels is not None and self.num_levels <= 256
        has_gaps = self.missing and levels.is_floating_point()
        return (levels.to(torch.uint8) if are_bytes and not has_gaps else levels).to(self.device)

    def _stored(self, index: slice | Tensor) -> Tensor:
        return self.levels_at(index) if self.drawn is None else _at(self.drawn, index)

    def fixed(self, index: Tensor | None = None) -> Tensor:
        """Returns what evaluation sees, (N, *x_shape) float32: a function of the data seed and the split's name.

        Args:
            index: (M,) int64; returns only these data, as (M, *x_shape), with the draws that they have in the whole
                split.
        """
        if index is None:
            return self._whole(torch.float32)
        order = index.argsort()
        return next(self.pieces([index[order]]))[order.argsort()]

    def pieces(self, wanted: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yields `fixed` for one set of data after another, in one pass that reads only the levels asked for.

        Args:
            wanted: (M,) int64 each, positions that ascend within a set and from one set to the next.
        """
        blocks = self._fixed_noise()
        block, noise = next(blocks)
        for index in wanted:
            parts: list[Tensor] = []
            while not parts or len(index):
                if len(index) and index[0] >= block.stop:
                    block, noise = next(blocks)
                    continue
                here, index = index[index < block.stop], index[index >= block.stop]
                parts.append(self.x(self._stored(here), None if noise is None else noise[here - block.start]))
            yield torch.cat(parts)

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """Yields what evaluation sees, block by block: the position of the first datum, and x (B, *x_shape)."""
        for block, noise in self._fixed_noise():
            yield block.start, self.x(self._stored(block), noise)

    def _fixed_noise(self) -> Iterator[tuple[slice, Tensor | None]]:
        draws = self._draws(self.data_seed, self.name)
        for block in self.slices():
            yield block, self._noise(torch.Size((block.stop - block.start, *self.levels.shape[1:])), draws)

    def slices(self) -> Iterator[slice]:
        """Yields the blocks of `blocks` as slices that cover the split in its order."""
        step = max(1, _BLOCK_NUMBERS // self.levels[0].numel())
        return (slice(first, min(first + step, len(self))) for first in range(0, len(self), step))

    def _whole(self, dtype: torch.dtype) -> Tensor:
        x = torch.empty((len(self), *self.levels.shape[1:]), dtype=dtype, device=self.device)
        for first, block in self.blocks():
            x[first : first + len(block)] = block
        return x

    @property
    def recipe_of_x(self) -> Recipe:
        """The recipe that makes x from stored levels, as a value that is equal for equal recipes."""
        return RECIPES[self.recipe](self.num_levels, self.missing) if self.drawn is None else Levels(self.num_levels)

    def _draws(self, seed: int, name: int | str, device: torch.device | None = None) -> torch.Generator | None:
        stream = self.recipe_of_x.stream
        return generator(seed, stream, name, device=device) if stream else None

    def _noise(self, shape: torch.Size, draws: torch.Generator | None) -> Tensor | None:
        noise = None if draws is None else self.recipe_of_x.noise(shape, draws)
        return None if noise is None else noise.to(self.device)


def _at(source: Tensor, index: slice | Tensor) -> Tensor:
    return source[index] if isinstance(index, slice) else source.index_select(0, index)


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Turns labels (B,) of whole numbers below C into float32 (B, C).

    Raises:
        DataError: a label is not one of 0 ... C - 1.

    Example:
        >>> one_hot(torch.tensor([2, 0]), 3)
        tensor([[0., 0., 1.],
                [1., 0., 0.]])
    """
    y = indicators(labels, num_classes)
    if not (told := y.any(1)).all():
        raise DataError(f"labels must be whole numbers from 0 to {num_classes - 1}; got {labels[~told][0].item()}")
    return y


def indicators(labels: Tensor, num_classes: int) -> Tensor:
    """Like `one_hot`, for labels that are known to be classes, and within a graph; another label has a row of zeros."""
    return (labels[:, None] == torch.arange(num_classes, device=labels.device)).float()


class Form(NamedTuple):
    """The facts of data that a program must know.

    Attributes:
        x_shape: the shape of one datum.
        num_levels: L if they are levels; None for floats.
        num_classes: of the labels; 0 if there are none.
        scaling: how networks see the data, a word of `pyro_vae.option_words.Scaling`: "as_stored"; "standardized", each
            column in units of its spread; or "counts", through log(1 + x), with rates relative to the mean of the
            column.
    """

    x_shape: tuple[int, ...]
    num_levels: int | None = None
    num_classes: int = 0
    scaling: str = "as_stored"


@dataclass(frozen=True, eq=False)
class Splits:
    """Three disjoint splits and the record of where they come from.

    Args:
        train, valid, test: the splits.
        x_shape: the shape of one datum, (C, H, W) for images, (D,) for vectors.
        num_classes: C of the labels; 0 if there are none.
        protocol: what a reader must know to repeat or compare a number; JSON, the same on every machine.
        classes: the names of the C classes.
        columns: the names of the D numbers of a row of a table; empty for all other data.
        about: one line that says what the data are.
        scaling: how the networks of a program see x, see `Form`; x itself stays in its own units.
        warnings: the notes of the protocol that a user must not miss.
    """

    train: Split
    valid: Split
    test: Split
    x_shape: tuple[int, ...]
    num_classes: int
    protocol: dict[str, Any]
    classes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    about: str = ""
    scaling: str = "as_stored"
    warnings: tuple[str, ...] = ()

    @property
    def trained_classes(self) -> tuple[int, ...]:
        """The classes that the training data have, in order."""
        return () if self.train.labels is None else tuple(self.train.labels.unique().tolist())

    @property
    def form(self) -> Form:
        """The facts of these data that a program must know."""
        return Form(self.x_shape, self.train.num_levels, self.num_classes, self.scaling)

    def to(self, device: torch.device | str) -> "Splits":
        """Moves the three splits to a device, see `Split.to`."""
        return replace(self, train=self.train.to(device), valid=self.valid.to(device), test=self.test.to(device))
