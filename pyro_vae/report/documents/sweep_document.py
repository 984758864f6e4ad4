"""The document of a sweep, its settings side by side; its notes, and its rows for other programs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pyro_vae.report.cells import clipped, nats, plain
from pyro_vae.report.document import Document, Notes, Section, Table

PARTS = ("elbo", "rate", "distortion")  # of the validation data

Sweep = Mapping[str, Any]


def sweep_document(sweep: Sweep, over_seeds: Mapping[str, Mapping[str, Any]] | None = None) -> Document:
    """Makes the document of a sweep: the settings, the test of the chosen one, and the notes.

    Args:
        sweep: what report.json holds.
        over_seeds: "evidence" and "elbo" of the tests -> the mean over seeds and its standard error.
    """
    tables = [_settings(sweep)]
    if sweep["test"]:
        tables.append(_tests(sweep, over_seeds or {}))
    card = "; ".join(f"{what} {text}" for what, text in sweep["protocol"].items() if what not in ("files", "contents"))
    notes = [*sweep["notes"], *_scales(sweep["test"]), f"same for all runs: {card}"]
    whole = (table._replace(shrinks=False) for table in tables)
    return Document("Sweep", (Section("", (*whole, Notes.of(notes))),))


def evidence(test: Mapping[str, Any]) -> Mapping[str, Any]:
    """The estimate of log p of what the protocol card names, which is the level if the data are dequantised."""
    numbers: Mapping[str, Any] = test.get("log_likelihood_of_levels") or test["log_likelihood"]
    return numbers


def _settings(sweep: Sweep) -> Table:
    heads = ("validation, nats per datum", "seeds", "ELBO", "± seeds", "± data", "rate", "distortion", "epochs kept")
    return Table.of("settings", heads, (_setting(group, sweep["chosen"]) for group in sweep["groups"]), words=1)


def _setting(group: Mapping[str, Any], chosen: str | None) -> tuple[Any, ...]:
    label, seeds = clipped(group["name"]) + (" *" if group["name"] == chosen else ""), len(group["seeds"])
    if group["diverged"]:
        return (label, seeds, "diverged", *[""] * 4, f"seeds {', '.join(map(str, group['diverged']))}")
    elbo, rate, distortion = (group[part] for part in PARTS)
    numbers = (elbo["mean"], elbo["standard_error"], group["data_error"], rate["mean"], distortion["mean"])
    return (label, seeds, *map(nats, numbers), clipped(", ".join(map(str, group["epochs"])), 16))


def _tests(sweep: Sweep, over_seeds: Mapping[str, Mapping[str, Any]]) -> Table:
    quantity = sweep["protocol"].get("quantity", "log p(x)")
    elbo = "ELBO, density" if any("log_likelihood_of_levels" in test for test in sweep["test"]) else "ELBO"
    errors = ("± data", "± Monte Carlo", elbo, "± data")
    heads = (f"test, {clipped(sweep['chosen'])}", quantity, *errors, "draws", "data")
    return Table.of("tests", heads, (*map(_test, sweep["test"]), *_mean_rows(over_seeds)), words=1)


def _test(test: Mapping[str, Any]) -> tuple[Any, ...]:
    if "elbo" not in test:
        return (f"seed {test['seed']}", "diverged", *[""] * 6)
    bound, elbo = evidence(test), test["elbo"]
    numbers = (bound["mean"], bound["standard_error"], bound["monte_carlo_error"], elbo["mean"], elbo["standard_error"])
    return (f"seed {test['seed']}", *map(nats, numbers), bound["num_samples"], bound["num_data"])


def _mean_rows(over_seeds: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[Any, ...]]:
    if over_seeds:
        for label, key in (("mean over seeds", "mean"), ("± over seeds", "standard_error")):
            bound, elbo = (nats(over_seeds[quantity][key]) for quantity in ("evidence", "elbo"))
            yield (label, bound, "", "", elbo, *[""] * 3)


def _scales(tests: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    scales = [(test["seed"], name, value) for test in tests for name, value in test.get("likelihood", {}).items()]
    if words := [f"seed {seed} {name} {_scale(value)}" for seed, name, value in scales]:
        yield f"Likelihood: {'; '.join(words)}."


def _scale(value: Any) -> str:
    words = plain(value, 5)
    return f"({words})" if isinstance(value, Mapping) else words


def sweep_rows(sweep: Sweep) -> Table:
    """Lists a row for each setting, with all digits: what table.csv holds."""
    parts = [(part, kind) for part in PARTS for kind in ("mean", "standard_error")]
    heads = ("setting", *sweep["groups"][0]["values"], "seeds", "diverged", *("_".join(part) for part in parts))
    rows = [
        (
            group["name"],
            *map(_short, group["values"].values()),
            *(" ".join(map(str, group[kind])) for kind in ("seeds", "diverged")),
            *((group[part] or {}).get(kind) for part, kind in parts),
        )
        for group in sweep["groups"]
    ]
    return Table.of("settings", heads, rows)


def _short(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return f"{value:.5g}" if isinstance(value, float) else value


# What a reader must know of the numbers.


def sweep_notes(sweep: Sweep, lead: Mapping[str, Any] | None = None) -> list[str]:
    """Explains how the choice was made, what each error means, and what the choice does not show.

    Args:
        sweep: what report.json holds, except its notes.
        lead: the lead of the first setting over the second, over seeds, as `between_seeds` has it; None for one seed
            of each.
    """
    ranked = [group for group in sweep["groups"] if group["elbo"]]
    notes = [
        "ELBO: without loss weights, on validation data, at the epoch that each run kept; mean over seeds. It "
        "chooses the setting whatever the training loss was, since losses with different weights are not comparable. "
        "With weights other than 1 the epoch kept is the one with the best weighted loss.",
        "± seeds: standard error over seeds, n/a for one. ± data: standard error over the validation data, averaged "
        "over the runs. The runs share these data, so more seeds do not lower it, and it is larger than the error of "
        "a difference. Rate: the KL. Distortion: minus the reconstruction. ELBO = -(rate + distortion).",
    ]
    if sweep.get("importance_weighted"):
        notes.append(
            "Settings trained on an importance-weighted bound are also ranked by the ELBO, which can fall while that "
            "bound rises, so the ranking favours few draws. Compare the runs to see the effect on log p(x)."
        )
    if diverged := [group["name"] for group in sweep["groups"] if group["diverged"]]:
        some = _first(diverged)
        notes.append(f"A setting with a diverged run cannot be chosen, whatever its other seeds reached: {some}.")
    if len(ranked) > 1:
        notes += [_lead(ranked[0], ranked[1], lead), _flattery(sweep, ranked)]
    return [*notes, *_density(sweep["test"]), *_code(sweep["runs"])]


def _lead(first: Mapping[str, Any], second: Mapping[str, Any], lead: Mapping[str, Any] | None) -> str:
    leads = f"{first['name']} leads {second['name']} by"
    if lead is None:
        gap = nats(first["elbo"]["mean"] - second["elbo"]["mean"])
        return f"{leads} {gap} nats, from one seed each: it is not known whether other seeds would agree."
    told = "" if lead["interval"][0] > 0 else ": other seeds could well choose another"
    low, high = map(nats, lead["interval"])
    return (
        f"{leads} {nats(lead['mean'])} ± {nats(lead['standard_error'])} nats over seeds, "
        f"{lead['confidence'] * 100:g} % interval [{low}, {high}] by Welch's t{told}."
    )


def _flattery(sweep: Sweep, ranked: Sequence[Mapping[str, Any]]) -> str:
    chosen = sweep["chosen"]
    place = "is" if chosen == ranked[0]["name"] else "was chosen when it was"
    others = [run["name"] for run in sweep["runs"] if run["setting"] != chosen and run.get("reported")]
    told = f"to others too, but not by the sweep: {_first(others)}" if others else "only to its runs, after the choice"
    return (
        f"{chosen} {place} the best of {len(ranked)} on these validation data, which makes its ELBO there look "
        f"slightly too good. The result of the sweep is its numbers on test data. Test data were shown {told}."
    )


def _density(tests: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Explains the difference between the two scales of a table of dequantised data."""
    for test in [test for test in tests if "log_likelihood_of_levels" in test][:1]:
        jacobian = nats(test["log_likelihood_of_levels"]["mean"] - test["log_likelihood"]["mean"])
        yield (
            "ELBO, rate and distortion are for the density of the dequantised data; log p(level) includes the "
            f"Jacobian of the levels, which adds {jacobian} nats."
        )


def _code(runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    kinds = {str(sorted(run.get("code", {}).items(), key=str)) for run in runs}
    if len(kinds) > 1:
        yield f"The runs were made by {len(kinds)} versions of the code; see the run.json of each."


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")


def ended_run(run: Mapping[str, Any], code: int) -> str:
    """Describes in a line how a run ended.

    Args:
        run: what report.json holds of it.
        code: its exit code.

    Example:
        >>> ended_run({"name": "lr=1,seed=0", "status": "diverged", "kept": None}, 5)
        'lr=1,seed=0: diverged'
    """
    kept, status = run["kept"], run["status"]
    if status in ("diverged", "test diverged"):
        return f"{run['name']}: {'its ' * (status != 'diverged')}{status}"
    if status not in ("trained", "finished"):
        return f"{run['name']}: failed, exit code {code}; its train.log says why"
    elbo = f"validation ELBO {nats(kept['valid_elbo'])} ± {nats(kept['valid_standard_error'])}"
    return f"{run['name']}: {'tested, ' if status == 'finished' else ''}{elbo}, epoch {kept['epoch']}"
