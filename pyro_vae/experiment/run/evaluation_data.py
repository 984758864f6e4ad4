"""The data of a split as an evaluation sees them: all or a random subset, in one fixed draw."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import tee
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data import Split, one_hot
from pyro_vae.evaluation import subset
from pyro_vae.experiment.config import Config


class DataInMemory(NamedTuple):
    """The data of a split, or a random subset of them, in memory.

    Attributes:
        x: (N, *x_shape).
        y: one-hot labels (N, C), for a conditional program.
        labels: (N,), if the data have any.
    """

    x: Tensor
    y: Tensor | None
    labels: Tensor | None


@dataclass(frozen=True, eq=False)
class DataReader:
    """Reads data when they are needed, so that only `whole` puts all of a mapped file into memory.

    The data are on the config's device.

    Args:
        config: `conditional`, `test_data`, `data_seed` and `device` are read.
        split: the data.
        num_classes: the number of classes, 0 where there are no labels.
        num_data: how many data, at random; None for the number that the config tests on, 0 for all.
        dtype: of what it gives; None leaves the type of x.
    """

    config: Config
    split: Split
    num_classes: int
    num_data: int | None = None
    dtype: torch.dtype | None = None

    @cached_property
    def positions(self) -> Tensor | None:
        """The positions of the data in the split; None for all of it."""
        size, wanted = len(self.split), self.config.test_data if self.num_data is None else self.num_data
        return subset(size, wanted, self.config.data_seed) if 0 < wanted < size else None

    def __len__(self) -> int:
        return len(self.split if self.positions is None else self.positions)

    @cached_property
    def labels(self) -> Tensor | None:
        """The labels (N,), if the data have any."""
        labels = self.split.labels
        return labels if labels is None or self.positions is None else labels[self.positions]

    @cached_property
    def rows(self) -> Tensor:
        """The rows of the file in which the data are, (N,): of the array that was cut, or of that of a given split."""
        every = torch.arange(len(self.split)) if self.split.file_rows is None else self.split.file_rows
        return every if self.positions is None else every[self.positions]

    @cached_property
    def ids(self) -> np.ndarray | None:
        """The names of the rows (N,), if the file has any."""
        ids = self.split.ids
        return ids if ids is None or self.positions is None else ids[self.positions.numpy()]

    def place(self, index: int) -> str:
        """Names the datum at a position as its file does, see `Split.place`."""
        return self.split.place(index if self.positions is None else int(self.positions[index]))

    def whole(self) -> DataInMemory:
        """Reads all data at once."""
        return DataInMemory(self._placed(self.split.fixed(self.positions)), self._one_hot(self.labels), self.labels)

    def at(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Reads x (M, *x_shape), and y (M, C) for a conditional program, of the data at these positions (M,)."""
        return self._placed(self.split.fixed(self._place(index))), self.y(index)

    def pieces(self, wanted: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Reads what `at` gives for one ascending set of positions after another, in one pass."""
        wanted, again = tee(wanted)
        for index, x in zip(wanted, self.split.pieces(map(self._place, again)), strict=True):
            yield self._placed(x), self.y(index)

    def y(self, index: Tensor) -> Tensor | None:
        """Makes the one-hot labels (M, C) of the data at these positions (M,), for a conditional program."""
        return None if self.labels is None else self._one_hot(self.labels[index])

    def _one_hot(self, labels: Tensor | None) -> Tensor | None:
        if not self.config.conditional or labels is None:
            return None
        return self._placed(one_hot(labels, self.num_classes))

    def _placed(self, values: Tensor) -> Tensor:
        return values.to(self.config.device, self.dtype)

    def _place(self, index: Tensor) -> Tensor:
        return index if self.positions is None else self.positions[index]
