"""Checks the numbers of new data against what a run was trained on. Errors name the first wrong one and the cure."""

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, bfloat16

from pyro_vae.data import formats
from pyro_vae.data.own.numbers import BYTE, MOST_COUNTED, as_stored
from pyro_vae.errors import DataError

if TYPE_CHECKING:
    from pyro_vae.data.intake import Intake


class Checked:
    """The checks of one array.

    Args:
        intake: the recipe of the run's data.
        name: of the data, for messages.
        row: what a position along the first axis is called.
    """

    def __init__(self, intake: "Intake", name: str, row: str) -> None:
        self.intake, self.name, self.row = intake, name, row

    def stored(self, x: np.ndarray) -> np.ndarray:
        """Converts numbers to their storage type, see `Intake.stored`."""
        if x.dtype.kind not in "buif":
            raise DataError(
                f"{self.name}: type {x.dtype} does not hold numbers; the run was trained on {self.intake.in_words}."
            )
        if x.dtype.kind == "f":
            self._check_missing(x)
        if self.intake.num_levels is not None:
            return self._levels(x)
        return self._counts(x) if self.intake.counts else self._reals(x)

    def _levels(self, x: np.ndarray) -> np.ndarray:
        L = self.intake.num_levels or 2
        bits = L == 2
        stored: Any = np.uint8 if L <= BYTE else np.int32
        if x.dtype.kind == "b" and not bits:
            raise DataError(
                f"{self.name}: type bool; the run was trained on levels 0 ... {L - 1}. If True is the highest level, "
                f"use x.astype(np.{np.dtype(stored)}) * {L - 1}."
            )
        if x.dtype.kind == "f" and not bits and not self.intake.float_levels:
            raise self._floats_for_levels(x)
        self._refuse(
            x,
            lambda rows: (rows < 0) | (rows > L - 1) | ((np.floor(rows) != rows) & (rows == rows)),
            f"the run was trained on {'0 and 1' if bits else f'levels 0 ... {L - 1}'}.",
        )
        whole = x.dtype.kind != "f" or all(np.isfinite(rows).all() for _, rows in formats.blocks(x))
        return as_stored(x, stored if whole and x.dtype.kind != "b" else np.uint8 if whole else np.float32)

    def _counts(self, x: np.ndarray) -> np.ndarray:
        self._refuse(
            x,
            lambda rows: (rows < 0) | (rows > MOST_COUNTED) | ((np.floor(rows) != rows) & (rows == rows)),
            f"the run was trained on counts: whole numbers 0 ... {MOST_COUNTED:,}.",
        )
        return as_stored(x, np.float32 if x.dtype.kind == "f" else np.int32)

    def _reals(self, x: np.ndarray) -> np.ndarray:
        if x.dtype.kind in "bui" and len(self.intake.x_shape) == 3:
            raise DataError(
                f"{self.name}: type {x.dtype}; the run was trained on floats. Scale it like the training data, such "
                "as x / 255."
            )
        if self.intake.recipe in ("dynamic", "static", "threshold"):
            self._refuse(x, lambda rows: (rows < 0) | (rows > 1), "the run was trained on intensities in [0, 1].")
        if not any(self.intake.origin):
            return as_stored(x, np.float32)
        return (np.asarray(x, np.float64) - np.array(self.intake.origin)).astype(np.float32)

    def _check_missing(self, x: np.ndarray) -> None:
        cure = "which is not finite."
        if not self.intake.missing:
            cure += " The run takes no missing numbers: fill or drop such rows, or train with `missing='nan'`."

        def wrong(rows: np.ndarray) -> np.ndarray:
            with np.errstate(over="ignore"):
                return ~np.isfinite(rows.astype(np.float32, copy=False)) & ~(np.isnan(rows) & self.intake.missing)

        self._refuse(x, wrong, cure)

    def _floats_for_levels(self, x: np.ndarray) -> DataError:
        L = self.intake.num_levels or 2
        whole = np.dtype(np.uint8 if L <= BYTE else np.int32)
        cure = f"x.astype(np.{whole})" if x.size and x.max() > 1 else f"np.round(x * {L - 1}).astype(np.{whole})"
        return DataError(
            f"{self.name}: type {x.dtype}; the run was trained on whole numbers, levels 0 ... {L - 1}. Save {cure}."
        )

    def x_in_floats(self, x: np.ndarray) -> np.ndarray:
        """Makes x from floats where the data were levels: floats are x already, or the intensities behind bits."""
        L = self.intake.num_levels or 2
        self._check_missing(x)
        if self.intake.recipe == "levels":
            self._refuse(
                x,
                lambda rows: (rows < 0) | (rows > L - 1) | ((np.floor(rows) != rows) & (rows == rows)),
                f"the program takes levels, whole numbers 0 ... {L - 1}. From intensities in [0, 1], make them by (x "
                f"* {L - 1}).round().",
            )
            return x.astype(np.float32)
        self._refuse(
            x,
            lambda rows: (rows < 0) | (rows > 1),
            f"floats are intensities in [0, 1] here. Pass x / {L - 1}, or the levels 0 ... {L - 1} as whole numbers, "
            "such as uint8.",
        )
        return x.astype(np.float32)

    def _refuse(self, x: np.ndarray, wrong: Any, cure: str) -> None:
        for first, rows in formats.blocks(x):
            if (at := wrong(rows)).any():
                where = tuple(int(i) for i in np.unravel_index(at.argmax(), at.shape))
                place = self._position(where[1:])
                raise DataError(f"{self.name}: {rows[where]:g} at {self.row} {first + where[0]}, {place}; {cure}")

    def _position(self, where: tuple[int, ...]) -> str:
        columns = self.intake.columns
        return f"column {columns[where[0]]}" if columns and len(where) == 1 else f"position {where}"


def plain_array(raw: Any) -> np.ndarray:
    """Makes an array (B, ...) from an array, a tensor, a frame or nested lists.

    Raises:
        DataError: there are no data, or it is a single datum.

    Example:
        >>> plain_array([[1, 2]]).shape
        (1, 2)
    """
    if isinstance(raw, Tensor):
        raw = raw.detach().cpu()
        raw = (raw.float() if raw.dtype == bfloat16 else raw).numpy()
    elif hasattr(raw, "to_numpy"):
        raw = raw.to_numpy()
    array = np.asarray(raw)
    if array.ndim < 2 or not len(array):
        raise DataError(f"x: has shape {array.shape}; the first axis counts data. Pass a single datum as x[None].")
    return array
