"""Decides what is to be done in a folder: begin a run, go on with one, or show the report of a finished one."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from pyro_vae.command_lines import script
from pyro_vae.errors import UsageError
from pyro_vae.experiment import build
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.own_members import changes
from pyro_vae.experiment.run.changes_on_resume import config_for_resume
from pyro_vae.experiment.run.run_folder import Run
from pyro_vae.experiment.train import training_lock
from pyro_vae.inference import ALONE, World


class Decision(NamedTuple):
    """What is to be done.

    Attributes:
        folder: the folder of the run; None for a new one, which has no name before the training begins.
        config: the config that holds.
        is_finished: whether the report is there, and nothing is to be trained.
        mark: the mark of the folder before it was looked into, see `training_lock`; only the first process has one.
    """

    folder: Path | None
    config: Config
    is_finished: bool
    mark: bytes | None


def decide(
    folder: Path | None, config: Config, given: set[str], *, resume: bool = False, world: World = ALONE
) -> Decision:
    """Looks into a folder. The first of many processes does so, and all of them get what it decides.

    Args:
        folder: the folder of the run; None for a new one below runs/.
        config: the config that is asked for.
        given: the names of the settings that were given explicitly, which must agree with a run that is there.
        resume: whether the folder may hold a run.
        world: the processes that train together.

    Raises:
        UsageError: the folder holds a run and may not, or one that another script made, or that contradicts settings;
            or settings contradict each other.
        CheckpointError: the run in it is damaged.
    """
    mark, told, is_finished = None, "", False
    with world.together():
        if world.first:
            mark = training_lock.mark(folder) if folder is not None else None
            if folder is not None:
                config, is_finished = _decided(Run(folder, config), given, resume, world)
            if not is_finished:
                build.check_clashes(config)
                build.check_own(config)
            told = json.dumps([config.to_dict(), is_finished])
    settings, is_finished = json.loads(world.gather(told)[0])
    return Decision(folder, replace(Config.from_dict(settings), own=config.own), is_finished, mark)


def _decided(run: Run, given: set[str], resume: bool, world: World) -> tuple[Config, bool]:
    """The config that holds, and whether it is finished; says what there is to say about taking it up again."""
    if not run.exists():
        if resume:
            print(f"note: {run.path} holds no run yet, so this one begins at the first epoch", file=sys.stderr)
        return run.config, False
    if not resume:
        raise UsageError(f"{run.path} holds a run already: add `resume=True` to go on with it, or use another `folder`")
    run = Run(run.path, config_for_resume(run.path, run.config, given))
    if run.is_finished():
        return run.config, True
    about = run.status.read()
    if "refitted_from" in about:
        raise UsageError(f"{run.path} holds a refitted prior, which {script('refit')} makes anew: use another `folder`")
    for sentence in changes(about.get("own", {}), run.config.own):
        print(f"warning: {sentence}", file=sys.stderr)
    if (before := about.get("processes", 1)) != world.size:
        print(
            f"note: {run.path} has been trained in {before!r:.20} processes; in {world.size} it draws other noise",
            file=sys.stderr,
        )
    return run.config, False
