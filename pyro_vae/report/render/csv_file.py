"""Writes a table as CSV for other programs, in full precision. No spreadsheet takes a value of it for a formula."""

import csv
import io
import re
from typing import Any

from pyro_vae.report.cells import Cell, clean
from pyro_vae.report.document import Table

_FORMULA = re.compile(r"\s*(?:[=+@]|-(?!log p))")  # one label of ours begins so


def to_csv(table: Table) -> str:
    """Writes the heads of the columns, then a line for each row. What is unknown is empty.

    Example:
        >>> from pyro_vae.report.document import Column
        >>> print(to_csv(Table("t", (Column("label"), Column("mean")), [("=1+1", -22.14757), ("vamp", None)])), end="")
        label,mean
        '=1+1,-22.14757
        vamp,
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_value(column.head) for column in table.columns)
    writer.writerows(map(_value, row) for row in table.rows)
    return buffer.getvalue()


def _value(cell: Any) -> Any:
    value = cell.value if isinstance(cell, Cell) else cell
    if not isinstance(value, str):
        return value
    text = clean(value)
    return f"'{text}" if _FORMULA.match(text) else text
