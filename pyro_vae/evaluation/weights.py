"""Log-weights: log w_kb = log p(x_b, z_kb) - log q(z_kb | x_b),  z_kb ~ q(z|x_b), in nats.

Everything that is estimated about log p(x) starts here. The work goes through blocks of a size that depends on the
program alone (see `pyro_vae.evaluation.memory`), so that the memory for activations depends on neither K nor N, and the
noise of a seeded call is a function of (seed, block of data, block of samples): chunks, streams and shards of whole
blocks give the same numbers, and different data never share noise.
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
    """What `read` makes of each block of draws, beside the data that it is about.

    All blocks of samples of one block of data come after one another, before the next block of data.
    """
    check_tensor(x)
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1; got {num_samples}")
    memory: dict[Any, Any] = {}
    blocks = list(data_blocks(len(x), y))
    with remembering(memory):
        size = sample_block(vae, x[blocks[0][0]], num_samples, blocks[0][1])
    # Where blocks stand before it, the last block of a shard is the last of all: what was short there is short here.
    whole, many = DATA_BLOCK if first_block else min(len(x), DATA_BLOCK), num_samples >= FEWEST_DRAWS
    for i, (data, labels) in enumerate(blocks, start=first_block):
        with torch.no_grad(), undisturbed(vae):
            given = x[data], *labels
            block = column(vae, read, given, size, many and len(given[0]) == whole)
        for j, samples in enumerate(_slices(num_samples, size)):
            with torch.no_grad(), undisturbed(vae), remembering(memory), block_stream(seed, i, j, x.device):
                found = block.draw(samples.stop - samples.start)
            yield data, found


def data_blocks(num_data: int, y: Tensor | None) -> Iterator[tuple[slice, tuple[Tensor, ...]]]:
    """Each block of data, and its labels where there are any.

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
    """`draw_blocks`, all blocks of samples of one block of data together."""
    drawn = draw_blocks(vae, x, num_samples, y, seed, read, first_block)
    for data, rows in groupby(drawn, key=lambda row: row[0]):
        yield data, [found for _, found in rows]


def log_weights(
    vae: Any,
    x: Tensor,
    num_samples: int,
    y: Tensor | None = None,
    seed: int | None = None,
    *,
    first_block: int = 0,
) -> Tensor:
    """log p(x, z_k) - log q(z_k|x) for K draws of z from the guide, per datum: (K, B), float64, nats.

    Eq. 7 of Burda, Grosse & Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016. If the guide is the exact
    posterior they are constant, log p(x), for every K.

    Args:
        vae: anything with `.model` and `.guide` over one data plate.
        x: data (B, *x_shape).
        num_samples: K.
        y: one-hot labels (B, C).
        seed: None goes on with the caller's random stream; an integer is reproducible and leaves that stream alone.
        first_block: for a shard of a larger data set, how many blocks of 128 data stand before it.

    Raises:
        DataError: data outside the support of the likelihood.
        ValueError: no data, K < 1, K > 131,072 (fewer for a program so large that its blocks are small), a program with
            sites outside the data plate, or a guide without a density (`Delta`).

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
    """(k, b), float64: the three terms are large and nearly cancel."""
    log_prior, log_posterior = traces.log_prior(pair).double(), traces.log_posterior(pair).double()
    return traces.reconstruction(pair).double() + log_prior - log_posterior


def _slices(size: int, block: int) -> list[slice]:
    return [slice(start, min(start + block, size)) for start in range(0, size, block)]
