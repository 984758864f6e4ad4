"""Cuts the data of a source into splits, at random or in order, with groups kept whole, and records each row."""

from dataclasses import replace
from hashlib import blake2b
from numbers import Integral
from typing import Any

import numpy as np
import torch

from pyro_vae.data.sources import Part, Raw
from pyro_vae.errors import DataError, UsageError
from pyro_vae.randomness import generator

Pieces = dict[str, tuple[Part, np.ndarray]]
_TESTED = {"valid": "validation", "test": "test"}
_NUMBERS = 1 << 20  # at a time
_MOST_COMPARED = 1 << 20  # data searched for equal ones


def cut(raw: Raw, split: str, data_seed: int, valid_data: int = 0) -> Pieces:
    """Maps a split's name to its part and its indices into that part. A random split keeps its random order.

    Data of one group stay in one split, so the sizes are as close as whole groups allow.

    Args:
        raw: the data set.
        split: "random" by the data seed, or "contiguous" in the order of the file.
        data_seed: of the random order.
        valid_data: number of validation data, cut from the training data; 0 leaves the sizes as they are.

    Raises:
        DataError: there are too few data, or too few groups, for three splits.
        UsageError: the data set has validation data of its own, or cannot have this number of them.
    """
    pieces = _cut(raw, split, data_seed)
    if not valid_data:
        return pieces
    changed = _cut(_resized(raw, valid_data), split, data_seed)
    if not np.array_equal(changed["test"][1], pieces["test"][1]):
        raise UsageError(
            f"`valid_data={valid_data}` is less than half a group of {raw.name}, and would take a whole group from the "
            "test data: take more"
        )
    return changed


def _cut(raw: Raw, split: str, data_seed: int) -> Pieces:
    pieces: Pieces = {}
    for part in raw.parts:
        _check_sizes(raw.name, part)
        shuffled = split == "random" and len(part.cut) > 1
        if part.groups is not None and len(part.cut) > 1:
            indices = _whole_groups(raw.name, part, data_seed if shuffled else None)
        else:
            order = _shuffle(len(part.levels), data_seed) if shuffled else np.arange(len(part.levels))
            indices = np.split(order, np.cumsum(list(part.cut.values()))[:-1])
        pieces.update({name: (part, index) for name, index in zip(part.cut, indices, strict=True)})
    return pieces


def _resized(raw: Raw, valid_data: int) -> Raw:
    """Returns the data set with this number of validation data; the others stay training data."""
    if not _is_size(valid_data):
        raise UsageError(f"`valid_data` must be a whole number of at least 0; got {valid_data!r}")
    part = next((part for part in raw.parts if {"train", "valid"} <= part.cut.keys()), None)
    if part is None:
        raise UsageError(
            f"{raw.name} has validation data of its own, which `valid_data={valid_data}` cannot change: leave it out"
        )
    both = part.cut["train"] + part.cut["valid"]
    if valid_data >= both:
        raise UsageError(f"`valid_data={valid_data}` leaves none of {raw.name}'s {both:,} data to train on: take fewer")
    changed = replace(part, cut={**part.cut, "train": both - valid_data, "valid": valid_data})
    return replace(raw, parts=tuple(changed if each is part else each for each in raw.parts))


def _is_size(value: Any) -> bool:
    return type(value) is not bool and isinstance(value, Integral) and int(value) >= 0


def _check_sizes(name: str, part: Part) -> None:
    if min(part.cut.values()) < 1:
        sizes = " / ".join(f"{split} {size}" for split, size in part.cut.items())
        raise DataError(f"{name}: {len(part.levels)} data are too few to split ({sizes}).")


def _shuffle(size: int, data_seed: int) -> np.ndarray:
    return torch.randperm(size, generator=generator(data_seed, "split")).numpy()


def _whole_groups(name: str, part: Part, data_seed: int | None) -> list[np.ndarray]:
    """Deals groups, in random order or by their first rows, to one split until it is full, then to the next."""
    _, first, group_of = np.unique(np.asarray(part.groups), return_index=True, return_inverse=True)
    order = np.argsort(first)
    if len(order) < len(part.cut):
        raise DataError(f"{name}: {len(order)} group(s) cannot fill {len(part.cut)} splits: leave `group` out.")
    if data_seed is not None:
        order = order[_shuffle(len(order), data_seed)]
    ends = np.cumsum(np.bincount(group_of)[order])
    split_of = np.searchsorted(np.cumsum(list(part.cut.values())) - 0.5, ends - 0.5 * np.bincount(group_of)[order])
    split_of = _none_empty(np.minimum(split_of, len(part.cut) - 1), len(part.cut))
    rows = np.argsort(np.argsort(order)[group_of], kind="stable")
    return [rows[split_of[np.argsort(order)[group_of[rows]]] == i] for i in range(len(part.cut))]


def _none_empty(split_of: np.ndarray, number: int) -> np.ndarray:
    """Gives each split at least one of the groups, keeping their order."""
    i = np.arange(number)
    first = np.maximum.accumulate(np.searchsorted(split_of, i) - i) + i
    first = np.minimum(first, len(split_of) - number + i)
    return np.searchsorted(first, np.arange(len(split_of)), side="right") - 1


def equal_rows(pieces: Pieces) -> list[str]:
    """Notes how many validation and test data equal a training datum, if the data are in memory."""
    arrays = {name: part.levels for name, (part, _) in pieces.items()}
    if (
        any(isinstance(a, np.memmap) for a in arrays.values())
        or sum(len(i) for _, i in pieces.values()) > _MOST_COMPARED
    ):
        return []
    seen = np.unique(row_hashes(arrays["train"], pieces["train"][1]))
    notes = []
    for name, word in _TESTED.items():
        index = pieces[name][1]
        if again := int(np.isin(row_hashes(arrays[name], index), seen).sum()):
            notes.append(
                f"{again:,} of the {len(index):,} {word} data are equal to a training datum, number by number, so "
                "numbers measured on them do not describe new data."
            )
    return notes


def shared_groups(pieces: Pieces) -> list[str]:
    """Warns how many validation and test data share a group with training data, which happens only in given splits."""
    groups = {name: part.groups[index] for name, (part, index) in pieces.items() if part.groups is not None}
    trained = set(map(str, groups.get("train", ())))
    notes = []
    for name, word in _TESTED.items():
        if shared := sum(str(group) in trained for group in groups.get(name, ())):
            notes.append(
                f"{shared:,} of the {len(groups[name]):,} {word} data share a group with training data: the program "
                "is tested on groups that it has seen. If you bring no splits, `group` keeps groups whole."
            )
    return notes


def row_hashes(levels: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Computes a 64-bit hash of the numbers of each datum, as float32: (N,) uint64.

    0 equals -0, and a missing number equals another.

    Args:
        levels: the data (M, ...).
        index: (N,) the positions of the data to hash.

    Example:
        >>> one, same, other = row_hashes(np.array([[0.0, 1.0], [-0.0, 1.0], [0.0, 2.0]]), np.arange(3))
        >>> bool(one == same), bool(one == other)
        (True, False)
    """
    some = max(1, _NUMBERS // max(1, levels[0].size))
    found = [_hashes(levels[index[i : i + some]]) for i in range(0, len(index), some)]
    return np.concatenate(found) if found else np.empty(0, np.uint64)


def _hashes(levels: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(levels.reshape(len(levels), -1), np.float32) + np.float32(0)  # -0 is 0
    rows[np.isnan(rows)] = np.nan  # there are many
    found = (int.from_bytes(blake2b(row.tobytes(), digest_size=8).digest(), "little") for row in rows)
    return np.fromiter(found, np.uint64, len(rows))
