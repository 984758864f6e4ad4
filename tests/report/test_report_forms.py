"""Any document in any form: every block is there, and no string is more than text."""

import ast
from pathlib import Path

import pytest
from evaluated import full
from markdown_it import MarkdownIt

from pyro_vae.report import cells
from pyro_vae.report.document import Caution, Code, Column, Document, Headline, Note, Notes, Picture, Section, Table
from pyro_vae.report.documents.evaluation_document import evaluation_document
from pyro_vae.report.render.csv_file import to_csv
from pyro_vae.report.render.html_page import to_html
from pyro_vae.report.render.latex import to_latex
from pyro_vae.report.render.markdown import to_markdown
from pyro_vae.report.render.plain_text import WIDTH, to_text

PACKAGE = Path(__file__).parents[2] / "pyro_vae"
HOSTILE = "<script>alert(1)</script>|`*_[a](b)\x1b[31m\n# c\u202e{{7*7}}"


NUMBERS = cells.number(-22.14757), cells.number(4.6e-5)


def document(word):
    """Every kind of block, in sections with a title and without, with a word in every place that text can have.

    Args:
        word: name of a place -> the word for it.
    """

    def blocks(of):
        columns = (Column(word(f"{of}head")), Column("mean", right=True), Column("c"))
        rows = [(word(f"{of}cell"), NUMBERS[0], "c"), ("b", NUMBERS[1], "c")]
        table = Table("t", columns, rows, word(f"{of}tabletitle"), (word(f"{of}foot"),))
        wide = (Column(word(f"{of}widehead"), width=30), Column("mean", True, 10))
        estimates = Table("e", wide, [(word(f"{of}widecell"), "1")], word(f"{of}widetitle"), (word(f"{of}widefoot"),))
        notes = Notes([Note(word(f"{of}term"), word(f"{of}text")), Note("", word(f"{of}whole"))])
        caution, code = Caution((word(f"{of}caution"), word(f"{of}why"))), Code(word(f"{of}code"), "sh")
        picture = Picture(word(f"{of}alternative"), word(f"{of}caption"), b"<svg/>", word(f"{of}group"), "a.png")
        return caution, word(f"{of}paragraph"), table, estimates, notes, code, picture

    pictures = (Picture(word("picture"), word("pictured"), b"<svg/>", word("group")),)
    headlines = (Headline(word("label"), "22.15", "nats", (word("line"),)),)
    sections = (Section("", blocks("a")), Section(word("section"), blocks("b")))
    return Document(word("title"), sections, (word("fact"),), headlines, pictures)


def places(*left_out):
    """The names of the places, except those that a form does not have."""
    names = []
    document(lambda name: names.append(name) or name)
    return [name for name in dict.fromkeys(names) if name not in left_out and name[1:] not in left_out]


def structure(text):
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
    return [(token.type, token.tag, [inner.type for inner in token.children or ()]) for token in tokens]


def test_a_word_that_is_made_to_harm_is_a_word_in_every_form():
    shown = "".join(sign if sign.isprintable() else " " for sign in HOSTILE)
    harmful = document(lambda _: HOSTILE)
    text, page = to_text(harmful), to_html(harmful)
    assert all(sign.isprintable() for line in text.split("\n") for sign in line)
    assert max(map(len, text.split("\n"))) <= WIDTH
    assert structure(to_markdown(harmful)) == structure(to_markdown(document(lambda _: "x" * 30)))
    assert "<script" not in page
    assert "{{7*7}}" in page
    assert " ".join(shown.split())[:20] in " ".join(text.split())


ABOUT = ("fact", "label", "line", "picture", "pictured", "group")  # the document, for forms that can show them
LEFT_OUT = {
    to_text: (*ABOUT, "title", "section", "code", "alternative", "caption"),
    to_markdown: ABOUT,
    to_html: ("bgroup",),  # a section that stands as it is
}


@pytest.mark.parametrize("form", LEFT_OUT)
def test_every_block_is_in_every_form_that_has_it(form):
    text = form(document("«{}»".format))
    assert [name for name in places(*LEFT_OUT[form]) if f"«{name}»" not in text] == []
    text = " ".join(text.split())
    assert text.count("22.148") == 2
    small = {to_text: "<0.001", to_markdown: r"\<0.001", to_html: "&lt;0.001"}[form]
    assert text.count(small) == 2


def test_a_cell_keeps_all_digits_for_programs_and_shows_some_to_people():
    row = (cells.number(-22.1475701), cells.share(1 / 3), cells.nats(54321.987), cells.number(None), 7, "a")
    table = Table.of("t", "abcdef", [row])
    assert to_csv(table).splitlines()[1] == "-22.1475701,0.3333333333333333,54321.987,,7,a"
    assert to_text(Document("", (Section("", (table,)),))).splitlines()[1].split() == [
        "-22.148", "33", "%", "54322.0", "n/a", "7", "a",
    ]  # fmt: skip


def test_a_formula_of_latex_is_never_made_of_a_word():
    rows = [("$x$ ± \\input{a}", cells.both_errors({"mean": -1.0, "standard_error": 0.5, "monte_carlo_error": None}))]
    assert to_latex(Table.of("t", "ab", rows)).splitlines()[-1] == (
        r"\$x\$ ± \textbackslash{}input\{a\} & $-1.000 \pm 0.500\ (?)$ \\"
    )


def test_columns_stand_below_each_other_whatever_their_cells():
    text = to_text(evaluation_document(full()))
    heads = {line.index("± Monte Carlo") for line in text.splitlines() if "± Monte Carlo   draws" in line}
    assert len(heads) == 1


@pytest.mark.thorough
def test_nothing_but_a_renderer_writes_a_form():
    """CSV and HTML have one home each."""
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        at_home = path.parent.name == "render" or path.parent.name in ("data", "tables")
        assert at_home or not names & {"csv", "jinja2"}, path
