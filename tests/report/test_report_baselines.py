"""Baselines and the majority share in a report: the text, the page, and reports that have neither."""

from evaluated import as_read, base, full

from pyro_vae.report.documents.baseline_section import baseline_table
from pyro_vae.report.documents.evaluation_document import evaluation_document, headlines, terminal_document
from pyro_vae.report.documents.training_document import training_document
from pyro_vae.report.render.html_page import to_html
from pyro_vae.report.render.plain_text import to_text


def test_the_table_stands_right_below_the_headline_once():
    text = to_text(terminal_document(as_read(full())))
    head, table = text.split("\n\n")[1:3]
    assert head.startswith("test, per datum")
    assert table.splitlines() == [
        "baseline            log p(x)  program - it     95 % interval",
        "Bernoulli by pixel   -27.345        +5.197  [+4.832, +5.522]  better",
        "another baseline     -22.200        +0.052  [-0.021, +0.132]  no difference shown",
    ]
    assert text.count("Bernoulli by pixel") == 1
    words = " ".join(text.split())
    assert "fitted to 1,257 training data." in words
    assert "yet another: left out." in words


def test_the_widest_table_fits_a_terminal():
    report = full()
    for row in report["baselines"]["rows"]:
        row |= {"name": "negative binomial by column", "mean": -999.5, "verdict": "no difference shown"}
        row["difference"] |= {"mean": 999.123, "interval": [-999.123, 999.123]}
    report["baselines"]["by_class"] = True
    table = to_text(terminal_document(report)).split("\n\n")[2]
    assert "negative binomial by column" in table
    assert max(map(len, table.splitlines())) <= 100


def test_the_page_has_both_numbers_and_the_card_names_the_best_baseline():
    page = to_html(evaluation_document(as_read(full())))
    assert "simple densities fitted only to the training data" in page
    assert "95 % in [+4.832, +5.522]: better" in page
    lines = {headline.label: headline.lines for headline in headlines(full())}
    assert "+0.052 over another baseline: no difference shown" in lines["log p(x)"]
    assert "17 % by always guessing the commonest class" in lines["right class, by Bayes' rule"]


def test_a_report_without_them_is_shown_as_it_was():
    report = full()
    del report["baselines"]
    del report["classification"]["majority_share"]
    for text in (to_text(terminal_document(report)), to_html(evaluation_document(report))):
        assert "aseline" not in text
        assert "guessing" not in text
    assert "aseline" not in to_text(training_document(base()))
    assert baseline_table(base()).rows == []


def test_each_class_with_its_own_fit_is_named_in_the_head():
    report = full()
    report["baselines"]["by_class"] = True
    report["config"]["conditional"] = True
    table = to_text(terminal_document(report)).split("\n\n")[2]
    assert table.startswith("baseline, by class  log p(x|y)")
