"""Intake: how raw data, in the form of a user's file or arrays, become what one trained program sees.

    bits            0 and 1 of any type                   x is 0 or 1
    levels          whole numbers 0..L-1                  x by the recipe: the intensity, a bit, the level ...
    counts          whole numbers, 0 or more              x is the count
    reals           any finite numbers                    x is the number, minus the origin of its column

A program loaded from a run holds an intake (see `Autoencoder.encode`), and so does everything that scores new data.
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.checked_numbers import Checked, plain_array
from pyro_vae.data.own.reading import Reading
from pyro_vae.data.recipes import RECIPES, Recipe
from pyro_vae.data.splits import one_hot
from pyro_vae.errors import DataError
from pyro_vae.randomness import generator


@dataclass(frozen=True)
class Intake:
    """The recipe of the data that a program was trained on.

    Args:
        x_shape: the shape of one datum.
        num_levels: L where the data are levels 0..L-1 (2: bits); None for counts and reals.
        recipe: a key of `RECIPES`.
        data_seed: fixes the noise for rows that are scored.
        missing: whether NaN is a missing number.
        channels_last: whether raw images are (N, H, W, C).
        kept: the positions of the columns of a table that the program sees; empty if it sees all.
        origin: what is subtracted from each of these columns; empty for nothing.
        columns: their names; empty if they have none.
        classes: the names of the classes 0, 1, ...
        width: how many columns the file had, if some were left out; 0 if that is not known.
        dropped: the names of the columns that were left out because they were constant.
        conditional: whether the program needs labels.
        float_levels: whether floats are levels, as in the training data, rather than intensities.

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
    width: int = 0
    dropped: tuple[str, ...] = ()
    conditional: bool = False
    float_levels: bool = False

    @classmethod
    def of_protocol(cls, protocol: Mapping[str, Any], *, data_seed: int, channels_last: bool = False) -> "Intake":
        """Reads the intake from the protocol of the training data.

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
                "float_levels": protocol.get("missing") is not None,
                "channels_last": channels_last,
                "kept": protocol.get("kept", ()),
                "origin": protocol.get("origin", ()),
                "columns": protocol.get("columns", ()),
                "classes": protocol.get("classes") or tuple(map(str, range(number))),
                "width": int(protocol.get("width", 0)),
                "dropped": protocol.get("dropped", ()),
            }
        )

    @classmethod
    def of_dict(cls, values: Mapping[str, Any]) -> "Intake":
        """Reads what `to_dict` wrote.

        Raises:
            ValueError, TypeError, LookupError: these are not such values.
        """
        if values["recipe"] not in RECIPES:
            raise ValueError(f"{values['recipe']!r} is not a recipe")
        made = {
            **values,
            "x_shape": tuple(map(int, values["x_shape"])),
            "kept": tuple(map(int, values["kept"])),
            "origin": tuple(map(float, values["origin"])),
            "columns": tuple(map(str, values["columns"])),
            "classes": tuple(map(str, values["classes"])),
            "dropped": tuple(map(str, values.get("dropped", ()))),
        }
        return cls(**made)

    def to_dict(self) -> dict[str, Any]:
        """Converts the intake to plain values for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @property
    def counts(self) -> bool:
        """Whether x is a count."""
        return self.num_levels is None and self.recipe == "levels"

    @property
    def in_words(self) -> str:
        """Describes one datum, for a message."""
        what = "counts" if self.counts else "floats" if self.num_levels is None else f"{self.num_levels} levels"
        return f"{' x '.join(map(str, self.x_shape))} of {what}"

    def x(self, raw: Any, seed: int | None = None) -> Tensor:
        """Makes x (B, *x_shape) float32 from raw data.

        Whole numbers are levels, or counts. If the training data were levels, floats are x itself: intensities in
        [0, 1]. But if the training data held levels as floats (with gaps, or `num_levels`), floats are levels.

        If the program was trained on bits drawn from intensities, a bit is 1 where the intensity is at least 1/2,
        unless a seed is given. Dequantised levels are at the middle of their cell.

        Args:
            raw: (B, ...), an array, a tensor or nested lists, in the form of the file.
            seed: draws the noise of the recipe as training did, different for each seed; None draws nothing.

        Raises:
            DataError: the data have another form; the message names the place and the cure.
        """
        columns: tuple[str, ...] = ()
        if hasattr(raw, "columns") and self.columns:
            raw, columns = self._of_frame(raw), self.columns
        placed = self.chosen(self._placed(plain_array(raw)), "x", columns)
        if self.num_levels is None or self.num_levels == 2 or placed.dtype.kind != "f" or self.float_levels:
            levels = torch.from_numpy(np.ascontiguousarray(self.stored(placed, "x", "datum")))
            return self._made(levels, self.num_levels, seed)
        floats = torch.from_numpy(Checked(self, "x", "datum").x_in_floats(placed))
        return floats if self.recipe in ("levels", "dequantize") else self._made(floats, None, seed)

    def one_hot(self, y: Any) -> Tensor | None:
        """Makes one-hot labels (B, C) from labels that are one-hot already, or from the name of a class for each datum.

        A number is a name too: 1.0 is the name of class "1". If no class has a number as its name, a number counts the
        classes.

        Raises:
            DataError: a label is not a class of the run, or there are no labels and the program needs them.
        """
        if y is None:
            if self.conditional:
                raise DataError(
                    f"the run is conditional: pass `y`, one label for each datum, of the classes {self._listed()}"
                )
            return None
        if getattr(y, "ndim", 0) == 2:
            return y if isinstance(y, Tensor) else torch.as_tensor(np.asarray(y)).float()
        plain = y.tolist() if isinstance(y, Tensor | np.ndarray) else [y] if np.ndim(y) == 0 else list(y)
        codes = [self._code(value) for value in (plain if isinstance(plain, list) else [plain])]
        return one_hot(torch.tensor(codes), len(self.classes))

    def _code(self, value: Any) -> int:
        value = value.item() if isinstance(value, np.generic | Tensor) else value
        if isinstance(value, bool | float) and math.isfinite(value) and value == int(value):
            value = int(value)
        if str(value) in self.classes:
            return self.classes.index(str(value))
        counts = not any(name.lstrip("-").isdecimal() for name in self.classes)
        if counts and isinstance(value, int) and 0 <= value < len(self.classes):
            return value
        numbers = ", or their numbers" if counts else ""
        raise DataError(f"{value!r} is not a class of the run: {self._listed()}{numbers}")

    def _listed(self) -> str:
        return ", ".join(self.classes[:20]) + (" ..." if len(self.classes) > 20 else "")

    def chosen(self, x: np.ndarray, name: str, columns: tuple[str, ...] = ()) -> np.ndarray:
        """Chooses the columns of a table that the program sees, in its order, and by name if there are names.

        Args:
            x: (N, D).
            name: of the data, for messages.
            columns: the names of the D columns, if they have any.

        Raises:
            DataError: the table has other columns, or the data have another shape.
        """
        if len(self.x_shape) == 1 and x.ndim == 2:
            if columns and self.columns:
                return x[:, self.by_name(name, columns)]
            if self.kept and x.shape[1] != len(self.kept) and self._is_whole(x.shape[1]):
                return x[:, list(self.kept)]
        if x.shape[1:] != self.x_shape:
            cure = ""
            if math.prod(x.shape[1:]) == math.prod(self.x_shape):
                wanted = (-1, *(self.x_shape[1:] if self.x_shape[0] == 1 else self.x_shape))
                cure = f" Save x.reshape{wanted}, if the order of the numbers is the same."
            elif x.shape == self.x_shape or (1, *x.shape) == self.x_shape:
                cure = " Pass a single datum as x[None]."
            whole = f", of {self.width} in the file" if self.width > len(self.kept) else ""
            raise DataError(
                f"{name}: one datum is {_times(x.shape[1:])} numbers; the run was trained on {_times(self.x_shape)}"
                f"{whole}.{cure}"
            )
        return x

    def stored(self, x: np.ndarray, name: str, row: str = "row") -> np.ndarray:
        """Checks the numbers of data that have the form of the run, and converts them to their storage type.

        Args:
            x: (N, *x_shape), as `chosen` returns it.
            name: of the data, for messages.
            row: what a position along the first axis is called.

        Returns:
            uint8, int32 or float32; a mapped file as it is, unless an origin is subtracted from it.

        Raises:
            DataError: the numbers are of another kind or out of range; the message names the place and the cure.
        """
        return Checked(self, name, row).stored(x)

    def by_name(self, name: str, columns: tuple[str, ...]) -> list[int]:
        """Finds the positions of the run's columns among the columns of a file.

        Args:
            name: of the file, for messages.
            columns: their names, in the order of the file.

        Raises:
            DataError: a column is missing.
        """
        if missing := [column for column in self.columns if column not in columns]:
            listed = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
            raise DataError(f"{name}: columns that the run was trained on are missing: {listed}. It needs all of them.")
        return [columns.index(column) for column in self.columns]

    def _is_whole(self, width: int) -> bool:
        """Whether a table this wide can be the file that the run was trained on, before columns were left out."""
        return width == self.width if self.width else width > max(self.kept)

    def _of_frame(self, frame: Any) -> np.ndarray:
        from pyro_vae.data.own.same_columns import in_frame

        found = in_frame(frame, self, Reading(), "x")
        for note in found.notes:
            if note.startswith("Missing"):
                warnings.warn(f"x: {note}", stacklevel=5)
        return found.x["x"]

    def _placed(self, x: np.ndarray) -> np.ndarray:
        """Brings raw data to (B, *x_shape) if only axes have to move."""
        if len(self.x_shape) == 3 and x.ndim == 4 and self.channels_last:
            return x.transpose(0, 3, 1, 2)
        return x[:, None] if x.ndim == 3 and len(self.x_shape) == 3 else x

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


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "no"
