"""Names that are made to harm, of runs, data sets and settings, in everything that is written of them."""

import csv
import io
import json
from html.parser import HTMLParser

import pytest
from evaluated import base, full
from finished import finished_run, images
from markdown_it import MarkdownIt

from pyro_vae.experiment.compare import comparing
from pyro_vae.experiment.compare.comparable_runs import candidates
from pyro_vae.experiment.evaluate.evaluation_plan import Plan
from pyro_vae.experiment.evaluate.measurements import evaluate
from pyro_vae.experiment.evaluate.report_files import write
from pyro_vae.experiment.run.trained_run import open_run
from pyro_vae.experiment.train.training_report import write as report
from pyro_vae.inference import Progress
from pyro_vae.report.documents.estimate_sections import estimate_rows
from pyro_vae.report.documents.training_document import training_document
from pyro_vae.report.render.csv_file import to_csv
from pyro_vae.report.render.plain_text import to_text

FORMULAS = ["=HYPERLINK(1)", "+1+1", "-2+3|cmd!A0", "@SUM(1)", "\t=1+1", "\r=1+1", " =1+1", "\n+1"]
EVIL = "=1+1<script>alert(1)<&\x1b]0;owned\x07\x1b[31m$\\frac{\\input x}$%{{7*7}}`#&|\u202e'\""


def is_steering(text):
    return any(not sign.isprintable() for sign in text.replace("\n", ""))


def cells(text):
    return [cell for row in csv.reader(io.StringIO(text)) for cell in row]


def is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


def formulas(text):
    """The cells of a CSV file that a spreadsheet would compute."""
    ours = "-log p(x)"  # which no spreadsheet can compute
    return [c for c in cells(text) if c.strip()[:1] in tuple("=+-@") and not is_number(c) and c != ours]


@pytest.mark.parametrize("name", FORMULAS)
def test_no_cell_of_a_csv_file_is_a_formula_or_steers_a_terminal(name):
    found = full()
    for row in found["reference"]["rows"]:
        row["label"] = name
    found["test"][name] = found["test"]["elbo"]
    text = to_csv(estimate_rows(found))
    assert any(name.strip() in cell for cell in cells(text))
    assert formulas(text) == []
    assert not is_steering(text)
    assert formulas(to_csv(estimate_rows(full()))) == []


def test_the_numbers_of_a_csv_file_stay_numbers():
    rows = list(csv.DictReader(io.StringIO(to_csv(estimate_rows(full())))))
    assert {float(row["mean"]) for row in rows if row["name"] == "AIS"} == {-22.03}


@pytest.mark.parametrize("name", [*FORMULAS, EVIL])
def test_the_text_that_training_prints_steers_no_terminal(name):
    found = base()
    found["protocol"] |= {"name": name, "notes": [f"Arrays of the file that were not used: {name}."]}
    assert not is_steering(to_text(training_document(found)))


class Page(HTMLParser):
    """Tags with their attributes, and the words."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, attrs))

    def handle_data(self, data):
        self.words.append(data)


def rendered(path):
    """The tags that a reader of Markdown makes of a file, where it lets HTML through."""
    reader = MarkdownIt("commonmark", {"html": True}).enable("table")
    return {tag for tag, _ in Page(reader.render(path.read_text(encoding="utf-8"))).tags}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs in folders, on data in a file, that are all named to harm."""
    folder = tmp_path_factory.mktemp("evil")
    data = images(folder / f"{EVIL.replace('/', '')}.npz")
    few = {"test_samples": 30, "elbo_samples": 5, "batch_size": 20, "epochs": 1}
    return [finished_run(folder / f"{i}{EVIL.replace('/', '')}", data, seed=i, **few) for i in range(2)]


@pytest.mark.thorough
def test_every_file_of_an_evaluated_run_is_escaped(runs, tmp_path):
    trained = open_run(runs[0])
    plan = Plan(num_samples=30, elbo_samples=5, annealed_data=0, posterior_draws=0, latent_samples=2)
    text, _ = write(evaluate(trained, plan, lambda sentence: None), tmp_path)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert not {"script", "iframe", "object", "embed", "form", "base", "link"} & {tag for tag, _ in page.tags}
    attributes = [(name, value) for _, attrs in page.tags for name, value in attrs]
    assert not [name for name, _ in attributes if name.startswith("on")]
    assert not [value for name, value in attributes if name in ("src", "href") and not value.startswith(("data:", "#"))]
    said = " ".join(page.words)
    assert "<script>alert(1)" in said
    assert "{{7*7}}" in said
    for name in ("report.txt", "report.md", "report.tex", "report.csv", "data.csv"):
        content = (tmp_path / name).read_text(encoding="utf-8")
        assert not is_steering(content), name
    assert not is_steering(text)
    assert formulas((tmp_path / "report.csv").read_text(encoding="utf-8")) == []
    rows = [line for line in (tmp_path / "report.tex").read_text().splitlines() if not line.startswith("%")]
    assert not [row for row in rows if "\\input" in row or "\\frac" in row]
    assert "script" not in rendered(tmp_path / "report.md")
    json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))


def test_every_file_of_a_comparison_is_escaped(runs, tmp_path):
    evaluation = comparing.Evaluation(num_samples=30)
    both = candidates(runs)
    measured = [comparing.measure(run, evaluation) for run in both]
    text = comparing.write(tmp_path, comparing.compare(both, measured, evaluation))
    for name in ("comparison.txt", "comparison.md", "comparison.csv"):
        assert not is_steering((tmp_path / name).read_text(encoding="utf-8")), name
    assert not is_steering(text)
    assert formulas((tmp_path / "comparison.csv").read_text(encoding="utf-8")) == []
    assert "script" not in rendered(tmp_path / "comparison.md")
    assert (tmp_path / "comparison.png").stat().st_size > 0


def test_the_report_that_training_writes_is_escaped(runs):
    trained = open_run(runs[1])
    progress = Progress(1, 1, -1.0)
    assert not is_steering(report(trained.run, trained.vae, trained.data, progress))
    assert not is_steering((trained.run.path / "report.txt").read_text(encoding="utf-8"))
