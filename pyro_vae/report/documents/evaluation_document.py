"""The document of an evaluated run: all estimates, other facts, and what the numbers mean."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pyro_vae.report.cells import MINUS, both_errors, clean, estimate, number, plain, share
from pyro_vae.report.document import Code, Column, Document, Headline, Notes, Picture, Section, Table
from pyro_vae.report.documents.baseline_section import best_baseline
from pyro_vae.report.documents.estimate_sections import (
    Report,
    class_name,
    commands,
    has_heavy_weights,
    num_test,
    of_x,
    page_title,
    run_name,
    sections,
)
from pyro_vae.report.documents.report_notes import notes
from pyro_vae.report.documents.training_document import headline_section, scale_table

# What the headline section says of them already.
_SHOWN = ("test", "baselines", "scales", "classification")
_SAID = ("autoencoder", "baselines", "classification", "likelihood", "objective", "precision", "protocol")


def evaluation_document(report: Report, pictures: Sequence[Picture] = ()) -> Document:
    """Makes the whole document, for a page and for Markdown.

    Args:
        report: what report.json holds; every key that an evaluation adds may be absent.
        pictures: those that go with it.
    """
    typed = (Code(clean(command), "sh") for command in commands(report))
    return Document(
        page_title(report),
        (Section("", (*typed, *_tables(report), Notes(notes(report)))),),
        facts=tuple(_facts(report)),
        headlines=tuple(headlines(report)),
        pictures=tuple(pictures),
    )


def terminal_document(report: Report) -> Document:
    """Makes the document for a terminal: the report that training ended with, then everything that was added to it.

    Args:
        report: what report.json holds; every key that an evaluation adds may be absent.
    """
    head = Notes.of((run_name(report), *commands(report)))
    added = [_narrow(table) for table in _tables(report) if table.name not in _SHOWN]
    said = Notes(notes(report, without=_SAID))
    return Document("", (Section("", (head, *headline_section(report).blocks, *added, said)),))


def _narrow(table: Table) -> Table:
    """Drops the column of what the estimates are, since there is no room for it."""
    if not table.columns[0].width:
        return table
    return table._replace(columns=table.columns[:-1], rows=[row[:-1] for row in table.rows])


def latex_row(report: Report) -> tuple[Table, list[str]]:
    """Makes one row for a table of several runs, and lines that say what its columns are.

    The columns are the same for every run. A mean is followed by its standard error over the data and, in brackets, by
    its Monte Carlo error.

    Args:
        report: what report.json holds.
    """
    test, given = report.get("test", {}), of_x(report).replace("|", r" \mid ")
    khat = report.get("khat", {}).get("above")
    sites = report.get("latent", {}).get("active", {}).values()
    cells = {
        "": run_name(report),
        "reconstruction": both_errors(test.get("reconstruction")),
        "KL": both_errors(test.get("kl")),
        "ELBO": both_errors(test.get("elbo")),
        rf"$\log p({given}) \ge$": both_errors(test.get("log_likelihood"), "*" if has_heavy_weights(report) else ""),
        r"AIS $\ge$": both_errors(_ais(report)),
        r"$\hat k > 0.7$": "" if khat is None else share(khat),
        "active": ", ".join(f"{active['count']}/{active['of']}" for active in sites),
    }
    columns = tuple(Column(head, right=bool(head)) for head in cells)
    return Table("latex", columns, [tuple(cells.values())]), list(_latex_comments(report))


def _ais(report: Report) -> Mapping[str, Any] | None:
    rows = report.get("reference", {}).get("rows", ())
    return next((row for row in rows if row["name"] == "AIS"), None)


def _latex_comments(report: Report) -> Iterator[str]:
    of, test, ais = of_x(report), report.get("test", {}), _ais(report)
    yield from (f"{run_name(report)}: {command}" for command in commands(report))
    yield f"nats per datum: mean over {num_test(report)} test data +- standard error over data (Monte Carlo error)"
    if "log_likelihood" in test:
        draws = test["log_likelihood"]["num_samples"]
        yield f"ELBO, log p({of}), AIS: lower bounds in expectation; log p({of}) by {draws} i.i.d. draws from q(z|x)"
    if ais is not None and ais["num_data"] != num_test(report):
        yield f"AIS: only {ais['num_data']} test data, drawn at random; do not compare with means over all"
    if has_heavy_weights(report):
        yield "*: too small, since the weights of some data have heavy tails"
    if "khat" in report:
        yield f"k-hat: share of the data above {report['khat']['threshold']:g}, whose log p({of}) may be too low"
    if "rmse" in test:
        yield f"plain autoencoder: no density of z, no log p(x); RMSE {number(test['rmse']['mean'])}"


# Numbers in large type.


def headlines(report: Report) -> list[Headline]:
    """Lists the three or four numbers that a report comes down to, each with its errors.

    Example:
        >>> elbo = {"mean": -3.04, "standard_error": 0.12, "monte_carlo_error": 0.01, "num_data": 9, "unit": "nats"}
        >>> for line in headlines({"test": {"elbo": elbo}})[0]: print(line)
        ELBO
        −3.04
        nats
        ('± 0.12 over 9 test data', '± 0.010 Monte Carlo')
    """
    return [*_bounds(report), *_codes(report), *_shares(report)][:4]


def _bounds(report: Report) -> Iterator[Headline]:
    test = report.get("test", {})
    if (bound := test.get("log_likelihood")) is not None:
        lines = ["lower bound in expectation", f"K = {bound['num_samples']:,} draws from q(z|x)"]
        if (bits := test.get("bits_per_dim")) is not None:
            lines.append(f"at most {number(bits['mean'])} bits/dim")
        lines.extend(best_baseline(report))
        mark = "*" if has_heavy_weights(report) else ""
        yield _headline(f"log p({of_x(report)})", bound, "≥ ", lines, mark)
    if (elbo := test.get("elbo")) is not None:
        digits = _digits(elbo.get("standard_error"))
        terms = {"reconstruction": "reconstruction", "kl": "KL"}
        parts = [f"{word} {_typeset(test[key]['mean'], digits)}" for key, word in terms.items() if key in test]
        yield _headline("ELBO", elbo, "", [", ".join(parts)] if parts else [])


def _codes(report: Report) -> Iterator[Headline]:
    test = report.get("test", {})
    if "elbo" not in test and "reconstruction" in test:
        yield _headline("reconstruction, log p(x|z)", test["reconstruction"])
    if "rmse" in test:
        yield _headline("RMSE", test["rmse"])
    if (sizes := report.get("autoencoder")) is not None:
        numbers = f"{sizes['numbers_in']} → {sizes['numbers_in_code']}"
        yield Headline("numbers in, numbers in the code", numbers, "", ("no density of z: no ELBO, no log p(x)",))


def _shares(report: Report) -> Iterator[Headline]:
    if (classes := report.get("classification")) is not None:
        remarks = [f"± {share(classes['standard_error'])} over {classes['num_data']} test data"]
        if (majority := classes.get("majority_share")) is not None:
            remarks.append(f"{share(majority)} by always guessing the commonest class")
        yield Headline("right class, by Bayes' rule", str(share(classes["accuracy"])), "", tuple(remarks))
    if (khat := report.get("khat")) is not None and khat.get("above") is not None:
        lines = f"of {len(khat['values']):,} test data; their log p may be too low", f"K = {khat['num_samples']:,}"
        yield Headline(f"k-hat above {khat['threshold']:g}", str(share(khat["above"])), "", lines)
    if sites := report.get("latent", {}).get("active"):
        counts = ", ".join(f"{active['count']} of {active['of']}" for active in sites.values())
        about = f"of {', '.join(sites)}, on {report['latent']['num_data']:,} training data"
        yield Headline("active dimensions", counts, "", (about,))


def _headline(
    label: str, numbers: Mapping[str, Any], sign: str = "", remarks: Sequence[str] = (), mark: str = ""
) -> Headline:
    over_data, over_draws = numbers.get("standard_error"), numbers.get("monte_carlo_error")
    errors = []
    if over_data is not None:
        errors.append(f"± {number(over_data, _digits(over_data))} over {numbers['num_data']:,} test data")
    if over_draws:  # 0 where nothing is drawn
        errors.append(f"± {number(over_draws, _digits(over_draws))}{mark} Monte Carlo")
    value = sign + _typeset(numbers.get("mean"), _digits(over_data))
    return Headline(label, value, numbers.get("unit", "nats"), (*errors, *remarks))


def _typeset(value: float | None, digits: int) -> str:
    return str(number(value, digits)).replace("-", MINUS)


def _digits(error: float | None) -> int:
    """The number of decimals that an error leaves."""
    return 3 if not error else min(3, max(0, 1 - math.floor(math.log10(error))))


# Facts other than estimates.


def _facts(report: Report) -> Iterator[str]:
    run, protocol = report.get("run", {}), report.get("protocol", {})
    members = run.get("members", {})
    yield from (f"{density} {members[part]}" for part, density in _densities(report).items() if members.get(part))
    yield from (f"{part} {name}" for part, name, _ in run.get("parts", ()))
    if run.get("num_parameters") is not None:
        yield f"{run['num_parameters']:,} parameter{'' if run['num_parameters'] == 1 else 's'}"
    if protocol.get("name") and num_test(report) is not None:
        yield f"{protocol['name']}, {num_test(report):,} test data"
    if report.get("unfinished"):
        yield report["unfinished"].removesuffix(".")
    if run.get("evaluated"):
        yield f"evaluated {run['evaluated'][:10]}"


def _densities(report: Report) -> dict[str, str]:
    """Maps each member to the density that it is."""
    members, y = report.get("run", {}).get("members", {}), ",y" if report.get("config", {}).get("conditional") else ""
    of_z = "|y" if members.get("prior") == "ConditionalNormal" else ""
    if "middle" not in members:
        return {"prior": f"p(z{of_z})", "posterior": f"q(z|x{y})", "likelihood": f"p(x|z{y})"}
    return {
        "prior": f"p(z2{of_z})",
        "middle": f"p(z1|z2{y})",
        "likelihood": f"p(x|z1{y})",
        "posterior1": "q of z1",
        "posterior2": "q of z2",
    }


def _tables(report: Report) -> list[Table]:
    """Lists the tables of estimates, then those of facts."""
    tables = (
        *(section.table for section in sections(report)),
        scale_table(report),
        _worst(report),
        _escalated(report.get("escalation", {})),
        _active(report.get("latent", {})),
        Table.of("posterior", ("", ""), _posterior(report), _BESIDE),
        protocol_card(report),
        Table.of("run", ("", ""), _run(report), "run"),
    )
    return [table for table in tables if table.rows]


def protocol_card(report: Report) -> Table:
    """Makes the table of how the data were made and what was drawn.

    The card of a report is a mapping, or pairs, whose order JSON keeps.
    """
    card = report.get("protocol_card", {})
    pairs = card.items() if isinstance(card, Mapping) else card
    rows = ((str(label), plain(text, 4)) for label, text in pairs)
    return Table.of("protocol", ("", ""), rows, "protocol card")


def _worst(report: Report) -> Table:
    worst = report.get("khat", {}).get("worst", ())
    labels = ["label"] if any(row.get("label") is not None for row in worst) else []
    heads = (*_who(worst), *labels, "k-hat", "effective draws", "bound on log p")
    rows = [
        (
            *(row[key] for key in _who(worst).values()),
            *(class_name(report, row.get(label)) for label in labels),
            number(row["khat"], 2),
            number(row["ess"], 0),
            number(row["log_likelihood"]),
        )
        for row in worst
    ]
    return Table.of("worst", heads, rows, "the data with the largest k-hat")


def _who(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The columns that say which datum a row is about: head -> key."""
    first = rows[0] if rows else {}
    if "row" not in first:
        return {"datum": "datum"}
    return {"row": "row", "id": "id"} if "id" in first else {"row": "row"}


def _escalated(more: Mapping[str, Any]) -> Table:
    rows = more.get("rows", ())
    draws, is_new = (rows[0]["more_samples"], "iwae_anew" in rows[0]) if rows else ("", True)
    anew = ("K again", f"{draws} new draws") if is_new else (f"{draws} draws",)
    heads = (*_who(rows), "k-hat", "K draws", *anew, "k-hat then", "AIS")
    stages = ("iwae", "iwae_anew", "iwae_more") if is_new else ("iwae", "iwae_more")
    cells = [
        (
            *(row[key] for key in _who(rows).values()),
            number(row["khat"], 2),
            *(estimate(row[stage], row[f"{stage}_error"]) for stage in stages),
            number(row["khat_more"], 2),
            f"{estimate(row['ais'], row['ais_error'])}{' too low' if row.get('missed') else ''}",
        )
        for row in rows
    ]
    bounds = "lower bounds by new draws" if is_new else "lower bounds"
    title = f"log p of the worst data, nats, ± Monte Carlo: the K draws that chose them (not a bound), then {bounds}"
    return Table.of("escalated", heads, cells, title)


def _active(latent: Mapping[str, Any]) -> Table:
    heads = ("site", "active", "of", "relative to the prior", "threshold")
    rows = [
        (site, active["count"], active["of"], number(active.get("relative_count"), 0), f"{active['threshold']:g}")
        for site, active in latent.get("active", {}).items()
    ]
    return Table.of("active", heads, rows, "active dimensions: the mean of q(z_j|x) varies with x")


_BESIDE = "guide and true posterior of one datum"
_POSTERIOR = {
    "datum": "datum",
    "row": "row of the data",
    "id": "its id",
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
    about = dict(report.get("posterior", {}))
    if about.get("label") is not None:
        about["label"] = class_name(report, about["label"])
    if "row" in about:
        del about["datum"]
    for key in (*_POSTERIOR, *(key for key in about if key not in _POSTERIOR)):
        if isinstance(about.get(key), str | int | float):
            yield _POSTERIOR.get(key, key.replace("_", " ")), plain(about[key], 4)


def _run(report: Report) -> Iterator[tuple[str, str]]:
    run = report.get("run", {})
    for key, label in (("evaluated", "evaluated"), ("git", "pyro_vae commit"), ("num_parameters", "parameters")):
        if run.get(key) is not None:
            yield label, f"{run[key]:,}" if isinstance(run[key], int) else str(run[key])
    for part, label in _MEMBERS.items():
        if run.get("members", {}).get(part):
            yield label, run["members"][part]
    if run.get("program"):
        yield "program", run["program"]
    for part, name, arguments in run.get("parts", ()):
        yield part, f"{name}({arguments})" if arguments else name
    for key in ("versions", "machine"):
        if run.get(key):
            yield key, plain(run[key], 4)
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
