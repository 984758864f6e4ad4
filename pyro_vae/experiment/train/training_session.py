"""A training in its folder: opened once, where the newest checkpoint left it, then stored epoch by epoch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pyro_vae.data import Splits
from pyro_vae.errors import CheckpointError
from pyro_vae.experiment import build
from pyro_vae.experiment.run import checkpoint, files, lineage, raw_data
from pyro_vae.experiment.run.changes_on_resume import check_same_config, check_same_data
from pyro_vae.experiment.run.checkpoint import Checkpoint
from pyro_vae.experiment.run.run_folder import Run
from pyro_vae.inference import ALONE, SVI, Progress, Record, World, fit
from pyro_vae.model.autoencoder import Autoencoder


@dataclass(frozen=True, eq=False)
class Session:
    """What is trained in a run folder, and how far it has come.

    Attributes:
        run: the folder, and the config.
        data, vae, svi: the data, the program and the step of this config.
        world: the processes that train together.
        progress: how far it has come, which moves with the training.
        complaints: what was wrong with checkpoints newer than the one that it goes on from.
    """

    run: Run
    data: Splits
    vae: Autoencoder
    svi: SVI
    world: World
    progress: Progress
    complaints: list[str]

    @classmethod
    def open(
        cls,
        run: Run,
        data: Splits,
        vae: Autoencoder,
        svi: SVI,
        world: World = ALONE,
        started_from: Sequence[lineage.Record] = (),
    ) -> "Session":
        """Begins a run, or restores program and optimiser from its newest whole checkpoint.

        Of many processes only the first one writes, and it must come before the others.

        Args:
            run: the folder, and the config.
            data, vae, svi: the data, the program and the step of this config.
            world: the processes that train together.
            started_from: the lineage of a run that begins now with the weights of another, which the program of the
                first process has.

        Raises:
            CheckpointError: the folder is damaged, or belongs to another config or other data.
            StorageError: the folder cannot be written to.
        """
        if world.first:
            progress, complaints = _begun(run, data, vae, svi, world.size, started_from)
        else:
            newest, complaints = checkpoint.newest(run.checkpoints)
            progress = newest.restore(vae, svi.optimizer) if newest is not None else Progress()
        return cls(run, data, vae, svi, world, progress, complaints)

    def fit(self, stop: Callable[[], bool] = lambda: False) -> Iterator[Record]:
        """Trains to the last epoch of the config, or until `stop` returns True; see `inference.fit`."""
        config = self.run.config
        return fit(
            self.vae, self.svi, self.data, build.schedule(config, len(self.data.train)),
            conditional=config.conditional, seed=config.seed, progress=self.progress, stop=stop, world=self.world,
        )  # fmt: skip

    def save(self, record: Record) -> None:
        """Keeps an epoch, its record first, so that a checkpoint never lacks its history."""
        self.run.history.append(record)
        self._save_checkpoint()

    def save_part(self) -> None:
        """Keeps the steps of an epoch that was stopped. An epoch that was stopped at its end is kept already."""
        if self.progress.part is not None:
            self._save_checkpoint()

    def _save_checkpoint(self) -> None:
        _keep(self.run, self.data, self.vae, self.svi, self.progress)


def _keep(run: Run, data: Splits, vae: Autoencoder, svi: SVI, progress: Progress) -> None:
    form, optimizer = data.form, svi.optimizer.state_dict()
    intake = raw_data.of_protocol(run.config, form, data.protocol)
    tensors, history = vae.tensors(), run.history.sha256()
    checkpoint.save(run.checkpoints, Checkpoint(run.config, form, progress, tensors, optimizer, history, intake))


def _begun(
    run: Run, data: Splits, vae: Autoencoder, svi: SVI, processes: int, started_from: Sequence[lineage.Record]
) -> tuple[Progress, list[str]]:
    files.make_folder(run.checkpoints)
    run.sweep()
    newest, complaints = checkpoint.newest(run.checkpoints)
    if newest is not None:
        check_same_config(run, newest.config)
        check_same_data(run, data.protocol)
    checkpoint.remove_orphans(run.checkpoints)
    if newest is None and (epochs := len(run.history.records())) > 1:  # a kill before the first checkpoint leaves one
        raise CheckpointError(
            f"{run.checkpoints} is empty, but {run.history.path} records {epochs} epochs: "
            "put the checkpoints back, or use another `folder`"
        )
    progress = newest.restore(vae, svi.optimizer) if newest is not None else Progress()
    run.history.cut(run.history.first_lines(newest.progress.epoch, newest.history) if newest is not None else b"")
    if newest is not None:
        started_from = run.status.started_from()
    # Before the config: a finished run that will be trained longer must not look finished under its new number.
    run.status.begin(run.config, data.protocol, progress, processes, started_from)
    files.write(run.path / "config.json", files.to_json(run.config.to_dict()))
    if newest is None and started_from:
        _keep(run, data, vae, svi, progress)  # from here on the earlier run is not needed any more
    return progress, complaints
