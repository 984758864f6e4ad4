r"""Log-weights of draws from the guide, in nats. All estimates of log p(x) use them.

.. math:: \log w_{kb} = \log p(x_b, z_{kb}) - \log q(z_{kb} | x_b), \qquad z_{kb} \sim q(z | x_b)

The work is done in blocks whose size depends only on the program (see `pyro_vae.evaluation.memory`), so the memory for
activations depends on neither K nor N. The noise of a seeded call is a function of (seed, block of data, block of
samples): chunks, streams and shards of whole blocks give the same numbers, and different data never share noise.
"""

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any, TypeVar

import torch
from torch import Tensor

from pyro_vae.evaluation.block_graphs import FEWEST_DRAWS, column
from pyro_vae.evaluation.memory import DATA_BLOCK, sample_block
from pyro_vae.model import traces
from pyro_vae.model.program import check_tensor, remembering, undisturbed
from pyro_vae.progress import through
from pyro_vae.randomness import block_stream

T = TypeVar("T")


def draw_blocks(
    vae: Any,
    x: Tensor,
    num_samples: int,
    y: Tensor | None,
    seed: int | None,
    read: Callable[[traces.Traces], T],
    first_block: int = 0,
) -> Iterator[tuple[slice, T]]:
    """Yields the data of each block of draws, and what `read` computes from their traces.

    All blocks of samples for one block of data come before the next block of data.

    Args:
        vae, x, num_samples, y, seed, first_block: as for `log_weights`.
        read: of the traces of one block of draws, (k, b).

    Raises:
        ValueError: no data, K < 1, or not as many labels as data.
    """
    check_tensor(x)
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1; got {num_samples}")
    memory: dict[Any, Any] = {}
    blocks = list(data_blocks(len(x), y))
    with remembering(memory):
        size = sample_block(vae, x[blocks[0][0]], num_samples, blocks[0][1])
    # A shard with blocks before it ends with the last block of all data: if that block is short, so is the shard's.
    whole, many = DATA_BLOCK if first_block else min(len(x), DATA_BLOCK), num_samples >= FEWEST_DRAWS
    for i, (data, labels) in enumerate(through("", blocks), start=first_block):
        with torch.no_grad(), undisturbed(vae):
            given = x[data], *labels
            block = column(vae, read, given, size, many and len(given[0]) == whole)
        for j, samples in enumerate(through("", _slices(num_samples, size))):
            with torch.no_grad(), undisturbed(vae), remembering(memory), block_stream(seed, i, j, x.device):
                reading = block.draw(samples.stop - samples.start)
            yield data, reading


def data_blocks(num_data: int, y: Tensor | None) -> Iterator[tuple[slice, tuple[Tensor, ...]]]:
    """Yields the positions of each block of data, and its labels if there are any.

    Args:
        num_data: N.
        y: one-hot labels (N, C), or None.

    Raises:
        ValueError: no data, or not as many labels as data.
    """
    if num_data < 1:
        raise ValueError(f"there are no data to evaluate: their number is {num_data}")
    if y is not None and len(y) != num_data:
        raise ValueError(f"each datum needs its label: there are {num_data} data and {len(y)} labels")
    for data in _slices(num_data, DATA_BLOCK):
        yield data, () if y is None else (y[data],)


def draw_columns(
    vae: Any,
    x: Tensor,
    num_samples: int,
    y: Tensor | None,
    seed: int | None,
    read: Callable[[traces.Traces], T],
    first_block: int = 0,
) -> Iterator[tuple[slice, list[T]]]:
    """Yields the positions of each block of data, and what `read` computes from all its blocks of samples.

    Args:
        vae, x, num_samples, y, seed, read, first_block: as for `draw_blocks`.
    """
    drawn = draw_blocks(vae, x, num_samples, y, seed, read, first_block)
    for data, rows in groupby(drawn, key=lambda row: row[0]):
        yield data, [reading for _, reading in rows]


def log_weights(
    vae: Any,
    x: Tensor,
    num_samples: int,
    y: Tensor | None = None,
    seed: int | None = None,
    *,
    first_block: int = 0,
) -> Tensor:
    r"""Draws K log-weights for each of B data from the guide.

    .. math:: \log w_{kb} = \log p(x_b, z_{kb}) - \log q(z_{kb} | x_b), \qquad z_{kb} \sim q(z | x_b)

    If the guide is the exact posterior, all log-weights of a datum equal log p(x).

    Args:
        vae: anything with `.model` and `.guide` over one data plate.
        x: data (B, *x_shape).
        num_samples: K, the draws of z for each datum.
        y: one-hot labels (B, C).
        seed: None continues the caller's random stream; an integer is reproducible and leaves that stream alone.
        first_block: for a shard of a larger data set, the number of blocks of 128 data that come before it.

    Returns:
        (K, B), float64, in nats.

    Raises:
        DataError: data outside the support of the likelihood.
        ValueError: no data, K < 1, K > 131,072 (or a lower limit for a program so large that its blocks are small), a
            program with sites outside the data plate, or a guide without a density (`Delta`).

    Reference:
        Burda, Grosse & Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016, eq. 7.
        https://arxiv.org/abs/1509.00519

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.StandardNormal(2),
        ...              pv.posteriors.DiagonalNormal(pv.networks.MLP((4,), (4,)), 2),
        ...              pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (4,))))
        >>> log_weights(vae, torch.zeros(3, 4), num_samples=100, seed=0).shape
        torch.Size([100, 3])
    """
    columns = draw_columns(vae, x, num_samples, y, seed, read_log_weights, first_block)
    return torch.cat([torch.cat(blocks) for _, blocks in columns], dim=1)


def read_log_weights(pair: traces.Traces) -> Tensor:
    """Reads log-weights (k, b), in float64, since the three terms are large and nearly cancel."""
    log_prior, log_posterior = traces.log_prior(pair).double(), traces.log_posterior(pair).double()
    return traces.reconstruction(pair).double() + log_prior - log_posterior


def _slices(size: int, block: int) -> list[slice]:
    return [slice(start, min(start + block, size)) for start in range(0, size, block)]
