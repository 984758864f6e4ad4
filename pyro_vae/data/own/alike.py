"""New data in the form of the training data: every row of a file, in its order, as one split.

Levels, recipe, columns and classes come from the run; the file does not change them. A file of another form is refused
with the place and the cure.
"""

import os
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from pyro_vae.data import ARRAY_ENDINGS, TABLE_ENDINGS, formats
from pyro_vae.data.intake import Intake
from pyro_vae.data.own import in_memory, same_columns
from pyro_vae.data.own import labels as label_names
from pyro_vae.data.own.archives import read_rows
from pyro_vae.data.own.conversions import other_format
from pyro_vae.data.own.layout import laid_out
from pyro_vae.data.own.reading import Found, Reading
from pyro_vae.data.splits import Split
from pyro_vae.errors import DataError, UsageError

NAME = "rows"


class Alike(NamedTuple):
    """New data as a program sees them.

    Attributes:
        split: all rows in the order of the file.
        name: of the file.
        notes: sentences.
        sha256: of the file, or of the arrays.
    """

    split: Split
    name: str
    notes: tuple[str, ...]
    sha256: str


def rows_alike(
    data: Any,
    intake: Intake,
    reading: Reading,
    *,
    y: Any = None,
    array: str = "",
    needs_labels: bool = False,
    map_above: int = formats.MAP_ABOVE,
) -> Alike:
    """Reads new data as one split, with the recipe of a run.

    The noise of binarising or dequantising depends on the data seed and the row: the same row of any file gets the same
    noise.

    Args:
        data: the path of a file or a folder of images, or an array (N, ...), a tensor or a frame.
        intake: the run's recipe of data.
        reading: how the run read its own file.
        y: labels (N,), if the data are in memory.
        array: the name of an array in an archive.
        needs_labels: whether an unknown label is an error; if not, labels are left out, with a note.
        map_above: a `.npy` file with more bytes is mapped, not read.

    Raises:
        DataError: there is no such file, or it has another form.
        UsageError: the file has several arrays that could be meant.

    Example:
        >>> new = rows_alike(np.array([[[0, 255]]], np.uint8), Intake((1, 1, 2), 256, "none"), Reading())
        >>> new.split.fixed()
        tensor([[[[0., 1.]]]])
    """
    found = _found(data, intake, reading, y, array, map_above)
    if len(found.x) > 1:
        parts = [key.removeprefix("x_") for key in found.x]
        raise DataError(
            f"{found.name}: holds the splits {', '.join(parts)}. Name the folder of one of them, such as {data}/test."
        )
    key = next(iter(found.x))
    if found.mask and not intake.missing:
        raise DataError(f"{found.name}: holds a mask of missing numbers, but the run takes none.")
    placed, of_layout = laid_out(found, reading)
    x = intake.chosen(placed[key], found.name, found.columns)
    stored = intake.stored(x, found.name)
    if found.mask:
        mask = intake.chosen(placed[f"mask of {key}"], found.name, found.columns)
        stored = np.where(mask, stored, np.float32(np.nan)).astype(np.float32)
    codes, of_labels = _labels(found, key, intake, needs_labels)
    split = _split(stored, codes, intake)
    ids = found.ids.get(key)
    if ids is not None and ids.shape != (len(x),):
        raise DataError(f"{found.name}: the ids have shape {ids.shape}; expected one for each of the {len(x)} rows.")
    notes = (*found.notes, *_without_split_notes(of_layout), *of_labels)
    digest = "".join(found.files.values())[:64]
    return Alike(replace(split, file_rows=torch.arange(len(x)), ids=ids), found.name, notes, digest)


def _found(data: Any, intake: Intake, reading: Reading, y: Any, array: str, map_above: int) -> Found:
    if not isinstance(data, str | os.PathLike):
        return _in_memory(data, intake, reading, y)
    path = Path(data)
    ending = path.suffix.lower()
    if ending in ARRAY_ENDINGS:
        return read_rows(path, reading, array, map_above)
    if array:
        raise UsageError(f"`array` names an array of an .npz file, and {path} is not one: leave it out")
    if ending in TABLE_ENDINGS:
        return _table(path, intake, reading)
    if path.is_dir():
        return _folder(path, intake, reading)
    other = other_format(path) if path.exists() else ""
    raise DataError(
        f"{path}: {other or 'there is no such file: name a .npy, .npz or .csv file, or a folder of images.'}"
    )


def _in_memory(data: Any, intake: Intake, reading: Reading, y: Any) -> Found:
    if not hasattr(data, "columns") or not intake.columns:
        return in_memory.found("the array", data, y, None, None, {})[0]
    found = same_columns.in_frame(data, intake, reading, "the frame")
    labels = found.y if y is None else {"x": np.asarray(y)}
    return replace(found, y=labels, files={"x": in_memory.digest(found.x["x"])})


def _table(path: Path, intake: Intake, reading: Reading) -> Found:
    from pyro_vae.data.tables.table_file import read_csv
    from pyro_vae.data.tables.table_text import form_of_file

    if not path.is_file():
        raise DataError(f"{path}: there is no such file.")
    names = tuple(form_of_file(path).names)
    return same_columns.same_columns(path.name, names, intake, reading, lambda wanted: read_csv(path, wanted))


def _folder(path: Path, intake: Intake, reading: Reading) -> Found:
    """Reads images. Black and white become 0 and 255 if the run has grey levels."""
    from pyro_vae.data.images.image_folder import read_folder

    found = read_folder(path, reading)
    first = next(iter(found.x.values()))
    L = intake.num_levels or 2
    if L == 2 or first.dtype != np.uint8 or first.shape[1] != 1 or first.max() > 1:
        return found
    grey = read_folder(path, replace(reading, colour="grey"))  # the levels 0 and 1 of 8 bits stay as they are
    if next(iter(grey.x.values())).max() > L - 1:
        raise DataError(f"{path}: its images are black and white, but the run was trained on levels 0 ... {L - 1}.")
    return grey


def _labels(found: Found, key: str, intake: Intake, needs_labels: bool) -> tuple[torch.Tensor | None, tuple[str, ...]]:
    y = found.y.get(key)
    if y is None or not intake.classes:
        return None, ()
    if found.classes:
        y = np.array(found.classes)[y]
    try:
        codes = label_names.by_name(found.name, key, y, len(found.x[key]), intake.classes)
    except DataError as error:
        if needs_labels:
            raise
        return None, (f"The labels were left out, since nothing needs them. ({error})",)
    return torch.from_numpy(codes), ()


def _split(stored: np.ndarray, labels: torch.Tensor | None, intake: Intake) -> Split:
    # Each row is seen in one draw only, as if it were drawn once.
    recipe = "dynamic" if intake.recipe == "static" else "none" if _are_bits(intake) else intake.recipe
    rows = torch.arange(len(stored)) if isinstance(stored, np.memmap) else None
    levels = _tensor(stored)
    return Split.make(NAME, levels, labels, intake.num_levels, recipe, intake.data_seed, rows, intake.missing)


def _are_bits(intake: Intake) -> bool:
    return intake.num_levels == 2 and intake.recipe != "levels"


def _tensor(stored: np.ndarray) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(np.ascontiguousarray(stored) if not isinstance(stored, np.memmap) else stored)


def _without_split_notes(notes: Iterable[str]) -> tuple[str, ...]:
    return tuple(note for note in notes if not note.startswith("Pictures"))
