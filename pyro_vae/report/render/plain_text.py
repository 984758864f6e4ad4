"""Writes a document for a terminal of 100 columns: tables with their columns below their heads, notes filled."""

import textwrap
from collections.abc import Sequence

from pyro_vae.report.cells import clean, clipped
from pyro_vae.report.document import Block, Caution, Column, Document, Notes, Table

WIDTH = 100
_NARROWEST = 12  # that the first column of a table becomes to fit into the width


def to_text(document: Document) -> str:
    """Writes the tables, notes and paragraphs of a document: no titles except those of tables, no code, no pictures.

    Example:
        >>> from pyro_vae.report.document import Section
        >>> table = Table("t", (Column("run"), Column("mean", right=True)), [("standard", "-22.1"), ("vamp", "-21.97")])
        >>> print(to_text(Document("", (Section("", (table, "The higher the better.")),))))
        run         mean
        standard   -22.1
        vamp      -21.97
        <BLANKLINE>
        The higher the better.
    """
    blocks = ("\n".join(_lines(block)) for block in document.blocks)
    return "\n\n".join(block for block in blocks if block)


def _lines(block: Block) -> list[str]:
    if isinstance(block, Table):
        return [*filled(block.title, indent=""), *_table(block), *map(clean, block.foot)]
    if isinstance(block, Notes):
        notes = (f"{note.term}: {note.text}" if note.term else note.text for note in block.items)
        return [line for note in notes for line in filled(note, block.width, whole=block.whole)]
    if isinstance(block, Caution):
        first, *others = block.lines
        return [*filled(first), *(line for other in others for line in filled(f"  {other}", indent="    "))]
    return filled(block) if isinstance(block, str) else []


def filled(text: str, width: int = WIDTH, indent: str = "  ", *, whole: bool = False) -> list[str]:
    """Fills the lines of a paragraph, and indents all except the first. `whole` words keep their hyphens together."""
    return textwrap.wrap(clean(text), width, subsequent_indent=indent, break_on_hyphens=not whole)


def _table(table: Table) -> list[str]:
    heads = [tuple(column.head for column in table.columns)] if any(column.head for column in table.columns) else []
    rows = [[clean(str(cell)) for cell in row] for row in (*heads, *table.rows)]
    if table.columns[0].width:
        return [line for row in rows for line in _fixed(row, table.columns)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if len(widths) == 2:  # a word, and what there is to say of it
        indent = " " * min(widths[0] + 2, WIDTH // 3)
        return [part for row in rows for part in filled(_aligned(row, widths, table.columns), indent=indent)]
    if table.shrinks:
        widths[0] = max(min(widths[0], _NARROWEST), min(widths[0], WIDTH - sum(widths[1:]) - 2 * len(widths) + 2))
    return [_aligned([clipped(row[0], widths[0]), *row[1:]], widths, table.columns) for row in rows]


def _aligned(row: Sequence[str], widths: Sequence[int], columns: Sequence[Column]) -> str:
    cells = zip(row, widths, columns, strict=True)
    return "  ".join(f"{cell:{'>' if column.right else '<'}{width}}" for cell, width, column in cells).rstrip()


def _fixed(row: Sequence[str], columns: Sequence[Column]) -> list[str]:
    first = columns[0].width
    *above, last = textwrap.wrap(row[0], first, subsequent_indent="  ") or [""]
    cells = (f"{cell:>{column.width}}" for cell, column in zip(row[1:], columns[1:], strict=True))
    return [*above, f"{last:<{first}}{''.join(cells)}"]
