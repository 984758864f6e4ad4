"""The report as tables of text and notes, which every format then sets in its own way."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pyro_vae.report.entries import Entry, Report, of_x, sections

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
            _with_error(row["ais"], row["ais_error"]),
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
    "num_draws": "points or draws",
    "chains": "chains",
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


_MEMBERS = {"prior": "p(z)", "posterior": "q(z|x)", "likelihood": "p(x|z)"}


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(_plain, value)) if isinstance(value, list | tuple) else str(value)


def _known(value: Any) -> str:
    return "n/a" if value is None else str(value)


def notes(report: Report, without: Collection[str] = ()) -> list[tuple[str, str]]:
    """What each number means and does not mean: (term, sentences), for what this report holds.

    Args:
        report: what report.json holds.
        without: keys of the report whose notes are left out.
    """
    kept = (note for note in _notes(report) if note[0].split(".")[0] not in without)
    return [(term, clean(text)) for key, term, text in kept if _has(report, key)]


def _has(report: Report, key: str) -> bool:
    found: Any = report
    for part in key.split("."):
        if not isinstance(found, Mapping) or found.get(part) in (None, {}, []):
            return False
        found = found[part]
    return True


def _notes(report: Report) -> Sequence[tuple[str, str, str]]:
    of, khat = of_x(report), report.get("khat", {})
    reference = report.get("gaps", {}).get("reference")
    return (
        (
            "test",
            "± over data",
            "Standard error of the mean over other test data of the same kind. Neither error holds what another "
            "training seed would change.",
        ),
        ("test", "± Monte Carlo", "Standard error over other draws of z for the same data. It does not hold the bias."),
        (
            "test.elbo",
            "draws",
            "Independent draws of z from q(z|x) for each datum, not from a Markov chain; they follow p(z|x) only when "
            "weighted. For AIS the number of chains, for a grid of its points.",
        ),
        (
            "test.elbo",
            "ELBO",
            f"E_q[log p(x|z)] - KL(q(z|x) || p(z)), a lower bound on log p({of}), without loss weights.",
        ),
        (
            "test.log_likelihood",
            f"log p({of})",
            "By importance sampling from q(z|x): a lower bound in expectation, not in each run. How far below it lies "
            "is no part of its ±, and shrinks with the number of draws.",
        ),
        (
            "jackknife",
            "jackknife",
            "The bound with the first term of its bias taken away. No bound: it may lie above.",
        ),
        (
            "reference.rows",
            "AIS",
            f"Annealed importance sampling, a lower bound in expectation as well, on {_subset(report)}. Compare it "
            "with the other rows of its table, which saw the same data, not with the mean over all test data.",
        ),
        (
            "simulated",
            "gap",
            "Simulated data only: the model's own data come with one exact draw from their posterior, which gives an "
            "upper bound. Of real data nobody has one. The gap says how tight AIS is under these settings, not how "
            "well the model fits.",
        ),
        (
            "khat",
            "k-hat",
            f"The tail of each datum's importance weights, by PSIS. {share(khat.get('above'))} of the data lie above "
            f"{khat.get('threshold', 0.7):g}, where the bound is loose and its Monte Carlo error too small. The "
            "effective sample size of such data is too large.",
        ),
        (
            "escalation",
            "more work",
            "What more draws and annealing give for the data above the threshold. Shown apart: the numbers above are "
            "at one K for all data, and stay as they are.",
        ),
        (
            "latent.active",
            "active",
            "Var_x(E_q[z_j|x]) above the threshold. Where the prior learns its scale the count relative to the prior's "
            "variance is the one to read, which no rescaling of z changes.",
        ),
        (
            "latent.mutual_information",
            "mutual information",
            "Exact mixtures over these training data, at most log N. More data would raise it as long as it is near "
            "log N, and lower the marginal KL.",
        ),
        (
            "gaps",
            "gaps",
            f"inference = approximation + amortisation, against {reference}, itself a lower bound: the truth may be "
            "larger. A large amortisation gap asks for a better encoder, a large approximation gap for a richer "
            "posterior.",
        ),
        ("posterior", "true posterior", _posterior_note(report)),
        (
            "autoencoder",
            "plain autoencoder",
            "q(z|x) is a point without a density: its KL is infinite, and there is no ELBO and no log p(x). "
            "Reconstruction is log p(x|z) at the code.",
        ),
        (
            "classification",
            "classes",
            "By Bayes' rule from bounds, which are looser for the wrong classes; that flatters the accuracy.",
        ),
        ("objective.loss", "objective", _objective_note(report)),
        ("protocol.notes", "data", " ".join(report.get("protocol", {}).get("notes", ()))),
    )


def _subset(report: Report) -> str:
    return f"{report.get('reference', {}).get('num_data')} test data drawn at random"


def _posterior_note(report: Report) -> str:
    if report.get("posterior", {}).get("method") == "NUTS":
        return (
            "Draws of NUTS are a Markov chain's; those of q(z|x) are independent. One datum shows, it does not prove."
        )
    return "p(z|x) on a grid, normalised there. One datum shows, it does not prove."


def _objective_note(report: Report) -> str:
    found = report.get("objective", {})
    return (
        f"Trained on a weighted loss, reconstruction_weight={found.get('reconstruction_weight'):g}, "
        f"kl_weight={found.get('kl_weight'):g}: {number(found.get('loss'))} on the test data, which is no bound."
        if "loss" in found
        else ""
    )
