"""What a report says, before it has a form: sections of tables, notes, code and pictures.

`documents` makes a document of the dictionary that report.json holds; `render` makes text, Markdown or a page of it.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        head: the words above it.
        right: whether it is flush right, as numbers are.
        width: its width in the text form, where tables below each other have common columns; 0 is as wide as its
            cells. Columns of a fixed width are flush right there, except the first, whose longer cells are wrapped.
    """

    head: str
    right: bool = False
    width: int = 0


class Table(NamedTuple):
    """Rows of cells.

    Attributes:
        name: a short name that stays the same.
        columns: its columns; where none has a head, none is shown.
        rows: cells, each a `Cell`, text, or a plain value in a table that only programs read.
        title: what it is, in words.
        foot: sentences right below it.
        shrinks: whether the cells of its first column lose their middles where it is too wide as text.
    """

    name: str
    columns: tuple[Column, ...]
    rows: Sequence[Sequence[Any]]
    title: str = ""
    foot: tuple[str, ...] = ()
    shrinks: bool = True

    @classmethod
    def of(
        cls, name: str, heads: Iterable[str], rows: Iterable[Sequence[Any]], title: str = "", words: int | None = None
    ) -> "Table":
        """Makes a table from the heads of its columns, of which the first `words` hold words and the others numbers.

        Args:
            name: a short name that stays the same.
            heads: the head of each column.
            rows: its cells.
            title: what it is, in words.
            words: how many columns hold words, from the left; None for all.
        """
        columns = (Column(head, right=words is not None and i >= words) for i, head in enumerate(heads))
        return cls(name, tuple(columns), list(rows), title)


class Note(NamedTuple):
    """Sentences about a term, or about the whole where `term` is ""."""

    term: str
    text: str


class Notes(NamedTuple):
    """Notes below each other.

    Attributes:
        items: the notes.
        width: the width of the lines of the text form.
        whole: whether words stay whole there, and are not broken at their hyphens.
    """

    items: Sequence[Note]
    width: int = 100
    whole: bool = False

    @classmethod
    def of(cls, sentences: Iterable[str], width: int = 100, *, whole: bool = False) -> "Notes":
        """Makes notes of sentences about the whole."""
        return cls([Note("", sentence) for sentence in sentences], width, whole)


class Caution(NamedTuple):
    """Lines that a reader must not miss. The first says what is wrong, and the others say why."""

    lines: tuple[str, ...]


class Code(NamedTuple):
    """Text as it was typed or printed, and its language."""

    text: str
    language: str = ""


class Picture(NamedTuple):
    """A picture, as PNG or SVG.

    Attributes:
        title: a few words, which are its alternative text too.
        caption: what is seen.
        content: the bytes of the PNG or SVG.
        group: one of `GROUPS`, or the title of another group, which comes after them.
        file: the file next to the report, for a form that cannot hold the picture itself.
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
        "Estimates of log p(x), most of them lower bounds. A triangle points to where the truth lies.",
    ),
    "trust": ("Can these numbers be trusted?", "Importance weights with a heavy tail make a loose bound look exact."),
    "posterior": ("Guide and true posterior", "What is lost because q(z|x) is not p(z|x)."),
    "training": ("Training", ""),
}


class Headline(NamedTuple):
    """A number in large type, with its label and unit, and a line for each error and remark."""

    label: str
    value: str
    unit: str
    lines: tuple[str, ...]


Block = Table | Notes | Caution | Code | Picture | str  # a string is a paragraph


class Section(NamedTuple):
    """Blocks that belong together. A terminal does not show the title."""

    title: str
    blocks: tuple[Block, ...]


class Document(NamedTuple):
    """A report. Only forms that can show them use title, facts (a few words each), headlines and pictures."""

    title: str
    sections: tuple[Section, ...]
    facts: tuple[str, ...] = ()
    headlines: tuple[Headline, ...] = ()
    pictures: tuple[Picture, ...] = ()

    @property
    def blocks(self) -> list[Block]:
        """The blocks of all sections."""
        return [block for section in self.sections for block in section.blocks]
