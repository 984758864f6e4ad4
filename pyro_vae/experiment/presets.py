"""Presets: settings of a published experiment, its number, and the verdict on a run of ours.

One file a preset, published/NAME.yaml: `settings`, flat as in a config file, and the `target`:

    quantity     log_likelihood or elbo
    value        what was published, in `unit` (nats; or bits/dim, which count down)
    tolerance    how far below it a run may end and still count as a reproduction, in the same unit
    source       paper and table
    protocol     what was done there and is done otherwise here
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from pyro_vae.errors import UsageError, unknown
from pyro_vae.experiment.config import Config

_FOLDER = Path(__file__).parent / "published"
# Elsewhere they tell runs apart; a published number is one of all seeds, and of no graph.
_OF_ONE_RUN = ("preset", "seed", "compile")
_DRAWS = {"log_likelihood": "test_samples", "elbo": "elbo_samples"}


@dataclass(frozen=True)
class Target:
    """A published number, see above."""

    quantity: str
    value: float
    tolerance: float
    source: str
    protocol: str
    unit: str = "nats"


@dataclass(frozen=True)
class Preset:
    """Settings, and what they are to reach."""

    name: str
    settings: dict[str, Any]
    target: Target


def names() -> list[str]:
    """Of all presets.

    >>> "vamp_dynamic_mnist" in names()
    True
    """
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


@cache
def preset(name: str) -> Preset:
    """The preset of this name.

    Raises:
        UsageError: there is none; with the nearest name.

    Example:
        >>> preset("vamp_dynamic_mnist").target.value
        -82.43
    """
    if name not in names():
        raise unknown("preset", name, names())
    found = yaml.safe_load((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return Preset(name, found["settings"], Target(**found["target"]))


def changed(config: Config) -> dict[str, Any]:
    """The settings that are not so by default, or by the preset of the config: with these it is made again.

    >>> changed(Config(hidden=(300, 300), prior="vamp"))
    {'prior': 'vamp', 'hidden': (300, 300)}
    """
    else_so = replace(Config(), **preset(config.preset).settings) if config.preset else Config()
    return {f.name: value for f in fields(Config) if (value := getattr(config, f.name)) != getattr(else_so, f.name)}


def verdict(
    config: Config, test: Mapping[str, Any], num_pixels: int, otherwise: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """How far a run came towards the number of its preset; None for a run without one.

    Args:
        config: of the run; settings changed from those of the preset are named. Its numbers of draws are none of them:
            what counts is how many the result has.
        test: estimates by name, as in report.json: `mean`, `standard_error`, `num_samples` in nats.
        num_pixels: numbers in a datum, for bits/dim.
        otherwise: what was done in another way than the settings say: fewer test data or epochs.

    Returns:
        `name`, `target`, `tolerance`, `unit`, `source`, `protocol`, `changed`, `result` with its `standard_error` and
        `num_samples`, `shortfall` (how far the result is worse than the target; below 0 it is better) and `verdict`:
        "reached", "missed", or "not comparable" where settings were changed, or there are more draws or fewer.

    Example:
        >>> test = {"log_likelihood": {"mean": -90.0, "standard_error": 0.3, "num_samples": 5000}}
        >>> config = Config(preset="gated_static_mnist", **preset("gated_static_mnist").settings)
        >>> found = verdict(config, test, 784)
        >>> found["verdict"], round(found["shortfall"], 2)
        ('missed', 1.44)
    """
    if not config.preset:
        return None
    target = preset(config.preset).target
    if target.quantity not in test:
        raise UsageError(f"`preset={config.preset!r}` is about {target.quantity}, which this program does not have")
    factor = -1 / (num_pixels * math.log(2)) if target.unit == "bits/dim" else 1.0
    found = test[target.quantity]
    result, error = found["mean"] * factor, found["standard_error"]
    shortfall = math.copysign(1.0, factor) * (target.value - result)
    changed = {**_changed(config, target.quantity, found["num_samples"]), **(otherwise or {})}
    reached = "reached" if shortfall <= target.tolerance else "missed"
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
        "num_samples": found["num_samples"],
        "shortfall": shortfall,
        "verdict": "not comparable" if changed else reached,
    }


def _changed(config: Config, quantity: str, num_samples: int) -> dict[str, Any]:
    """Settings that are not those of the preset, and decide the number: of the draws those of this quantity alone."""
    wanted = Config(**preset(config.preset).settings).to_dict()
    settings = config.scientific().items()
    found = {name: value for name, value in settings if name not in {*_OF_ONE_RUN, *_DRAWS.values()}}
    found[_DRAWS[quantity]] = num_samples
    return {name: value for name, value in found.items() if value != wanted[name]}
