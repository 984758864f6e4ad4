"""Writes a document as Markdown, with tables as GitHub has them. No text from outside acts as markup in it."""

import re
from collections.abc import Iterator

from pyro_vae.report.cells import clean
from pyro_vae.report.document import Block, Caution, Code, Document, Note, Notes, Picture, Section, Table


def to_markdown(document: Document) -> str:
    """Writes all sections of a document below its title.

    Example:
        >>> print(to_markdown(Document("a_b", (Section("Files", (Notes([Note("*", "all")]),)),))), end="")
        # a\\_b
        <BLANKLINE>
        ## Files
        <BLANKLINE>
        - **\\***: all
    """
    blocks = (block for section in document.sections for block in _section(section))
    return "\n\n".join([f"# {escaped(document.title)}", *(block for block in blocks if block)]) + "\n"


def _section(section: Section) -> Iterator[str]:
    if section.title:
        yield f"## {escaped(section.title)}"
    for block in section.blocks:
        if isinstance(block, Table) and block.title:
            yield f"**{escaped(block.title)}**" if section.title else f"## {escaped(block.title)}"
        yield _block(block)


def _block(block: Block) -> str:
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Notes):
        return "\n".join(map(_note, block.items))
    if isinstance(block, Caution):
        return "\n".join(f"> {escaped(line)}  " for line in block.lines)
    if isinstance(block, Code):
        return _fenced(block) if block.text else ""
    if isinstance(block, Picture):
        caption = escaped(block.caption)
        return f"![{escaped(block.title)}]({block.file})" + (f"\n\n{caption}" if caption else "")
    return escaped(block)


def _note(note: Note) -> str:
    return f"- **{escaped(note.term)}**: {escaped(note.text)}" if note.term else f"- {escaped(note.text)}"


def _table(table: Table) -> str:
    grid = [_grid(table)] if table.rows else []
    return "\n\n".join([*grid, *map(escaped, table.foot)])


def _grid(table: Table) -> str:
    heads = [column.head for column in table.columns]
    rule = ["---:" if column.right else "---" for column in table.columns]
    shown = ([escaped(str(cell)) for cell in row] for row in (heads if any(heads) else ("item", "value"), *table.rows))
    first, *rows = shown
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (first, rule, *rows))


def escaped(text: str) -> str:
    """Puts text on one line, with every character escaped that would act as markup."""
    return re.sub(r"([\\`*_\[\]<>|~&#$])", r"\\\1", clean(text))


def _fenced(code: Code) -> str:
    """Writes a block of code whose fence is longer than any in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", code.text)), default=0))
    return "\n".join([f"{fence}{code.language}", *map(clean, code.text.splitlines()), fence])
