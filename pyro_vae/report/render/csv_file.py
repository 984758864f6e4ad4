"""Writes a table as CSV for other programs, in full precision. No spreadsheet takes a value of it for a formula."""

import csv
import io
import re
from collections.abc import Iterable
from typing import Any

from pyro_vae.report.cells import Cell, clean
from pyro_vae.report.document import Table

_FORMULA = re.compile(r"\s*(?:[=+@]|-(?!log p))")  # one label of ours begins so
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


def to_csv(table: Table) -> str:
    """Writes the heads of the columns, then a line for each row. What is unknown is empty.

    Example:
        >>> from pyro_vae.report.document import Column
        >>> print(to_csv(Table("t", (Column("label"), Column("mean")), [("=1+1", -22.14757), ("vamp", None)])), end="")
        label,mean
        '=1+1,-22.14757
        vamp,
    """
    return csv_lines([[_value(column.head) for column in table.columns], *(map(_value, row) for row in table.rows)])


def csv_lines(rows: Iterable[Iterable[Any]]) -> str:
    """Writes rows of cells as lines of CSV, for tables too long to be in memory as a whole.

    Example:
        >>> csv_lines([["row", "id"], [0, "a,b"]])
        'row,id\\n0,"a,b"\\n'
    """
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def harmless(text: str) -> str:
    """Puts ' before text that a spreadsheet would take for a formula. Numbers stay what they are.

    Example:
        >>> harmless("=1+1"), harmless("-5"), harmless("@a"), harmless("a=1")
        ("'=1+1", '-5', "'@a", 'a=1')
    """
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def _value(cell: Any) -> Any:
    value = cell.value if isinstance(cell, Cell) else cell
    if not isinstance(value, str):
        return value
    return harmless(clean(value))
