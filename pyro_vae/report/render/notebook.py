"""Writes a document as a piece of HTML for the cell of a notebook: its tables and notes, in its own style."""

from html import escape
from typing import Any

from pyro_vae.report.cells import clean
from pyro_vae.report.document import Caution, Document, Notes, Table


def to_cell(document: Document, more: str = "") -> str:
    """Writes headlines, tables and notes. Every string is escaped.

    Args:
        document: what is shown; its pictures are left out.
        more: a sentence below it.

    Example:
        >>> print(to_cell(Document("a & b", ()), "More."))
        <h4>a &amp; b</h4>
        <p>More.</p>
    """
    parts = [f"<h4>{_text(document.title)}</h4>"] if document.title else []
    for block in document.blocks:
        if isinstance(block, Table):
            parts.append(_table(block))
        elif isinstance(block, Notes):
            parts += [
                f"<p><small>{_text(f'{term}: {text}' if term else text)}</small></p>" for term, text in block.items
            ]
        elif isinstance(block, Caution):
            parts += [f"<p><b>{_text(line)}</b></p>" for line in block.lines]
    return "\n".join([*parts, *([f"<p>{_text(more)}</p>"] if more else [])])


def _table(table: Table) -> str:
    caption = f"<caption>{_text(table.title)}</caption>" if table.title else ""
    head = "".join(f"<th>{_text(column.head)}</th>" for column in table.columns)
    rows = (
        "".join(_cell(cell, column.right) for cell, column in zip(row, table.columns, strict=True))
        for row in table.rows
    )
    return f"<table>{caption}<tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _cell(cell: Any, right: bool) -> str:
    return f'<td style="text-align: {"right" if right else "left"}">{_text(cell)}</td>'


def _text(value: Any) -> str:
    return escape(clean(str(value)))
