"""Presets: the settings of a published experiment, its number, and the verdict on a run with these settings.

Each preset is a file, published/NAME.yaml. It holds `settings`, flat as in a config file, the `target`, with the fields
of `Target`, and `start`, if its run starts from the weights of another preset.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from pyro_vae.errors import UsageError, unknown
from pyro_vae.experiment.checked_fields import settings_of
from pyro_vae.experiment.config import Config

_FOLDER = Path(__file__).parent / "published"
# Elsewhere they tell runs apart; a published number holds for any seed, compiled or not.
_OF_ONE_RUN = ("preset", "seed", "compile")
_DRAWS = {"log_likelihood": "test_samples", "elbo": "elbo_samples"}


@dataclass(frozen=True)
class Target:
    """A published number.

    Attributes:
        quantity: "log_likelihood" or "elbo".
        value: what was published, in `unit`.
        tolerance: how far below it a run may end and still count as a reproduction, in the same unit.
        source: the paper and its table.
        protocol: what was done there, and what differs here.
        unit: "nats", or "bits/dim", which are better if lower.
    """

    quantity: str
    value: float
    tolerance: float
    source: str
    protocol: str
    unit: str = "nats"


@dataclass(frozen=True)
class Preset:
    """The settings of a published experiment, and the number that they should reach.

    Attributes:
        name: its name.
        settings: those that differ from the defaults.
        target: the published number.
        start: the preset of the run whose weights it starts from; "" for random weights.
    """

    name: str
    settings: dict[str, Any]
    target: Target
    start: str = ""


def names() -> list[str]:
    """Lists the names of all presets.

    Example:
        >>> "vamp_dynamic_mnist" in names()
        True
    """
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


@cache
def preset(name: str) -> Preset:
    """Reads the preset of this name.

    Raises:
        UsageError: there is none; the error gives the nearest name.

    Example:
        >>> preset("vamp_dynamic_mnist").target.value
        -82.43
    """
    if name not in names():
        raise unknown("preset", name, names())
    published = yaml.safe_load((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return Preset(name, published["settings"], Target(**published["target"]), published.get("start", ""))


def config_of(name: str) -> Config:
    """Returns the settings of a run of this preset, or of one without a preset, where no others are given.

    Example:
        >>> config_of("vamp_dynamic_mnist").prior, config_of("").prior
        ('vamp', 'standard')
    """
    return replace(Config(), **preset(name).settings) if name else Config()


def start_of(name: str) -> str:
    """Returns the preset whose weights a run of this preset starts from; "" for random weights, or without a preset."""
    return preset(name).start if name else ""


def changed(config: Config) -> dict[str, Any]:
    """Returns the settings that differ from the defaults, or from the preset of the config. They make it again.

    Example:
        >>> changed(Config(hidden=(300, 300), prior="vamp"))
        {'prior': 'vamp', 'hidden': (300, 300)}
    """
    given = config_of(config.preset)
    return {f.name: value for f in settings_of(Config) if (value := getattr(config, f.name)) != getattr(given, f.name)}


def verdict(
    config: Config, test: Mapping[str, Any], num_pixels: int, otherwise: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """Describes how far a run came towards the number of its preset.

    Args:
        config: the settings of the run. Those changed from the preset are named, except its numbers of draws: the
            number that the result has counts.
        test: estimates by name, as in report.json: `mean`, `standard_error`, `num_samples` in nats.
        num_pixels: how many numbers a datum has, for bits/dim.
        otherwise: what differs from the settings: fewer test data or epochs.

    Returns:
        None for a run without a preset, else `name`, `target`, `tolerance`, `unit`, `source`, `protocol`, `changed`,
        `result` with its `standard_error` and `num_samples`, `shortfall` (how far the result is worse than the target;
        below 0 it is better) and `verdict`: "reached", "missed", or "not comparable" where settings were changed, or
        there are more draws or fewer.

    Raises:
        UsageError: the target is a quantity that the run does not have.

    Example:
        >>> test = {"log_likelihood": {"mean": -90.0, "standard_error": 0.3, "num_samples": 5000}}
        >>> config = Config(preset="gated_static_mnist", **preset("gated_static_mnist").settings)
        >>> outcome = verdict(config, test, 784)
        >>> outcome["verdict"], round(outcome["shortfall"], 2)
        ('missed', 1.44)
    """
    if not config.preset:
        return None
    target = preset(config.preset).target
    if target.quantity not in test:
        raise UsageError(f"`preset={config.preset!r}` needs {target.quantity}, which this program does not have")
    factor = -1 / (num_pixels * math.log(2)) if target.unit == "bits/dim" else 1.0
    estimate = test[target.quantity]
    result, error = estimate["mean"] * factor, estimate["standard_error"]
    shortfall = math.copysign(1.0, factor) * (target.value - result)
    changed = {**_changed(config, target.quantity, estimate["num_samples"]), **(otherwise or {})}
    return {
        "name": config.preset,
        "quantity": target.quantity,
        "target": target.value,
        "tolerance": target.tolerance,
        "unit": target.unit,
        "source": target.source,
        "protocol": target.protocol,
        "changed": changed,
        "result": result,
        "standard_error": error and error * abs(factor),
        "num_samples": estimate["num_samples"],
        "shortfall": shortfall,
        "verdict": _word(shortfall, target.tolerance, changed),
    }


def over_seeds(verdicts: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """Pools the verdicts on runs that differ only in their seed.

    Args:
        verdicts: what `verdict` returned for each of them.

    Returns:
        None if there is no preset, or not one for all of them. Else a verdict on the mean of the results, as of one
        run, with `seeds`, their number, and `seed_deviation`, the standard deviation of the results (None for one). Its
        `standard_error` is the mean of theirs, and so an upper bound on that of the mean.

    Example:
        >>> test = {"log_likelihood": {"mean": -88.0, "standard_error": 0.3, "num_samples": 5000}}
        >>> config = Config(preset="gated_static_mnist", **preset("gated_static_mnist").settings)
        >>> one = verdict(config, test, 784)
        >>> both = over_seeds([one, {**one, "result": -90.0, "shortfall": 1.44}])
        >>> both["result"], round(both["seed_deviation"], 3), both["seeds"], both["verdict"]
        (-89.0, 1.414, 2, 'reached')
    """
    found = [each for each in verdicts if each is not None]
    if len(found) < len(verdicts) or len({each["name"] for each in found}) != 1:
        return None
    results, first = [each["result"] for each in found], found[0]
    shortfall = statistics.fmean(each["shortfall"] for each in found)
    changed = {name: value for each in found for name, value in each["changed"].items()}
    errors = [each["standard_error"] for each in found]
    return {
        **first,
        "changed": changed,
        "result": statistics.fmean(results),
        "standard_error": None if None in errors else statistics.fmean(errors),
        "shortfall": shortfall,
        "verdict": _word(shortfall, first["tolerance"], changed),
        "seeds": len(results),
        "seed_deviation": statistics.stdev(results) if len(results) > 1 else None,
    }


def _word(shortfall: float, tolerance: float, changed: Mapping[str, Any]) -> str:
    if changed:
        return "not comparable"
    return "reached" if shortfall <= tolerance else "missed"


def other_start(name: str, lineage: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns `start_from` where a run started from other weights than its preset says, else nothing.

    Args:
        name: of the preset; "" for none.
        lineage: of the run, the newest record first, as run.json keeps it.

    Example:
        >>> other_start("iwae_1l_k1", [{"run": "runs/a", "config": {}}]), other_start("iwae_1l_k1", [])
        ({'start_from': 'runs/a'}, {})
    """
    if not name:
        return {}
    wanted = start_of(name)
    if not lineage:
        return {"start_from": "random weights"} if wanted else {}
    first, *earlier = lineage
    is_same = (
        wanted and first["config"].get("preset") == wanted and _as_published(first) and not other_start(wanted, earlier)
    )
    return {} if is_same else {"start_from": first["run"]}


def _as_published(record: Mapping[str, Any]) -> bool:
    """Whether a run in a lineage had the settings of its preset, and was trained to its end."""
    config = Config.from_dict(record["config"])
    is_whole = record.get("epochs") == config.epochs or bool(config.patience)
    return is_whole and not _unlike(config)


def _changed(config: Config, quantity: str, num_samples: int) -> dict[str, Any]:
    """The settings that decide the number and differ from the preset; of the draws only those of this quantity."""
    draws = _DRAWS[quantity]
    is_same = num_samples == getattr(config_of(config.preset), draws)
    return {**_unlike(config), **({} if is_same else {draws: num_samples})}


def _unlike(config: Config) -> dict[str, Any]:
    """The settings that differ from the preset, without the draws of the report."""
    wanted = config_of(config.preset).to_dict()
    passed_over = {*_OF_ONE_RUN, *_DRAWS.values()}
    return {k: v for k, v in config.scientific().items() if k not in passed_over and v != wanted[k]}
