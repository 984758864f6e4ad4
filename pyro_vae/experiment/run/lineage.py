"""The lineage of a run: the runs whose weights it started from, the newest first, as run.json keeps it.

A record of each says which weights they were (run, epoch, checkpoint and its SHA-256), and how they were trained
(config, epochs, data). `unseen` is True where none of the validation and test data are among the data of that training,
and None where that is not known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyro_vae.errors import UsageError
from pyro_vae.experiment import presets
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.run.damaged_files import damaged

KEY = "started_from"
Record = dict[str, Any]
_TOLD = ("run", "epoch", "checkpoint", "sha256", "unseen")


def of(about: Mapping[str, Any], path: Path) -> list[Record]:
    """Returns the lineage that run.json tells of; it is empty where the run started from no other.

    Args:
        about: what run.json says.
        path: its path, for the message.

    Raises:
        CheckpointError: the file is damaged.
    """
    found = about.get(KEY, [])
    if not isinstance(found, list) or not all(isinstance(record, dict) for record in found):
        raise damaged(path, f"{KEY} is not a list of records")
    return found


def told(lineage: Sequence[Record]) -> list[Record]:
    """Returns what a report tells of a lineage."""
    return [{name: record.get(name) for name in _TOLD} for record in lineage]


def settings_after(before: Config) -> Config:
    """Returns the settings of a run that starts from another, where none are given.

    They are those of the other run, except two that describe a beginning: the warm-up of the KL weight, which the
    weights have behind them, and the preset, whose published number belongs to another training. The number of threads
    is decided again.

    Example:
        >>> settings_after(Config(kl_warmup=10, epochs=50)).to_dict() == Config(epochs=50).to_dict()
        True
    """
    return replace(before, kl_warmup=0, preset="", threads="auto")


def default_settings(preset: str, lineage: Sequence[Record], path: Path) -> Config:
    """Returns the settings that a run has where the command that begins it gives none but its preset.

    Args:
        preset: its name; "" for none.
        lineage: of the run.
        path: of run.json, for the message.

    Raises:
        CheckpointError: the record is damaged.
    """
    if preset or not lineage:
        return presets.config_of(preset)
    try:
        return settings_after(Config.from_dict(lineage[0]["config"]))
    except (UsageError, LookupError, TypeError, AttributeError) as error:
        raise damaged(path, error) from error
