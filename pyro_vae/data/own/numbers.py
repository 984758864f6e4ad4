"""Which numbers x holds: bits, levels 0..L-1, counts, or reals. Each is checked; errors name the first wrong one.

    type              values                    x
    bool, any         only 0 and 1              bits: two levels
    uint8             0..255                    levels; L is 256, or the largest + 1 if that is 128 or less
    other integers    0..65535                  levels too, up to 65,536
    any               whole, 0 or more          counts, if the likelihood is one of counts; to 2^24
    other integers    any, in a table           reals, if the likelihood is a density of reals
    floats            finite                    reals; levels if their number is given

A number can be missing (NaN) if the reading says so; levels are then kept as floats. The largest level is taken over
all splits, not only training: a level that only test data have would have no mass.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from pyro_vae.data import formats
from pyro_vae.data.own.columns import doubtful
from pyro_vae.data.own.reading import Reading
from pyro_vae.errors import DataError

MOST_COUNTED = 1 << 24  # float32 holds every whole number up to it
_MOST_LEVELS = 1 << 16
BYTE, _FAR_OFF = 256, 128  # levels of a byte

Arrays = dict[str, np.ndarray]


class Numbers(NamedTuple):
    """The numbers of x as they are stored.

    Attributes:
        x: by key, (N, *x_shape) uint8, int32, float32 or float64.
        num_levels: L of levels; None for counts and reals.
        notes: sentences.
    """

    x: Arrays
    num_levels: int | None
    notes: tuple[str, ...] = ()


def numbers(name: str, x: Arrays, masks: Arrays, reading: Reading, columns: tuple[str, ...] = ()) -> Numbers:
    """Finds out which kind of numbers these are, checks them, and converts them to their storage type.

    Args:
        name: of the file, for messages.
        x: by key, (N, *x_shape), of one type.
        masks: by key, True where a number was observed; under such a key all other numbers are missing.
        reading: `counts`, `reals`, `num_levels` and `missing` are read.
        columns: the names of the numbers of a row, for messages.

    Raises:
        DataError: a type does not hold numbers; or a number is missing, not finite, or out of range, with its row.
    """
    dtype = next(iter(x.values())).dtype
    if dtype.kind not in "buif":
        raise DataError(f"{name}: type {dtype} is not supported; save bool, integers or floating-point numbers.")
    seen = {key: _hidden(array, masks.get(key)) for key, array in x.items()}
    found = _Checked(name, reading, columns).numbers(seen, dtype)
    stored = {key: _masked(array, masks.get(key)) for key, array in found.x.items()}
    about = doubtful(stored, columns, sentinels=found.num_levels is None and not reading.counts)
    return found._replace(x=stored, notes=(*found.notes, *about))


def _hidden(x: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Puts 0 where a number is missing: the value there says nothing about the others."""
    return x if mask is None else np.where(mask, x, np.zeros((), x.dtype))


def _masked(x: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    if mask is None or mask.all():
        return x
    return np.where(mask, x, np.nan).astype(np.float32 if x.dtype.itemsize < 8 else np.float64)


class _Checked:
    """The checks, with the name of the file and what the user says about it."""

    def __init__(self, name: str, reading: Reading, columns: tuple[str, ...]) -> None:
        self.name, self.reading, self.columns = name, reading, columns

    def numbers(self, x: Arrays, dtype: np.dtype) -> Numbers:
        if self.reading.counts:
            return self._counts(x, dtype)
        if dtype.kind == "f":
            return self._whole_floats(x) if self.reading.num_levels else self._reals(x)
        if dtype.kind == "b":
            bits = {key: array.view(np.uint8) for key, array in x.items()}
            self._within(bits, 1, "; a bool is 0 or 1. Save it again, as x != 0 or as uint8.")
            return Numbers(bits, 2)
        if self.reading.reals and self._are_measured(x, dtype) and not _are_bits(x):
            return self._reals({key: array.astype(np.float64) for key, array in x.items()})
        return self._levels(x, dtype)

    def _are_measured(self, x: Arrays, dtype: np.dtype) -> bool:
        """Whether integers are not grey levels: they are in a table, or some are below 0."""
        if self.reading.num_levels or dtype == np.uint8:
            return False
        return next(iter(x.values())).ndim == 2 or min(array.min() for array in x.values()) < 0

    def _reals(self, x: Arrays) -> Numbers:
        missing = self.reading.missing
        more = "" if missing else "; if NaN stands for a missing number, use `missing=True`"
        cure = f", which is not a finite float32. Remove or replace such values{more}."
        self._refuse(x, lambda rows: ~(_finite(rows) | (np.isnan(rows) & missing)), cure)
        if _are_bits(x):
            stored = np.float32 if missing else np.uint8
            return Numbers({key: as_stored(array, stored) for key, array in x.items()}, 2)
        # The digits of a float64 table are needed until its columns have been looked at.
        kept = {
            key: array if array.ndim == 2 and array.dtype.itemsize == 8 else as_stored(array, np.float32)
            for key, array in x.items()
        }
        return Numbers(kept, None, tuple(_advice(x)))

    def _counts(self, x: Arrays, dtype: np.dtype) -> Numbers:
        advice = (
            "; counts are whole numbers, 0 or more. For measurements that are not counts, use `likelihood='normal'`."
        )
        missing = self.reading.missing
        if dtype.kind == "f":
            gaps = " (if NaN stands for a missing one, use `missing=True`)"
            self._refuse(x, lambda rows: np.isnan(rows) & (not missing), ", which is not a count" + gaps + advice)
            self._refuse(x, lambda rows: (rows < 0) | (np.floor(rows) != rows) & ~np.isnan(rows), advice)
        else:
            self._refuse(x, lambda rows: rows < 0, advice)
        limit = f"; x is computed in float32, which holds every count up to {MOST_COUNTED:,}. Count in larger units."
        self._refuse(x, lambda rows: rows > MOST_COUNTED, limit)
        if dtype.kind == "f":
            return Numbers({key: as_stored(array, np.float32) for key, array in x.items()}, None)
        small = max(int(array.max()) for array in x.values()) < BYTE
        return Numbers({key: as_stored(array, np.uint8 if small else np.int32) for key, array in x.items()}, None)

    def _whole_floats(self, x: Arrays) -> Numbers:
        most, missing = self.reading.num_levels - 1, self.reading.missing

        def wrong(rows: np.ndarray) -> np.ndarray:
            return ~((rows >= 0) & (rows <= most) & (np.floor(rows) == rows) | (np.isnan(rows) & missing))

        self._refuse(x, wrong, self._cure_of_levels())
        stored = np.float32 if missing else np.uint8 if most < BYTE else np.int32
        return Numbers({key: as_stored(array, stored) for key, array in x.items()}, most + 1)

    def _cure_of_levels(self) -> str:
        given = self.reading.num_levels
        return (
            f"; `num_levels={given}` means whole numbers 0 ... {given - 1}. Use a larger one, or leave `num_levels` "
            "out."
        )

    def _levels(self, x: Arrays, dtype: np.dtype) -> Numbers:
        cure = (
            "; integers are read as levels 0, 1, ... If they are counts, use a likelihood of counts "
            "(`likelihood='negative_binomial'`); if they are measurements, save them as floats."
        )
        given = self.reading.num_levels
        if given:
            cure = self._cure_of_levels()
        self._within(x, (given or _MOST_LEVELS) - 1, cure)
        largest = max(int(array.max()) for array in x.values())
        if largest <= 1 and not self.reading.num_levels:
            return Numbers({key: as_stored(array, np.uint8) for key, array in x.items()}, 2)
        num_levels, notes = (given, ()) if given else _found_levels(dtype, largest)
        stored = np.uint8 if num_levels <= BYTE else np.int32
        return Numbers({key: as_stored(array, stored) for key, array in x.items()}, num_levels, notes)

    def _within(self, x: Arrays, most: int, cure: str) -> None:
        self._refuse(x, lambda rows: (rows < 0) | (rows > most), cure)

    def _refuse(self, x: Arrays, wrong: Callable[[np.ndarray], np.ndarray], cure: str) -> None:
        for key, array in x.items():
            for first, rows in formats.blocks(array):
                if (at := wrong(rows)).any():
                    raise DataError(f"{self.name}: array {key} has {self._place(rows, at, first)}{cure}")

    def _place(self, rows: np.ndarray, wrong: np.ndarray, first: int) -> str:
        where = tuple(int(i) for i in np.unravel_index(wrong.argmax(), wrong.shape))
        position = f"column {self.columns[where[1]]!r}" if self.columns else f"position {where[1:]}"
        return f"{rows[where]} at row {first + where[0]}, {position}"


def _found_levels(dtype: np.dtype, largest: int) -> tuple[int, tuple[str, ...]]:
    """Returns L from the type and the largest level, and a note if it is not the L of the type."""
    if _FAR_OFF <= largest < BYTE:
        note = f"Integers of type {dtype} were read as 256 levels."
        return BYTE, () if dtype == np.uint8 else (note,)
    if dtype == np.uint16 and 2 * largest >= _MOST_LEVELS:
        return _MOST_LEVELS, ()
    note = (
        f"The largest level is {largest}: read as {largest + 1} levels, 0 ... {largest}; `num_levels` overrides this."
    )
    return largest + 1, (note,)


def _finite(rows: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.isfinite(rows.astype(np.float32, copy=False))


def _are_bits(x: Arrays) -> bool:
    return all(((rows == 0) | (rows == 1) | (rows != rows)).all() for a in x.values() for _, rows in formats.blocks(a))


def as_stored(x: np.ndarray, dtype: Any) -> np.ndarray:
    """Converts an array to its storage type; a mapped one stays as it is."""
    return x if isinstance(x, np.memmap) else x.astype(dtype, copy=False)


def _advice(x: Arrays) -> list[str]:
    """Notes on floats that look like grey levels."""
    first = next(iter(x.values()))
    if first.ndim != 4:
        return []
    low, high = min(np.nanmin(a) for a in x.values()), max(np.nanmax(a) for a in x.values())
    if low >= 0 and 2 < high <= 255:
        scale = 255 if high >= _FAR_OFF else math.ceil(high)
        return [f"The floats run from {low:g} to {high:g}: to read them as intensities in [0, 1], save x / {scale}."]
    return []
