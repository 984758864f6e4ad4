"""The columns of a table of reals, before they become float32: which say nothing, and which would lose their digits.

The model standardises by itself, so a table stays in its own units here. What a float32 cannot do is to hold numbers
far from 0 that lie close together, such as times in seconds since 1970: six of them, 10 s apart, are one float32. From
such a column its training mean, rounded to a float32, is taken away, which changes no density.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from pyro_vae.data.sources import Part, Raw

_LOST = 2.0**-10  # of the spread of a column, by which rounding to float32 may move it
_COMMON = 0.05  # of the rows, above which a value has no bounded density


class Columns(NamedTuple):
    """What was done to the columns of a table.

    Attributes:
        raw: the data set with the columns that stay, float64.
        kept: (D,) their positions among those of the file.
        origin: (D,) what was taken away from each, 0 from most.
        notes: sentences.
    """

    raw: Raw
    kept: np.ndarray
    origin: np.ndarray
    notes: tuple[str, ...]


def fitted(raw: Raw, train: np.ndarray) -> Columns:
    """Leaves out columns that are constant among the training rows, and moves those that float32 would round away.

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


def _changed(part: Part, kept: np.ndarray, origin: np.ndarray) -> np.ndarray:
    return np.asarray(part.levels, np.float64)[:, kept] - origin


def _left_out(names: tuple[str, ...], constant: np.ndarray) -> list[str]:
    if not constant.any():
        return []
    if constant.all():
        return ["All columns are constant among the training rows: there is nothing to learn."]
    return [f"Left out, since constant among the training rows: {_listed(names, constant)}."]


def _moved(names: tuple[str, ...], far: np.ndarray) -> list[str]:
    if not far.any():
        return []
    return [
        f"Float32 would round away the differences in {_listed(names, far)}: their training mean was taken away, which "
        "changes no log p(x)."
    ]


def _common(names: tuple[str, ...], rows: np.ndarray, kept: np.ndarray) -> list[str]:
    """Names columns one of whose values is so common that their density has no upper bound."""
    found = []
    for i in kept:
        column = rows[:, i]
        values, counts = np.unique(column[~np.isnan(column)], return_counts=True)
        if len(column) >= 30 and counts.max() > max(_COMMON * len(column), 2):
            found.append(f"{names[i]} ({values[counts.argmax()]:g} in {counts.max() / len(column):.0%})")
    if not found:
        return []
    listed = ", ".join(found[:10]) + (f" and {len(found) - 10} more" if len(found) > 10 else "")
    return [
        f"A value repeats often in {listed}. A density there has no upper bound, so that log p(x) says more about the "
        "smallest scale allowed than about the data; such a column is better a class or a count."
    ]


def _listed(names: tuple[str, ...], chosen: np.ndarray) -> str:
    listed = [names[i] for i in np.flatnonzero(chosen)]
    return ", ".join(listed[:10]) + (f" and {len(listed) - 10} more" if len(listed) > 10 else "")
