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


def document(word):
    """Every kind of block, with the word in every place that text can have."""
    columns = (Column(word), Column("mean", right=True), Column(word))
    table = Table("t", columns, [(word, cells.number(-22.14757), word), ("b", cells.number(4.6e-5), "c")], word)
    blocks = (Caution((word, word)), word, table, Notes([Note(word, word), Note("", word)]), Code(word, "sh"))
    picture = Picture(word, word, b"<svg/>", word, file="a.png")
    headline = Headline(word, "22.15", "nats", (word,))
    return Document(word, (Section("", blocks), Section(word, (table, picture))), (word,), (headline,), (picture,))


def structure(text):
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
    return [(token.type, token.tag, [inner.type for inner in token.children or ()]) for token in tokens]


def test_a_word_that_is_made_to_harm_is_a_word_in_every_form():
    shown = "".join(sign if sign.isprintable() else " " for sign in HOSTILE)
    text, page = to_text(document(HOSTILE)), to_html(document(HOSTILE))
    assert all(sign.isprintable() for line in text.split("\n") for sign in line)
    assert max(map(len, text.split("\n"))) <= WIDTH
    assert structure(to_markdown(document(HOSTILE))) == structure(to_markdown(document("x" * 30)))
    assert "<script" not in page
    assert "{{7*7}}" in page
    assert " ".join(shown.split())[:20] in " ".join(text.split())


@pytest.mark.parametrize("form", [to_text, to_markdown, to_html])
def test_every_block_is_in_every_form_that_has_it(form):
    text = " ".join(form(document("word")).split())
    assert text.count("22.148") == 2
    small = {to_text: "<0.001", to_markdown: r"\<0.001", to_html: "&lt;0.001"}[form]
    assert text.count(small) == 2
    assert text.count("word") >= 8


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


def test_nothing_but_a_renderer_writes_a_form():
    """CSV and HTML have one home each."""
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        at_home = path.parent.name == "render" or path.parent.name == "data"
        assert at_home or not names & {"csv", "jinja2"}, path
