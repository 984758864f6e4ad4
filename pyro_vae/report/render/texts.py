"""The report of an evaluated run as text: for a terminal, Markdown, CSV, and a row for a LaTeX table.

All are functions of the dict that report.json holds; nothing is estimated here. Every one of them names both errors,
calls a bound a bound, and says how many data it saw.
"""

import csv
import io
import re
import textwrap
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pyro_vae.report import headline
from pyro_vae.report.entries import (
    Entry,
    Report,
    Section,
    commands,
    dimensions,
    name,
    num_test,
    of_x,
    per_datum,
    sections,
)
from pyro_vae.report.notes import notes
from pyro_vae.report.tables import Table, cell, clean, number, share, tables

WIDTH = 100  # columns of a terminal
_LABEL = 34
_HEAD = f"{'bound':>10}{'mean':>11}{'± over data':>13}{'± Monte Carlo':>15}{'draws':>8}{'data':>8}"


def to_table(report: Report) -> str:
    """The report for a terminal, at most 100 columns wide: `numbers.to_text`, then everything an evaluation added.

    Args:
        report: what report.json holds; every key that an evaluation adds may be absent.
    """
    said = {"autoencoder", "classification", "objective", "precision", "protocol"}  # by `numbers.to_text`
    head = [line for text in (name(report), *commands(report)) for line in _filled(clean(text))]
    first = "\n".join(clean(line) for line in headline.to_text(report).split("\n"))
    blocks = [_block(table) for table in tables(report) if table.name not in {"test", "classification"}]
    said_here = (_filled(f"{term}: {text}") for term, text in notes(report, without=said))
    return "\n\n".join(["\n".join(head), first, *blocks, "\n".join(line for lines in said_here for line in lines)])


def to_markdown(report: Report) -> str:
    """The report as Markdown, with tables as GitHub has them. Arguments as for `to_table`."""
    said = "\n".join(f"- **{markdown(term)}**: {markdown(text)}" for term, text in notes(report))
    head = [f"# {markdown(name(report))}", *map(_fenced, commands(report))]
    return "\n\n".join([*head, *map(_markdown_table, tables(report)), said]) + "\n"


COLUMNS = (
    *("section", "name", "mean", "standard_error", "monte_carlo_error", "num_samples", "num_data", "unit"),
    *("bound", "label"),
)


def to_csv(report: Report) -> str:
    """One row for each estimate, in full precision; what is unknown is empty. Arguments as for `to_table`.

    Columns: section, name, mean, standard_error (over the data), monte_carlo_error, num_samples, num_data, unit;
    bound ("lower" or "upper" in expectation, "no bound", or empty where the question does not arise), label.

    Example:
        >>> elbo = {"mean": -3.0, "standard_error": 0.5, "monte_carlo_error": None, "num_samples": 1, "num_data": 9}
        >>> print(to_csv({"test": {"elbo": elbo}}), end="")
        section,name,mean,standard_error,monte_carlo_error,num_samples,num_data,unit,bound,label
        test,elbo,-3.0,0.5,,1,9,nats,lower,ELBO
    """
    found = [*sections(report), *dimensions(report)]
    return _csv(COLUMNS, (_csv_row(section, entry) for section in found for entry in section.entries))


def to_data_csv(report: Report) -> str:
    """One row for each test datum: its position, its estimates, k-hat and effective sample size.

    A datum without a k-hat (weights that all agree, or fewer than 25 draws) has an empty cell.

    Example:
        >>> print(to_data_csv({"khat": {"values": [0.2, None], "ess": [80.5, 100.0]}}), end="")
        datum,khat,ess
        0,0.2,80.5
        1,,100.0
    """
    columns = per_datum(report)
    rows = zip(*columns.values(), strict=True) if columns else ()
    return _csv(("datum", *columns), ((i, *row) for i, row in enumerate(rows)))


def _csv(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(map(cell, row) for row in rows)
    return buffer.getvalue()


def _csv_row(section: Section, entry: Entry) -> tuple[Any, ...]:
    found = entry.numbers
    known = (found.get(name) for name in COLUMNS[2:7])
    return (section.name, entry.name, *known, found.get("unit", "nats"), entry.bound, entry.label)


def to_latex(report: Report) -> str:
    r"""A row of a booktabs table, below comments with the head of the table and what its columns are.

    The columns are the same for every report, so that the rows of several runs can be put below each other. A mean is
    followed by its standard error over the data and, in brackets, by its Monte Carlo error.

    Example:
        >>> print(to_latex({"run": {"name": "digits_1"}}).splitlines()[-1])
        digits\_1 & -- & -- & -- & -- & -- & -- & -- \\
    """
    ais = _ais(report)
    khat = report.get("khat", {}).get("above")
    cells = [
        *(_latex_estimate(report.get("test", {}).get(name)) for name in ("reconstruction", "kl", "elbo")),
        _latex_estimate(report.get("test", {}).get("log_likelihood")),
        _latex_estimate(ais),
        "--" if khat is None else _latex(share(khat)),
        _latex_active(report),
    ]
    comments = [f"% {clean(line)}" for line in _latex_comments(report, ais)]
    return "\n".join([*comments, " & ".join([_latex(name(report)), *cells]) + r" \\"]) + "\n"


def _ais(report: Report) -> Mapping[str, Any] | None:
    rows = report.get("reference", {}).get("rows", ())
    return next((row for row in rows if row["name"] == "AIS"), None)


def _latex_comments(report: Report, ais: Mapping[str, Any] | None) -> Iterator[str]:
    of, test = of_x(report), report.get("test", {})
    yield from (f"{name(report)}: {command}" for command in commands(report))
    yield f"nats per datum: mean over {num_test(report)} test data +- standard error over data (Monte Carlo error)"
    if "log_likelihood" in test:
        draws = test["log_likelihood"]["num_samples"]
        yield f"ELBO, log p({of}), AIS: lower bounds in expectation; log p({of}) by {draws} i.i.d. draws from q(z|x)"
    if ais is not None and ais["num_data"] != num_test(report):
        yield f"AIS: {ais['num_data']} test data only, drawn at random; not to be compared with means over all"
    if "khat" in report:
        yield f"k-hat: share of the data above {report['khat']['threshold']:g}, whose log p({of}) may be too low"
    if "rmse" in test:
        yield f"plain autoencoder: no density of z, no log p(x); RMSE {number(test['rmse']['mean'])}"
    given = of.replace("|", r" \mid ")
    heads = ("reconstruction", "KL", "ELBO", rf"$\log p({given}) \ge$", r"AIS $\ge$", r"$\hat k > 0.7$", "active")
    yield r"\begin{tabular}{lrrrrrrr} \toprule"
    yield " & ".join(("", *heads)) + r" \\ \midrule"


def _latex_estimate(found: Mapping[str, Any] | None) -> str:
    if found is None or found.get("mean") is None:
        return "--"
    errors = (number(found.get(error)).replace("n/a", "?") for error in ("standard_error", "monte_carlo_error"))
    over_data, over_draws = errors
    return rf"${number(found['mean'])} \pm {over_data}\ ({over_draws})$"


def _latex_active(report: Report) -> str:
    sites = report.get("latent", {}).get("active", {})
    return ", ".join(f"{found['count']}/{found['of']}" for found in sites.values()) or "--"


_LATEX = {
    **{sign: rf"\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in clean(text))


def _block(table: Table) -> str:
    """A table for the terminal, below its title."""
    if table.estimates:
        lines = [f"{'':<{_LABEL}}{_HEAD}", *(line for row in table.rows for line in _estimate_lines(row))]
    else:
        lines = _aligned([table.header, *table.rows] if any(table.header) else table.rows)
    return "\n".join([*_filled(table.title, indent=""), *lines])


def _estimate_lines(row: Sequence[str]) -> list[str]:
    label, bound, mean, over_data, over_draws, draws, data, _ = row
    cells = f"{bound:>10}{mean:>11}{over_data:>13}{over_draws:>15}{draws:>8}{data:>8}"
    *above, last = textwrap.wrap(label, _LABEL, subsequent_indent="  ") or [""]
    return [*above, f"{last:<{_LABEL}}{cells}"]


def _aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    rows = list(rows)
    widths = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
    indent = " " * min(widths[0], WIDTH // 3) if len(widths) == 2 else "  "
    lines = ("".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
    return [part for line in lines for part in _filled(line, indent)]


def _filled(text: str, indent: str = "  ") -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent)


def _markdown_table(table: Table) -> str:
    header, rows = table.header, table.rows
    if not any(header):
        header = ("item", "value")
    return f"## {markdown(table.title)}\n\n{markdown_rows(header, rows, range(2, 7) if table.estimates else ())}"


def markdown_rows(header: Sequence[str], rows: Iterable[Sequence[str]], right: Container[int] = ()) -> str:
    """A table as GitHub has them, of plain text; `right` are the columns that are flush right."""
    rule = ["---:" if i in right else "---" for i in range(len(header))]
    lines = [map(markdown, header), rule, *(map(markdown, row) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def markdown(text: str) -> str:
    """Text on one line in which nothing marks up."""
    return re.sub(r"([\\`*_\[\]<>|~&#$])", r"\\\1", clean(text))


def _fenced(command: str) -> str:
    """A block of code whose fence is longer than any in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", command)), default=0))
    return f"{fence}sh\n{clean(command)}\n{fence}"
