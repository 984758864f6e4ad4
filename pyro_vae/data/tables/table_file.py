"""A table in a text file -> `Found`: any delimiter, with or without a header, with decimal points or commas.

The file is read once for its hash and encoding, once to check each line against the number of columns, and once by
pandas. Nothing is unpacked, fetched or evaluated, and no date is parsed.
"""

import csv
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api import types

from pyro_vae.data.own.reading import Found, Reading
from pyro_vae.data.tables.column_cells import MISSING, SeparatorError, has_decimal_comma
from pyro_vae.data.tables.frames import LABELS, of_frame
from pyro_vae.data.tables.table_text import Form, checked_bytes, form_of_file, is_blank, lines_of, opened, records_of
from pyro_vae.errors import DataError, first_line

_DEFAULT = Reading()
# The default is exact from 3.1 on, and naming it is deprecated.
_EXACT = {} if tuple(map(int, pd.__version__.split(".")[:2])) >= (3, 1) else {"float_precision": "round_trip"}


def read_csv(path: str | os.PathLike[str], reading: Reading = _DEFAULT) -> Found:
    """Reads a table from a text file in UTF-8.

    The first line holds the names of the columns unless it is all numbers. Cells that are empty, or NA, NaN, null, None
    or ?, are NaN. `frames.of_frame` explains what happens to the columns.

    Args:
        path: of the file, which has at most 2 GiB and 20,000 columns.
        reading: its `label`, `id`, `group` and `columns` name columns.

    Raises:
        UsageError: a name is not a column, or one column has two uses.
        DataError: the file is remote, missing, empty or too large; its bytes are not UTF-8; a line has more or fewer
            cells than the others; or `frames.of_frame` refuses the table.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "own.csv")
        ...     _ = path.write_text("name;a;b;class\\nu;1,5;2;x\\nv;2,5;;y\\n")
        ...     found = read_csv(path, Reading(id="name"))
        >>> found.x["x"].tolist(), found.columns, found.y["x"].tolist(), found.ids["x"].tolist()
        ([[1.5, 2.0], [2.5, nan]], ('a', 'b'), ['x', 'y'], ['u', 'v'])
    """
    if re.match(r"\w[\w+.-]+:/", os.fspath(path)):
        raise DataError(f"{os.fspath(path)}: is an address. Download the file first; tables are read only from disk.")
    path = Path(path)
    digest = checked_bytes(path)
    form = form_of_file(path)
    rows, blank = _count_rows(path, form)
    frame = _parsed(path, form, rows, reading)
    try:
        found = of_frame(frame, reading, path.name)
    except SeparatorError as error:
        name = error.place.partition(": column ")[2]
        keys = [_key(form, i) for i, known in enumerate(form.names) if repr(known) == name]
        raise DataError(error.said(keys[0] if keys else name, *_around(path, form))) from error
    skipped = (f"Blank lines that were skipped: {blank}.",) if blank else ()
    source = f"The user's own file {path.name}."
    return replace(found, source=source, files={path.name: digest}, notes=(*form.notes, *skipped, *found.notes))


def _count_rows(path: Path, form: Form) -> tuple[int, int]:
    """Checks each row against the width of the first; returns the numbers of rows and of blank lines among them."""
    rows = blank = pending = 0
    with opened(path) as file:
        reader = records_of(lines_of(file, path), form.delimiter)
        try:
            for record in reader:
                if reader.line_num <= form.header:
                    continue
                if is_blank(record):
                    pending += 1
                    continue
                if len(record) != len(form.names):
                    raise _width(path, reader.line_num, record, form)
                rows, blank, pending = rows + 1, blank + pending, 0
        except csv.Error as error:
            cure = "Write a quotation mark within a quoted cell twice."
            raise DataError(f"{path}: line {reader.line_num} cannot be read ({error}). {cure}") from error
    if not rows:
        raise DataError(f"{path}: holds a line of column names but no row of data.")
    return rows, blank


def _width(path: Path, line: int, record: list[str], form: Form) -> DataError:
    delimiter = "white space" if form.delimiter == " " else repr(form.delimiter)
    return DataError(
        f"{path}: line {line} has {len(record):,} of {len(form.names):,} cells, with {delimiter} between cells. Write "
        "a missing number as an empty cell or as NA. Put text that holds the delimiter in quotation marks, and "
        "nothing above the names of the columns."
    )


def _parsed(path: Path, form: Form, rows: int, reading: Reading) -> pd.DataFrame:
    plain = {i for i, n in enumerate(form.names) if n in (reading.label, reading.id, reading.group)}
    plain |= {i for i, name in enumerate(form.names) if name.lower() in LABELS}
    missing = {i: [""] if i in plain else list(MISSING) for i in range(len(form.names))}
    text = {i: str for i, name in enumerate(form.names) if reading.id and name == reading.id}  # 007 stays 007
    frame = _pandas(path, form, na_values=missing, dtype=text)
    if len(frame) != rows:
        raise DataError(
            f"{path}: has {rows} rows for one parser and {len(frame)} for another. Write it again with pandas."
        )
    commas = [i for i in frame.columns if has_decimal_comma(frame[i])]
    if commas:
        _check_points(path, form, frame, commas)
    return frame.set_axis(form.names, axis=1)


def _pandas(path: Path, form: Form, **options: Any) -> pd.DataFrame:
    with opened(path) as file:
        for _ in range(form.header):
            file.readline()
        try:
            return pd.read_csv(
                file,
                sep=r"\s+" if form.delimiter == " " else form.delimiter,
                header=None,
                names=range(len(form.names)),
                index_col=False,
                skipinitialspace=True,
                keep_default_na=False,
                **_EXACT,
                low_memory=False,
                **options,
            )
        except (ValueError, OverflowError) as error:
            raise DataError(f"{path}: cannot be read as a table ({first_line(error)[:160]}).") from error


def _key(form: Form, i: int) -> str:
    """Returns code for the key of a column in the frame that pandas makes from the file."""
    return repr(form.names[i]) if form.header else str(i)


def _around(path: Path, form: Form) -> tuple[str, str]:
    """Returns the code that reads a file as text and the code that writes it again, so that no other column changes."""
    sep = r"r'\s+'" if form.delimiter == " " else repr(form.delimiter)
    more, header = ("", "") if form.header else (", header=None", ", header=False")
    read = f"frame = pandas.read_csv({path.name!r}, sep={sep}{more}, dtype=str, keep_default_na=False); "
    return read, f"; frame.to_csv('plain.csv', index=False{header})"


def _check_points(path: Path, form: Form, frame: pd.DataFrame, commas: list[int]) -> None:
    """Refuses points next to a column with decimal commas, since they could separate thousands."""
    floats = [i for i in frame.columns if types.is_float_dtype(frame[i].dtype)]
    if not floats:
        return
    text = _pandas(path, form, usecols=floats, dtype=str)
    for i in floats:
        point = text[i].str.contains(".", regex=False).fillna(False).to_numpy(bool)
        if point.any():
            row = int(point.argmax())
            before, after = _around(path, form)
            keys = ", ".join(_key(form, j) for j in commas)
            raise DataError(
                f"{path}: column {form.names[commas[0]]!r} has a decimal comma, and column {form.names[i]!r} a point, "
                f"{text[i].iloc[row]!r} in row {row}. Use the same sign in all columns: {before}frame[[{keys}]] = "
                f"frame[[{keys}]].replace(',', '.', regex=True){after}. If the point separates thousands, first do: "
                f"frame[{_key(form, i)}] = frame[{_key(form, i)}].str.replace('.', '')"
            )
