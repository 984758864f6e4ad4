"""Which data an estimate is about, so that no one compares estimates of different data by mistake."""

import hashlib

import torch
from torch import Tensor

from pyro_vae.evaluation.memory import DATA_BLOCK


def fingerprint(x: Tensor) -> Tensor:
    """Hashes the values of each block of 128 data, whatever their type and device.

    The fingerprints of shards of whole blocks, concatenated, equal the fingerprint of the whole.

    Args:
        x: data (N, *x_shape).

    Returns:
        A number for each block, (ceil(N / 128),), int64.

    Example:
        >>> x = torch.arange(300.0)
        >>> bool((fingerprint(x) == torch.cat([fingerprint(x[:128].int()), fingerprint(x[128:].double())])).all())
        True
    """
    return torch.tensor([_hash(block) for block in x.detach().split(DATA_BLOCK)], dtype=torch.int64)


def _hash(block: Tensor) -> int:
    numbers = block.cpu().double() + 0.0  # turns -0.0 into 0.0
    single = numbers.float()
    if torch.equal(single.double(), numbers):
        numbers = single  # half the bytes, and the same fingerprint for data that were given as float32
    hashed = hashlib.blake2b(repr(tuple(block.shape)).encode(), digest_size=8)
    hashed.update(numbers.contiguous().numpy().tobytes())
    return int.from_bytes(hashed.digest(), "little", signed=True)
