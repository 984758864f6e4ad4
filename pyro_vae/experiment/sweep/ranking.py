"""Settings of a sweep, ranked by the mean over seeds of the validation ELBO at the epoch that each run kept.

A setting of which a run diverged has no rank: the mean of the others would only describe the survivors.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pyro_vae.evaluation import between_seeds
from pyro_vae.report.documents.sweep_document import PARTS, evidence, sweep_notes

_ESTIMATES = ("elbo", "log_likelihood", "log_likelihood_of_levels")
_RECORDS = {"elbo": ("valid_elbo", 1.0), "rate": ("valid_kl", 1.0), "distortion": ("valid_reconstruction", -1.0)}


def ranked(settings: Mapping[str, Mapping[str, Any]], runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Ranks the settings, the best on validation data first, those that diverged last.

    Args:
        settings: name -> the values of its flags.
        runs: `name`, `setting`, `seed`, `status` of each run, and `kept`, its record of the epoch that it kept.

    Returns:
        One entry for each setting. `elbo`, `rate` (the KL) and `distortion` (minus the reconstruction) are of the
        validation data, in nats per datum: their mean over seeds, and its standard error, None for a single seed.
    """
    groups = [
        _group(name, values, [run for run in runs if run["setting"] == name]) for name, values in settings.items()
    ]
    return sorted(groups, key=lambda group: -group["elbo"]["mean"] if group["elbo"] else math.inf)


def best(groups: Sequence[Mapping[str, Any]]) -> str | None:
    """Returns the name of the first of `ranked` settings, None where a run of every one diverged."""
    return groups[0]["name"] if groups and groups[0]["elbo"] else None


def reported(run: Mapping[str, Any], report: Mapping[str, Any] | None) -> dict[str, Any]:
    """Reads what a run's own report says of test data.

    Args:
        run: a row of `ranked`'s runs.
        report: its report.json; None for a test that diverged.

    Returns:
        `name` and `seed` of the run, and its estimates, none for a test that diverged.
    """
    name_and_seed = {"name": run["name"], "seed": run["seed"]}
    if report is None:
        return name_and_seed
    estimates = {name: report["test"][name] for name in _ESTIMATES if name in report["test"]}
    return {**name_and_seed, **estimates, "likelihood": report.get("likelihood", {})}


def content(
    groups: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]], card: Mapping[str, str], **more: Any
) -> dict[str, Any]:
    """Makes the content of report.json.

    Args:
        groups: what `ranked` returned.
        runs: all runs.
        card: the protocol card that all have in common.
        more: `chosen`, the name of the setting that was tested; `test`, what `reported` says of each of its runs;
            `importance_weighted`, whether a setting was trained on an importance-weighted bound.

    Returns:
        Plain values for JSON.
    """
    rest = {"chosen": None, "importance_weighted": False, **more, "test": list(more.get("test", ()))}
    whole = {"groups": list(groups), "runs": list(runs), "protocol": dict(card), **rest}
    return {**whole, "notes": sweep_notes(whole, _lead(groups))}


def over_seeds(tests: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Computes mean and standard error over seeds of the tests' log p(x) and ELBO.

    Args:
        tests: what `reported` returned for each run.

    Returns:
        "evidence" and "elbo" -> `mean`, `standard_error`, `runs`; nothing where a run diverged or is the only one.
    """
    if len(tests) < 2 or any("elbo" not in test for test in tests):
        return {}
    return {
        "evidence": _over_seeds([evidence(test)["mean"] for test in tests]),
        "elbo": _over_seeds([test["elbo"]["mean"] for test in tests]),
    }


def _lead(groups: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The lead of the first setting over the second, by Welch's t."""
    first_two = [group for group in groups if group["elbo"]][:2]
    if len(first_two) < 2 or len(first_two[0]["seeds"]) < 2:
        return None
    return between_seeds(*(group["elbo"]["runs"] for group in first_two)).to_dict()


def _group(name: str, values: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    kept = [run["kept"] for run in runs if run["status"] != "diverged"]
    diverged = [run["seed"] for run in runs if run["status"] == "diverged"]
    terms: dict[str, Any] = dict.fromkeys(PARTS)
    if not diverged:
        terms = {term: _over_seeds([sign * record[key] for record in kept]) for term, (key, sign) in _RECORDS.items()}
    errors = [record["valid_standard_error"] for record in kept]
    return {
        "name": name,
        "values": dict(values),
        "seeds": [run["seed"] for run in runs],
        "diverged": diverged,
        **terms,
        "data_error": None if diverged or None in errors else statistics.fmean(errors),
        "epochs": [record["epoch"] for record in kept],
    }


def _over_seeds(values: Sequence[float]) -> dict[str, Any]:
    several = len(values) > 1
    error = statistics.stdev(values) / math.sqrt(len(values)) if several else None
    return {"mean": statistics.fmean(values), "standard_error": error, "runs": list(values)}
