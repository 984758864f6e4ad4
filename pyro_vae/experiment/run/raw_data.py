"""What a saved program knows of raw data: the recipe of its run, by run.json or, without it, by its checkpoint."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from pyro_vae.data import Form
from pyro_vae.data.intake import Intake
from pyro_vae.errors import PyroVAEError
from pyro_vae.experiment import build
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.run.damaged_files import read_json


def intake_of_run(folder: Path, config: Config, form: Form, saved: Intake | None = None) -> Intake:
    """Returns the recipe of the data of a run.

    Args:
        folder: the folder of the run, whose run.json may be missing.
        config: the settings of the run.
        form: what its checkpoint knows of the data.
        saved: the recipe in its checkpoint; without it and run.json, columns that were left out, what was taken from
            them, and names are not known.

    Raises:
        CheckpointError: run.json is damaged.
    """
    protocol = protocol_of(folder)
    if protocol is not None:
        return of_protocol(config, form, protocol)
    if saved is not None and saved.x_shape == tuple(form.x_shape):
        return saved
    return of_settings(config, form)


def protocol_of(folder: Path) -> dict[str, Any] | None:
    """Reads the protocol of the data in run.json; None where there is no such file, or none in it.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = folder / "run.json"
    found = read_json(path).get("protocol") if path.exists() else None
    return found if isinstance(found, dict) else None


def of_protocol(config: Config, form: Form, protocol: dict[str, Any]) -> Intake:
    """Returns the recipe in a protocol, or the recipe of the settings where the protocol is of other data."""
    try:
        known = Intake.of_protocol(
            protocol, data_seed=config.data_seed, channels_last=getattr(config, "channels", "") == "last"
        )
    except (LookupError, TypeError, ValueError):
        return of_settings(config, form)
    return _with_settings(known, config) if known.x_shape == tuple(form.x_shape) else of_settings(config, form)


def of_settings(config: Config, form: Form) -> Intake:
    """Returns the recipe as far as settings and form tell it."""
    try:
        recipe = build.recipe(config, form.num_levels)
    except PyroVAEError:  # a likelihood of the user's own
        recipe = "none"
    known = Intake(
        tuple(form.x_shape),
        form.num_levels,
        recipe,
        config.data_seed,
        getattr(config, "missing", "no") == "nan",
        getattr(config, "channels", "") == "last",
        classes=tuple(map(str, range(form.num_classes))),
    )
    return _with_settings(known, config)


def _with_settings(known: Intake, config: Config) -> Intake:
    """Adds what the settings say, and no protocol."""
    return replace(
        known, conditional=config.conditional, float_levels=known.missing or bool(getattr(config, "levels", 0))
    )
