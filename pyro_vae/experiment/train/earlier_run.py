"""A training that starts from the weights of an earlier run, with its settings where none are given.

The program stays the same, and the weights are those of the best epoch, as they are evaluated. The optimiser is new.
Results on test data that the weights were trained on would look too good. Such data are refused, whether the earlier
run or one before it was trained on them.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_vae.command_lines import command_line
from pyro_vae.data import Split, Splits
from pyro_vae.errors import DataError, UsageError, listed
from pyro_vae.experiment import build
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.own_members import FAMILIES, changes
from pyro_vae.experiment.run import lineage, rebuilt_program, training_rows
from pyro_vae.experiment.run.checkpoint import Checkpoint, fitting
from pyro_vae.experiment.run.run_status import RunStatus
from pyro_vae.experiment.run.trained_run import check_whole_epoch, newest_and_complaints
from pyro_vae.model.autoencoder import Autoencoder

# The settings that make a program; `precision` only says how its networks compute.
OF_THE_PROGRAM = (
    "prior", "prior_args", "posterior", "posterior_args", "likelihood", "likelihood_args", "network", "network_args",
    "conditional", "missing", "latent_dim", "layers", "latent_dim2", "hidden", "hidden2", "guide", "activation", "df",
    "num_components", "flow", "flow_transforms", "flow_hidden", "encoder_predicts", "rank", "scale", "learn_scale",
    "scale_floor", "rate",
)  # fmt: skip
# Settings that decide which data are trained on, and which are tested on.
_OF_THE_SPLIT = ("dataset", "data_seed", "valid_data", "split", "group", "reader")


@dataclass(frozen=True)
class EarlierRun:
    """A run whose weights a training starts from.

    Attributes:
        path: its folder.
        saved: its newest checkpoint, which holds the weights of its best epoch.
        protocol: of its data; empty where run.json does not say it.
        before: the lineage of the run itself.
    """

    path: Path
    saved: Checkpoint
    protocol: dict[str, Any]
    before: Sequence[lineage.Record]

    @classmethod
    def open(cls, path: Path) -> "EarlierRun":
        """Reads a run, finished or not, and warns of newer checkpoints that are damaged.

        Raises:
            CheckpointError: there is no run, a damaged one, or one without a whole epoch.
        """
        saved, complaints = newest_and_complaints(path)
        check_whole_epoch(path, saved)
        rebuilt_program.warn(complaints)
        status = RunStatus(path / "run.json")
        return cls(path, saved, status.read().get("protocol", {}), status.started_from())

    @property
    def record(self) -> lineage.Record:
        """What the new run keeps of this one."""
        return {
            "run": str(self.path),
            "epoch": self.saved.progress.best_epoch,
            "epochs": self.saved.progress.epoch,
            "checkpoint": self.saved.file,
            "sha256": self.saved.sha256,
            "config": self.saved.config.to_dict(),
            "data": _contents(self.protocol),
        }

    def settings(self, wanted: Config, given: set[str]) -> Config:
        """Makes the settings of the new run: those that are given, and else those of this one, or of a preset.

        Args:
            wanted: the config that is asked for.
            given: the names of the settings that were given explicitly.

        Raises:
            UsageError: they are of another program.
        """
        before = replace(lineage.settings_after(self.saved.config), own=wanted.own)
        config = wanted if wanted.preset else replace(before, **{name: getattr(wanted, name) for name in given})
        self._check_program(config)
        for sentence in changes(self.saved.own, config.own):
            _warn(sentence)
        return config

    def _check_program(self, config: Config) -> None:
        saved = replace(self.saved.config, own=config.own)
        differ = [name for name in OF_THE_PROGRAM if getattr(saved, name) != getattr(config, name)]
        if not {*differ} & {"layers", *FAMILIES}:
            idle = {*build.unused(saved), *build.unused(config)}
            differ = [name for name in differ if name not in idle]
        if not differ:
            return
        what = ", ".join(f"{name}={getattr(saved, name)}, not {getattr(config, name)}" for name in differ)
        names = "`preset`" if config.preset else listed(f"`{name}`" for name in differ)
        refit = command_line("refit", self.path, prior=config.prior)
        other_prior = f". To fit another prior to its encoder and decoder: {refit}" if differ == ["prior"] else ""
        raise UsageError(
            f"the program of {self.path} has {what}, and its weights fit no other program: leave out {names}, or "
            f"leave out `start_from` and train from the beginning{other_prior}"
        )

    def put_into(self, vae: Autoencoder, data: Splits, config: Config) -> list[lineage.Record]:
        """Gives a program the weights, once it is known that the data may be used; prints what is not known.

        The weights are released then, so that this can be done once.

        Args:
            vae: the program of the new run; it is changed in place.
            data: the data of the new run.
            config: its settings.

        Returns:
            The lineage of the new run.

        Raises:
            UsageError: the data have another form, or the weights were trained on some of the test data.
            CheckpointError: the weights do not fit.
        """
        self._check_form(data, config)
        records = [self.record, *self.before]
        found = [{**record, "unseen": _unseen(record, data, config)} for record in records]
        with fitting("program"):
            vae.set_tensors(self.saved.tensors())
        # The decision that holds this run lives as long as the training, and its weights are not needed any more.
        progress = self.saved.progress
        for values in (self.saved.program, progress.best_tensors, progress.average, self.saved.optimizer):
            values.clear()
        return found

    def _check_form(self, data: Splits, config: Config) -> None:
        uses = ["x_shape", "scaling", *["num_classes"] * config.conditional]
        uses += ["num_levels"] if build.recipe(config, data.form.num_levels) == "levels" else []
        for name in uses:
            before, here = getattr(self.saved.form, name), getattr(data.form, name)
            if before != here:
                raise UsageError(
                    f"{self.path} was trained on data with {name}={before}, and these have {name}={here}: its "
                    f"weights fit no other data. Name data of that form, or leave out `start_from`"
                )
        for name in ("columns", *["classes"] * config.conditional):
            before, here = (list(card.get(name) or []) for card in (self.protocol, data.protocol))
            if self.protocol and before != here:
                _warn(f"the {name} of {self.path} are {before}, and these are {here}: its weights take them in order")


def _unseen(record: lineage.Record, data: Splits, config: Config) -> bool | None:
    """Returns True if this record's run trained on no validation or test data, None if that is not known.

    Raises:
        UsageError: some were.
    """
    if record["data"] == _contents(data.protocol):
        return True
    earlier, run = Config.from_dict(record["config"]), record["run"]
    try:
        before = build.data(replace(earlier, data_dir=config.data_dir, download=False, own=config.own))
    except (DataError, UsageError) as error:
        _doubt(f"the data of {run} are not there ({error})")
        return None
    if record["data"] not in (None, _contents(before.protocol)):
        _doubt(f"the data of {run} have changed since")
        return None
    known = np.setdiff1d(training_rows.training_hashes(before.train), training_rows.training_hashes(data.train))
    for split in (data.test, data.valid):
        seen = _rows_among(split, known)
        if len(seen):
            raise UsageError(_leak(run, split, seen, _differing(earlier, config)))
    stored, here = before.train.values, data.train.values
    if stored != here:  # the same image can stand in both, in other numbers
        _doubt(f"the data of {run} are stored as {stored}, and these as {here}")
        return None
    return True


def _doubt(why: str) -> None:
    _warn(f"{why}, so it is not known whether its weights were trained on some of these validation and test data")


def _rows_among(split: Split, known: np.ndarray) -> np.ndarray:
    """Lists the positions of the data of a split whose hashes are among some others, which ascend."""
    if not len(known):
        return np.empty(0, int)
    found = training_rows.hashes(split, torch.arange(len(split)))
    return np.flatnonzero(training_rows.are_among(found, known))


def _leak(run: str, split: Split, seen: np.ndarray, differ: Sequence[str]) -> str:
    word = {"valid": "validation"}.get(split.name, split.name)
    cure = f"leave {listed(f'`{name}`' for name in differ)} out" if differ else "name data without them"
    return (
        f"{len(seen):,} of the {len(split):,} {word} data are among the training data of {run}, the first is "
        f"{split.place(int(seen[0]))}. Its weights have seen them, so that every number on them would look too good: "
        f"{cure}, or leave `start_from` out"
    )


def _differing(before: Config, config: Config) -> list[str]:
    return [name for name in _OF_THE_SPLIT if getattr(before, name) != getattr(config, name)]


def _contents(protocol: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns what is the same where two runs have the same data in the same splits; None where it is not known."""
    if not {"sha256", "split"} <= protocol.keys():
        return None
    return {"sha256": protocol["sha256"], "index_sha256": protocol["split"]["index_sha256"]}


def _warn(sentence: str) -> None:
    print(f"warning: {sentence}", file=sys.stderr, flush=True)
