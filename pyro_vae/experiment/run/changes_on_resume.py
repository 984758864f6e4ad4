"""What may change when a run is resumed: where it computes, what it reports, and how long it trains.

More epochs are allowed with a constant learning rate, and more patience with any, since the epochs so far are the same
as in a run that had these settings from the beginning. The other settings that decide the training must stay, and so
must the data.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyro_vae.command_lines import command_line
from pyro_vae.errors import CheckpointError, UsageError
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.own_members import FAMILIES, is_place, places_of
from pyro_vae.experiment.run import files
from pyro_vae.experiment.run.run_folder import Run, free_name, saved_config

# The entry in a protocol, and its meaning if it is missing, as in older protocols or for data without any of it.
_WHAT_THE_MODEL_SEES = {
    "sha256": "nothing",
    "num_levels": "nothing",
    "num_classes": "nothing",
    "classes": None,
    "columns": None,
    "kept": None,
    "origin": None,
    "scaling": None,
    "missing": None,
    "split": "nothing",
    "binarization": "nothing",
    "dequantized": "nothing",
}


def config_for_resume(folder: Path, wanted: Config, given: set[str]) -> Config:
    """Takes the saved config, with those of the settings given now that may change between sessions.

    Args:
        folder: the folder of the run.
        wanted: the config that is asked for now.
        given: the names of the settings that were given explicitly.

    Raises:
        UsageError: a given setting contradicts the saved run.
        CheckpointError: the saved config is damaged.
    """
    saved = saved_config(folder)
    if refused := _refused(saved, wanted, given):
        raise UsageError(_contradiction(folder, saved, wanted, refused[0]))
    chosen = {name: getattr(wanted, name) for name in given}
    if wanted.threads == "auto":
        chosen["threads"] = saved.threads  # which it decided when it began, and its last digits depend on it
    return replace(saved, own=wanted.own, **chosen)


def _contradiction(folder: Path, saved: Config, wanted: Config, name: str) -> str:
    before = getattr(saved, name)
    differ = f"{folder} was started with {name}={before}, not {getattr(wanted, name)}"
    if name == "epochs" and wanted.epochs > saved.epochs:
        return f"{differ}, and {_why_no_longer(folder, saved, wanted.epochs)}"
    cure = f"pass `{name}={before}`" if name in FAMILIES and is_place(before) else f"leave `{name}` out"
    return f"{differ}: {cure}, or start another run with another `folder`"


def _why_no_longer(folder: Path, saved: Config, epochs: int) -> str:
    """Explains why this learning rate allows no more epochs, and names a new run that adds them."""
    why = (
        f"under `lr_schedule={saved.lr_schedule!r}` the learning rate falls over exactly these epochs. Only a run that "
        "was started with `lr_schedule='constant'` can go on for more"
    )
    if not any(record["best"] for record in Run(folder, saved).history.records()):
        return f"{why}. Leave `epochs` out"
    more: dict[str, Any] = {"start_from": folder, "epochs": epochs - saved.epochs, "out": free_name(folder)}
    line = command_line("train", **places_of(saved), **more)
    return f"{why}. A new run can start from the weights of this one, for {epochs - saved.epochs} more epochs: {line}"


def check_same_config(run: Run, before: Config) -> None:
    """Compares the config of a run with the config of its checkpoint.

    `config_for_resume` has already compared config.json; this catches a file that was edited or lost.

    Args:
        run: the folder, and its config.
        before: the config in the checkpoint.

    Raises:
        CheckpointError: the two differ in what may not change.
    """
    if refused := _refused(before, run.config, before.to_dict()):
        name = refused[0]
        raise CheckpointError(
            f"{run.checkpoints} was made with {name}={before.to_dict()[name]}, and {run.path / 'config.json'} says "
            f"{run.config.to_dict()[name]}: put that back, or use another `folder`"
        )


def _refused(before: Config, after: Config, names: Iterable[str]) -> list[str]:
    """Lists the settings that differ but must not, in the order of their names.

    A path of the data may differ in its folder: what lies there is compared by its contents, see `check_same_data`.
    """
    before, after = before.portable(), after.portable()
    longer = before.lr_schedule == "constant" and after.epochs > before.epochs
    more_patient = 0 < before.patience < (after.patience or math.inf)
    changed = {name for name in names if getattr(after, name) != getattr(before, name)}
    return sorted(changed - {*Config.within("report"), *["epochs"] * longer, *["patience"] * more_patient})


def check_same_data(run: Run, protocol: dict[str, Any]) -> None:
    """Compares data, by their protocol, with the data that run.json describes.

    Args:
        run: the folder.
        protocol: the protocol of the data that are here now.

    Raises:
        CheckpointError: the model would see other data.
    """
    before = run.status.read().get("protocol", protocol)
    now = json.loads(files.to_json(protocol))
    known = before if isinstance(before, dict) else {}
    changed = [
        key for key, absent in _WHAT_THE_MODEL_SEES.items() if _meant(known.get(key, absent)) != _meant(now.get(key))
    ]
    if changed:
        raise CheckpointError(
            f"{run.path} was trained on other data: {changed} differ. Put those back, or train again in another folder"
        )


def _meant(entry: Any) -> Any:
    """Leaves out how an entry is worded."""
    return {name: value for name, value in entry.items() if name != "sentence"} if isinstance(entry, dict) else entry
