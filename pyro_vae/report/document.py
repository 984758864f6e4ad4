"""What a report says, before it has a form: sections of tables, notes, code and pictures. `render` gives it a form.

a dictionary, as report.json has it  ->  a document, in `documents`  ->  text, Markdown, a page, in `render`
"""

from collections.abc import Sequence
from typing import Any, NamedTuple


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        head: what stands above it.
        right: whether it is flush right, as numbers are.
        width: of the text form, where tables below each other have common columns; 0 is as wide as its cells. A column
            of a fixed width is flush right there, but for the first, whose longer cells are wrapped.
    """

    head: str
    right: bool = False
    width: int = 0


class Table(NamedTuple):
    """Rows of cells.

    Attributes:
        name: short and stable.
        columns: where no column has a head, none is shown.
        rows: of as many cells each: a `Cell`, text, or a plain value in a table that only programs read.
        title: in words.
        foot: sentences right below it.
    """

    name: str
    columns: tuple[Column, ...]
    rows: Sequence[Sequence[Any]]
    title: str = ""
    foot: tuple[str, ...] = ()


class Note(NamedTuple):
    """Sentences about a term; `term` is "" where they are about the whole."""

    term: str
    text: str


class Notes(NamedTuple):
    """Notes below each other, lines of a text form `width` wide. `whole` words are not broken at their hyphens."""

    items: Sequence[Note]
    width: int = 100
    whole: bool = False


class Caution(NamedTuple):
    """Lines that a reader must not miss: the first says it, the others why."""

    lines: tuple[str, ...]


class Code(NamedTuple):
    """Text as it was typed or printed, in a language."""

    text: str
    language: str = ""


class Picture(NamedTuple):
    """A picture.

    Attributes:
        title: a few words; the alternative text too.
        caption: what is seen, in sentences.
        content: PNG or SVG.
        group: one of `GROUPS`, or the title of a group of one's own, which comes after those.
        file: beside the report, for a form that can not hold the picture itself.
    """

    title: str
    caption: str
    content: bytes = b""
    group: str = "data"
    file: str = ""


GROUPS = {
    "data": ("Data, rebuilt and generated", "What the model makes of data, and what it makes up."),
    "latent": ("Latent space", "What the codes look like, and which of their dimensions are used."),
    "likelihood": (
        "How probable are the data?",
        "log p(x) is bounded from below by estimators of growing cost. A triangle points to where the truth lies.",
    ),
    "trust": ("Can these numbers be trusted?", "Importance weights with a heavy tail make a loose bound look exact."),
    "posterior": ("Guide and true posterior", "What is lost because q(z|x) is not p(z|x)."),
    "training": ("Training", ""),
}


class Headline(NamedTuple):
    """A number in large type: what, how much, its errors and remarks, each a line."""

    label: str
    value: str
    unit: str
    lines: tuple[str, ...]


Block = Table | Notes | Caution | Code | Picture | str  # a string is a paragraph


class Section(NamedTuple):
    """Blocks that belong together. On a terminal its title is not shown."""

    title: str
    blocks: tuple[Block, ...]


class Document(NamedTuple):
    """A report.

    Attributes:
        title: of the whole, which a terminal does not show.
        sections: in order.
        facts: about what was measured, a few words each, for the top of a page.
        headlines: the numbers that it comes down to, for the same place.
        pictures: for a form that can hold them.
    """

    title: str
    sections: tuple[Section, ...]
    facts: tuple[str, ...] = ()
    headlines: tuple[Headline, ...] = ()
    pictures: tuple[Picture, ...] = ()

    @property
    def blocks(self) -> list[Block]:
        """Of all sections."""
        return [block for section in self.sections for block in section.blocks]
