"""The document of an ablation: only reconstruction, only KL and both, side by side, and what that does not show."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from pyro_vae.report.cells import UNKNOWN, fixed
from pyro_vae.report.document import Column, Document, Notes, Section, Table

SETS = ("test", "train")
BOUNDS = {"elbo": "ELBO", "reconstruction": "reconstruction", "kl": "KL(q(z|x)||p(z))", "log_likelihood": "log p(x)"}
_GIVEN_LABELS = {**BOUNDS, "kl": "KL(q(z|x,y)||p(z|y))", "log_likelihood": "log p(x|y)"}
_NUMBERS = ("mean", "standard_error", "monte_carlo_error", "num_samples", "num_data")
_LABEL, _CELL, _LINE = 32, 24, 104  # columns of a terminal

Runs = Mapping[str, Mapping[str, Any]]
Gaps = Mapping[str, Mapping[str, tuple[float, float]]]


def ablation_document(runs: Runs, gaps: Gaps, *, is_conditional: bool = False) -> Document:
    """Makes the document of an ablation: a table of means with their errors over the data, and notes.

    Args:
        runs: what ablation.json holds.
        gaps: run -> "elbo" or "reconstruction" -> the mean on training data minus that on test data, and its error.
        is_conditional: whether the programs are given labels.
    """
    columns = [Column("nats per datum, ± over data", width=_LABEL), *(Column(name, True, _CELL) for name in runs)]
    labels = _GIVEN_LABELS if is_conditional else BOUNDS
    information = "I((x,y); z)" if is_conditional else "mutual information"
    table = Table("ablation", tuple(columns), list(_rows(runs, gaps, labels, information)))
    notes = Notes.of(_notes(runs, gaps, labels, information), _LINE)
    return Document("Ablation", (Section("", (table, notes)),))


def ablation_rows(runs: Runs) -> Table:
    """Lists a row for each run, set of data and quantity, with both errors: what ablation.csv holds."""
    rows: list[tuple[Any, ...]] = []
    for loss, run in runs.items():
        estimates = [(data, name, run[data][name]) for data in SETS for name in BOUNDS]
        aggregate = {"marginal_kl": run["marginal_kl"], "marginal_kl_leave_one_out": _lower(run["marginal_kl"])}
        aggregate["mutual_information"] = run["mutual_information"]
        estimates += [("train", name, numbers) for name, numbers in aggregate.items() if numbers]
        rows += [(loss, data, name, *(numbers[key] for key in _NUMBERS)) for data, name, numbers in estimates]
        rows += [(loss, data, "khat_above_0.7", run["khat_above_0.7"][data], *[""] * 4) for data in SETS]
        rows.append((loss, "train", "active_units", run["active_units"], *[""] * 4))
    return Table.of("ablation", ("loss", "data", "quantity", *_NUMBERS), rows)


def _rows(runs: Runs, gaps: Gaps, labels: Mapping[str, str], information: str) -> Iterator[tuple[Any, ...]]:
    columns = list(runs.values())
    for name, label in labels.items():
        for data in SETS:
            yield (f"{label}, {data}", *(_number(run[data][name]) for run in columns))
    for data in SETS:
        yield (f"k-hat above 0.7, {data}", *(_share(run["khat_above_0.7"][data]) for run in columns))
    for name in ("elbo", "reconstruction"):
        pairs = (gaps[run][name] for run in runs)
        yield (f"{labels[name]}, train - test", *(f"{gap:+.2f} ± {error:.2f}" for gap, error in pairs))
    yield ("KL(q(z)||p(z)), train", *(_number(run["marginal_kl"]) for run in columns))
    yield ("KL(q(z)||p(z)), leave-one-out", *(_number(_lower(run["marginal_kl"])) for run in columns))
    yield (f"{information}, train", *(_number(run["mutual_information"]) for run in columns))
    yield ("active units", *(f"{run['active_units']} of {run['latent_dim']}" for run in columns))
    yield ("epoch kept", *(f"{run['best_epoch']} of {run['epochs']}" for run in columns))


def _number(numbers: Mapping[str, Any] | None) -> str:
    if not numbers:
        return UNKNOWN
    return f"{round(numbers['mean'], 2) + 0.0:.2f} ± {fixed(numbers['standard_error'], 2)}"  # never -0.00


def _share(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.0%}"


def _notes(runs: Runs, gaps: Gaps, labels: Mapping[str, str], information: str) -> Iterator[str]:
    alone, nothing, both = (runs[name] for name in ("only reconstruction", "only KL", "both"))
    num_data = both["train"]["elbo"]["num_data"]
    known = "" if None not in both["khat_above_0.7"].values() else " K is too small for a k-hat."
    yield (
        f"All numbers are without loss weights. {labels['log_likelihood']} is a lower bound, "
        f"K = {both['test']['log_likelihood']['num_samples']}; where k-hat is above 0.7 it is loose by an unknown "
        f"amount.{known} {information.capitalize()} cannot exceed log N = {math.log(num_data):.2f}."
    )
    (a, a_error), (b, b_error) = (gaps[name]["reconstruction"] for name in ("only reconstruction", "both"))
    yield (
        f"Overfitting: on training data the reconstruction is {_better(a, a_error)} without the KL, and "
        f"{_better(b, b_error)} with it, than on test data; the difference is {a - b:+.2f} ± "
        f"{math.hypot(a_error, b_error):.2f}. This is one seed and one size of networks on these data, at the epoch "
        f"with the best validation value of its own loss, which hides what later epochs would do. It does not show "
        f"that one loss overfits, or that the other prevents it."
    )
    if alone["marginal_kl"] is None:
        yield "KL(q(z)||p(z)) is n/a if p(z|y) differs between labels, since there is then no single p(z)."
    else:
        yield (
            f"Only reconstruction: q(z) is {_between(alone['marginal_kl'])} nats from p(z). The larger this is, the "
            f"rarer are draws from the prior where data were encoded: compare samples with reconstructions."
        )
    yield (
        f"Only KL: q(z|x) is {nothing['test']['kl']['mean']:.2g} nats from the prior and carries no more than that "
        f"about x. The decoder was not trained, and is as initialised."
    )
    if both["marginal_kl"] is not None:
        yield _marginal(both["marginal_kl"])


def _better(gap: float, error: float) -> str:
    return f"{'worse' if gap < 0 else 'better'} by {abs(gap):.2f} ± {error:.2f} nats"


def _lower(kl: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The lower end of a marginal KL, with each datum left out of its own mixture; None where it is not known."""
    return kl.get("leave_one_out") if kl else None


def _between(kl: Mapping[str, Any]) -> str:
    if (lower := _lower(kl)) is None:
        return f"at most {_number(kl)}"
    if lower["mean"] < 0:  # as no KL is
        return f"between 0 and {_number(kl)}"
    return f"between {_number(lower)} (each datum left out of its own mixture) and {_number(kl)}"


def _marginal(kl: Mapping[str, Any]) -> str:
    """Claims that it is not 0 where the lower end is beyond two standard errors, which contain those over draws."""
    lower, number = _lower(kl), f"Both: KL(q(z)||p(z)) is {_between(kl)} nats"
    if lower and lower["mean"] > 2 * (lower["standard_error"] or math.inf):
        return (
            f"{number}, which differs from 0: the KL term pulls q(z) towards the prior, but does not make them equal."
        )
    return f"{number}, which does not differ from 0 within its error for these draws and data."
