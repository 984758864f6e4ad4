"""A run from its config to its report: what a training does, and what whoever trains several runs."""

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from pyro_vae.command_lines import command_line, script
from pyro_vae.data import Splits
from pyro_vae.errors import UsageError
from pyro_vae.experiment import build
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.run import interruption
from pyro_vae.experiment.run.folder import Run, config_for_resume, new_folder
from pyro_vae.experiment.train import tensorboard as board
from pyro_vae.experiment.train import torchrun, training_report
from pyro_vae.experiment.train.epoch_display import Display, nothing
from pyro_vae.inference import ALONE, SVI, Progress, SharedSVI, World, fit
from pyro_vae.model.autoencoder import Autoencoder

_logger = logging.getLogger(__name__)


def start_or_resume(
    folder: Path | None,
    config: Config,
    given: set[str],
    *,
    resume: bool = False,
    tensorboard: bool = False,
    test: bool = True,
    display: Display = nothing,
) -> Run:
    """Trains in a new folder; one that holds a run already is taken up again, or left as it is where it is finished.

    Where torchrun started many processes they train together: the first one decides what is to be done, writes and
    speaks, and the others leave before the report.

    Args:
        folder: of the run; None for a new one below runs/.
        config: as the command line has it.
        given: the names of the flags that were given explicitly, which must agree with a run that is taken up.
        resume: whether the folder may hold a run.
        tensorboard: also write the training for TensorBoard.
        test: whether a report on test data is wanted, see `train`.
        display: how epochs are shown.

    Raises:
        UsageError: the folder holds a run and may not, or one that another script made, or contradicts the flags.
    """
    with torchrun.joined(config.device) as world:
        plan, mark = "", None
        with world.together():
            if world.first:
                mark = Run(folder, config).mark() if folder is not None else None
                plan = json.dumps(_plan(folder, config, given, resume, world.size))
        settings, finished = json.loads(world.gather(plan)[0])
        config = Config.from_dict(settings)
        if folder is None or not finished:
            return train(folder, config, tensorboard=tensorboard, test=test, display=display, world=world, mark=mark)
        run = Run(folder, config)
        if world.first:
            run.sweep()
            print(f"{folder} is finished. Its report:\n\n{(folder / 'report.txt').read_text(encoding='utf-8')}")
        return run


def _plan(folder: Path | None, config: Config, given: set[str], resume: bool, size: int) -> tuple[dict[str, Any], bool]:
    """The config to go by, and whether its run is finished; what there is to say about taking it up again."""
    if folder is None or not Run(folder, config).exists():
        if resume:
            print(f"note: {folder} holds no run yet, so this one begins at the first epoch", file=sys.stderr)
        return config.to_dict(), False
    if not resume:
        raise UsageError(f"{folder} holds a run already: add `resume=True` to go on with it, or use another `folder`")
    run = Run(folder, config_for_resume(folder, config, given))
    if not run.is_finished() and "refitted_from" in run.about():
        raise UsageError(f"{folder} holds a refitted prior, which {script('refit')} makes anew: use another `folder`")
    if not run.is_finished() and (before := run.about().get("processes", 1)) != size:
        print(
            f"note: {folder} has been trained in {before!r:.20} processes; in {size} it draws other noise",
            file=sys.stderr,
        )
    return run.config.to_dict(), run.is_finished()


def train(
    folder: Path | None,
    config: Config,
    *,
    tensorboard: bool = False,
    test: bool = True,
    display: Display = nothing,
    world: World = ALONE,
    mark: bytes | None = None,
) -> Run:
    """Trains, from the newest checkpoint in the folder where there is one, and reports on the best epoch.

    Args:
        folder: of the run; None for a new one below runs/.
        config: what is trained.
        tensorboard: also write the training for TensorBoard.
        test: report on test data; else the run ends as "trained", and its next resumption reports.
        display: how epochs are shown.
        world: the processes that do so together; all but the first leave before the report.
        mark: see `Run.locked`.

    Raises:
        UsageError: another process trains in the folder.
    """
    data, vae, svi = _built(config, world)
    for name in build.unused(config):
        print(f"note: {name}={getattr(config, name)} has no effect: the members chosen do not take it", file=sys.stderr)

    folder = folder or new_folder(Path("runs"), f"{Path(config.dataset).stem}-{config.likelihood}")
    run = Run(Path(world.gather(str(folder))[0]), config)
    with _alone(run, world, mark):
        progress = _opened(run, vae, svi, data, world)

        # Training, then the report on the best epoch, on test data.
        begun = time.perf_counter()
        with run.status_on_exit() if world.first else nullcontext():
            _fit(run, vae, svi, data, progress, world, display, tensorboard=tensorboard)
            torchrun.leave(world)
            if not world.first:
                return run
            trained = time.perf_counter() - begun
            if test:
                _report(run, vae, data, progress, trained)
            else:
                run.set_status("trained", seconds={"training": round(trained, 1)})
                print(f"trained, not tested: {command_line('train', out=run.path, resume=True)} reports on test data")
    return run


@contextmanager
def _alone(run: Run, world: World, mark: bytes | None) -> Iterator[None]:
    """The first process holds the folder; where it can not, all say so."""
    with ExitStack() as until_the_end:
        with world.together():
            if world.first:
                until_the_end.enter_context(run.locked(mark))
        yield


def _opened(run: Run, vae: Autoencoder, svi: SVI, data: Splits, world: World) -> Progress:
    """The run folder, new or taken up again."""
    progress, complaints = world.in_turn(
        lambda: run.open(vae, svi, data.protocol, world.size) if world.first else run.follow(vae, svi)
    )
    world.check_same(vae.tensors(), f"going on from {run.path}, in which the first process found {_reached(progress)}")
    for complaint in complaints:
        print(f"warning: {complaint} Going on from an older checkpoint.", file=sys.stderr)
    again = f", going on after {_reached(progress)}" if progress.epoch or progress.part else ""
    print(f"{run.config.dataset}: {len(data.train):,} data to train on; run folder {run.path}{again}", flush=True)
    return progress


def _fit(
    run: Run,
    vae: Autoencoder,
    svi: SVI,
    data: Splits,
    progress: Progress,
    world: World,
    display: Display,
    *,
    tensorboard: bool,
) -> None:
    """Trains to the last epoch, or to a signal, and keeps every epoch."""
    config, done = run.config, progress.epoch
    with (
        interruption.noted(world.largest) as stop,
        display(config.epochs, done) as show,
        board.log(run, vae, data, done, wanted=tensorboard and world.first) as log,
    ):
        epochs = fit(
            vae, svi, data, build.schedule(config),
            conditional=config.conditional, seed=config.seed, progress=progress, stop=stop, world=world,
        )  # fmt: skip
        for record in epochs:
            with world.together():
                if world.first:
                    run.save(record, vae, svi, progress, data.form)
                    show(record)
                    log.epoch(record)
        stopped = stop()
        with world.together():
            if world.first and stopped:
                run.save_part(vae, svi, progress, data.form)
            elif world.first:
                log.finish()


def _report(run: Run, vae: Autoencoder, data: Splits, progress: Progress, trained: float) -> None:
    begun = time.perf_counter()
    text = training_report.write(run, vae, data, progress)
    took = time.perf_counter() - begun
    run.set_status("finished", seconds={"training": round(trained, 1), "report": round(took, 1)})
    print(f"\n{text}\n\n{trained + took:.0f} s. In {run.path}: report.json, report.txt, pictures (*.png), checkpoints.")
    print(f"How far to trust these numbers: {command_line('evaluate', run.path)}")


def _built(config: Config, world: World) -> tuple[Splits, Autoencoder, SVI]:
    """Data, program, step."""
    data = world.in_turn(lambda: build.data(config))
    with world.together():
        vae = build.vae(config, *data.form)
        build.start(config, vae, data)
        svi = build.svi(config, vae)
    if world.size == 1:
        return data, vae, svi
    if config.compile != "no":
        _logger.warning("steps are run by Pyro, and not as a graph, in each of %d processes", world.size)
    return data, vae, SharedSVI(vae, svi.optimizer, svi.loss, world, svi.max_grad_norm)


def _reached(progress: Progress) -> str:
    steps = f" and {progress.steps} steps of the next" if progress.part is not None else ""
    return f"epoch {progress.epoch}{steps}"
