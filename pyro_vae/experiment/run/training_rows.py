"""Which rows were in training: those whose stored numbers equal a training row's, number by number."""

from hashlib import blake2b

import numpy as np
import torch

from pyro_vae.data import Split
from pyro_vae.data.cutting import row_hashes

_NUMBERS = 1 << 20  # at a time


def hashes(split: Split, index: torch.Tensor) -> np.ndarray:
    """Computes a hash of 64 bits of the stored numbers of each datum (N,), whatever type they are stored in.

    Args:
        split: the data.
        index: which of them (N,), positions in the split.
    """
    some = index.split(max(1, _NUMBERS // split.levels[0].numel()))
    levels = (split.levels_at(part).cpu().numpy() for part in some)
    return np.concatenate([row_hashes(part, np.arange(len(part))) for part in levels])


def gaps(split: Split, index: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Counts the missing numbers of each datum (N,), and computes a hash of which they are, (N,) int64, 0 for none.

    Args:
        split: the data.
        index: which of them (N,), positions in the split.
    """
    found = [_gaps(split, part) for part in index.split(max(1, _NUMBERS // split.levels[0].numel()))]
    counts, kinds = zip(*found, strict=True)
    return np.concatenate(counts), np.concatenate(kinds)


def _gaps(split: Split, index: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    missing = split.levels_at(index).float().flatten(1).isnan().cpu().numpy()
    counts = missing.sum(1)
    packed = (blake2b(row.tobytes(), digest_size=8).digest() for row in np.packbits(missing, axis=1))
    kinds = np.fromiter((int.from_bytes(bits, "little", signed=True) for bits in packed), np.int64, len(missing))
    return counts, np.where(counts > 0, kinds, 0)


def training_hashes(split: Split) -> np.ndarray:
    """Computes the hashes of a whole split, ascending."""
    return np.unique(hashes(split, torch.arange(len(split))))


def are_among(found: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Returns which of some hashes are among others, which ascend.

    Example:
        >>> are_among(np.array([1, 5], np.uint64), np.array([2, 5], np.uint64))
        array([False,  True])
    """
    place = np.minimum(np.searchsorted(ordered, found), len(ordered) - 1)
    return np.asarray(ordered[place] == found)
