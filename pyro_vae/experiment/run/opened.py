"""A trained run, opened again: its program at the best epoch, the data it saw, and what was written down of it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import tee
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from pyro_vae.command_lines import command_line, script
from pyro_vae.data import Split, Splits, one_hot
from pyro_vae.errors import CheckpointError, UsageError
from pyro_vae.evaluation import subset
from pyro_vae.experiment import build
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.run import checkpoint
from pyro_vae.experiment.run.folder import Run
from pyro_vae.model.autoencoder import Autoencoder
from pyro_vae.model.vae import VAE


class Held(NamedTuple):
    """x (N, *x_shape); one-hot y (N, C) for a conditional program; labels (N,) where the data have any."""

    x: Tensor
    y: Tensor | None
    labels: Tensor | None


@dataclass(frozen=True, eq=False)
class Trained:
    """A run and what it needs to be looked at.

    Attributes:
        run: the folder: `run.path`, `run.config`, `run.history()`, `run.about()`.
        vae: the program at its best epoch.
        data: the three splits that it was trained, selected and tested on.
        best_epoch: which epoch that was, of `epochs`.
        epochs: how many were trained.
    """

    run: Run
    vae: Autoencoder
    data: Splits
    best_epoch: int
    epochs: int

    @property
    def config(self) -> Config:
        """The settings of the run."""
        return self.run.config

    @property
    def one_layer(self) -> VAE:
        """The program, where it is one of a single layer of latents. Raises UsageError for two."""
        if not isinstance(self.vae, VAE):
            raise UsageError(f"{self.run.path} has two layers of latents, and this is about the z of one")
        return self.vae

    def test(self, num_data: int | None = None) -> Held:
        """The test data: those that the run's own report saw, or a random subset of num_data (0: all of them)."""
        return held(self.config, self.data.test, self.data.num_classes, num_data)

    def reader(self, part: str, num_data: int | None = None) -> "Reader":
        """What `test` or `training` gives, to be read bit by bit. `part` is "test" or "train"."""
        return Reader(self.config, getattr(self.data, part), self.data.num_classes, num_data)

    def training(self, num_data: int = 0) -> Held:
        """The training data as evaluation sees them, or a random subset of them (0: all)."""
        return held(self.config, self.data.train, self.data.num_classes, num_data)


@dataclass(frozen=True, eq=False)
class Reader:
    """The data of `held`, read where they are asked for, so that a mapped file is never in memory as a whole.

    Arguments and draws are those of `held`.
    """

    config: Config
    split: Split
    num_classes: int
    num_data: int | None = None

    @cached_property
    def positions(self) -> Tensor | None:
        """Where the data stand in the split; None for all of it."""
        return positions(self.config, len(self.split), self.num_data)

    def __len__(self) -> int:
        return len(self.split if self.positions is None else self.positions)

    @cached_property
    def labels(self) -> Tensor | None:
        """(N,), where the data have any."""
        found = self.split.labels
        return found if found is None or self.positions is None else found[self.positions]

    def at(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """x (M, *x_shape), and one-hot y (M, C) for a conditional program, of the data at these positions (M,)."""
        return self.split.fixed(self._place(index)).to(self.config.device), self.y(index)

    def pieces(self, wanted: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor | None]]:
        """`at` of one ascending set of positions after another, in one pass."""
        wanted, again = tee(wanted)
        for index, x in zip(wanted, self.split.pieces(map(self._place, again)), strict=True):
            yield x.to(self.config.device), self.y(index)

    def y(self, index: Tensor) -> Tensor | None:
        """One-hot labels (M, C), for a conditional program."""
        if not self.config.conditional or self.labels is None:
            return None
        return one_hot(self.labels[index], self.num_classes).to(self.config.device)

    def _place(self, index: Tensor) -> Tensor:
        return index if self.positions is None else self.positions[index]


def held(config: Config, split: Split, num_classes: int, num_data: int | None = None) -> Held:
    """One fixed draw of a split, or of a random subset of it, on the config's device.

    Args:
        config: `conditional`, `test_data`, `data_seed` and `device` are read.
        split: of the data.
        num_classes: of its labels, 0 where it has none.
        num_data: None, or -1, for the number that the config tests on; 0 for all.
    """
    chosen = positions(config, len(split), num_data)
    x, labels = split.fixed(chosen), split.labels
    if chosen is not None and labels is not None:
        labels = labels[chosen]
    y = one_hot(labels, num_classes).to(config.device) if config.conditional and labels is not None else None
    return Held(x.to(config.device), y, labels)


def positions(config: Config, size: int, num_data: int | None = None) -> Tensor | None:
    """Where the data of `held` stand in a split of this size; None for all of it."""
    wanted = config.test_data if num_data is None or num_data < 0 else num_data
    return subset(size, wanted, config.data_seed) if 0 < wanted < size else None


def open_run(path: str | Path, *, device: str = "cpu", data_dir: str = "", **members: Any) -> Trained:
    """Opens a run folder.

    Args:
        path: of the folder.
        device: to evaluate on; not where it was trained, which may not exist here.
        data_dir: where the data are now, if they moved.
        members: `prior`, `posterior` or `likelihood` of the user's own, as for `pyro_vae.load`.

    Raises:
        CheckpointError: no run there, a damaged one, or data that are not those it was trained on.
        DataError: the data are not there.

    Example:
        >>> open_run("no-such-run")
        Traceback (most recent call last):
        ...
        pyro_vae.errors.CheckpointError: no-such-run holds no trained run: ...
    """
    path = Path(path)
    found = newest_checkpoint(path)
    if not found.progress.best_epoch:
        raise CheckpointError(
            f"{path} has no whole epoch yet: go on with {command_line('train', out=path, resume=True)}"
        )
    run = Run(path, replace(_moved(found.config, data_dir), device=device, download=False))
    vae = checkpoint.load(path, device=device, **members)
    data = build.data(run.config)
    run.check_same_data(data.protocol)
    run.checked_history(found)
    return Trained(run, vae, data, found.progress.best_epoch, found.progress.epoch)


def newest_checkpoint(path: Path) -> checkpoint.Checkpoint:
    """Its newest checkpoint that is whole: the settings of a run before program and data are there.

    Raises:
        CheckpointError: no run in this folder, or a damaged one.
    """
    if not (path / "config.json").exists():
        raise CheckpointError(f"{path} holds no trained run: name the folder that {script('train')} wrote")
    found, _ = checkpoint.newest(path / "checkpoints")
    if found is None:
        raise CheckpointError(f"{path} has no checkpoint yet: train it first")
    return found


def _moved(config: Config, data_dir: str) -> Config:
    if not data_dir:
        return config
    if config.dataset in build.DATASETS:
        return replace(config, data_dir=data_dir)
    return replace(config, dataset=str(Path(data_dir) / Path(config.dataset).name))
