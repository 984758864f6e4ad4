"""Computes what a picture of a table shows: its columns, with test data and draws from the program."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae.model.autoencoder import Autoencoder
from pyro_vae.model.program import undisturbed
from pyro_vae.randomness import stream

FEWEST = 1000  # draws


class Columns(NamedTuple):
    """Rows of a table, and rows that the program draws.

    Attributes:
        x: data (N, D), NaN where a number is missing.
        drawn: draws of x from the program, (M, D): 1,000 or more, the same number for each datum.
        names: of the D columns.
        origin: (D,) what was subtracted from each column of the file.
    """

    x: Tensor
    drawn: Tensor
    names: tuple[str, ...]
    origin: tuple[float, ...]


@torch.no_grad()
def columns(
    vae: Autoencoder,
    x: Tensor,
    seed: int,
    y: Tensor | None = None,
    names: Sequence[str] = (),
    origin: Sequence[float] = (),
) -> Columns:
    """Draws z from the prior and x from p(x|z), under the stream ("columns") of this seed.

    Args:
        vae: the program.
        x: data (N, D).
        seed: the seed of the draws.
        y: one-hot labels (N, C) of the data, for a conditional program, which draws as many rows of each.
        names: of the D columns; by default their numbers.
        origin: what was subtracted from each column of the file; by default nothing.
    """
    times = -(-FEWEST // len(x))
    labels = None if y is None else y.repeat(times, 1)
    with stream(seed, "columns", device=x.device), undisturbed(vae):
        drawn = vae.likelihood(vae.from_prior(times * len(x), labels), labels).sample()
    return columns_of(x, drawn, names, origin)


def columns_of(x: Tensor, drawn: Tensor, names: Sequence[str], origin: Sequence[float]) -> Columns:
    """Returns data (N, D) and draws (M, D) with the names and origins of their columns, by default numbers and 0."""
    D = x.shape[1]
    return Columns(x, drawn, tuple(names) or tuple(f"column {i}" for i in range(D)), tuple(origin) or (0.0,) * D)
