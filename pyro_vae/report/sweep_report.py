"""Settings of a sweep side by side: what its report.json holds, as text and as CSV.

Settings are ranked by the mean over seeds of the validation ELBO, of the epoch that each run kept. A setting of which a
run diverged has no place: the mean of the others would be that of the survivors.
"""

import csv
import io
import math
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from pyro_vae.evaluation import between_seeds
from pyro_vae.report.comparison_report import clipped
from pyro_vae.report.render.texts import WIDTH
from pyro_vae.report.tables import cell, number

_ESTIMATES = ("elbo", "log_likelihood", "log_likelihood_of_levels")
_PARTS = {"elbo": ("valid_elbo", 1.0), "rate": ("valid_kl", 1.0), "distortion": ("valid_reconstruction", -1.0)}


def groups(settings: Mapping[str, Mapping[str, Any]], runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each setting, the best on validation data first, those that diverged last.

    Args:
        settings: name -> the values of its flags.
        runs: `name`, `setting`, `seed`, `status` of each, and `kept`, its record of the epoch that it kept.

    Returns:
        `elbo`, `rate` (the KL) and `distortion` (minus the reconstruction) of the validation data: their mean over
        seeds and its standard error over seeds, None for a single one.
    """
    found = [_group(name, values, [run for run in runs if run["setting"] == name]) for name, values in settings.items()]
    return sorted(found, key=lambda group: -group["elbo"]["mean"] if group["elbo"] else math.inf)


def best(found: Sequence[Mapping[str, Any]]) -> str | None:
    """The name of the first group, None where a run of every group diverged."""
    return found[0]["name"] if found and found[0]["elbo"] else None


def tested(run: Mapping[str, Any], report: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a run's own report.json says of test data; without one, of a test that diverged, no number."""
    who = {"name": run["name"], "seed": run["seed"]}
    if report is None:
        return who
    estimates = {name: report["test"][name] for name in _ESTIMATES if name in report["test"]}
    return {**who, **estimates, "likelihood": report.get("likelihood", {})}


def content(
    found: Sequence[Mapping[str, Any]],
    runs: Sequence[Mapping[str, Any]],
    chosen: str | None,
    tests: Sequence[Mapping[str, Any]],
    card: Mapping[str, str],
    *,
    importance_weighted: bool = False,
) -> dict[str, Any]:
    """The content of report.json.

    Args:
        found: as `groups` gave them.
        runs: all of them.
        chosen: the name of the setting that was tested.
        tests: what `tested` says of each of its runs.
        card: the protocol card that all have in common.
        importance_weighted: whether a setting was trained on an importance-weighted bound.
    """
    all_of_it = {
        "groups": list(found),
        "runs": list(runs),
        "chosen": chosen,
        "test": list(tests),
        "protocol": dict(card),
        "importance_weighted": importance_weighted,
    }
    return {**all_of_it, "notes": notes(all_of_it)}


def notes(found: Mapping[str, Any]) -> list[str]:
    """How the choice was made, what each error says, and what the choice does not say."""
    ranked = [group for group in found["groups"] if group["elbo"]]
    given = [
        "ELBO: the true one, without loss weights, on validation data, of the epoch that each run kept; mean over "
        "seeds. Settings are chosen by it whatever they were trained on, since losses of different weights do not "
        "compare; with weights other than 1 the epoch kept is that of the best weighted loss.",
        "± seeds: standard error over seeds, n/a for one. ± data: standard error over the validation data, mean of the "
        "runs; they share these data, so that seeds do not lower it, and it is larger than that of a difference. "
        "Rate: the KL. Distortion: minus the reconstruction. ELBO = -(rate + distortion).",
    ]
    if found.get("importance_weighted"):
        given.append(
            "Settings trained on an importance-weighted bound are ranked by the ELBO as well, which may fall where "
            "that bound rises: the ranking favours few draws. What they do to log p(x), compare.py says."
        )
    if diverged := [group for group in found["groups"] if group["diverged"]]:
        names = _first([group["name"] for group in diverged])
        given.append(f"A setting of which a run diverged can not be chosen, whatever its other seeds reached: {names}.")
    if len(ranked) > 1:
        given += [_lead(*ranked[:2]), _flattery(found, ranked)]
    return [*given, *_density(found["test"]), *_code(found["runs"])]


def to_text(found: Mapping[str, Any]) -> str:
    """For a terminal of 100 columns."""
    quantity = found["protocol"].get("quantity", "log p(x)")
    head = ("validation, nats per datum", "seeds", "ELBO", "± seeds", "± data", "rate", "distortion", "epochs kept")
    blocks = [_aligned([head, *(_row(group, found["chosen"]) for group in found["groups"])])]
    if found["test"]:
        elbo = "ELBO, density" if any("log_likelihood_of_levels" in run for run in found["test"]) else "ELBO"
        counts = ("draws", "data")
        tests = (f"test, {clipped(found['chosen'])}", quantity, "± data", "± Monte Carlo", elbo, "± data", *counts)
        blocks.append(_aligned([tests, *map(_test_row, found["test"]), *_mean_rows(found["test"])]))
    card = "; ".join(
        f"{label} {text}" for label, text in found["protocol"].items() if label not in ("files", "contents")
    )
    lines = [*found["notes"], *_scales(found["test"]), f"measured alike: {card}"]
    blocks.append("\n".join(textwrap.fill(line, WIDTH, subsequent_indent="  ") for line in lines))
    return "\n\n".join(blocks)


def to_csv(found: Mapping[str, Any]) -> str:
    """One row for each setting, all digits; empty where there is no number."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    parts = [f"{part}_{kind}" for part in _PARTS for kind in ("mean", "standard_error")]
    writer.writerow(["setting", *found["groups"][0]["values"], "seeds", "diverged", *parts])
    for group in found["groups"]:
        numbers = [(group[part] or {}).get(kind) for part in _PARTS for kind in ("mean", "standard_error")]
        seeds = [" ".join(map(str, group[kind])) for kind in ("seeds", "diverged")]
        writer.writerow(map(cell, [group["name"], *map(_typed, group["values"].values()), *seeds, *numbers]))
    return text.getvalue()


def line(run: Mapping[str, Any], code: int) -> str:
    """A run that has ended, in a line.

    >>> line({"name": "lr=1,seed=0", "status": "diverged", "kept": None}, 5)
    'lr=1,seed=0: diverged'
    """
    kept, status = run["kept"], run["status"]
    if status in ("diverged", "test diverged"):
        return f"{run['name']}: {'its ' * (status != 'diverged')}{status}"
    if status not in ("trained", "finished"):
        return f"{run['name']}: failed, exit code {code}; its train.log says why"
    elbo = f"validation ELBO {_number(kept['valid_elbo'])} ± {_number(kept['valid_standard_error'])}"
    return f"{run['name']}: {'tested, ' if status == 'finished' else ''}{elbo}, epoch {kept['epoch']}"


def _group(name: str, values: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    kept = [run["kept"] for run in runs if run["status"] != "diverged"]
    diverged = [run["seed"] for run in runs if run["status"] == "diverged"]
    parts: dict[str, Any] = dict.fromkeys(_PARTS)
    if not diverged:
        parts = {part: _over_seeds([sign * record[key] for record in kept]) for part, (key, sign) in _PARTS.items()}
    errors = [record["valid_standard_error"] for record in kept]
    return {
        "name": name,
        "values": dict(values),
        "seeds": [run["seed"] for run in runs],
        "diverged": diverged,
        **parts,
        "data_error": None if diverged or None in errors else statistics.fmean(errors),
        "epochs": [record["epoch"] for record in kept],
    }


def _over_seeds(values: Sequence[float]) -> dict[str, Any]:
    several = len(values) > 1
    error = statistics.stdev(values) / math.sqrt(len(values)) if several else None
    return {"mean": statistics.fmean(values), "standard_error": error, "runs": list(values)}


def _lead(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    lead = f"{first['name']} leads {second['name']} by"
    if len(first["seeds"]) < 2:
        gap = first["elbo"]["mean"] - second["elbo"]["mean"]
        return f"{lead} {_number(gap)} nats of one seed each: whether other seeds would repeat that is not known."
    found = between_seeds(first["elbo"]["runs"], second["elbo"]["runs"])
    told = "" if found.interval[0] > 0 else ": other seeds may well choose another"
    gap = f"{_number(found.mean)} ± {_number(found.standard_error)} nats over seeds"
    low, high = map(_number, found.interval)
    return f"{lead} {gap}, {found.confidence * 100:g} % interval [{low}, {high}] by Welch's t{told}."


def _flattery(found: Mapping[str, Any], ranked: Sequence[Mapping[str, Any]]) -> str:
    chosen = found["chosen"]
    place = "is" if chosen == ranked[0]["name"] else "was chosen when it was"
    others = [run["name"] for run in found["runs"] if run["setting"] != chosen and run.get("reported")]
    told = f"to others too, but not by the sweep: {_first(others)}" if others else "to its runs alone, after the choice"
    return (
        f"{chosen} {place} the best of {len(ranked)} on these validation data, which flatters its ELBO there a little. "
        f"Its numbers on test data are what the sweep found. Test data were shown {told}."
    )


def _density(tests: Sequence[Mapping[str, Any]]) -> list[str]:
    """What lies between the two scales of a table of dequantised data."""
    run = next((run for run in tests if "log_likelihood_of_levels" in run), None)
    if run is None:
        return []
    shift = run["log_likelihood_of_levels"]["mean"] - run["log_likelihood"]["mean"]
    return [
        "ELBO, rate and distortion are of densities of the dequantised data; log p(level) has the Jacobian of the "
        f"levels, which adds {_number(shift)} nats."
    ]


def _code(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    kinds = {str(sorted(run.get("code", {}).items(), key=str)) for run in runs}
    return [f"The runs were made by {len(kinds)} versions of the code, see run.json of each."] if len(kinds) > 1 else []


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")


def _row(group: Mapping[str, Any], chosen: str | None) -> tuple[str, ...]:
    name, seeds = clipped(group["name"]) + (" *" if group["name"] == chosen else ""), str(len(group["seeds"]))
    if group["diverged"]:
        return (name, seeds, "diverged", *[""] * 4, f"seeds {', '.join(map(str, group['diverged']))}")
    elbo, rate, distortion = (group[part] for part in _PARTS)
    errors = (_number(elbo["standard_error"]), _number(group["data_error"]))
    epochs = ", ".join(map(str, group["epochs"]))
    means = (_number(part["mean"]) for part in (rate, distortion))
    return (name, seeds, _number(elbo["mean"]), *errors, *means, clipped(epochs, 16))


def _test_row(run: Mapping[str, Any]) -> tuple[str, ...]:
    if "elbo" not in run:
        return (f"seed {run['seed']}", "diverged", *[""] * 6)
    bound, elbo = _evidence(run), run["elbo"]
    errors = (_number(bound[name]) for name in ("mean", "standard_error", "monte_carlo_error"))
    counts = (str(bound[name]) for name in ("num_samples", "num_data"))
    return (f"seed {run['seed']}", *errors, _number(elbo["mean"]), _number(elbo["standard_error"]), *counts)


def _mean_rows(runs: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    if len(runs) < 2 or any("elbo" not in run for run in runs):
        return []
    bound = _over_seeds([_evidence(run)["mean"] for run in runs])
    elbo = _over_seeds([run["elbo"]["mean"] for run in runs])
    means, errors = ([_number(part[key]) for part in (bound, elbo)] for key in ("mean", "standard_error"))
    rows = (("mean over seeds", *means), ("± over seeds", *errors))
    return [(name, first, "", "", second, *[""] * 3) for name, first, second in rows]


def _evidence(run: Mapping[str, Any]) -> Mapping[str, Any]:
    """log p of what the protocol card names: of the level, where the data are dequantised."""
    found: Mapping[str, Any] = run.get("log_likelihood_of_levels") or run["log_likelihood"]
    return found


def _scales(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    scales = [(run["seed"], name, value) for run in runs for name, value in run.get("likelihood", {}).items()]
    found = [f"seed {seed} {name} {_typed(value)}" for seed, name, value in scales]
    return [f"Likelihood: {'; '.join(found)}."] if found else []


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(f"{text:{'>' if i else '<'}{width}}" for i, (text, width) in enumerate(zip(row, widths, strict=True)))
        .rstrip() for row in rows
    )  # fmt: skip


def _typed(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return f"{value:.5g}" if isinstance(value, float) else value


def _number(value: float | None) -> str:
    return number(value, 3 if abs(value or 0.0) < 1000 else 1)
