"""Intake: how raw data, as a user's file or memory has them, become what one trained program sees.

    bits            0 and 1 of any type                   x is 0 or 1
    levels          whole numbers 0..L-1                  x by the recipe: the intensity, a bit, the level ...
    counts          whole numbers, 0 or more              x is the count
    reals           any finite numbers                    x is the number, less the origin of its column

A program that was loaded from a run holds one, see `Autoencoder.encode`, and so does all that scores new data.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data import formats
from pyro_vae.data.recipes import RECIPES, Recipe
from pyro_vae.data.splits import one_hot
from pyro_vae.errors import DataError
from pyro_vae.randomness import generator

_MOST_COUNTED = 1 << 24  # float32 holds every whole number up to it
_BYTE = 256


@dataclass(frozen=True)
class Intake:
    """The recipe of the data that a program was trained on.

    Args:
        x_shape: the shape of one datum.
        num_levels: L where the data are levels 0..L-1 (2: bits); None for counts and reals.
        recipe: a key of `RECIPES`.
        data_seed: fixes the noise of rows that are scored.
        missing: whether NaN is a missing number.
        channels_last: whether raw images are (N, H, W, C).
        kept: the positions of the columns of a table that the program sees; empty for all.
        origin: what is taken from each of these; empty for nothing.
        columns: their names; empty where they have none.
        classes: the names of the classes 0, 1, ...

    Example:
        >>> Intake((1, 1, 3), 256, "none").x(np.array([[[0, 51, 255]]], np.uint8))
        tensor([[[[0.0000, 0.2000, 1.0000]]]])
    """

    x_shape: tuple[int, ...]
    num_levels: int | None = None
    recipe: str = "none"
    data_seed: int = 0
    missing: bool = False
    channels_last: bool = False
    kept: tuple[int, ...] = ()
    origin: tuple[float, ...] = ()
    columns: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    @classmethod
    def of_protocol(cls, protocol: Mapping[str, Any], *, data_seed: int, channels_last: bool = False) -> "Intake":
        """Reads it from the protocol of the training data.

        Args:
            protocol: see `pyro_vae.data.protocol`.
            data_seed: of the run.
            channels_last: whether raw images are (N, H, W, C).

        Example:
            >>> from pyro_vae.data import load
            >>> Intake.of_protocol(load("digits", binarize="dynamic").protocol, data_seed=0).recipe
            'dynamic'
        """
        kind = "dequantize" if protocol["dequantized"] else protocol["binarization"]["kind"]
        number = int(protocol["num_classes"])
        return cls.of_dict(
            {
                "x_shape": protocol["shape"],
                "num_levels": protocol["num_levels"],
                "recipe": "none" if kind == "already binary" else kind,
                "data_seed": data_seed,
                "missing": protocol.get("missing") is not None,
                "channels_last": channels_last,
                "kept": protocol.get("kept", ()),
                "origin": protocol.get("origin", ()),
                "columns": protocol.get("columns", ()),
                "classes": protocol.get("classes") or tuple(map(str, range(number))),
            }
        )

    @classmethod
    def of_dict(cls, values: Mapping[str, Any]) -> "Intake":
        """Reads what `to_dict` wrote.

        Raises:
            ValueError, TypeError, LookupError: it did not.
        """
        if values["recipe"] not in RECIPES:
            raise ValueError(f"{values['recipe']!r} is no recipe")
        made = {
            **values,
            "x_shape": tuple(map(int, values["x_shape"])),
            "kept": tuple(map(int, values["kept"])),
            "origin": tuple(map(float, values["origin"])),
            "columns": tuple(map(str, values["columns"])),
            "classes": tuple(map(str, values["classes"])),
        }
        return cls(**made)

    def to_dict(self) -> dict[str, Any]:
        """Converts to plain values for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @property
    def counts(self) -> bool:
        """Whether x is a count."""
        return self.num_levels is None and self.recipe == "levels"

    @property
    def in_words(self) -> str:
        """What one datum is, for a message."""
        what = "counts" if self.counts else "floats" if self.num_levels is None else f"{self.num_levels} levels"
        return f"{' x '.join(map(str, self.x_shape))} of {what}"

    def x(self, raw: Any, seed: int | None = None) -> Tensor:
        """Makes x (B, *x_shape) float32 of raw data.

        Whole numbers are levels, or counts. Floats, where the data were levels, are x itself: intensities in [0, 1].
        Where the program was trained on bits drawn from intensities, a bit is 1 where the intensity is at least 1/2,
        unless a seed is given. Dequantised levels are at the middle of their cell.

        Args:
            raw: (B, ...), an array, a tensor or nested lists, as the file has it.
            seed: draws the noise of the recipe as training did, anew for each seed; None draws nothing.

        Raises:
            DataError: it is of another form; the message names the place and the cure.
        """
        columns = tuple(map(str, raw.columns)) if hasattr(raw, "columns") else ()
        placed = self.chosen(self._placed(_array(raw)), "x", columns)
        if self.num_levels is None or self.num_levels == 2 or placed.dtype.kind != "f":
            levels = torch.from_numpy(np.ascontiguousarray(self.stored(placed, "x", "datum")))
            return self._made(levels, self.num_levels, seed)
        return self._of_floats(placed, seed)

    def one_hot(self, y: Any) -> Tensor | None:
        """Makes one-hot labels (B, C) of labels: one-hot already, the numbers of classes, or their names.

        Raises:
            DataError: one is no class of the run.
        """
        if y is None or (isinstance(y, Tensor) and y.dim() == 2):
            return y
        plain = y.tolist() if isinstance(y, Tensor | np.ndarray) else list(y)
        known = {name: i for i, name in enumerate(self.classes)}
        named = [known.get(value, value) if isinstance(value, str) else value for value in plain]
        if wrong := [value for value in named if not isinstance(value, int) or not 0 <= value < len(self.classes)]:
            raise DataError(f"{wrong[0]!r} is no class of the run: {', '.join(self.classes[:20])}, or their numbers")
        return one_hot(torch.tensor(named), len(self.classes))

    def chosen(self, x: np.ndarray, name: str, columns: tuple[str, ...] = ()) -> np.ndarray:
        """Chooses the columns of a table that the program sees, in its order: by name where there are names.

        Args:
            x: (N, D).
            name: of the data, for messages.
            columns: the names of the D columns, where they have any.

        Raises:
            DataError: there are others, or data of another shape.
        """
        if len(self.x_shape) == 1 and x.ndim == 2:
            if columns and self.columns:
                return x[:, self.by_name(name, columns)]
            if self.kept and x.shape[1] != len(self.kept) and x.shape[1] > max(self.kept):
                return x[:, list(self.kept)]
        if x.shape[1:] != self.x_shape:
            cure = ""
            if math.prod(x.shape[1:]) == math.prod(self.x_shape):
                wanted = (-1, *(self.x_shape[1:] if self.x_shape[0] == 1 else self.x_shape))
                cure = f" Save x.reshape{wanted}, if the order of the numbers is the same."
            elif x.shape == self.x_shape or (1, *x.shape) == self.x_shape:
                cure = " A single datum is x[None]."
            raise DataError(
                f"{name}: one datum is {_times(x.shape[1:])} numbers; the run was trained on {_times(self.x_shape)}."
                f"{cure}"
            )
        return x

    def stored(self, x: np.ndarray, name: str, row: str = "row") -> np.ndarray:
        """Checks the numbers of data in the run's own form, and brings them to the type of their storage.

        Args:
            x: (N, *x_shape), as `chosen` gives it.
            name: of the data, for messages.
            row: what a place along the first axis is called.

        Returns:
            uint8, int32 or float32; a mapped file as it is, unless an origin is taken from it.

        Raises:
            DataError: numbers of another kind, or outside of what they may be, with the place and the cure.
        """
        if x.dtype.kind not in "buif":
            raise DataError(f"{name}: type {x.dtype} is none of numbers; the run was trained on {self.in_words}.")
        check = _Check(self, name, row)
        if x.dtype.kind == "f":
            self._check_missing(x, check)
        if self.num_levels is not None:
            return self._levels(x, check)
        return self._counts(x, check) if self.counts else self._reals(x, check)

    def by_name(self, name: str, columns: tuple[str, ...]) -> list[int]:
        """Finds the places of the run's columns among those of a file.

        Args:
            name: of the file, for messages.
            columns: their names, in the order of the file.

        Raises:
            DataError: one is missing.
        """
        if missing := [column for column in self.columns if column not in columns]:
            listed = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
            raise DataError(f"{name}: lacks columns that the run was trained on: {listed}.")
        return [columns.index(column) for column in self.columns]

    def _placed(self, x: np.ndarray) -> np.ndarray:
        """Brings raw data to (B, *x_shape), where only axes have to move."""
        if len(self.x_shape) == 3 and x.ndim == 4 and self.channels_last:
            return x.transpose(0, 3, 1, 2)
        return x[:, None] if x.ndim == 3 and len(self.x_shape) == 3 else x

    def _levels(self, x: np.ndarray, check: "_Check") -> np.ndarray:
        L = self.num_levels or 2
        bits = L == 2
        stored: Any = np.uint8 if L <= _BYTE else np.int32
        if x.dtype.kind == "b" and not bits:
            raise DataError(
                f"{check.name}: type bool; the run was trained on levels 0 ... {L - 1}. If True is the highest one, "
                f"use x.astype(np.{np.dtype(stored)}) * {L - 1}."
            )
        if x.dtype.kind == "f" and not bits and not self.missing:
            raise self._floats_for_levels(x, check)
        check.refuse(
            x,
            lambda rows: (rows < 0) | (rows > L - 1) | ((np.floor(rows) != rows) & (rows == rows)),
            f"the run was trained on {'0 and 1' if bits else f'levels 0 ... {L - 1}'}.",
        )
        whole = x.dtype.kind != "f" or all(np.isfinite(rows).all() for _, rows in formats.blocks(x))
        return _as(x, stored if whole and x.dtype.kind != "b" else np.uint8 if whole else np.float32)

    def _counts(self, x: np.ndarray, check: "_Check") -> np.ndarray:
        check.refuse(
            x,
            lambda rows: (rows < 0) | (rows > _MOST_COUNTED) | ((np.floor(rows) != rows) & (rows == rows)),
            f"the run was trained on counts: whole numbers 0 ... {_MOST_COUNTED:,}.",
        )
        return _as(x, np.float32 if x.dtype.kind == "f" else np.int32)

    def _reals(self, x: np.ndarray, check: "_Check") -> np.ndarray:
        if x.dtype.kind in "bui" and len(self.x_shape) == 3:
            raise DataError(
                f"{check.name}: type {x.dtype}; the run was trained on floats. Scale it as the training data were, "
                "such as x / 255."
            )
        if self.recipe in ("dynamic", "static", "threshold"):
            check.refuse(x, lambda rows: (rows < 0) | (rows > 1), "the run was trained on intensities in [0, 1].")
        if not any(self.origin):
            return _as(x, np.float32)
        return (np.asarray(x, np.float64) - np.array(self.origin)).astype(np.float32)

    def _check_missing(self, x: np.ndarray, check: "_Check") -> None:
        cure = "which is not finite."
        if not self.missing:
            cure += " The run takes no missing numbers: fill or leave out such rows, or train with `missing='nan'`."

        def wrong(rows: np.ndarray) -> np.ndarray:
            with np.errstate(over="ignore"):
                return ~np.isfinite(rows.astype(np.float32, copy=False)) & ~(np.isnan(rows) & self.missing)

        check.refuse(x, wrong, cure)

    def _floats_for_levels(self, x: np.ndarray, check: "_Check") -> DataError:
        L, whole = self.num_levels or 2, np.dtype(np.uint8 if (self.num_levels or 2) <= _BYTE else np.int32)
        cure = f"x.astype(np.{whole})" if x.size and x.max() > 1 else f"np.round(x * {L - 1}).astype(np.{whole})"
        return DataError(
            f"{check.name}: type {x.dtype}; the run was trained on whole numbers, levels 0 ... {L - 1}. Save {cure}."
        )

    def _of_floats(self, x: np.ndarray, seed: int | None) -> Tensor:
        """Makes x of floats where the data were levels: they are x already, or the intensities that bits come from."""
        L, check = self.num_levels or 2, _Check(self, "x", "datum")
        self._check_missing(x, check)
        if self.recipe == "levels":
            check.refuse(
                x,
                lambda rows: (rows < 0) | (rows > L - 1) | ((np.floor(rows) != rows) & (rows == rows)),
                f"the program takes levels, whole numbers 0 ... {L - 1}. Of intensities in [0, 1] they are "
                f"(x * {L - 1}).round().",
            )
            return torch.from_numpy(x.astype(np.float32))
        check.refuse(
            x,
            lambda rows: (rows < 0) | (rows > 1),
            f"floats are intensities in [0, 1] here. Pass x / {L - 1}, or the levels 0 ... {L - 1} as whole numbers, "
            "such as uint8.",
        )
        intensity = torch.from_numpy(x.astype(np.float32))
        return intensity if self.recipe == "dequantize" else self._made(intensity, None, seed)

    def _made(self, levels: Tensor, num_levels: int | None, seed: int | None) -> Tensor:
        missing = self.missing and levels.is_floating_point()
        recipe: Recipe = RECIPES["none" if num_levels == 2 and self.recipe != "levels" else self.recipe](
            num_levels, missing
        )
        if not recipe.stream:
            return recipe.make(levels, None)
        if seed is not None:
            return recipe.make(levels, recipe.noise(levels.shape, generator(seed, recipe.stream, "encode")))
        if self.recipe == "dequantize":
            return (levels.float() + 0.5) / (num_levels or 1)
        return RECIPES["threshold"](num_levels, missing).make(levels, None)


class _Check:
    """Refuses numbers by their place."""

    def __init__(self, intake: Intake, name: str, row: str) -> None:
        self.intake, self.name, self.row = intake, name, row

    def refuse(self, x: np.ndarray, wrong: Any, cure: str) -> None:
        for first, rows in formats.blocks(x):
            if (at := wrong(rows)).any():
                where = tuple(int(i) for i in np.unravel_index(at.argmax(), at.shape))
                place = self._position(where[1:])
                raise DataError(f"{self.name}: {rows[where]:g} at {self.row} {first + where[0]}, {place}; {cure}")

    def _position(self, where: tuple[int, ...]) -> str:
        columns = self.intake.columns
        return f"column {columns[where[0]]}" if columns and len(where) == 1 else f"position {where}"


def _array(raw: Any) -> np.ndarray:
    if isinstance(raw, Tensor):
        raw = raw.detach().cpu()
        raw = (raw.float() if raw.dtype == torch.bfloat16 else raw).numpy()
    elif hasattr(raw, "to_numpy"):
        raw = raw.to_numpy()
    array = np.asarray(raw)
    if array.ndim < 2 or not len(array):
        raise DataError(f"x: has shape {array.shape}; the first axis counts data, and a single datum is x[None].")
    return array


def _as(x: np.ndarray, dtype: Any) -> np.ndarray:
    return x if isinstance(x, np.memmap) else x.astype(dtype, copy=False)


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "no"
