"""What a result shows of itself in a notebook: a small table, without colours and styles of its own.

Jupyter, and whatever else calls `_repr_html_`, gives tables its own look, in light and in dark.
"""

import math
from collections.abc import Sequence
from html import escape

Row = dict[str, str]  # heading -> cell


def html_table(rows: Sequence[Row], title: str = "", note: str = "") -> str:
    """Writes rows as a table. Headings, cells, title and note are text, and are escaped.

    Args:
        rows: their headings are put together in order; a row without one has an empty cell there. The first cell heads
            its row.
        title: stands above.
        note: stands below.

    Example:
        >>> print(html_table([{"": "a < b", "mean": "-1.0"}]))
        <table><thead><tr><th scope="col"></th><th scope="col">mean</th></tr></thead>
        <tbody><tr><th scope="row">a &lt; b</th><td>-1.0</td></tr></tbody></table>
    """
    headings = list(dict.fromkeys(heading for row in rows for heading in row))
    caption = f"<caption>{escape(title)}</caption>" if title else ""
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    body = "".join(_row([row.get(heading, "") for heading in headings]) for row in rows)
    below = f"<p>{escape(note)}</p>" if note else ""
    return f"<table>{caption}<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>{below}"


def plus_minus(error: float) -> str:
    """Writes an error, or n/a for one that is not known.

    Example:
        >>> plus_minus(0.01234), plus_minus(math.nan)
        ('±0.012', 'n/a')
    """
    return "n/a" if math.isnan(error) else f"±{error:.3f}"


def _row(cells: list[str]) -> str:
    first, *others = map(escape, cells)
    return f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in others) + "</tr>"
