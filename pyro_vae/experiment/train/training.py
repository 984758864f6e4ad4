"""A training from its settings to its report, for a command and for anyone who trains several.

    decide   what to do in this folder: `start_decision`
    build    data, program and step, from the config: `build`
    open     the folder, by one training at a time: `training_lock`, `training_session`
    fit      epoch by epoch, each of them kept
    report   on test data, of the best epoch: `training_report`

Notes and warnings are printed. The caller decides how epochs are shown.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from pyro_vae.command_lines import command_line
from pyro_vae.data import Splits
from pyro_vae.experiment import build, tables
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.own_members import places_of, short_name
from pyro_vae.experiment.run import interruption, lineage
from pyro_vae.experiment.run.run_folder import Run, new_folder
from pyro_vae.experiment.train import member_checks, torchrun, training_lock, training_report
from pyro_vae.experiment.train import tensorboard as board
from pyro_vae.experiment.train.epoch_display import Display, Wording, as_it_is, nothing
from pyro_vae.experiment.train.start_decision import Decision, decide
from pyro_vae.experiment.train.training_session import Session
from pyro_vae.experiment.train.training_threads import threads_for
from pyro_vae.inference import ALONE, SVI, Progress, SharedSVI, World
from pyro_vae.model.autoencoder import Autoencoder
from pyro_vae.progress import stage
from pyro_vae.threads import computing

_NOTED = 60.0  # seconds between two notes of the time: a note for each of many short epochs would cost more than they


def start_or_resume(
    folder: Path | None,
    config: Config,
    given: set[str],
    *,
    resume: bool = False,
    start_from: Path | None = None,
    tensorboard: bool = False,
    test: bool = True,
    check: bool = True,
    display: Display = nothing,
    wording: Wording = as_it_is,
) -> Run:
    """Trains in a new folder, or resumes the run in it. A finished run is left as it is.

    Processes that torchrun started train together. The first one decides what to do, writes and speaks, and the
    others leave before the report.

    Args:
        folder: the folder of the run; None for a new one below runs/.
        config: the config that is asked for.
        given: the names of the settings that were given explicitly, which must agree with a run that is resumed.
        resume: whether the folder may hold a run.
        start_from: the folder of the run whose weights and settings a new run starts from, see `earlier_run`.
        tensorboard: whether the training is written for TensorBoard too.
        test: whether a report on test data is wanted, see `train`.
        check: whether the user's own members are checked against their contract before a training begins. Their
            shapes are checked in any case.
        display: how epochs are shown.
        wording: turns notes on data and settings into the reader's words.

    Raises:
        UsageError: the folder holds a run without `resume`, a run that another script made, or one that contradicts
        settings.
    """
    with torchrun.joined(config.device) as world:
        decision = decide(folder, config, given, resume=resume, start_from=start_from, world=world)
        if folder is None or not decision.is_finished:
            return _train(decision, world, display, wording, tensorboard=tensorboard, test=test, check=check)
        run = Run(folder, decision.config)
        if world.first:
            run.sweep()
            training_lock.sweep(run.path)  # killed between its report and its end
            print(f"{run.path} is finished. Its report:\n\n{(run.path / 'report.txt').read_text(encoding='utf-8')}")
        return run


def train(
    run: Run,
    *,
    tensorboard: bool = False,
    test: bool = True,
    check: bool = True,
    display: Display = nothing,
    wording: Wording = as_it_is,
) -> Run:
    """Trains, from the newest checkpoint in the folder if there is one, and reports on the best epoch.

    Args:
        run: the folder, and the config that is trained.
        tensorboard: whether the training is written for TensorBoard too.
        test: whether test data are reported on; without that the run ends as "trained", and its next resumption
            reports.
        check: whether the user's own members are checked against their contract before a training begins. Their
            shapes are checked in any case.
        display: how epochs are shown.
        wording: turns notes on data and settings into the reader's words.

    Raises:
        UsageError: another process trains in the folder.
    """
    decision = Decision(run.path, run.config, is_finished=False, mark=None)
    return _train(decision, ALONE, display, wording, tensorboard=tensorboard, test=test, check=check)


def _train(
    decision: Decision, world: World, display: Display, wording: Wording, *, tensorboard: bool, test: bool, check: bool
) -> Run:
    """Trains what was decided, in the processes that train together; all except the first leave before the report."""
    config = decision.config
    begins = decision.folder is None or not Run(decision.folder, config).exists()
    data, vae, svi = _built(config, world, begins=begins, check=check)
    if begins and config.threads == "auto":  # a run of a version that did not decide goes on with torch's own number
        config = replace(config, threads=threads_for(svi, vae, data, config))
    threads = torch.get_num_threads() if config.threads == "auto" else config.threads
    with world.together():
        started_from = decision.earlier.put_into(vae, data, config) if decision.earlier else []
    run = Run(decision.folder or _new_folder(config, world), config)
    more = {**({"tensorboard": True} if tensorboard else {}), **({} if test else {"no_test": True})}
    with computing(threads), _told_how_to_go_on(run, world, **more), _alone(run, world, decision.mark):
        session = _opened(run, data, vae, svi, world, started_from)
        watch = _Stopwatch(run)
        with run.status.on_exit() if world.first else nullcontext():
            if world.first and _is_new(session.progress) and config.dataset not in tables.DATASETS:
                _tell_of(data, wording)
            _fit(session, watch, display, tensorboard=tensorboard)
            torchrun.leave(world)
            if world.first:
                _end(session, watch.seconds(), test=test)
    return run


@contextmanager
def _told_how_to_go_on(run: Run, world: World, **more: bool) -> Iterator[None]:
    """Notes, at an interruption, the command that goes on."""
    try:
        yield
    except (SystemExit, BrokenPipeError) as end:
        places = places_of(run.config)
        end.add_note(command_line("train", processes=world.size, **places, out=run.path, resume=True, **more))
        raise


def _built(config: Config, world: World, *, begins: bool, check: bool) -> tuple[Splits, Autoencoder, SVI]:
    """Builds data, program and step; the user's own members are checked where a training begins."""
    with stage(f"reading {config.dataset}"):
        data = world.in_turn(lambda: build.data(config))
    with world.together(), stage("building the program"):
        vae = build.vae(config, *data.form)
        build.start(config, vae, data, tell=begins)
        if begins and world.first:
            member_checks.check(config, vae, data, contract=check)
        svi = build.svi(config, vae)
    if world.size > 1:
        svi = SharedSVI(vae, svi.optimizer, svi.loss, world, svi.max_grad_norm, svi.graphs.mode)
    for name in build.unused(config):
        print(f"note: {name}={getattr(config, name)} has no effect: the members chosen do not take it", file=sys.stderr)
    return data, vae, svi


def _new_folder(config: Config, world: World) -> Path:
    """Makes a folder below runs/ that only this training has: others may begin in the same second."""
    made = ""
    with world.together():
        if world.first:
            made = str(new_folder(Path("runs"), f"{Path(config.dataset).stem}-{short_name(config.likelihood)}"))
    return Path(world.gather(made)[0])


@contextmanager
def _alone(run: Run, world: World, mark: bytes | None) -> Iterator[None]:
    """Lets the first process hold the folder; if it cannot, all raise the error."""
    with ExitStack() as until_the_end:
        with world.together():
            if world.first:
                until_the_end.enter_context(training_lock.locked(run.path, mark))
        yield


def _opened(
    run: Run, data: Splits, vae: Autoencoder, svi: SVI, world: World, started_from: Sequence[lineage.Record]
) -> Session:
    """Opens the session in the run folder, new or resumed, and prints which."""
    session = world.in_turn(lambda: Session.open(run, data, vae, svi, world, started_from))
    progress, reached = session.progress, _reached(session.progress)
    world.check_same(vae.tensors(), f"going on from {run.path}, in which the first process found {reached}")
    for complaint in session.complaints:
        print(f"warning: {complaint} Going on from an older checkpoint.", file=sys.stderr)
    begun = f", starting from epoch {started_from[0]['epoch']} of {started_from[0]['run']}" if started_from else ""
    again = begun if _is_new(progress) else f", going on after {reached}"
    about = f"{data.protocol['name']}: {data.about}\n{len(data.train):,} of them to train on"
    told = f"{about}; run folder {run.path}{again}"
    # In one piece, with its end: a reader can leave after any line.
    print(told + _batches(run.config, len(data.train)) + "\n", end="", flush=True)
    if world.first and (note := _impatient(run.config, progress)):
        print(f"note: {note}", file=sys.stderr)
    return session


def _impatient(config: Config, progress: Progress) -> str:
    """Explains why a resumed run trains no further although it has epochs left; "" if it does train."""
    if not 0 < config.patience <= progress.epoch - progress.best_epoch or progress.epoch >= config.epochs:
        return ""
    num_epochs = f"{config.patience} epoch{'s' * (config.patience > 1)}"
    return (
        f"training ended after epoch {progress.epoch} of {config.epochs}, {num_epochs} after the best one; "
        "with more patience, or `patience=0`, it goes on"
    )


def _is_new(progress: Progress) -> bool:
    return not (progress.epoch or progress.part)


def _tell_of(data: Splits, wording: Wording) -> None:
    """Prints what there is to know about a user's own data."""
    for note in data.protocol["notes"]:
        is_warning = note in data.warnings
        said = f"{'warning' if is_warning else 'note'}: {wording(note)}"
        print(said, file=sys.stderr if is_warning else sys.stdout, flush=True)


def _batches(config: Config, num_train: int) -> str:
    """Returns a sentence where batches are smaller than was asked for."""
    wanted, size = min(config.batch_size, num_train), build.batch_size(config, num_train)
    if size == wanted:
        return ""
    return f"\nbatches of {size} data instead of {wanted}, so that an epoch has {-(-num_train // size)} steps"


class _Stopwatch:
    """The seconds of training of a run, over all its sessions."""

    def __init__(self, run: Run) -> None:
        self._status, self._before = run.status, run.status.trained_for()
        self._begun = self._noted = time.perf_counter()

    def seconds(self) -> float:
        return self._before + time.perf_counter() - self._begun

    def note(self, every: float = 0.0) -> None:
        """Writes them into run.json, unless that was done in the last `every` seconds: a session can be killed."""
        if (now := time.perf_counter()) - self._noted >= every:
            self._status.set("running", seconds={"training": round(self.seconds(), 1)})
            self._noted = now


def _fit(session: Session, watch: _Stopwatch, display: Display, *, tensorboard: bool) -> None:
    """Trains to the last epoch, or to a signal, and keeps every epoch."""
    world, done = session.world, session.progress.epoch
    with (
        interruption.noted(world.largest) as stop,
        display(session.run.config.epochs, done) as show,
        board.log(session, wanted=tensorboard and world.first) as log,
    ):
        for record in session.fit(stop):
            with world.together():
                if world.first:
                    session.save(record)
                    watch.note(every=_NOTED)
                    show(record)
                    log.epoch(record)
        stopped = stop()
        with world.together():
            if world.first and stopped:
                session.save_part()
                watch.note()
            elif world.first:
                log.finish()


def _end(session: Session, trained: float, *, test: bool) -> None:
    """Reports on test data where that is wanted, and prints where the run stands after some seconds of training."""
    run, begun = session.run, time.perf_counter()
    places = places_of(run.config)
    if not test:
        again = command_line("train", **places, out=run.path, resume=True)
        run.status.set("trained", seconds={"training": round(trained, 1)})
        print(f"trained, not tested: {again} reports on test data")
        return
    text = training_report.write(run, session.vae, session.data, session.progress)
    took = time.perf_counter() - begun
    run.status.set("finished", seconds={"training": round(trained, 1), "report": round(took, 1)})
    print(f"\n{text}\n\n{trained + took:.0f} s. In {run.path}: report.json, report.txt, pictures (*.png), checkpoints.")
    print(f"How far to trust these numbers: {command_line('evaluate', run.path, **places)}")


def _reached(progress: Progress) -> str:
    steps = f" and {progress.steps} steps of the next" if progress.part is not None else ""
    return f"epoch {progress.epoch}{steps}"
