"""The cells of a column -> numbers or plain labels; an error names the row and value of anything else."""

import re
from decimal import Decimal

import numpy as np
import pandas as pd
from pandas.api import types

from pyro_vae.errors import DataError

NUMBER = r"\s*[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?\s*"
DECIMAL_COMMA = r"\s*[+-]?\d*,\d+(?:[eE][+-]?\d+)?\s*"
_COMMA_THOUSANDS = r"\s*[+-]?[1-9]\d{0,2}(?:,\d{3})+\s*"
_SEPARATED = r"\s*[+-]?\d{1,3}(?:[,.'\u00a0\u202f\u2019 ]\d{3})+(?:[.,]\d+)?\s*"
MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "-NaN", "-nan", "#N/A", "#NA", "<NA>", "NULL", "null", "None", "?")
_LONGEST = 200  # characters in a label or the name of a row


class SeparatorError(DataError):
    """A column of numbers with signs that could separate thousands, which a reader must not guess.

    Args:
        place: file and column.
        what: what is wrong.
        steps: what to do to the text of that column only, by when it is right; empty if nothing is sure.
    """

    def __init__(self, place: str, what: str, steps: dict[str, str]) -> None:
        self.place, self.what, self.steps = place, what, steps
        super().__init__(self.said(place.partition(": column ")[2], "", ""))

    def said(self, column: str, before: str, after: str) -> str:
        """Returns the message with its cure, as code between two pieces, for a frame whose column has this key."""
        if not self.steps:
            return f"{self.place}{self.what} Write all numbers of that column in the same way."
        edits = (f"frame[{column}] = frame[{column}]{step}{when}" for when, step in self.steps.items())
        return f"{self.place}{self.what} Change only that column: {before}{' or '.join(edits)}{after}"


def numbers(series: pd.Series, place: str) -> np.ndarray | None:
    """Reads the numbers of a column: bool, int64, or float64 with NaN for an empty cell; None for text and dates.

    Text of numbers with a decimal comma is read as numbers.

    Args:
        series: N cells.
        place: file and column, for messages.

    Raises:
        DataError: a few cells of text among numbers, or separators of thousands.

    Example:
        >>> numbers(pd.Series(["1,5", None, "2"]), "sizes.csv: column 'a'").tolist()
        [1.5, nan, 2.0]
        >>> numbers(pd.Series(["Ulm", "Bonn"]), "sizes.csv: column 'a'") is None
        True
        >>> numbers(pd.Series(["1", "2", "two"]), "sizes.csv: column 'a'")
        Traceback (most recent call last):
        ...
        pyro_vae.errors.DataError: sizes.csv: column 'a' holds numbers, and 'two' in row 2. Leave that cell empty \
if the number is missing, or name the columns of x with `columns`.
    """
    kind = series.dtype
    if types.is_bool_dtype(kind):
        return _with_gaps(series, bool)
    if types.is_complex_dtype(kind) or isinstance(kind, pd.CategoricalDtype):
        return None
    if types.is_numeric_dtype(kind):
        fits = types.is_integer_dtype(kind) and (series.empty or series.max() is pd.NA or series.max() < 2**63)
        return _with_gaps(series, np.int64 if fits else np.float64)
    return _of_text(series, place) if types.is_object_dtype(kind) or types.is_string_dtype(kind) else None


def _with_gaps(series: pd.Series, kind: type) -> np.ndarray:
    if series.isna().any():
        return series.to_numpy(np.float64, na_value=np.nan)
    return series.to_numpy(kind)


def _of_text(series: pd.Series, place: str) -> np.ndarray | None:
    given = (series.notna() & ~series.astype(str).str.strip().isin(MISSING)).to_numpy(bool)
    cells = series[given]
    values = np.full(len(series), np.nan)
    if all(isinstance(cell, bool | int | float | np.number | np.bool_ | Decimal) for cell in cells):
        values[given] = [float(cell) for cell in cells]
        return values
    text = cells.astype(str)
    plain, comma = (text.str.fullmatch(form).to_numpy(bool) for form in (NUMBER, DECIMAL_COMMA))
    rows = np.flatnonzero(given)
    if (plain | comma).all():
        _check_commas(text, plain, comma, rows, place)
        values[given] = text.str.replace(",", ".").astype(np.float64)
        return values
    _check_text(text, plain | comma, rows, place)
    return None


def _check_commas(text: pd.Series, plain: np.ndarray, comma: np.ndarray, rows: np.ndarray, place: str) -> None:
    """Refuses commas that could separate thousands, and points next to them."""
    if not comma.any():
        return
    thousands = text.str.fullmatch(_COMMA_THOUSANDS).to_numpy(bool)
    if (thousands == comma).all():
        steps = {" (for thousands)": _without(","), " (for decimals)": POINTED}
        first = comma.argmax()
        raise SeparatorError(place, _said(text.iloc[first], rows[first], "could separate thousands or decimals"), steps)
    point = plain & text.str.contains(".", regex=False).to_numpy(bool)
    if point.any():
        one, other = (f"{text.iloc[i]!r} in row {rows[i]}" for i in (comma.argmax(), point.argmax()))
        raise DataError(
            f"{place} has a decimal comma, {one}, and a decimal point, {other}. Use the same sign in all cells."
        )


POINTED = ".str.replace(',', '.')"


def _without(sign: str) -> str:
    return f".str.replace({sign!r}, '')"


def _said(cell: str, row: int, what: str) -> str:
    return f": the sign within {cell[:_LONGEST]!r} in row {row} {what}."


def _steps(text: pd.Series, separated: np.ndarray) -> dict[str, str]:
    """How to write a column without its separators of thousands, which are the first sign in such cells."""
    signs = {next(c for c in cell.strip() if not c.isdigit() and c not in "+-") for cell in text[separated]}
    sign = signs.pop()
    others = text[~separated & text.str.contains(sign, regex=False).to_numpy(bool)]
    if signs or (sign in ",." and not others.str.fullmatch(_SEPARATED).all()):
        return {}
    comma = sign != "," and text.str.contains(",", regex=False).any()
    return {"": _without(sign) + (POINTED if comma else "")}


def _check_text(text: pd.Series, number: np.ndarray, rows: np.ndarray, place: str) -> None:
    """Refuses a column that holds numbers except in some cells."""
    separated = text.str.fullmatch(_SEPARATED).to_numpy(bool) & ~number
    if separated.any() and (number | separated).all():
        first = separated.argmax()
        what = _said(text.iloc[first], rows[first], "separates thousands")
        raise SeparatorError(place, what, _steps(text, separated))
    if 2 * number.sum() > len(number):
        first = (~number).argmax()
        raise DataError(
            f"{place} holds numbers, and {text.iloc[first][:_LONGEST]!r} in row {rows[first]}. Leave that cell "
            "empty if the number is missing, or name the columns of x with `columns`."
        )


def has_decimal_comma(series: pd.Series) -> bool:
    """Returns whether the cells of a column are numbers, some with a decimal comma.

    Example:
        >>> has_decimal_comma(pd.Series(["1,5", None, "2"])), has_decimal_comma(pd.Series(["Ulm, Bonn"]))
        (True, False)
    """
    if not types.is_string_dtype(series.dtype):
        return False
    text = series.dropna().astype(str)
    return bool(text.str.contains(",", regex=False).any() and text.str.fullmatch(f"{NUMBER}|{DECIMAL_COMMA}").all())


def plain(series: pd.Series, place: str) -> np.ndarray:
    """Reads labels, groups or names of rows: (N,) bool, int64, float64, or str for anything else.

    Args:
        series: N cells.
        place: file and column, for messages.

    Raises:
        DataError: an empty cell, or one of more than 200 characters.

    Example:
        >>> plain(pd.Series(["low", "high"]), "towns.csv: column 'label'").tolist()
        ['low', 'high']
    """
    empty = series.isna().to_numpy()
    if empty.any():
        raise DataError(f"{place} has an empty cell in row {empty.argmax()}. Fill it, or remove that row.")
    if types.is_bool_dtype(series.dtype) or types.is_any_real_numeric_dtype(series.dtype):
        values = numbers(series, place)
        if values is not None and not (values.dtype == np.float64 and types.is_integer_dtype(series.dtype)):
            return values
    text = [str(cell) for cell in series]
    long = next((row for row, cell in enumerate(text) if len(cell) > _LONGEST), None)
    if long is not None:
        raise DataError(f"{place} has {len(text[long]):,} characters in row {long}; a name has at most {_LONGEST}.")
    return np.array(text, dtype=str)


def is_sequence(values: np.ndarray) -> bool:
    """Returns whether values are whole numbers that go up or down by one step from each row to the next.

    Example:
        >>> is_sequence(np.array([3, 10, 17])), is_sequence(np.array([3, 3, 3]))
        (True, False)
    """
    if values.dtype.kind not in "iuf" or len(values) < 3 or not np.isfinite(values).all():
        return False
    steps = np.diff(values)
    return bool(steps[0] != 0 and (steps == steps[0]).all() and (np.floor(values) == values).all())


def is_count(values: np.ndarray, firsts: tuple[int, ...] = (0, 1)) -> bool:
    """Returns whether values are 0, 1, 2, ... or 1, 2, 3, ...

    Example:
        >>> is_count(np.array([1, 2, 3])), is_count(np.array([2, 1, 3]))
        (True, False)
    """
    if values.dtype.kind not in "iuf" or len(values) == 0 or values[0] not in firsts:
        return False
    return np.array_equal(values, np.arange(len(values)) + int(values[0]))


IS_NUMBER = re.compile(f"{NUMBER}|{DECIMAL_COMMA}|\\s*(?i:[+-]?inf|nan|true|false)\\s*")
