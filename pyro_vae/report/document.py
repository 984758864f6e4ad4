"""What a report says, before it has a form: sections of tables, notes, code and pictures. `render` gives it a form.

a dictionary, as report.json has it  ->  a document, in `documents`  ->  text, Markdown, a page, in `render`
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple


class Column(NamedTuple):
    """A column of a table: its head, and whether it is flush `right`, as numbers are.

    `width` is that of the text form, where tables below each other have common columns; 0 is as wide as its cells. A
    column of a fixed width is flush right there, but for the first, whose longer cells are wrapped.
    """

    head: str
    right: bool = False
    width: int = 0


class Table(NamedTuple):
    """Rows of cells: a `Cell`, text, or a plain value in a table that only programs read.

    `name` is short and stable, `title` in words, and `foot` are sentences right below it. Where no column has a head,
    none is shown. In a text form that is too wide a table `shrinks`: the cells of its first column lose their middles.
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
        """One whose first columns are words, all unless a number says how many, and whose others are numbers."""
        columns = (Column(head, right=words is not None and i >= words) for i, head in enumerate(heads))
        return cls(name, tuple(columns), list(rows), title)


class Note(NamedTuple):
    """Sentences about a term; `term` is "" where they are about the whole."""

    term: str
    text: str


class Notes(NamedTuple):
    """Notes below each other, lines of a text form `width` wide. `whole` words are not broken at their hyphens."""

    items: Sequence[Note]
    width: int = 100
    whole: bool = False

    @classmethod
    def of(cls, sentences: Iterable[str], width: int = 100, *, whole: bool = False) -> "Notes":
        """Of sentences about the whole."""
        return cls([Note("", sentence) for sentence in sentences], width, whole)


class Caution(NamedTuple):
    """Lines that a reader must not miss: the first says it, the others why."""

    lines: tuple[str, ...]


class Code(NamedTuple):
    """Text as it was typed or printed, in a language."""

    text: str
    language: str = ""


class Picture(NamedTuple):
    """PNG or SVG, with a title of a few words, the alternative text too, and a caption that says what is seen.

    `group` is one of `GROUPS`, or the title of a group of one's own, which comes after those. `file` lies beside the
    report, for a form that can not hold the picture itself.
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
    """A report. Its title, facts of a few words each, headlines and pictures are for forms that can show them."""

    title: str
    sections: tuple[Section, ...]
    facts: tuple[str, ...] = ()
    headlines: tuple[Headline, ...] = ()
    pictures: tuple[Picture, ...] = ()

    @property
    def blocks(self) -> list[Block]:
        """Of all sections."""
        return [block for section in self.sections for block in section.blocks]
