"""The report as tables of text and notes, which every format then sets in its own way."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pyro_vae.report.entries import Entry, Report, sections

_FORMULA = re.compile(r"\s*(?:[=+@]|-(?!log p))")  # one label of ours begins so
MINUS = "\N{MINUS SIGN}"  # as wide as a digit, for pictures and pages


class Table(NamedTuple):
    """Cells of plain text, not yet escaped for anything.

    Attributes:
        name: of the section.
        title: in words.
        header: of the columns.
        rows: of as many cells each.
        estimates: whether these are estimates, with the columns of `ESTIMATE_HEADER`.
    """

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    estimates: bool = False


ESTIMATE_HEADER = ("", "bound", "mean", "± over data", "± Monte Carlo", "draws", "data", "what it is")


def number(value: float | None, digits: int = 3) -> str:
    """A number with a fixed count of decimals; "n/a" if unknown; what is not zero never reads as zero.

    >>> number(-22.14757), number(0.0), number(4.6e-5), number(None)
    ('-22.148', '0.000', '<0.001', 'n/a')
    """
    if value is None or not math.isfinite(value):
        return "n/a"
    least = 10.0**-digits
    if 0 < abs(value) < least / 2:
        return f"<{least:.{digits}f}" if value > 0 else f">-{least:.{digits}f}"
    return f"{value:.{digits}f}"


def share(value: float | None) -> str:
    """A share in per cent, never rounded to none or to all of them.

    >>> share(0.25), share(0.0), share(0.0004), share(0.9999), share(None)
    ('25 %', '0 %', '<0.1 %', '>99.9 %', 'n/a')
    """
    if value is None:
        return "n/a"
    if 0 < value < 0.001:
        return "<0.1 %"
    if 0.999 < value < 1:
        return ">99.9 %"
    return f"{100 * value:.0f} %" if value in (0, 1) or 0.095 <= value <= 0.905 else f"{100 * value:.1f} %"


def tables(report: Report) -> list[Table]:
    """All tables of a report, in order: the estimates by section, then facts that are no estimates."""
    estimates = [
        Table(found.name, found.title, ESTIMATE_HEADER, tuple(estimate_row(entry) for entry in found.entries), True)
        for found in sections(report)
    ]
    return [_cleaned(table) for table in (*estimates, *_facts(report)) if table.rows]


def clean(text: str) -> str:
    r"""Text on one line, without characters that steer a terminal or turn the direction of writing.

    >>> clean("a\x1b[31m\nb")
    'a [31m b'
    """
    return "".join(sign if sign.isprintable() else " " for sign in text)


def cell(value: Any) -> Any:
    """What a CSV file holds of a value: text on one line, which no spreadsheet takes for a formula.

    >>> cell("=HYPERLINK(A1)"), cell("vamp"), cell(-1.5)
    ("'=HYPERLINK(A1)", 'vamp', -1.5)
    """
    if not isinstance(value, str):
        return value
    text = clean(value)
    return f"'{text}" if _FORMULA.match(text) else text


def _cleaned(table: Table) -> Table:
    rows = tuple(tuple(map(clean, row)) for row in table.rows)
    return table._replace(title=clean(table.title), rows=rows)


def estimate_row(entry: Entry) -> tuple[str, ...]:
    """The cells of `ESTIMATE_HEADER`."""
    found = entry.numbers
    unit = found.get("unit", "nats")
    show = share if unit == "share" else number
    label = entry.label if unit in ("nats", "share") else f"{entry.label}, {unit}"
    errors = (show(found.get(name)) for name in ("standard_error", "monte_carlo_error"))
    counts = ("n/a" if found.get(name) is None else str(found[name]) for name in ("num_samples", "num_data"))
    return (label, entry.bound, show(found.get("mean")), *errors, *counts, entry.meaning)


def card(report: Report) -> Table:
    """The protocol card: how the data were made and what was drawn; a mapping, or pairs, whose order JSON keeps."""
    found = report.get("protocol_card", {})
    pairs = found.items() if isinstance(found, Mapping) else found
    rows = tuple((str(label), _plain(text)) for label, text in pairs)
    return Table("protocol", "protocol card", ("", ""), rows)


def _facts(report: Report) -> Iterator[Table]:
    yield _worst(report.get("khat", {}))
    yield _escalated(report.get("escalation", {}))
    yield _active(report.get("latent", {}))
    yield Table("posterior", "guide beside the true posterior of one datum", ("", ""), tuple(_posterior(report)))
    yield card(report)
    yield Table("run", "run", ("", ""), tuple(_run(report)))


def _worst(khat: Mapping[str, Any]) -> Table:
    header = ("datum", "label", "k-hat", "effective draws", "bound on log p")
    rows = tuple(
        (
            str(row["datum"]),
            "" if row.get("label") is None else str(row["label"]),
            number(row["khat"], 2),
            number(row["ess"], 0),
            number(row["log_likelihood"]),
        )
        for row in khat.get("worst", ())
    )
    return Table("worst", "the data with the largest k-hat", header, rows)


def _escalated(found: Mapping[str, Any]) -> Table:
    rows = found.get("rows", ())
    draws = rows[0]["more_samples"] if rows else ""
    header = ("datum", "k-hat", "bound", f"with {draws} draws", "k-hat then", "AIS")
    cells = tuple(
        (
            str(row["datum"]),
            number(row["khat"], 2),
            _with_error(row["iwae"], row["iwae_error"]),
            _with_error(row["iwae_more"], row["iwae_more_error"]),
            number(row["khat_more"], 2),
            _with_error(row["ais"], row["ais_error"]) + (" too low" if row.get("missed") else ""),
        )
        for row in rows
    )
    return Table("escalated", "log p of the worst data, nats, ± Monte Carlo: all lower bounds", header, cells)


def _with_error(value: float | None, error: float | None) -> str:
    return "n/a" if value is None else f"{number(value, 2)} ± {number(error, 2)}"


def _active(latent: Mapping[str, Any]) -> Table:
    header = ("site", "active", "of", "relative to the prior", "threshold")
    rows = tuple(
        (site, str(found["count"]), str(found["of"]), _known(found.get("relative_count")), f"{found['threshold']:g}")
        for site, found in latent.get("active", {}).items()
    )
    return Table("active", "active dimensions: the mean of q(z_j|x) varies with x", header, rows)


_POSTERIOR = {
    "datum": "datum",
    "label": "its label",
    "method": "true posterior by",
    "chains": "chains",
    "num_draws": "draws of each chain",
    "num_warmup": "warm-up of each chain",
    "agree": "chains agree",
    "rhat_max": "largest R-hat",
    "ess_min": "smallest effective sample size",
    "divergences": "divergences",
}


def _posterior(report: Report) -> Iterator[tuple[str, str]]:
    found = report.get("posterior", {})
    for name in (*_POSTERIOR, *(name for name in found if name not in _POSTERIOR)):
        if isinstance(found.get(name), str | int | float):
            yield _POSTERIOR.get(name, name.replace("_", " ")), _plain(found[name])


def _run(report: Report) -> Iterator[tuple[str, str]]:
    run = report.get("run", {})
    for name, label in (("evaluated", "evaluated"), ("git", "git commit"), ("num_parameters", "parameters")):
        if run.get(name) is not None:
            yield label, f"{run[name]:,}" if isinstance(run[name], int) else str(run[name])
    for name, label in _MEMBERS.items():
        if run.get("members", {}).get(name):
            yield label, run["members"][name]
    for name in ("versions", "machine"):
        if run.get(name):
            yield name, ", ".join(f"{inner} {_plain(value)}" for inner, value in run[name].items())
    if timings := report.get("timings"):
        steps = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in timings.items())
        yield "time", f"{sum(timings.values()):.0f} s: {steps}"


_MEMBERS = {
    "prior": "p(z)",
    "middle": "p(z1|z2)",
    "posterior": "q(z|x)",
    "posterior1": "q of z1",
    "posterior2": "q of z2",
    "likelihood": "p(x|z)",
}


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(_plain, value)) if isinstance(value, list | tuple) else str(value)


def _known(value: Any) -> str:
    return "n/a" if value is None else str(value)
