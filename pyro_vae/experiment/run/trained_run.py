"""A trained run, opened again: its program at the best epoch, its data, and its records."""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch

from pyro_vae.command_lines import command_line
from pyro_vae.data import Form, Splits
from pyro_vae.errors import CheckpointError, DataError
from pyro_vae.experiment import build, presets, tables
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.own_members import OwnMember, places_of
from pyro_vae.experiment.protocol_card import tested
from pyro_vae.experiment.run import checkpoint, lineage, raw_data, rebuilt_program
from pyro_vae.experiment.run.changes_on_resume import check_same_data
from pyro_vae.experiment.run.checkpoint import Checkpoint
from pyro_vae.experiment.run.evaluation_data import DataReader
from pyro_vae.experiment.run.places import check_run
from pyro_vae.experiment.run.program_and_data import Facts, ProgramAndData
from pyro_vae.experiment.run.run_folder import Run
from pyro_vae.model.autoencoder import Autoencoder
from pyro_vae.option_words import Threads
from pyro_vae.progress import stage
from pyro_vae.threads import chosen


@dataclass(frozen=True, eq=False)
class TrainedRun(ProgramAndData):
    """A run with its program and its data.

    Attributes:
        run: the folder: `run.path`, `run.config`, `run.history`, `run.status`.
        vae: the program at its best epoch.
        splits: the three splits that it was trained, selected and tested on; None reads them when they are asked for.
        best_epoch: the number of that epoch, from 1.
        epochs: how many epochs were trained.
        saved_form: what its checkpoint knows of the data.
        wanted_threads: how many threads it is evaluated with; "auto" is the number of the training.
    """

    is_run: ClassVar[bool] = True

    run: Run
    vae: Autoencoder
    splits: Splits | None
    best_epoch: int
    epochs: int
    saved_form: Form | None = None
    wanted_threads: Threads = "auto"

    @cached_property
    def data(self) -> Splits:
        """The three splits.

        Raises:
            CheckpointError: the run was trained on other data.
            DataError: they are not there.
        """
        if self.splits is not None:
            return self.splits
        _check_there(self.config)
        data = build.data(self.config)
        check_same_data(self.run, data.protocol)
        return data

    @cached_property
    def threads(self) -> int:
        """The number of threads that its numbers are computed with, see `pyro_vae.threads`."""
        return evaluated_with(self.wanted_threads, self.config) or super().threads

    @property
    def form(self) -> Form:
        """What must be known of the data."""
        return self.saved_form or self.data.form

    @cached_property
    def protocol(self) -> dict[str, Any]:
        """The protocol of the data, as run.json has it, or else of the data themselves."""
        written = self.run.status.read().get("protocol")
        return written if isinstance(written, dict) else self.data.protocol

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, which are their numbers where they have no other."""
        return tuple(self.protocol.get("classes") or map(str, range(self.form.num_classes)))

    @property
    def trained_classes(self) -> tuple[int, ...]:
        """The classes that the training data have, in order."""
        untrained = self.protocol.get("untrained", [])
        return tuple(c for c in range(self.form.num_classes) if c not in untrained)

    @property
    def config(self) -> Config:
        """The settings of the run."""
        return self.run.config

    @cached_property
    def facts(self) -> Facts:
        """What must be known of the program and its data."""
        config = self.config
        return Facts(
            seed=config.seed,
            data_seed=config.data_seed,
            conditional=config.conditional,
            missing=config.missing == "nan",
            device=config.device,
            latent_dim=config.latent_dim + (config.latent_dim2 if config.layers == 2 else 0),
            support=self.vae.likelihood.support,
            form=self.form,
            classes=self.classes,
            trained_classes=self.trained_classes,
            shown_range=build.shown_range(config, self.form, self.protocol),
            settings=config.scientific(),
        )

    @property
    def card(self) -> Mapping[str, Any]:
        """The protocol of the data themselves."""
        return self.data.protocol

    @property
    def records(self) -> Sequence[Mapping[str, Any]]:
        """Those of the epochs, from history.jsonl."""
        return self.run.history.records()

    @property
    def progress(self) -> dict[str, Any]:
        """How many epochs were trained, the best of them, its score, and the weights that the first one began with."""
        valid_elbo = self.records[self.best_epoch - 1]["valid_elbo"]
        known = {"epochs": self.epochs, "best_epoch": self.best_epoch, "valid_elbo": valid_elbo}
        known |= {"average": self.config.average} if self.config.average else {}
        earlier = lineage.told(self.run.status.started_from())
        return {**known, **({lineage.KEY: earlier} if earlier else {})}

    @property
    def unfinished(self) -> str:
        """A sentence if the training is unfinished, else ""."""
        if (status := self.run.status.now()) in ("trained", "finished"):
            return ""
        epochs = f"{self.epochs} of {self.config.epochs} epochs"
        return f"Training is {status}: these are the numbers after {epochs}."

    def reader(self, part: str, num_data: int | None = None) -> DataReader:
        """Returns a reader of the data of `test` or `training`, bit by bit. `part` is "test" or "train"."""
        return DataReader(self.config, getattr(self.data, part), self.data.num_classes, num_data)

    def graphs(self, num_draws: int, kept: dict[Any, Any] | None = None) -> AbstractContextManager[None]:
        """Returns the context for estimates of this many draws: compiled graphs where the config wants them."""
        return build.estimating(self.config, num_draws, kept)

    def tested(self, num_data: int) -> dict[str, str]:
        """Lists what must be the same where numbers on this many test data are compared, label -> text."""
        return tested(self.config, self.data.protocol, num_data)

    def described(self, changed: Mapping[str, Any]) -> dict[str, Any]:
        """Names the run, its members, and a command that repeats the numbers, with or without shards."""
        path, device = self.run.path, self.config.device
        place: dict[str, Any] = {} if device == "cpu" else {"device": device}
        return {
            "name": path.resolve().name,
            "command": command_line("evaluate", path, **changed, **place, **places_of(self.config)),
            "trained_by": self.run.status.read().get("command"),
            "members": {name: type(getattr(self.vae, name)).__name__ for name in build.members_of(self.config)},
        }

    def seeds(self, draws: int) -> str:
        """Lists the seeds that its numbers depend on, including the seed of the draws."""
        return f"training {self.config.seed}, data {self.config.data_seed}, draws {draws}"

    def verdict(self, test: Mapping[str, Any], num_data: int) -> dict[str, Any] | None:
        """Judges the preset. An evaluation can use other test data than the run's own report."""
        config = replace(self.config, test_data=num_data if num_data < len(self.data.test) else 0)
        cut = self.epochs < config.epochs and not config.patience
        otherwise: dict[str, Any] = {"epochs": self.epochs} if cut else {}
        otherwise |= presets.other_start(config.preset, self.run.status.started_from())
        return presets.verdict(config, test, math.prod(self.data.x_shape), otherwise)

    @property
    def _name(self) -> str:
        return str(self.run.path)


def open_run(
    path: str | Path,
    *,
    device: str = "cpu",
    data_dir: str = "",
    threads: Threads = "auto",
    read: bool = True,
    own: Iterable[OwnMember] = (),
    **members: Any,
) -> TrainedRun:
    """Opens a run folder.

    Args:
        path: the path of the folder.
        device: where it is evaluated; the device that it was trained on does not matter, and need not exist here.
        data_dir: where the data are now, if they moved.
        threads: how many threads it is evaluated with; "auto" is the number of the training, unless the caller or
            `OMP_NUM_THREADS` has set one.
        read: whether to read the data now, and not when something asks for them.
        own: classes of a user's own, of which the run takes those that its config names.
        members: a user's own `prior`, `posterior` or `likelihood`, as for `pyro_vae.load`. Data are read as the
            likelihood that is given takes them.

    Raises:
        UsageError: its config names a class of a user's own that is not given.
        CheckpointError: there is no run, a damaged one, or one that was trained on other data.
        DataError: the data are not there.

    Example:
        >>> open_run("no-such-run")
        Traceback (most recent call last):
        ...
        pyro_vae.errors.CheckpointError: no-such-run holds no trained run (there is no such folder): ...
    """
    with stage(f"opening {path}"):
        trained = replace(_opened(Path(path), device, data_dir, own, members), wanted_threads=threads)
        if read:
            _ = trained.data
        return trained


def _opened(path: Path, device: str, data_dir: str, own: Iterable[OwnMember], members: dict[str, Any]) -> TrainedRun:
    newest, complaints = newest_and_complaints(path)
    check_whole_epoch(path, newest)
    newest, instances = rebuilt_program.with_members(newest, own, members)
    run = Run(path, replace(_moved(newest.config, data_dir), device=device, download=False))
    rebuilt_program.warn(complaints)
    vae = rebuilt_program.rebuilt(newest, device=device, **instances)
    vae.intake = raw_data.intake_of_run(path, run.config, newest.form, newest.intake)
    run.history.first_lines(newest.progress.epoch, newest.history)
    return TrainedRun(run, vae, None, newest.progress.best_epoch, newest.progress.epoch, newest.form)


def evaluated_with(wanted: Threads, config: Config) -> int:
    """Returns the number of threads that a run is evaluated with; 0 if its training has not decided.

    Args:
        wanted: "auto" is the number of the training, up to torch's own, unless the caller has set one.
        config: of the run.
    """
    if wanted != "auto":
        return wanted
    trained = config.threads
    return 0 if trained == "auto" else chosen(lambda: min(trained, torch.get_num_threads()))


def check_whole_epoch(path: Path, newest: Checkpoint) -> None:
    """Refuses a run that has no best epoch yet.

    Raises:
        CheckpointError: it has no whole epoch.
    """
    if not newest.progress.best_epoch:
        again = command_line("train", **places_of(newest.config), out=path, resume=True)
        raise CheckpointError(f"{path} has no whole epoch yet: go on with {again}")


def newest_checkpoint(path: Path) -> Checkpoint:
    """Reads the newest whole checkpoint of a run, for its settings, before program and data are there.

    Raises:
        CheckpointError: there is no run in this folder, or a damaged one.
    """
    return newest_and_complaints(path)[0]


def newest_and_complaints(path: Path) -> tuple[Checkpoint, list[str]]:
    """Reads the newest whole checkpoint of a run, and says what was wrong with newer ones.

    Raises:
        CheckpointError: there is no run in this folder, or a damaged one.
    """
    check_run(path)
    newest, complaints = checkpoint.newest(path / "checkpoints")
    if newest is None:
        raise CheckpointError(f"{path} has no checkpoint yet: train it first")
    return newest, complaints


def _moved(config: Config, data_dir: str) -> Config:
    if config.dataset in tables.DATASETS:
        return replace(config, data_dir=data_dir or config.data_dir)
    path = Path(data_dir) / Path(config.dataset).name if data_dir else Path(config.dataset)
    return replace(config, dataset=str(path))


def _check_there(config: Config) -> None:
    path = Path(config.dataset)
    if config.dataset not in tables.DATASETS and not path.exists():
        raise DataError(f"{path}: there is no such file or folder here. Name the folder that holds it with `data_dir`.")
