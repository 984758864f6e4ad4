"""A run, or a shared folder, that scores data: its program, and its training data where they are there."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data import Splits
from pyro_vae.data.intake import Intake
from pyro_vae.errors import CheckpointError, DataError, UsageError
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.own_members import OwnMember
from pyro_vae.experiment.run import raw_data
from pyro_vae.experiment.run.trained_run import TrainedRun, evaluated_with, open_run
from pyro_vae.experiment.share import sharing
from pyro_vae.model.autoencoder import Autoencoder
from pyro_vae.model.posteriors import Delta
from pyro_vae.option_words import Threads


@dataclass(eq=False)
class ScoredRun:
    """The program that scores.

    Attributes:
        path: the folder.
        config: its settings.
        vae: the program at its best epoch.
        intake: the recipe of its data.
        trained: the run; None of a shared folder, which has no data.
        threads: the number of threads that it scores with.
        notes: what a reader of the scores must know, in sentences; they grow.
    """

    path: Path
    config: Config
    vae: Autoencoder
    intake: Intake
    trained: TrainedRun | None
    threads: int
    notes: list[str] = field(default_factory=list)

    @cached_property
    def data(self) -> Splits | None:
        """The three splits of the run; None, and a note, where they are not there."""
        if self.trained is None:
            self.notes.append("A shared folder has no data: there are no percentiles, and no marks of training rows.")
            return None
        try:
            return self.trained.data
        except (DataError, UsageError, CheckpointError) as error:
            self.notes.append(
                f"No percentiles, and no marks of training rows, for the run's data are missing. ({error})"
            )
            return None

    @property
    def is_autoencoder(self) -> bool:
        """True where q(z|x) is a point, so that there is no log p(x)."""
        return any(isinstance(member, Delta) for member in self.vae.children())

    @cached_property
    def class_probabilities(self) -> Tensor | None:
        """p(y), (C,), the frequencies of the training data, of a conditional run; even ones where those are missing."""
        number = len(self.intake.classes)
        if not self.config.conditional:
            return None
        if self.data is None:
            self.notes.append("The classes are taken to be equally frequent, since the training data are missing.")
            return torch.full((number,), 1 / number)
        return self.data.train.one_hot(number).mean(0)


def open_scored(
    path: str | Path,
    *,
    device: str = "cpu",
    data_dir: str = "",
    threads: Threads = "auto",
    own: Iterable[OwnMember] = (),
) -> ScoredRun:
    """Opens the folder of a run, or one that `pyro_vae.share` wrote.

    Args:
        path: the folder.
        device: where to compute.
        data_dir: where the run's data are now, if they moved.
        threads: how many threads it scores with; "auto" is the number of the training, see `open_run`.
        own: classes of a user's own, of which the run takes those that its config names.

    Raises:
        CheckpointError: it holds neither, or is damaged.

    Example:
        >>> open_scored("no-such-run")
        Traceback (most recent call last):
        ...
        pyro_vae.errors.CheckpointError: no-such-run holds no trained run (there is no such folder): ...
    """
    path = Path(path)
    if sharing.is_shared(path):
        saved, vae = sharing.open_shared(path, device=device, own=own)
        config = replace(saved.config, device=device)
        intake, number = vae.intake or raw_data.of_settings(config, saved.form), evaluated_with(threads, config)
        return ScoredRun(path, config, vae, intake, None, number or torch.get_num_threads())
    trained = open_run(path, device=device, data_dir=data_dir, threads=threads, read=False, own=own)
    known: Any = trained.vae.intake
    return ScoredRun(path, trained.config, trained.vae, known, trained, trained.threads)
