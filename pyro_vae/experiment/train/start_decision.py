"""Decides what to do in a folder: begin a run, go on with one, or show the report of a finished one."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from pyro_vae.command_lines import command_line, script
from pyro_vae.errors import CheckpointError, UsageError
from pyro_vae.experiment import build, presets
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.own_members import changes
from pyro_vae.experiment.run import checkpoint
from pyro_vae.experiment.run.changes_on_resume import config_for_resume
from pyro_vae.experiment.run.places import taken
from pyro_vae.experiment.run.run_folder import Run
from pyro_vae.experiment.train import training_lock
from pyro_vae.experiment.train.earlier_run import EarlierRun
from pyro_vae.inference import ALONE, World


class Decision(NamedTuple):
    """What a training does.

    Attributes:
        folder: the folder of the run; None for a new one, which has no name before the training begins.
        config: the config that holds.
        is_finished: whether the report is there, and nothing is left to train.
        mark: the mark of the folder before it was looked into, see `training_lock`; only the first process has one.
        earlier: the run whose weights the training starts from, where it starts so now; only the first process has it.
    """

    folder: Path | None
    config: Config
    is_finished: bool
    mark: bytes | None
    earlier: EarlierRun | None = None


def decide(
    folder: Path | None,
    config: Config,
    given: set[str],
    *,
    resume: bool = False,
    start_from: Path | None = None,
    world: World = ALONE,
) -> Decision:
    """Looks into a folder. The first of many processes does so, and all of them get what it decides.

    Args:
        folder: the folder of the run; None for a new one below runs/.
        config: the config that is asked for.
        given: the names of the settings that were given explicitly, which must agree with a run that is there.
        resume: whether the folder may hold a run.
        start_from: the folder of the run whose weights a new run starts from; None for random weights.
        world: the processes that train together.

    Raises:
        UsageError: the folder holds a run and may not, or one that another script made, or that contradicts settings;
            or settings contradict each other, or the program of `start_from`.
        CheckpointError: the run in it is damaged, or that of `start_from` is.
    """
    mark, told, is_finished, earlier = None, "", False, None
    with world.together():
        if world.first:
            mark = training_lock.mark(folder) if folder is not None else None
            if folder is not None and Run(folder, config).exists():
                run, is_finished = _resumed(Run(folder, config), given, resume, world)
                config, earlier = run.config, _still_to_start_from(run, start_from)
            else:
                if folder is not None and resume:
                    print(f"note: {folder} holds no run yet, so this one begins at the first epoch", file=sys.stderr)
                if start_from is not None:
                    earlier = EarlierRun.open(start_from)
                    config = earlier.settings(config, given)
                elif wanted := presets.start_of(config.preset):
                    line = command_line("train", preset=config.preset, start_from="RUN")
                    print(
                        f"note: {config.preset} starts from the weights of {wanted}, and this run from random ones, so "
                        f"its number is not comparable. To start from a run: {line}",
                        file=sys.stderr,
                    )
            if not is_finished:
                build.check_clashes(config)
                build.check_own(config)
            told = json.dumps([config.to_dict(), is_finished])
    settings, is_finished = json.loads(world.gather(told)[0])
    return Decision(folder, replace(Config.from_dict(settings), own=config.own), is_finished, mark, earlier)


def _resumed(run: Run, given: set[str], resume: bool, world: World) -> tuple[Run, bool]:
    """Returns a run with the config that holds, and whether it is finished; prints what there is to say of it."""
    if not resume:
        raise taken(run.path)
    run = Run(run.path, config_for_resume(run.path, run.config, given))
    if run.is_finished():
        return run, True
    about = run.status.read()
    if "refitted_from" in about:
        raise UsageError(f"{run.path} holds a refitted prior, which only {script('refit')} makes: use another `folder`")
    for sentence in changes(about.get("own", {}), run.config.own):
        print(f"warning: {sentence}", file=sys.stderr)
    if (before := about.get("processes", 1)) != world.size:
        print(
            f"note: {run.path} was trained in {before!r:.20} processes; {world.size} draw other noise",
            file=sys.stderr,
        )
    return run, False


def _still_to_start_from(run: Run, start_from: Path | None) -> EarlierRun | None:
    """Returns the run that a resumed one starts from, where it was killed before it had kept the weights.

    Raises:
        UsageError: it was started from another run than `start_from`.
        CheckpointError: the earlier run is not there any more, or has other weights by now.
    """
    known = run.status.started_from()
    if start_from is not None and not (known and Path(known[0]["run"]).resolve() == start_from.resolve()):
        other = f"from {known[0]['run']}, not from {start_from}" if known else "from random weights"
        raise UsageError(f"{run.path} was started {other}: leave `start_from` out")
    if not known or checkpoint.manifests(run.checkpoints):
        return None
    earlier = EarlierRun.open(Path(known[0]["run"]))
    if earlier.saved.sha256 != known[0]["sha256"]:
        raise CheckpointError(
            f"{earlier.path} was trained further since {run.path} began, which has not stored its weights yet: "
            f"remove {run.path}, and start it again"
        )
    return earlier
