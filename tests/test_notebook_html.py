"""What results show of themselves in a notebook: the numbers that they print, as a table that parses."""

import html.parser
import math

import pytest
import torch
from exact import ProbabilisticPCA, small_vae

import pyro_vae as pv
from pyro_vae.evaluation import Estimate, ais, between_seeds, iwae_curve, over_data_and_seeds, paired, quadrature
from pyro_vae.evaluation.baseline import ExactEstimate
from pyro_vae.evaluation.latent.aggregate import Bracket
from pyro_vae.model.checks import Finding, Report
from pyro_vae.notebook_html import html_table
from pyro_vae.report.document import Column, Document, Section
from pyro_vae.report.document import Table as DocumentTable
from pyro_vae.report.render.notebook import to_cell

TAGS = {"table", "caption", "thead", "tbody", "tr", "th", "td", "p"}


class Table(html.parser.HTMLParser):
    """Rows of cells; every tag is one of a table, closed in order, and has no attribute but the scope of a heading."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.open, self.rows, self.text = [], [], {}
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        assert tag in TAGS
        assert {name for name, _ in attributes} <= {"scope"}
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        elif data.strip():
            self.text[self.open[-1]] = data

    @property
    def records(self):
        return [dict(zip(self.rows[0], row, strict=True)) for row in self.rows[1:]]


def shown(result):
    return Table(result._repr_html_())


ESTIMATE = Estimate("log p(x)", torch.tensor([-1.0, -3.0]), torch.tensor([0.1, 0.1]), num_samples=1000)


def test_an_estimate_shows_both_errors_and_what_they_are_over():
    (row,) = shown(ESTIMATE).records
    assert row == {
        "": "log p(x)",
        "mean, nats": "-2.000",
        "over data": "±1.000",
        "Monte Carlo": "±0.071",
        "data": "2",
        "draws": "1,000",
    }


def test_an_error_that_is_not_known_is_said():
    (row,) = shown(Estimate("ELBO", torch.tensor([-1.0]), torch.tensor([math.nan]), 1)).records
    assert (row["over data"], row["Monte Carlo"]) == ("n/a", "n/a")


def test_text_is_escaped():
    (row,) = shown(Estimate("<b>&'\"", torch.zeros(2), torch.zeros(2), 1, unit="</table>")).records
    assert row[""] == "<b>&'\""
    assert "mean, </table>" in row


def test_differences_show_interval_errors_and_what_they_leave_out():
    other = Estimate("log p(x)", torch.tensor([-2.0, -5.0]), torch.tensor([0.1, 0.1]), num_samples=1000)
    difference = paired(ESTIMATE, other)
    table = shown(difference)
    low, high = difference.interval
    assert table.records == [
        {
            "": "difference of log p(x)",
            "mean, nats": "1.500",
            "over data": "±0.500",
            "95 % in": f"[{low:.3f}, {high:.3f}]",
            "Monte Carlo": "±0.100",
            "data": "2",
        }
    ]
    assert table.text["p"] == "without the variance over training seeds"
    seeds = shown(between_seeds([1.0, 2.0], [0.0, 0.5]))
    assert seeds.records[0]["seeds"] == "2 and 2"
    assert "over seeds" in seeds.records[0]
    joint = shown(over_data_and_seeds(difference, [1.0, 2.0], [0.0, 0.5]))
    assert joint.records[0]["data"] == "2 and 2"


def test_a_check_shows_every_finding_with_its_detail():
    findings = (Finding("shapes", True, "batch (), event (2,)"), Finding("sampler", False, "a < b"))
    table = shown(Report("MyPrior", (*findings, Finding("plates", None, "..."))))
    assert table.text["caption"] == "MyPrior: FAILED"
    assert [list(row.values()) for row in table.records] == [
        ["shapes", "ok", "batch (), event (2,)"],
        ["sampler", "FAILED", "a < b"],
        ["plates", "not checked", "..."],
    ]


@pytest.mark.thorough
def test_an_estimate_of_another_making_says_so():
    exact = ExactEstimate("PCA", torch.zeros(2), torch.zeros(2), 0)
    assert shown(exact).records[0]["Monte Carlo"] == "none, exact"
    two = shown(Bracket("KL", torch.ones(2), torch.zeros(2), 10, leave_one_out=ESTIMATE))
    assert [(row[""], row["end"]) for row in two.records] == [("KL", "at most"), ("leave-one-out", "at least")]
    curve = iwae_curve(small_vae(), torch.zeros(3, 6).double(), 5, seed=0)
    assert [row["draws"] for row in shown(curve).records] == ["1", "2", "5", "5"]


@pytest.mark.thorough
def test_chains_and_grids():
    truth = ProbabilisticPCA()
    vae, x = truth.vae(), truth.data(3)
    (chains,) = shown(ais(vae, x, 3, 2, seed=0)).records
    assert chains["temperatures"] == "3"
    (grid,) = shown(quadrature(vae, x)).records
    assert grid["Monte Carlo"] == "none, a grid"
    assert grid["unreliable"] == "0 data"
    assert len(shown(pv.evaluation.bdmc(vae, 3, 3, 2, seed=0)).records) == 2


def test_a_document_is_a_table_of_the_same_form():
    columns = (Column(""), Column("±", right=True), Column("±", right=True))
    document = Document("", (Section("", (DocumentTable("t", columns, [("a\x1b<b", 1, 2)], "<t>"),)),))
    table = Table(to_cell(document))
    assert table.rows == [["", "±", "±"], ["a <b", "1", "2"]]  # headings may be alike
    assert table.text == {"caption": "<t>"}


def test_what_steers_a_terminal_or_the_direction_of_writing_is_not_shown():
    assert Table(html_table([{"": "a\x1b[31m\u202eb"}])).rows[1] == ["a [31m b"]


def test_rows_of_unlike_headings_share_one_head():
    table = Table(html_table([{"": "a", "b": "1"}, {"": "c", "d": "2"}], "title", "note"))
    assert table.rows == [["", "b", "d"], ["a", "1", ""], ["c", "", "2"]]
    assert table.text == {"caption": "title", "p": "note"}
