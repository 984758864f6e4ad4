"""A run from its config to its report: what train_svi.py does, for it and for scripts that train several."""

import sys
import time
from pathlib import Path

from pyro_vae.errors import UsageError
from pyro_vae.experiment import build, console, interruption, reporting
from pyro_vae.experiment import tensorboard as board
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.run import Run, config_for_resume, new_folder
from pyro_vae.inference import Progress, fit


def start_or_resume(
    folder: Path | None,
    config: Config,
    given: set[str],
    *,
    resume: bool = False,
    tensorboard: bool = False,
    test: bool = True,
) -> Run:
    """Trains in a new folder; one that holds a run already is taken up again, or left as it is where it is finished.

    Args:
        folder: of the run; None for a new one below runs/.
        config: as the command line has it.
        given: the names of the flags that were given explicitly, which must agree with a run that is taken up.
        resume: whether the folder may hold a run.
        tensorboard: also write the training for TensorBoard.
        test: whether a report on test data is wanted, see `train`.

    Raises:
        UsageError: the folder holds a run and may not, or one that another script made, or contradicts the flags.
    """
    if folder is None or not Run(folder, config).exists():
        if resume:
            print(f"note: {folder} holds no run yet, so this one begins at the first epoch", file=sys.stderr)
        return train(folder, config, tensorboard=tensorboard, test=test)
    if not resume:
        raise UsageError(f"{folder} holds a run already: add --resume to go on with it, or use another --out")
    run = Run(folder, config_for_resume(folder, config, given))
    if run.is_finished():
        run.sweep()
        print(f"{folder} is finished. Its report:\n\n{(folder / 'report.txt').read_text(encoding='utf-8')}")
        return run
    if "refitted_from" in run.about():
        raise UsageError(f"{folder} holds a refitted prior, which refit_prior.py makes anew: use another --out")
    return train(folder, run.config, tensorboard=tensorboard, test=test)


def train(folder: Path | None, config: Config, *, tensorboard: bool = False, test: bool = True) -> Run:
    """Trains, from the newest checkpoint in the folder where there is one, and reports on the best epoch.

    Args:
        folder: of the run; None for a new one below runs/.
        config: what is trained.
        tensorboard: also write the training for TensorBoard.
        test: report on test data; else the run ends as "trained", and its next resumption reports.
    """
    # Data, program, step.
    data = build.data(config)
    vae = build.vae(config, *data.form)
    build.start(config, vae, data)
    svi = build.svi(config, vae)
    for name in build.unused(config):
        print(f"note: {name}={getattr(config, name)} has no effect: the members chosen do not take it", file=sys.stderr)

    # The run folder, new or taken up again.
    run = Run(folder or new_folder(Path("runs"), config), config)
    progress, complaints = run.open(vae, svi, data.protocol)
    for complaint in complaints:
        print(f"warning: {complaint} Going on from an older checkpoint.", file=sys.stderr)
    again = f", going on after {_reached(progress)}" if progress.epoch or progress.part else ""
    print(f"{config.dataset}: {len(data.train):,} data to train on; run folder {run.path}{again}", flush=True)

    # Training, then the report on the best epoch, on test data.
    begun = time.perf_counter()
    with run.status_on_exit():
        done = progress.epoch
        with (
            interruption.noted() as stop,
            console.progress(config.epochs, done) as show,
            board.log(run, vae, data, done, wanted=tensorboard) as log,
        ):
            epochs = fit(
                vae, svi, data, build.schedule(config),
                conditional=config.conditional, seed=config.seed, progress=progress, stop=stop,
            )  # fmt: skip
            for record in epochs:
                run.save(record, vae, svi, progress, data.form)
                show(record)
                log.epoch(record)
            if stop():
                run.save_part(vae, svi, progress, data.form)
            else:
                log.finish()
        trained = time.perf_counter() - begun
        if not test:
            run.set_status("trained", seconds={"training": round(trained, 1)})
            print(f"trained, not tested: train_svi.py --out {run.path} --resume reports on test data")
            return run
        text = reporting.write(run, vae, data, progress)
        seconds = time.perf_counter() - begun
        run.set_status("finished", seconds={"training": round(trained, 1), "report": round(seconds - trained, 1)})
    print(f"\n{text}\n\n{seconds:.0f} s. In {run.path}: report.json, report.txt, pictures (*.png), checkpoints.")
    print(f"How far to trust these numbers: python scripts/evaluate.py {run.path}")
    return run


def _reached(progress: Progress) -> str:
    steps = f" and {progress.steps} steps of the next" if progress.part is not None else ""
    return f"epoch {progress.epoch}{steps}"
