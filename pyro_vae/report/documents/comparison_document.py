"""The document of a comparison of groups of runs, its notes, and its rows for other programs."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pyro_vae.evaluation.trust.diagnostics import KHAT_THRESHOLD
from pyro_vae.report.cells import UNKNOWN, as_typed, clipped, interval, nats, share
from pyro_vae.report.document import Caution, Document, Notes, Picture, Section, Table
from pyro_vae.report.documents.training_document import preset_sentence

FORCED = "FORCED: these runs were not tested in the same way, so their numbers are not comparable as they stand."
_UNEQUAL = 0.05  # shares of k-hat above 0.7 that far apart: many more data whose bound is loose in one than in another
_ABOVE = f"k > {KHAT_THRESHOLD}"

Comparison = Mapping[str, Any]


def comparison_document(comparison: Comparison) -> Document:
    """Makes the document of a comparison: what was forced, the tables, the notes, the protocol.

    Args:
        comparison: what comparison.json holds.
    """
    makers = (_main, _data, _seeds, _runs, _settings)
    tables = [table for table in (make(comparison) for make in makers) if table.rows]
    protocol = "; ".join(f"{label} {_shortened(value)}" for label, value in comparison["protocol"].items())
    figure = Picture("Means and differences", "", file="comparison.png")
    return Document(
        "Comparison",
        (
            Section("", (*_caution(comparison), figure, *tables, Notes.of(comparison["notes"]))),
            Section("Protocol", (Notes.of([f"same for all runs: {protocol}"], whole=True),)),
        ),
    )


def _caution(comparison: Comparison) -> Iterator[Caution]:
    if lines := [f"{line['what']}: {against(line['values'])}" for line in comparison["disagreements"]]:
        yield Caution((FORCED, *lines))


def _main(comparison: Comparison) -> Table:
    quantities = comparison["quantities"]
    name = f"{quantities[0] if len(quantities) == 1 else 'log p'}, nats"
    error = "± both" if any(map(_over_both, comparison["groups"])) else "± data"
    heads = (name, "mean", "± data", "difference", error, interval_head(comparison), _ABOVE)
    rows = (_main_row(*group, of_data="" if error == "± data" else "†") for group in _numbered(comparison))
    return Table.of("main", heads, rows, words=1)


def _numbered(comparison: Comparison) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields each group, with its place and label."""
    for place, group in enumerate(comparison["groups"], 1):
        yield f"{place} {clipped(group['label'])}", group


def interval_head(comparison: Comparison) -> str:
    """The head of the column of intervals, "95 % interval" for example."""
    confidences = [group["difference"]["confidence"] for group in comparison["groups"] if group["difference"]]
    return f"{confidences[0] * 100:g} % interval" if confidences else "interval"


def _main_row(label: str, group: Mapping[str, Any], of_data: str) -> tuple[Any, ...]:
    mean, gap = group["log_likelihood"], group["difference"]
    cells: tuple[Any, ...] = ("reference", "", "")
    if gap:
        both = _over_both(group)
        mark, ends = ("" if gap["is_paired"] else "*") + ("" if both else of_data), both or gap
        cells = (f"{nats(gap['mean'], '+')}{mark}", nats(ends["standard_error"]), interval(ends["interval"]))
    return (label, nats(mean["mean"]), nats(mean["standard_error"]), *cells, share(group["khat_above"]))


def _over_both(group: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The difference over data and seeds; None for single runs, and in comparisons of older versions."""
    return group.get("difference_over_both")


def _data(comparison: Comparison) -> Table:
    """The differences over the data only; the main table has the differences over data and seeds."""
    heads = ("over test data only", "difference", "± data", interval_head(comparison))
    rows = [
        (label, nats(gap["mean"], "+"), nats(gap["standard_error"]), interval(gap["interval"]))
        for label, group in _numbered(comparison)
        if _over_both(group) and (gap := group["difference"])
    ]
    return Table.of("data", heads, rows, words=1)


def _seeds(comparison: Comparison) -> Table:
    head = interval_head(comparison)
    heads = ("over training seeds", "seeds", "SD", "lowest", "highest", "difference", "± seeds", head)
    groups = (group for group in _numbered(comparison) if len(group[1]["seeds"]) > 1)
    return Table.of("seeds", heads, (_seed_row(*group) for group in groups), words=1)


def _seed_row(label: str, group: Mapping[str, Any]) -> tuple[Any, ...]:
    means, welch = group["run_means"], group["difference_over_seeds"]
    cells: tuple[Any, ...] = (UNKNOWN if group["difference"] else "reference", "", "")
    if welch:
        cells = (nats(welch["mean"], "+"), nats(welch["standard_error"]), interval(welch["interval"]))
    return (label, len(means), *map(nats, (group["seed_deviation"], min(means), max(means))), *cells)


def _runs(comparison: Comparison) -> Table:
    places = {group["label"]: place for place, group in enumerate(comparison["groups"], 1)}
    heads = ("run", "seed", "epoch", "mean", "± data", "± Monte Carlo", "ELBO", _ABOVE)
    rows = [
        (
            f"{places[run['group']]} {clipped(run['name'])}",
            run["seed"],
            run["best_epoch"],
            *(nats(run["log_likelihood"][name]) for name in ("mean", "standard_error", "monte_carlo_error")),
            nats(run["elbo"]["mean"]),
            share(run["khat_above"]),
        )
        for run in comparison["runs"]
    ]
    return Table.of("runs", heads, rows, words=1)


def _settings(comparison: Comparison) -> Table:
    rows = []
    for name in comparison["groups"][0]["settings"]:
        values: dict[str, list[str]] = {}
        for place, group in enumerate(comparison["groups"], 1):
            values.setdefault(as_typed(group["settings"][name]), []).append(str(place))
        lines = [(clipped(value), ", ".join(places)) for value, places in values.items()]
        rows += [(name if i == 0 else "", *line) for i, line in enumerate(lines)]
    return Table.of("settings", ("settings that differ", "value", "groups"), rows)


def against(values: Mapping[str, Sequence[str]]) -> str:
    """Describes what runs disagree on: each value with the names of its runs, digests shortened.

    >>> against({"dynamic": ["a", "b"], "static": ["c"]})
    'dynamic (a, b) against static (c)'
    """
    return " against ".join(f"{_shortened(value)} ({_some(names)})" for value, names in values.items())


def _shortened(text: str) -> str:
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1...", text)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more"


# What a reader must know of the numbers.


def comparison_notes(comparison: Comparison) -> list[str]:
    """Explains what each error leaves out, and where bounds are not equally tight.

    Args:
        comparison: what comparison.json holds, except its notes.
    """
    groups, reference = comparison["groups"], comparison["reference"]
    differences = [group["difference"] for group in groups if group["difference"]]
    notes = [_bound_note(comparison), *_tightness_notes(groups)]
    if differences:
        notes += _difference_notes(differences, reference)
    notes += _joint_notes(groups)
    return [*notes, *_seed_notes(groups), *_preset_notes(groups), *_name_notes(groups)]


def _bound_note(comparison: Comparison) -> str:
    quantity, evaluation = " and ".join(comparison["quantities"]), comparison["evaluation"]
    return (
        f"{quantity}: by importance sampling from q(z|x), a lower bound in expectation, with K = "
        f"{evaluation['num_samples']} draws and seed {evaluation['seed']} for every run. ± data: standard error of "
        f"the mean over test data; ± Monte Carlo: over draws of z. ELBO: from the same draws, with its KL sampled."
    )


def _tightness_notes(groups: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    shares = {group["label"]: group["khat_above"] for group in groups if group["khat_above"] is not None}
    if not shares:
        yield "PSIS k-hat needs 25 draws or more; with fewer there is no way to tell how tight these bounds are."
        return
    worst, best = max(shares, key=shares.__getitem__), min(shares, key=shares.__getitem__)
    yield (
        f"{_ABOVE}: share of the data whose PSIS k-hat lies above {KHAT_THRESHOLD}, where the bound may be "
        "loose and its ± Monte Carlo too small."
    )
    if shares[worst] - shares[best] > _UNEQUAL:
        yield (
            f"WARNING: these bounds are not equally tight. k-hat is above {KHAT_THRESHOLD} for "
            f"{share(shares[worst])} of the data under {worst} and for {share(shares[best])} under {best}, so log "
            f"p(x) may be understated more for the former. Check whether the difference remains with more draws per "
            f"datum."
        )


def _difference_notes(differences: Sequence[Mapping[str, Any]], reference: Mapping[str, Any]) -> Iterator[str]:
    first, noises = differences[0], [difference["monte_carlo_error"] for difference in differences]
    noise = "unknown, from one draw" if None in noises else f"at most {max(noises):.3f}"
    pairing = ", paired datum by datum" if any(difference["is_paired"] for difference in differences) else ""
    yield (
        f"difference: from {reference['label']}{pairing}; {first['confidence'] * 100:g} % interval by the BCa "
        "bootstrap over the data, or by Student's t if that is wider and there are fewer than 30 data; it covers one "
        "difference at a time. It leaves out the variance over training seeds, and is valid only for these trained "
        "programs. The Monte Carlo error of "
        f"the differences is {noise}."
    )
    if (reference["is_best_of"] or 0) > 2:
        yield (
            f"The reference is the best of {reference['is_best_of']} on these same test data, which flatters it a "
            f"little. You can name a reference instead."
        )
    if not all(difference["is_paired"] for difference in differences):
        yield (
            "* unpaired, since the test data are not the same: the standard error is that of two independent means, "
            "and the interval is from the bootstrap over both sets of data. Part of the difference is due to the data."
        )


def _joint_notes(groups: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if any(map(_over_both, groups)):
        yield (
            "± both, and its interval: over test data and training seeds together, by Student's t. This interval "
            "shows which kind is better. The interval over the data only, in the next table, is valid for these "
            "trained programs."
        )
        if any(group["difference"] and not _over_both(group) for group in groups):
            yield "† over the data only, since one of the two has a single seed."


def _seed_notes(groups: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if any(len(group["seeds"]) > 1 for group in groups):
        yield (
            "Runs that differ only in their seed are pooled: each datum has its mean over seeds. SD, lowest and "
            "highest are those of the means of the runs."
        )
    if any(group["difference_over_seeds"] for group in groups):
        yield (
            "± seeds: standard error of the difference of the means over training seeds, and its interval by Welch's "
            "t; these leave out the variance over test data."
        )
    if any(len(group["seeds"]) == 1 for group in groups):
        yield "The effect of the training seed is not known for a kind with a single run: train it from other seeds."


def _preset_notes(groups: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for group in groups:
        if verdict := group.get("preset"):  # which comparisons of older versions have not
            yield f"preset {preset_sentence(verdict)}{_cure(verdict)}"


def _cure(verdict: Mapping[str, Any]) -> str:
    """Names what is missing where only the number of draws keeps a number from being comparable."""
    only_draws = [*verdict["changed"]] in (["test_samples"], ["elbo_samples"])
    return " For a verdict, compare with as many draws as the preset has." if only_draws else ""


def _name_notes(groups: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if more := [found[1] for group in groups if (found := re.search(r", and (\d+) more$", group["label"]))]:
        settings = "one more setting differs" if more[0] == "1" else f"{more[0]} more settings differ"
        yield f'"and {more[0]} more" in a name: {settings}. The table of settings lists them all.'


# For other programs.


def comparison_rows(comparison: Comparison) -> Table:
    """Lists a row for each group, with all digits: what comparison.csv holds."""
    rows = [_flat(group, comparison["reference"]["label"]) for group in comparison["groups"]]
    return Table.of("groups", rows[0], (tuple(row.values()) for row in rows))


def _flat(group: Mapping[str, Any], reference: str) -> dict[str, Any]:
    mean, gap, welch = group["log_likelihood"], group["difference"] or {}, group["difference_over_seeds"] or {}
    both = _over_both(group) or {}
    return {
        "group": group["label"],
        "runs": " ".join(group["runs"]),
        "seeds": " ".join(map(str, group["seeds"])),
        "num_samples": mean["num_samples"],
        "num_data": mean["num_data"],
        "log_likelihood": mean["mean"],
        "standard_error": mean["standard_error"],
        "monte_carlo_error": mean["monte_carlo_error"],
        "seed_deviation": group["seed_deviation"],
        "elbo": group["elbo"]["mean"],
        "khat_above": group["khat_above"],
        "reference": reference,
        "difference": gap.get("mean"),
        **{f"difference_{error}": gap.get(error) for error in ("standard_error", "monte_carlo_error")},
        **dict(zip(("difference_low", "difference_high"), gap.get("interval") or (None, None), strict=True)),
        "is_paired": gap.get("is_paired"),
        "seed_difference": welch.get("mean"),
        "seed_difference_standard_error": welch.get("standard_error"),
        **dict(
            zip(("seed_difference_low", "seed_difference_high"), welch.get("interval") or (None, None), strict=True)
        ),
        "both_standard_error": both.get("standard_error"),
        **dict(zip(("both_low", "both_high"), both.get("interval") or (None, None), strict=True)),
    }
