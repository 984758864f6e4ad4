"""The columns of a table of reals before they become float32: which are constant, and which would lose digits.

The model does the standardising, so a table stays in its own units here. But a float32 cannot hold numbers far from 0
that lie close together, such as times in seconds since 1970: six of them, 10 s apart, are one float32. The training
mean of such a column, rounded to a float32, is subtracted from it, which changes no density.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from pyro_vae.data.sources import Part, Raw

_LOST = 2.0**-10  # share of the spread of a column by which rounding to float32 may move it
_MOST_NAMES, _MOST_NOTES = 15, 10  # names in one note, and notes of one kind
_FAR = 3.0  # spreads of the other numbers of a column
_SENTINELS = (-9.0, -99.0, -999.0, -9999.0, -99999.0, 99.0, 999.0, 9999.0, 99999.0, 999999.0)
_COMMON = 0.05  # share of the rows; a more frequent value has no bounded density


class Columns(NamedTuple):
    """What was done to the columns of a table.

    Attributes:
        raw: the data set with the columns that stay, float64.
        kept: (D,) their positions among the columns of the file.
        origin: (D,) what was subtracted from each, mostly 0.
        notes: sentences.
    """

    raw: Raw
    kept: np.ndarray
    origin: np.ndarray
    notes: tuple[str, ...]


def fitted(raw: Raw, train: np.ndarray) -> Columns:
    """Leaves out columns that are constant among the training rows, and shifts those that float32 would round away.

    Args:
        raw: a table of reals, its parts (N, D) float64 or float32.
        train: (N, D), the training rows.
    """
    names = raw.columns or tuple(f"column {i}" for i in range(train.shape[1]))
    rows = np.asarray(train, np.float64)
    with np.errstate(invalid="ignore"):
        observed = ~np.isnan(rows)
        size = np.maximum(observed.sum(0), 1)
        mean = np.where(observed, rows, 0).sum(0) / size
        spread = np.sqrt(np.where(observed, (rows - mean) ** 2, 0).sum(0) / size)
    constant = spread <= np.maximum(1e-12 * np.abs(mean), np.finfo(np.float32).tiny)
    kept = np.flatnonzero(~constant)
    far = np.abs(mean) * 2.0**-24 > _LOST * spread
    origin = np.where(far, mean.astype(np.float32).astype(np.float64), 0.0)[kept]
    notes = [*_left_out(names, constant), *_moved(names, far & ~constant), *_common(names, rows, kept)]
    if constant.all() or not (constant.any() or origin.any()):
        return Columns(raw, np.arange(len(names)), np.zeros(len(names)), tuple(notes))
    parts = tuple(replace(part, levels=_changed(part, kept, origin)) for part in raw.parts)
    columns = tuple(raw.columns[i] for i in kept) if raw.columns else ()
    return Columns(replace(raw, parts=parts, columns=columns), kept, origin, tuple(notes))


def doubtful(x: dict[str, np.ndarray], columns: tuple[str, ...], *, sentinels: bool) -> tuple[str, ...]:
    """Names columns that are mostly empty, and columns in which a number such as -999 could mark a missing one.

    Args:
        x: the parts of a table in memory, (N, D); other data get no notes.
        columns: the names of the D columns, if they have any.
        sentinels: whether to look for such numbers.

    Example:
        >>> column = np.r_[np.arange(20.0), -999, -999][:, None]
        >>> print(*doubtful({"x": column}, ("age",), sentinels=True))
        age holds -999 in 2 of 22 rows, far from its other numbers, which looks like a missing number: save NaN there, \
and use `missing=True`.
    """
    parts = list(x.values())
    if parts[0].ndim != 2 or any(isinstance(part, np.memmap) for part in parts) or parts[0].dtype.kind != "f":
        return ()
    notes, size = [], sum(map(len, parts))
    names = columns or tuple(f"column {i}" for i in range(parts[0].shape[1]))
    for i, name in enumerate(names):
        column = np.concatenate([part[:, i] for part in parts]).astype(np.float64)
        observed = column[~np.isnan(column)]
        if 2 * len(observed) < size:
            notes.append(f"{name} is empty in {size - len(observed):,} of {size:,} rows.")
        found = _sentinels(observed) if sentinels else {}
        notes += [
            f"{name} holds {value:g} in {count:,} of {size:,} rows, far from its other numbers, which looks like a "
            "missing number: save NaN there, and use `missing=True`."
            for value, count in found.items()
        ]
    more = [f"And {len(notes) - _MOST_NOTES} more such columns."] if len(notes) > _MOST_NOTES else []
    return (*notes[:_MOST_NOTES], *more)


def _sentinels(observed: np.ndarray) -> dict[float, int]:
    """Counts each number that people write for a missing one, if it is unlike the other numbers."""
    is_one = np.isin(observed, _SENTINELS)
    others = observed[~is_one]
    if not is_one.any() or len(others) < 3:
        return {}
    reach = _FAR * others.std()
    values, counts = np.unique(observed[is_one], return_counts=True)
    far = (values < others.min() - reach) | (values > others.max() + reach)
    return dict(zip(values[far].tolist(), counts[far].tolist(), strict=True))


def constant(rows: np.ndarray) -> np.ndarray:
    """Returns which columns (D,) of rows (N, D) hold only one number, apart from gaps."""
    with np.errstate(invalid="ignore"):
        low, high = np.fmin.reduce(rows, axis=0), np.fmax.reduce(rows, axis=0)
    return ~(low < high)


def said_of_constant(rows: np.ndarray, columns: tuple[str, ...], of: str, why: str) -> list[str]:
    """Names the constant columns that stay, in rows (N, D) that the note calls `of`.

    Example:
        >>> said_of_constant(np.array([[1, 2], [1, 3]]), (), "the training rows", "A count of 0 tells nothing.")
        ['Constant among the training rows: column 0. A count of 0 tells nothing.']
    """
    found = constant(rows)
    names = columns or tuple(f"column {i}" for i in range(rows.shape[1]))
    return [f"Constant among {of}: {listed(names, found)}. {why}"] if found.any() else []


def x_is(columns: tuple[str, ...]) -> list[str]:
    """Makes the sentence that says which columns are x.

    Example:
        >>> x_is(("height", "mass"))
        ['x: height, mass (2 columns).']
    """
    more = f" and {len(columns) - _MOST_NAMES} more" if len(columns) > _MOST_NAMES else ""
    number = f"{len(columns):,} column{'s' if len(columns) > 1 else ''}"
    return [f"x: {', '.join(name[:40] for name in columns[:_MOST_NAMES])}{more} ({number})."] if columns else []


def _changed(part: Part, kept: np.ndarray, origin: np.ndarray) -> np.ndarray:
    return np.asarray(part.levels, np.float64)[:, kept] - origin


def _left_out(names: tuple[str, ...], constant: np.ndarray) -> list[str]:
    if not constant.any():
        return []
    if constant.all():
        return ["All columns are constant among the training rows: there is nothing to learn."]
    return [f"Left out because they are constant among the training rows: {listed(names, constant)}."]


def _moved(names: tuple[str, ...], far: np.ndarray) -> list[str]:
    if not far.any():
        return []
    return [
        f"Float32 would round away the differences in {listed(names, far)}: their training mean was subtracted, which "
        "changes no log p(x)."
    ]


def _common(names: tuple[str, ...], rows: np.ndarray, kept: np.ndarray) -> list[str]:
    """Names columns with a value so common that their density has no upper bound."""
    found = []
    for i in kept:
        column = rows[:, i]
        values, counts = np.unique(column[~np.isnan(column)], return_counts=True)
        if len(column) >= 30 and counts.max() > max(_COMMON * len(column), 2):
            found.append(f"{names[i]} ({values[counts.argmax()]:g} in {counts.max() / len(column):.0%})")
    if not found:
        return []
    first = ", ".join(found[:10]) + (f" and {len(found) - 10} more" if len(found) > 10 else "")
    return [
        f"A value repeats often in {first}. A density has no upper bound there, so log p(x) says more about the "
        "smallest scale allowed than about the data. To leave such a column out, name the others with `columns`; "
        "`label` makes it the class."
    ]


def listed(names: tuple[str, ...], chosen: np.ndarray) -> str:
    """Names the first ten of the chosen columns (D,)."""
    found = [names[i] for i in np.flatnonzero(chosen)]
    return ", ".join(found[:10]) + (f" and {len(found) - 10} more" if len(found) > 10 else "")
