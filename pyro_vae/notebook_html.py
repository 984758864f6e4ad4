"""How a result looks in a notebook: a small table, without colours or styles of its own.

Jupyter, and anything else that calls `_repr_html_`, gives tables its own look, light or dark.
"""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

Row = dict[str, str]  # heading -> cell


def html_table(rows: Sequence[Row], title: str = "", note: str = "") -> str:
    """Writes rows as a table. Headings, cells, title and note are text, and are escaped.

    Args:
        rows: their headings together, in order, head the columns. A row without one of them has an empty cell there.
            The first cell heads its row.
        title: stands above.
        note: stands below.

    Example:
        >>> print(html_table([{"": "a < b", "mean": "-1.0"}]))
        <table><thead><tr><th scope="col"></th><th scope="col">mean</th></tr></thead>
        <tbody><tr><th scope="row">a &lt; b</th><td>-1.0</td></tr></tbody></table>
    """
    headings = list(dict.fromkeys(heading for row in rows for heading in row))
    return table_of_cells(headings, ([row.get(heading, "") for heading in headings] for row in rows), title, note)


def table_of_cells(headings: Iterable[Any], rows: Iterable[Iterable[Any]], title: str = "", note: str = "") -> str:
    """Writes rows of cells as a table, whose headings need not differ.

    Args:
        headings: of the columns.
        rows: each has a cell per heading; the first cell heads its row.
        title, note: as for `html_table`.

    Example:
        >>> table_of_cells(["", "±", "±"], [["mean", 0.1, 0.2]]).count("±")
        2
    """
    caption = f"<caption>{in_html(title)}</caption>" if title else ""
    head = "".join(f'<th scope="col">{in_html(heading)}</th>' for heading in headings)
    body = "".join(map(_row, rows))
    below = f"<p>{in_html(note)}</p>" if note else ""
    return f"<table>{caption}<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>{below}"


def in_html(value: Any) -> str:
    """Writes a value as text of a page, on one line.

    Example:
        >>> in_html("a < b")
        'a &lt; b'
    """
    return escape(clean(str(value)))


def clean(text: str) -> str:
    r"""Puts text on one line, without characters that steer a terminal or change the direction of writing.

    >>> clean("a\x1b[31m\nb")
    'a [31m b'
    """
    return "".join(sign if sign.isprintable() else " " for sign in text)


def plus_minus(error: float) -> str:
    """Writes an error, or n/a for one that is not known.

    Example:
        >>> plus_minus(0.01234), plus_minus(math.nan)
        ('±0.012', 'n/a')
    """
    return "n/a" if math.isnan(error) else f"±{error:.3f}"


def _row(cells: Iterable[Any]) -> str:
    first, *others = map(in_html, cells)
    return f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in others) + "</tr>"
