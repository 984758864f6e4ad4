"""A table in memory -> `Found`: which columns are x, and which are the label, the name and the group of a row.

numbers, booleans   x, in the order of the table
text, dates         left out, and named in a note; refused if `columns` names them
a count of rows     left out, and named in a note, if it has no name, or one such as id, index, row or sample_nr
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_any_real_numeric_dtype

from pyro_vae.data.own.reading import Found, Reading
from pyro_vae.data.tables.column_cells import has_decimal_comma, is_count, is_sequence, numbers, plain
from pyro_vae.errors import DataError, UsageError, guess

LABELS = ("label", "labels", "target", "class", "y")
_COUNTERS = {"id", "ids", "index", "row", "rows", "number", "nr", "no", "sample"}
_UNNAMED = re.compile(r"(Unnamed: \d+)?")
_WORDS = re.compile(r"[^\W_]+")
_FEW_CLASSES, _ROWS_PER_CLASS = 20, 5  # what numbers that happen to be called y must look like to count as classes
_LONGEST = 100  # characters of a name in a sentence


def of_frame(frame: pd.DataFrame, reading: Reading, name: str) -> Found:
    """Finds x, labels, groups and names of rows in a pandas frame.

    x is (N, D): bool or int64 if all of its columns are, else float64 with NaN where a cell is empty. The index names
    the rows unless it is 0, 1, 2, ... or `reading.id` names a column.

    Args:
        frame: N rows; it is not changed.
        reading: its `label`, `id`, `group` and `columns` name columns.
        name: the name of the frame in messages.

    Raises:
        UsageError: a name is not a column, or one column has two uses.
        DataError: there are no rows, no column of numbers, text among numbers, or an empty cell for a label, name or
            group.

    Example:
        >>> frame = pd.DataFrame({"height": [1.5, 2.0], "town": ["Ulm", "Bonn"], "label": ["low", "high"]})
        >>> found = of_frame(frame, Reading(), "towns")
        >>> found.x["x"].tolist(), found.columns, found.y["x"].tolist()
        ([[1.5], [2.0]], ('height',), ['low', 'high'])
        >>> found.notes[1]
        "Columns that hold no numbers were left out: 'town'."
    """
    if 0 in frame.shape:
        raise DataError(f"{name}: holds no {'row of data' if frame.shape[1] else 'column'}.")
    frame, unnamed, notes = _distinct(frame, reading, name)
    _check_uses(frame, reading, name)
    reading, about_label = _label(frame, reading, name)
    x, left_out = _columns(frame, reading, unnamed, name)
    uses = {"y": reading.label, "groups": reading.group, "ids": reading.id}
    no_label: tuple[str, ...] = ()
    if reading.label and not reading.needs_labels and frame[reading.label].isna().any():
        at = int(frame[reading.label].isna().to_numpy().argmax())
        no_label = (
            f"The labels were left out, since nothing needs them: the label of row {at} is missing in the column "
            f"{reading.label!r}.",
        )
        del uses["y"]
    side: dict[str, Any] = {use: {"x": plain(frame[c], f"{name}: column {c!r}")} for use, c in uses.items() if c}
    if "ids" not in side and not is_count(frame.index.to_numpy(), (0,)):
        side["ids"] = {"x": plain(frame.index.to_series(), f"{name}: the index")}
    return Found(
        name=name,
        source=f"The user's own table {name}.",
        x={"x": _stacked(list(x.values()))},
        columns=tuple(x),
        notes=(*notes, *about_label, *no_label, *left_out, *_decimal_commas(frame, x)),
        warnings=no_label,
        **side,
    )


def named(names: Iterable[str], most: int = 10) -> str:
    """Lists the first names in quotes.

    Example:
        >>> named(["a", "b", "c"], most=2)
        "'a', 'b' and 1 more"
    """
    names = list(names)
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(repr(name[:_LONGEST]) for name in names[:most]) + more


def _distinct(frame: pd.DataFrame, reading: Reading, place: str) -> tuple[pd.DataFrame, set[str], list[str]]:
    """Gives each column a distinct name; also returns the columns that had none, and the notes."""
    stored = ["" if _UNNAMED.fullmatch(str(name).strip()) else str(name).strip() for name in frame.columns]
    taken, often = set(stored), Counter(stored)
    twice = [name for name in dict.fromkeys(stored) if name and often[name] > 1]
    asked = [n for n in twice if n in (reading.label, reading.id, reading.group, *reading.columns)]
    if asked:
        raise DataError(f"{place}: has several columns {named(asked)}. Give each column its own name.")
    names: list[str] = []
    seen: Counter[str] = Counter()
    for i, name in enumerate(stored):
        own = name if name and not seen[name] else _free(name or f"column {i}", taken, bool(name))
        seen[name] += 1
        taken.add(own)
        names.append(own)
    unnamed = {own for own, name in zip(names, stored, strict=True) if not name}
    notes = [f"Of several columns with one name, all but the first were renamed: {named(_renamed(names, stored))}."]
    return frame.set_axis(names, axis=1), unnamed, notes if twice else []


def _free(name: str, taken: set[str], copy: bool) -> str:
    k = 1
    own = f"{name}.1" if copy else name
    while own in taken:
        own, k = f"{name}.{k}", k + 1
    return own


def _renamed(names: list[str], stored: list[str]) -> list[str]:
    return [own for own, name in zip(names, stored, strict=True) if name not in ("", own)]


def _check_uses(frame: pd.DataFrame, reading: Reading, place: str) -> None:
    uses = {"label": reading.label, "id": reading.id, "group": reading.group}
    for use, column in [*uses.items(), *(("columns", column) for column in reading.columns)]:
        if column or use == "columns":
            _check_column(column, list(frame.columns), use, place)
    for column, times in Counter(reading.columns).items():
        use = next((use for use, other in uses.items() if other == column), "columns" if times > 1 else "")
        if use:
            raise UsageError(f"{place}: `columns` names {column!r}, and `{use}` names it too. Leave it out of one.")


def _check_column(column: str, names: Sequence[str], use: str, place: str) -> None:
    if column not in names:
        raise UsageError(f"{place}: `{use}={column!r}` is not a column; {guess(column, names, named(names))}")


def _label(frame: pd.DataFrame, reading: Reading, place: str) -> tuple[Reading, list[str]]:
    """Names the label column if the user did not and exactly one column is called like a label."""
    free = [c for c in frame.columns if c not in (reading.id, reading.group, *reading.columns)]
    found = [] if reading.label else [c for c in free if c.lower() in LABELS]
    if not found:
        return reading, []
    if len(found) > 1:
        return reading, [
            f"Any of the columns {named(found)} could be the label, and none was chosen. `label` names it."
        ]
    if not _are_classes(frame[found[0]], place):
        why = f"The column {found[0]!r} holds too many values for classes and was taken as part of x; "
        return reading, [f"{why}`label={found[0]!r}` makes it the label."]
    return replace(reading, label=found[0]), [f"The column {found[0]!r} was taken as the label."]


def _are_classes(column: pd.Series, place: str) -> bool:
    values = numbers(column, place) if is_any_real_numeric_dtype(column) or has_decimal_comma(column) else None
    if values is None:
        return True
    kinds = np.unique(values[~np.isnan(values)] if values.dtype.kind == "f" else values)
    whole = bool((kinds == np.floor(kinds)).all()) if kinds.dtype.kind == "f" else True
    return whole and (len(kinds) <= _FEW_CLASSES or _ROWS_PER_CLASS * len(kinds) <= len(values))


def _columns(
    frame: pd.DataFrame, reading: Reading, unnamed: set[str], place: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Maps the names of the columns of x to their numbers, and notes which columns were left out."""
    used = {reading.label, reading.id, reading.group}
    found = {c: numbers(frame[c], f"{place}: column {c!r}") for c in reading.columns or frame.columns if c not in used}
    text = [c for c, values in found.items() if values is None]
    x = {c: values for c, values in found.items() if values is not None}
    empty = [c for c, values in x.items() if values.dtype.kind == "f" and np.isnan(values).all()]
    steps = [c for c in x if (is_sequence(x[c]) or is_count(x[c])) and not reading.columns]
    counts = [c for c in steps if (c in unnamed and is_count(x[c])) or _COUNTERS & set(_WORDS.findall(c.lower()))]
    steps = [c for c in steps if c not in counts and is_sequence(x[c])]
    for wrong, what in ((text, "text, or other things that are not numbers"), (empty, "only empty cells")):
        if wrong and reading.columns and not (wrong is empty and reading.missing):
            raise DataError(f"{place}: `columns` names {named(wrong)}, which holds {what}. {_ENCODE}")
    dropped = {*counts, *([] if reading.columns else empty)}
    x = {c: values for c, values in x.items() if c not in dropped}
    if not x:
        raise DataError(
            f"{place}: no column of numbers is left for x; the columns are {named(frame.columns)}. {_ENCODE}"
        )
    return x, [
        *([f"Columns that hold no numbers were left out: {named(text)}."] if text else []),
        *([f"Columns without any value were left out: {named(empty)}."] if {*empty} & dropped else []),
        *([f"Columns that count the rows were left out: {named(counts)}. `columns` keeps them."] if counts else []),
        *([_STEPS.format(named(steps))] if steps else []),
    ]


_STEPS = (
    "Columns that change by one step from row to row were taken as x: {}. If they only count the rows, leave "
    "them out with `columns`, or name one with `id`."
)
_ENCODE = "Leave it out, or convert it to numbers: pandas.get_dummies(frame, columns=[...])."


def _decimal_commas(frame: pd.DataFrame, x: dict[str, np.ndarray]) -> list[str]:
    commas = [column for column in x if has_decimal_comma(frame[column])]
    return [f"The comma is the decimal sign in the columns {named(commas)}."] if commas else []


def _stacked(columns: list[np.ndarray]) -> np.ndarray:
    kinds = {values.dtype.kind for values in columns}
    kind = np.float64 if "f" in kinds else np.int64 if "i" in kinds else np.bool_
    x: np.ndarray = np.empty((len(columns[0]), len(columns)), kind)
    for i, values in enumerate(columns):
        x[:, i] = values
    return x
