"""What is written is parsed again: CSV, Markdown, LaTeX and terminal say what the report says, and honestly."""

import csv
import io
import math
import re

import pytest
from evaluated import EVALUATED, as_read, autoencoder, base, estimate, estimates, full
from markdown_it import MarkdownIt

from pyro_vae.report.cells import number as shown_number
from pyro_vae.report.document import Table
from pyro_vae.report.documents import evaluation_document as documents
from pyro_vae.report.documents.estimate_sections import COLUMNS, datum_rows, estimate_rows
from pyro_vae.report.documents.report_notes import notes
from pyro_vae.report.documents.training_document import training_document
from pyro_vae.report.render import csv_file, latex, markdown, plain_text

HOSTILE = 'a|b & 50% of $x_1$ #1 {y}~^\\ `c` <b>"d"</b>\n\x1b[31m\u202e*e*'


def to_table(report):
    return plain_text.to_text(documents.terminal_document(report))


def to_markdown(report):
    return markdown.to_markdown(documents.evaluation_document(report))


def to_csv(report):
    return csv_file.to_csv(estimate_rows(report))


def to_data_csv(report):
    return csv_file.to_csv(datum_rows(report))


def to_latex(report):
    return latex.to_latex(*documents.latex_row(report))


def of_training(report):
    return plain_text.to_text(training_document(report))


def tables(report):
    return [block for block in documents.evaluation_document(report).blocks if isinstance(block, Table)]


FORMATS = [to_table, to_markdown, to_csv, to_data_csv, to_latex]


def read_csv(text):
    return list(csv.DictReader(io.StringIO(text)))


def number(text):
    return None if text == "" else float(text)


# CSV


def test_every_estimate_of_the_report_is_a_row_in_full_precision():
    rows = {
        (number(row["mean"]), number(row["standard_error"]), number(row["monte_carlo_error"]))
        for row in read_csv(to_csv(full()))
    }
    found = list(estimates(full()))
    assert len(found) > 25
    for path, entry in found:
        accuracy = path == ("classification",)
        assert accuracy or (entry["mean"], entry["standard_error"], entry.get("monte_carlo_error")) in rows, path


def test_a_row_says_what_was_estimated_from_how_much():
    rows = {(row["section"], row["name"]): row for row in read_csv(to_csv(full()))}
    assert rows["reference", "AIS"] == {
        "section": "reference", "name": "AIS", "mean": "-22.03", "standard_error": "0.362",
        "monte_carlo_error": "0.003", "num_samples": "16", "num_data": "4", "unit": "nats",
        "bound": "lower", "label": "AIS from q, T = 200",
    }  # fmt: skip
    assert rows["simulated", "gap"]["mean"] == "-0.00286"
    assert rows["simulated", "gap"]["standard_error"] == "0.00462"
    assert rows["khat", "share_above"]["mean"] == str(2 / 6)
    assert rows["khat", "share_above"]["num_data"] == "6"
    assert rows["test", "bits_per_dim"]["unit"] == "bits/dim"
    assert rows["classification", "accuracy"]["mean"] == "0.9361"
    assert rows["kl_per_dimension", "z[2]"]["mean"] == "1.9"
    assert rows["variance", "z[1]"]["standard_error"] == "0.0001"


def test_bounds_are_called_bounds():
    rows = read_csv(to_csv(full()))
    bounds = {(row["section"], row["name"]): row["bound"] for row in rows}
    lower = {
        *(
            ("test", "elbo"),
            ("test", "log_likelihood"),
            ("curve", "iwae_1"),
            ("curve", "iwae_5"),
            ("curve", "iwae_1000"),
        ),
        *(("reference", "ELBO"), ("reference", "IWAE"), ("reference", "AIS")),
        *(("simulated", "elbo"), ("simulated", "iwae"), ("simulated", "forward")),
        *(("gaps", "train_elbo"), ("gaps", "test_elbo")),
        ("latent", "marginal_kl_leave_one_out"),
        *(("baselines", f"program - {name}") for name in ("Bernoulli by pixel", "another baseline")),
    }
    assert {key for key, bound in bounds.items() if bound == "lower"} == lower
    assert {key for key, bound in bounds.items() if bound == "upper"} == {
        ("test", "bits_per_dim"),
        ("simulated", "reverse"),
        ("latent", "marginal_kl"),
    }
    none = {("jackknife", "jackknife"), ("reference", "grid"), ("classification", "log_p_of_true_class")}
    assert {key for key, bound in bounds.items() if bound == "no bound"} == none


def test_rows_stand_in_the_order_of_the_report_though_json_sorts_keys():
    def order(report, section):
        return [row["name"] for row in read_csv(to_csv(report)) if row["section"] == section]

    for report in (full(), as_read(full())):
        assert order(report, "reference") == ["ELBO", "AIS", "IWAE", "grid"]
        assert order(report, "simulated") == ["elbo", "iwae", "forward", "reverse", "gap"]
        first = ["elbo", "reconstruction", "kl", "log_likelihood", "bits_per_dim"]
        assert order(report, "test") == [*first, "rounding_loss", "rounding_size"]
    assert to_csv(full()) == to_csv(as_read(full()))


def test_an_unknown_estimate_of_the_test_data_is_shown_under_its_own_name():
    found = base()
    found["test"]["surprise"] = estimate(1.25)
    assert read_csv(to_csv(found))[-1]["name"] == "surprise"
    assert "surprise" in to_markdown(found)


def test_each_datum_has_a_row_with_all_that_is_known_of_it():
    found = full()
    found["per_datum"] = {"label": [3, 1, 4, 1, 5, 9], "log_likelihood": [-1.5, -2.5, None, -4.5, -5.5, -6.5]}
    rows = read_csv(to_data_csv(found))
    assert list(rows[0]) == ["datum", "label", "log_likelihood", "khat", "ess"]
    assert [int(row["datum"]) for row in rows] == list(range(6))
    expected = {**found["per_datum"], "khat": found["khat"]["values"], "ess": found["khat"]["ess"]}
    for name, column in expected.items():
        assert [number(row[name]) for row in rows] == column


# The terminal


@pytest.mark.parametrize("report", [full(), base(), autoencoder()])
def test_the_table_fits_a_terminal_of_100_columns(report):
    assert max(map(len, to_table(report).splitlines())) <= 100


def test_the_numbers_stand_under_their_heads():
    lines = to_table(full()).splitlines()
    heads = [line for line in lines if line.endswith("± Monte Carlo   draws    data") and "bound" in line]
    assert len(heads) > 8
    (line,) = [line for line in lines if line.startswith("AIS from q, T = 200 ")]
    ends = {
        name: heads[0].index(name) + len(name) for name in ("bound", "mean", "± over data", "± Monte Carlo", "draws")
    }
    assert [line[:end].split()[-1] for end in ends.values()] == ["lower", "-22.030", "0.362", "0.003", "16"]
    assert line.split()[-1] == "4"


def test_the_table_is_honest():
    text = to_table(full())
    flat = " ".join(text.split())
    assert text.startswith("digits-vamp-0\npython scripts/train_svi.py --prior vamp\npython scripts/evaluate.py runs/")
    assert of_training(full()) in text
    assert "one random subset, 4 of 6 test data" in text
    assert "5 data simulated from the model: log p(x) lies between forward and reverse, in expectation" in text
    assert re.search(r"gap, simulated data only +-0\.003 +0\.005 +n/a +n/a +5", text)
    assert re.search(r"data with k-hat above 0\.7 +33 % +n/a +n/a +1000 +6", text)
    assert re.search(r"jackknife, K = 1000 +no bound +-22\.148", text)
    assert "Independent draws of z from q(z|x) for each datum, not from a Markov chain" in flat
    assert "Neither error includes the effect of another training seed." in flat
    assert "not included in the numbers above" in text


def test_what_is_not_zero_does_not_read_as_zero():
    assert re.search(r"bits/dim.*\| <0\.001\* \|", to_markdown(full()).replace("\\", ""))


@pytest.mark.parametrize("digits", range(1, 8))
def test_no_number_beside_zero_reads_as_zero(digits):
    half = 0.5 * 10.0**-digits
    for size in (half, math.nextafter(half, 0), math.nextafter(half, 1), half / 7, 5e-324, 1.2 * half):
        for value in (size, -size):
            text = str(shown_number(value, digits))
            assert float(text.lstrip("<>")) != 0
            assert len(text.lstrip("<>-")) == digits + 2
            assert text.startswith(("<0", ">-0")) or abs(float(text) - value) <= half
    assert str(shown_number(0.0, digits)) == f"{0:.{digits}f}"


def test_long_and_hostile_strings_neither_widen_nor_steer_the_terminal():
    found = full()
    found["run"]["name"] = found["reference"]["rows"][1]["label"] = "x" * 300
    found["run"]["command"] = found["reference"]["rows"][0]["label"] = HOSTILE * 4
    found["escalation"]["budget"] = found["gaps"]["reference"] = HOSTILE * 9
    found["protocol_card"]["x" * 140] = HOSTILE * 5
    found["protocol"]["name"] = HOSTILE
    text = to_table(found)
    assert max(map(len, text.splitlines())) <= 100
    assert all(sign.isprintable() for line in text.split("\n") for sign in line)


def test_the_split_reads_train_valid_test_though_json_sorts_keys():
    assert of_training(as_read(base())) == of_training(base())
    assert "random split 1257 / 180 / 6" in of_training(as_read(base()))


# Markdown


def read_markdown(text):
    """Tables as rows of plain text, headings, and anything that is more than text."""
    found, tables, headings = MarkdownIt("commonmark").enable("table").parse(text), [], []
    kinds = {child.type for token in found for child in token.children or ()}
    for i, token in enumerate(found):
        inside = found[i + 1].content if token.type in ("heading_open", "th_open", "td_open") else None
        plain = "".join(child.content for child in found[i + 1].children or ()) if inside is not None else None
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type in ("th_open", "td_open"):
            tables[-1][-1].append(plain)
        elif token.type == "heading_open":
            headings.append(plain)
    return tables, headings, kinds, [token.content for token in found if token.type == "fence"]


@pytest.mark.parametrize("report", [full(), base(), autoencoder()])
def test_markdown_tables_hold_the_cells(report):
    found, headings, *_ = read_markdown(to_markdown(report))
    expected = tables(report)
    assert headings == [report.get("run", {}).get("name", "digits"), *(table.title for table in expected)]
    assert len(found) == len(expected)
    for (head, *rows), table in zip(found, expected, strict=True):
        heads = [column.head for column in table.columns]
        assert head == (heads if any(heads) else ["item", "value"])
        assert rows == [list(map(str, row)) for row in table.rows]
    assert "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |" in to_markdown(report)
    assert [column.head for column in COLUMNS[2:5]] == ["mean", "± over data", "± Monte Carlo"]


def test_hostile_strings_are_text_in_markdown():
    found = full()
    found["run"]["name"] = found["reference"]["rows"][0]["label"] = found["protocol_card"]["split"] = HOSTILE
    found["run"]["command"] = "run ```\nrm\n```` x"
    cells, headings, kinds, fences = read_markdown(to_markdown(found))
    clean = "".join(sign if sign.isprintable() else " " for sign in HOSTILE)
    assert headings[0] == clean
    assert sum(clean in row for table in cells for row in table) == 2
    assert kinds <= {"text", "text_special", "strong_open", "strong_close", "softbreak"}
    assert fences == ["python scripts/train_svi.py --prior vamp\n", "run ``` rm ```` x\n"]
    found["run"]["command"] = "````"
    assert read_markdown(to_markdown(found))[-1][1] == "````\n"


# LaTeX

SIGNS = {
    "textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<", "textgreater": ">",
    "textbar": "|", "textquotedbl": '"',
}  # fmt: skip


def typeset(text):
    """What LaTeX would print: the escaped signs and the commands above; no other sign is active."""
    assert not set('&%$#_{}~^\\<>|"') & set(re.sub(r"\\[&%$#_{}]|\\\w+\{\}", "", text))
    return re.sub(r"\\(?:([&%$#_{}])|(\w+)\{\})", lambda found: found[1] or SIGNS[found[2]], text)


def cells(latex):
    (row,) = [line for line in latex.splitlines() if not line.startswith("%")]
    assert row.endswith(r" \\")
    return re.split(r" (?<!\\)& ", row.removesuffix(r" \\"))


def test_the_latex_row_holds_the_numbers_below_their_heads():
    latex = to_latex(full())
    (head,) = [line for line in latex.splitlines() if line.endswith(r"\\ \midrule")]
    heads = [part.strip() for part in head.removeprefix("%").removesuffix(r"\\ \midrule").split("&")]
    found = dict(zip(heads, cells(latex), strict=True))
    assert found == {
        "": "digits-vamp-0",
        "reconstruction": r"$-17.511 \pm 0.200\ (0.004)$",
        "KL": r"$4.995 \pm 0.051\ (0.000)$",
        "ELBO": r"$-22.506 \pm 0.200\ (0.004)$",
        r"$\log p(x) \ge$": r"$-22.148 \pm 0.191\ (0.002*)$",
        r"AIS $\ge$": r"$-22.030 \pm 0.362\ (0.003)$",
        r"$\hat k > 0.7$": r"33 \%",
        "active": "2/3",
    }


def test_the_comments_of_the_latex_row_say_what_it_is():
    comments = " ".join(line for line in to_latex(full()).splitlines() if line.startswith("%"))
    for said in (
        "mean over 6 test data +- standard error over data (Monte Carlo error)",
        "lower bounds in expectation",
        "1000 i.i.d. draws from q(z|x)",
        "AIS: only 4 test data",
        "python scripts/evaluate.py runs/digits-vamp-0",
    ):
        assert said in comments


def test_hostile_strings_are_text_in_latex():
    found = full()
    found["run"]["name"], found["run"]["command"] = HOSTILE, "run\n\\input{secret}"
    latex = to_latex(found)
    name, *rest = cells(latex)
    assert typeset(name) == "".join(sign if sign.isprintable() else " " for sign in HOSTILE)
    assert len(rest) == 7
    assert sum(not line.startswith("%") for line in latex.splitlines()) == 1


def test_rows_of_different_runs_can_be_stacked():
    assert {len(cells(to_latex(report))) for report in (full(), base(), autoencoder())} == {8}
    assert cells(to_latex(autoencoder()))[1:] == [r"$-5.938 \pm 0.200\ (0.004)$", *["--"] * 6]


@pytest.mark.parametrize("write", [to_table, to_markdown])
def test_what_bfloat16_changes_is_said_once_with_two_digits(write):
    text = " ".join(write(full()).split())
    found = "draws: +0.0052 nats, ± 0.0036 over 6 data, ± 0.00021 Monte Carlo; a single datum moves by 0.046 on average"
    assert text.count(found) == 1
    assert "networks in bfloat16" not in write(base())


# Sparse reports


@pytest.mark.parametrize("write", FORMATS)
@pytest.mark.parametrize("key", EVALUATED)
def test_any_key_of_an_evaluation_may_be_absent(write, key):
    found = full()
    del found[key]
    assert write(found)


INNER = [
    ("reference", "differences"), ("simulated", "iwae"), ("simulated", "elbo"), ("khat", "worst"), ("latent", "active"),
    ("latent", "rate"), ("latent", "kl_per_dimension"), ("gaps", "amortisation"), ("gaps", "approximation"),
    ("gaps", "train_test"), ("run", "members"), ("run", "name"), ("run", "command"), ("run", "versions"),
]  # fmt: skip


@pytest.mark.parametrize("write", FORMATS)
@pytest.mark.parametrize(("key", "inner"), INNER)
def test_parts_may_be_absent_or_unknown(write, key, inner):
    found = full()
    found[key] |= {inner: None} if key == "gaps" else {}
    if key != "gaps":
        del found[key][inner]
    assert write(found)


@pytest.mark.parametrize("write", FORMATS)
def test_numbers_may_be_unknown(write):
    found = full()
    for _, entry in list(estimates(found)):
        entry["standard_error"] = None
        if "monte_carlo_error" in entry:
            entry["monte_carlo_error"] = None
    found["khat"] |= {"above": None, "values": [None] * 6}
    found["latent"]["kl_per_dimension"]["z"] = None
    found["latent"]["active"]["z"]["relative_count"] = None
    assert write(found)


def test_a_plain_autoencoder_has_no_log_p():
    for text in (to_table(autoencoder()), to_markdown(autoencoder())):
        assert "0.152" in text
        assert "no ELBO and no log p(x)" in " ".join(text.split())
    assert [row["name"] for row in read_csv(to_csv(autoencoder()))] == ["reconstruction", "rmse"]
    assert to_data_csv(autoencoder()) == "datum\n"
    assert "RMSE 0.152" in to_latex(autoencoder())


def test_notes_speak_only_of_what_the_report_holds():
    assert {term for term, _ in notes(base())} == {"± over data", "± Monte Carlo", "draws", "ELBO", "log p(x)", "data"}
    assert {"AIS", "gap", "k-hat", "gaps", "jackknife", "more work", "true posterior"} <= {t for t, _ in notes(full())}
    without = full()
    del without["reference"]["rows"][1]
    assert "AIS" not in {term for term, _ in notes(without)}
    assert "log p(x|y)" in {term for term, _ in notes(full() | {"config": {"conditional": True}})}


def test_the_protocol_card_may_be_pairs_whose_order_is_kept():
    pairs = [["zeta", "first"], ["alpha", "second"]]
    (card,) = [table for table in tables(full() | {"protocol_card": pairs}) if table.name == "protocol"]
    assert card.rows == [("zeta", "first"), ("alpha", "second")]


@pytest.mark.parametrize(("loose", "said"), [(True, True), (False, False)])
def test_a_reference_below_the_elbo_is_called_loose(loose, said):
    found = full()
    found["gaps"]["loose"] = loose
    assert ("lies below an ELBO here" in " ".join(to_table(found).split())) == said


def test_annealing_that_missed_what_samples_met_is_called_too_low():
    found = full()
    found["escalation"]["rows"][0] |= {"ais": -30.0, "ais_error": 0.1, "missed": True}
    assert "-30.00 ± 0.10 too low" in to_table(found)


@pytest.mark.parametrize("name", ["marginal_kl", "total_correlation"])
def test_a_measure_of_the_aggregate_posterior_has_two_ends_where_both_are_known(name):
    new, old = full(), full()
    lower = new["latent"][name]["leave_one_out"]
    del old["latent"][name]["leave_one_out"]
    rows = {row["name"]: row for row in read_csv(to_csv(new))}
    assert float(rows[f"{name}_leave_one_out"]["mean"]) == lower["mean"]
    assert float(rows[f"{name}_leave_one_out"]["standard_error"]) == lower["standard_error"]
    rows = {row["name"]: row for row in read_csv(to_csv(old))}
    assert f"{name}_leave_one_out" not in rows
    assert rows[name]["bound"] == ""


class TestErrorsThatCannotBeTrusted:
    """Where the weights of any datum have a heavy tail, errors of means of weights are marked, and no others."""

    MARKED = ("log p(x), nats", "-log p(x), bits/dim", "k = 1000", "jackknife, K", "IWAE, K = 1000")
    PLAIN = ("ELBO ", "reconstruction ", "k = 1,", "k = 5 ", "AIS from q", "grid, 64")

    def lines(self, report, start):
        return [line for line in to_table(report).splitlines() if line.startswith(start)]

    @pytest.mark.parametrize("start", MARKED)
    def test_they_are_marked(self, start):
        (line, *_) = self.lines(full(), start)
        assert re.search(r"0\.00\d\*", line)
        light = full()
        light["khat"]["above"] = 0.0
        assert not [line for line in self.lines(light, start) if "*" in line]

    @pytest.mark.parametrize("start", PLAIN)
    def test_others_are_not(self, start):
        assert not [line for line in self.lines(full(), start) if "*" in line]

    def test_the_mark_is_explained_where_it_stands(self):
        light = full()
        light["khat"]["above"] = 0.0
        for render in (to_table, to_markdown):
            assert "whatever its draws have missed" in " ".join(render(full()).split())
            assert "whatever its draws have missed" not in " ".join(render(light).split())
        assert "*: too small, since the weights of some data have heavy tails" in to_latex(full())
        assert "*" not in to_latex(light)

    def test_a_csv_file_keeps_its_numbers_and_says_so_in_the_label(self):
        rows = {(row["section"], row["name"]): row for row in read_csv(to_csv(full()))}
        assert rows["test", "log_likelihood"]["label"] == "(Monte Carlo error too small) log p(x)"
        assert float(rows["test", "log_likelihood"]["monte_carlo_error"]) == 0.00204
        assert rows["test", "elbo"]["label"] == "ELBO"
