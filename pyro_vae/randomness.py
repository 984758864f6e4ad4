"""Named streams of random numbers, all derived from one integer.

    derive(seed, "order", epoch)          -> an integer, the same on every machine
    generator(seed, "order", epoch)       -> a separate torch.Generator
    with stream(seed, "noise", epoch):    -> Pyro's draws come from this stream; afterwards the
                                             caller's random state is what it was
    position(), go_to(...)                -> the position in the stream, and back to it

A stream depends only on its name. So an added evaluation does not change the training, and a run that resumes at epoch
7 draws what the uninterrupted run drew at epoch 7. No state needs to be saved, except for the position in the middle of
an epoch.

torch's generator for the CPU keeps only the low 32 bits of a seed (manual_seed(1) and
manual_seed(1 + 2**32) give the same numbers), so everything here has 32 bits, and `block_seed`
counts blocks instead of hashing them: two blocks of one evaluation can never collide.

torch is imported where it is used, so that the command line knows without it how many draws one seed keeps apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pyro_vae.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_BITS = 32
_SAMPLE_BITS = 12  # this leaves 20 bits for blocks of data
SAMPLE_BLOCK = 32  # most draws in a block
MOST_SAMPLES = SAMPLE_BLOCK << _SAMPLE_BITS  # most draws that one seed keeps apart


def derive(seed: int, *names: str | int) -> int:
    """Derives a 32-bit seed from an integer and a name, by SHA-256: nearby seeds give unrelated streams.

    Example:
        >>> derive(0, "order", 3) == derive(0, "order", 3) != derive(0, "order", 4)
        True
    """
    digest = hashlib.sha256(repr((int(seed), *names)).encode()).digest()
    return int.from_bytes(digest[: _BITS // 8], "little")


def derive_if_given(seed: int | None, *names: str | int) -> int | None:
    """Derives a seed like `derive`; None, which continues the caller's random stream, stays None.

    Example:
        >>> derive_if_given(None, "order"), derive_if_given(0, "order") == derive(0, "order")
        (None, True)
    """
    return None if seed is None else derive(seed, *names)


def block_seed(seed: int, data_block: int, sample_block: int) -> int:
    """Derives the seed of one (block of data, block of samples), distinct for distinct blocks by construction.

    Raises:
        UsageError: more than 2**20 blocks of data or 2**12 blocks of samples.

    Example:
        >>> len({block_seed(0, i, j) for i in range(50) for j in range(50)})
        2500
    """
    if data_block >> (_BITS - _SAMPLE_BITS) or sample_block >> _SAMPLE_BITS:
        raise UsageError(
            f"block ({data_block}, {sample_block}) is beyond the {1 << _BITS - _SAMPLE_BITS} blocks of data and "
            f"{1 << _SAMPLE_BITS} blocks of samples that one seed can keep apart: take fewer draws, or split the data "
            "over several seeds"
        )
    return derive(seed, "block") ^ (data_block << _SAMPLE_BITS | sample_block)


def generator(seed: int, *names: str | int, device: torch.device | None = None) -> torch.Generator:
    """Returns a new generator at the start of the named stream, on the CPU unless a device is named."""
    import torch

    return torch.Generator(device or "cpu").manual_seed(derive(seed, *names))


@contextmanager
def stream(seed: int, *names: str | int, device: torch.device | None = None) -> Iterator[None]:
    """A context that draws from the named stream, and restores the caller's random state at the end."""
    with preserved(device):
        _seed(derive(seed, *names), device)
        yield


@contextmanager
def block_stream(
    seed: int | None, data_block: int, sample_block: int, device: torch.device | None = None
) -> Iterator[None]:
    """A context that draws from the stream of one block (see `block_seed`); with seed None from the caller's own."""
    if seed is None:
        yield
        return
    with preserved(device):
        _seed(block_seed(seed, data_block, sample_block), device)
        yield


def position(device: torch.device | None = None) -> dict[str, Tensor]:
    """Returns the position in the stream that torch draws from: the state of its generator, by type of device.

    Example:
        >>> import torch
        >>> with stream(0, "noise"):
        ...     here = position()
        ...     drawn = torch.rand(3)
        >>> with stream(1, "other"):
        ...     go_to(here)
        ...     torch.equal(torch.rand(3), drawn)
        True
    """
    import torch

    here = {"cpu": torch.get_rng_state()}
    if device is not None and device.type != "cpu":
        here[device.type] = torch.get_device_module(device).get_rng_state(device)
    return here


def go_to(here: Mapping[str, Tensor], device: torch.device | None = None) -> None:
    """Returns to a position in the stream. A device of another type, which draws other numbers, is left as it is.

    Raises:
        ValueError: the position is not a state of a generator.
    """
    import torch

    try:
        torch.set_rng_state(here["cpu"])
        if device is not None and device.type in here and device.type != "cpu":
            torch.get_device_module(device).set_rng_state(here[device.type], device)
    except (KeyError, RuntimeError, TypeError) as error:
        raise ValueError(f"that is not a position in a stream of random numbers: {error}") from error


def _seed(seed: int, device: torch.device | None) -> None:
    import torch

    # Not torch.manual_seed, which reseeds every accelerator of the machine.
    torch.default_generator.manual_seed(seed)
    if device is not None and device.type != "cpu":
        with torch.get_device_module(device).device(device):
            torch.get_device_module(device).manual_seed(seed)


@contextmanager
def preserved(device: torch.device | None = None) -> Iterator[None]:
    """Restores at the end the random state of the CPU, and of `device` if it is an accelerator."""
    import torch

    accelerators = [device] if device is not None and device.type != "cpu" else []
    with torch.random.fork_rng(devices=accelerators, device_type=accelerators[0].type if accelerators else "cuda"):
        yield
