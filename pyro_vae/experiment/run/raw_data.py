"""What a saved program knows of raw data: the recipe of its run, by run.json or, without it, by its settings."""

from pathlib import Path
from typing import Any

from pyro_vae.data import Form
from pyro_vae.data.intake import Intake
from pyro_vae.errors import PyroVAEError
from pyro_vae.experiment import build
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.run.damaged_files import read_json


def intake_of_run(folder: Path, config: Config, form: Form) -> Intake:
    """Returns the recipe of the data of a run.

    Args:
        folder: the folder of the run, whose run.json may be missing: what it alone knows (columns that were left out,
            what was taken from them, names) is then not known.
        config: the settings of the run.
        form: what its checkpoint knows of the data.

    Raises:
        CheckpointError: run.json is damaged.
    """
    protocol = protocol_of(folder)
    return of_settings(config, form) if protocol is None else of_protocol(config, form, protocol)


def protocol_of(folder: Path) -> dict[str, Any] | None:
    """Reads the protocol of the data in run.json; None where there is no such file, or none in it.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = folder / "run.json"
    found = read_json(path).get("protocol") if path.exists() else None
    return found if isinstance(found, dict) else None


def of_protocol(config: Config, form: Form, protocol: dict[str, Any]) -> Intake:
    """Returns the recipe that a protocol tells, or that of the settings where it is not of these data."""
    try:
        known = Intake.of_protocol(
            protocol, data_seed=config.data_seed, channels_last=getattr(config, "channels", "") == "last"
        )
    except (LookupError, TypeError, ValueError):
        return of_settings(config, form)
    return known if known.x_shape == tuple(form.x_shape) else of_settings(config, form)


def of_settings(config: Config, form: Form) -> Intake:
    """Returns the recipe as far as settings and form tell it."""
    try:
        recipe = build.recipe(config, form.num_levels)
    except PyroVAEError:  # a likelihood of somebody's own
        recipe = "none"
    return Intake(
        tuple(form.x_shape),
        form.num_levels,
        recipe,
        config.data_seed,
        getattr(config, "missing", "no") == "nan",
        getattr(config, "channels", "") == "last",
        classes=tuple(map(str, range(form.num_classes))),
    )
