"""A run on disk: one folder with what was computed, how far it came and the results.

    config.json     the Config
    run.json        status, versions, git commit, seeds, data protocol: see `run_status`
    history.jsonl   a line for each epoch: see `epoch_history`
    checkpoints/    the last few epochs: see `checkpoint`
    train.lock      there while a process trains, or where one was killed: see `training_lock`
    report.*        numbers; pictures next to them

Each file is written whole, see `files`, except history.jsonl, which grows line by line.
"""

import itertools
from datetime import datetime
from pathlib import Path

from pyro_vae.errors import CheckpointError, UsageError
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.run import checkpoint, files
from pyro_vae.experiment.run.damaged_files import read_json
from pyro_vae.experiment.run.epoch_history import EpochHistory
from pyro_vae.experiment.run.run_status import RunStatus


class Run:
    """The folder of one run.

    Args:
        path: the folder, which is made when something is first written.
        config: what is run in it.

    Attributes:
        checkpoints: the folder of its checkpoints.
        history: the records of its epochs.
        status: its status, and all else that run.json says.
    """

    def __init__(self, path: Path, config: Config) -> None:
        self.path, self.config = path, config
        self.checkpoints = path / "checkpoints"
        self.history = EpochHistory(path / "history.jsonl")
        self.status = RunStatus(path / "run.json")

    def exists(self) -> bool:
        """Returns whether the folder holds a run, even a damaged one."""
        return (self.path / "config.json").exists() or bool(checkpoint.manifests(self.checkpoints))

    def is_finished(self) -> bool:
        """Returns whether the report of this config is there: more epochs or draws are new work, another place none."""
        same = saved_config(self.path).portable() == self.config.portable()
        written = all((self.path / f"report.{ending}").exists() for ending in ("json", "txt"))
        return same and self.status.now() == "finished" and written

    def sweep(self) -> None:
        """Removes what interrupted writes left."""
        files.sweep(self.path)
        files.sweep(self.checkpoints)


def saved_config(folder: Path) -> Config:
    """Reads the config of a run folder, in which a setting that is newer than the run means what was done before.

    Raises:
        CheckpointError: config.json is damaged, missing, or of another version.
    """
    path = folder / "config.json"
    try:
        return Config.from_dict(read_json(path))
    except UsageError as error:
        raise CheckpointError(f"{path} is damaged, or from another version: {error}. Restore it from a copy") from error


def free_name(path: Path) -> Path:
    """Returns a free path next to this one, for a run that goes on from it.

    Example:
        >>> free_name(Path("runs/digits")).as_posix()
        'runs/digits-longer'
    """
    path = path if path.name else path.resolve()
    names = (f"{path.name}-longer{'' if i == 1 else f'-{i}'}" for i in itertools.count(1))
    return next(free for name in names if not (free := path.with_name(name)).exists())


def new_folder(root: Path, name: str) -> Path:
    """Makes a folder that no other process has, named by the time and this name.

    Args:
        root: the folder that it is made in.
        name: the end of its name.

    Raises:
        StorageError: it cannot be made.
    """
    stem = f"{datetime.now():%Y%m%d-%H%M%S}-{name}"
    paths = (root / (stem if i == 1 else f"{stem}-{i}") for i in range(1, 1000))
    return next(path for path in paths if files.claim_folder(path))
