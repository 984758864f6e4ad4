"""Writes a document as a piece of HTML for the cell of a notebook: its tables and notes."""

from pyro_vae.notebook_html import in_html, table_of_cells
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
    parts = [f"<h4>{in_html(document.title)}</h4>"] if document.title else []
    for block in document.blocks:
        if isinstance(block, Table):
            parts.append(table_of_cells((column.head for column in block.columns), block.rows, block.title))
        elif isinstance(block, Notes):
            parts += [
                f"<p><small>{in_html(f'{term}: {text}' if term else text)}</small></p>" for term, text in block.items
            ]
        elif isinstance(block, Caution):
            parts += [f"<p><b>{in_html(line)}</b></p>" for line in block.lines]
    return "\n".join([*parts, *([f"<p>{in_html(more)}</p>"] if more else [])])
