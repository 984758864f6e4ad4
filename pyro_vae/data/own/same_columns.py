"""Finds the columns of a run in another table by name, in a file, in a frame that is scored, and for `encode`."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_vae.data.own.reading import Found, Reading

if TYPE_CHECKING:
    from pyro_vae.data.intake import Intake

_OF_COLUMNS = ("Columns ", "The column ")  # notes about columns that are written again here


def in_frame(frame: Any, intake: "Intake", reading: Reading, name: str) -> Found:
    """Finds the columns of a run in a frame, in the run's order; text and other columns do not matter.

    Args:
        frame: a pandas frame, or another frame whose columns have a name and `to_numpy`.
        intake: the run's recipe of data.
        reading: its `label` and `id` can be missing here.
        name: of the frame, for messages.

    Raises:
        DataError: a column is missing, or holds no numbers.
    """
    import pandas as pd

    from pyro_vae.data.tables.frames import of_frame

    if not isinstance(frame, pd.DataFrame):
        frame = pd.DataFrame({str(column): frame[column].to_numpy() for column in frame.columns})
    names = tuple(str(column).strip() for column in frame.columns)
    return same_columns(name, names, intake, reading, lambda wanted: of_frame(frame, wanted, name))


def same_columns(
    name: str, names: tuple[str, ...], intake: "Intake", reading: Reading, read: Callable[[Reading], Found]
) -> Found:
    """Reads the columns of a run from a table with other columns, in the run's order.

    If the run takes missing numbers, an absent column is missing in every row, with a note.

    Args:
        name: of the table, for messages.
        names: of its columns, as they are stored.
        intake: the run's recipe of data.
        reading: how the run read its table; its label and id can be missing here.
        read: reads the table.

    Raises:
        DataError: a column is missing, or holds no numbers.
    """
    there = {what: given for what in ("label", "id") if (given := getattr(reading, what)) in names}
    wanted = replace(
        reading, label=there.get("label", ""), id=there.get("id", ""), group="", columns=(), missing=intake.missing
    )
    if not intake.columns:
        return read(wanted)
    often = Counter(names)
    if any(often[column] != 1 for column in intake.columns) and _are_renamed(often):
        found = read(wanted)
    else:
        asked = tuple(column for column in intake.columns if often[column])
        if not intake.missing or not asked:
            intake.by_name(name, names)  # the error names the missing ones
        found = read(replace(wanted, columns=asked))
    notes = tuple(note for note in found.notes if not note.startswith(_OF_COLUMNS))
    return _in_order(replace(found, notes=(*notes, *_unknown(names, found, intake, reading))), name, intake)


def _are_renamed(often: Counter[str]) -> bool:
    """Whether reading renames columns: those without a name, and all but the first with the same name."""
    return any(times > 1 or not name or name.startswith("Unnamed:") for name, times in often.items())


def _unknown(names: tuple[str, ...], found: Found, intake: "Intake", reading: Reading) -> list[str]:
    from pyro_vae.data.tables.frames import LABELS

    known = {*intake.columns, *found.columns, *intake.dropped, reading.label, reading.id, reading.group}
    left = [c for c in dict.fromkeys(names) if c not in known and not (found.y and c.lower() in LABELS)]
    return [f"Columns that the run does not use were left out: {', '.join(left[:20])}."] if left else []


def _in_order(found: Found, name: str, intake: "Intake") -> Found:
    x, places = found.x["x"], {column: i for i, column in enumerate(found.columns)}
    absent = [column for column in intake.columns if column not in places]
    if absent and (not intake.missing or len(absent) == len(intake.columns)):
        intake.by_name(name, found.columns)
    if absent:
        x = np.concatenate([x.astype(np.float64), np.full((len(x), 1), np.nan)], 1)
    chosen = x[:, [places.get(column, -1) for column in intake.columns]]
    empty = [c for c, values in zip(intake.columns, chosen.T, strict=True) if len(x) > 1 and _is_empty(values)]
    listed = ", ".join(dict.fromkeys([*absent, *empty]))
    notes = (*found.notes, f"Missing in every row: {listed}.") if listed else found.notes
    return replace(found, x={"x": chosen}, columns=intake.columns, notes=notes)


def _is_empty(values: np.ndarray) -> bool:
    return values.dtype.kind == "f" and bool(np.isnan(values).all())
