"""Evaluate a trained run, whole or by shares."""

import os
import time
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_vae.cli import own_code
from pyro_vae.cli.command_ending import exit_codes, log_in_words, wording_of
from pyro_vae.cli.parser import add_flags, placed, run_parser, settings_from
from pyro_vae.errors import UsageError
from pyro_vae.experiment.evaluate.evaluation_plan import Plan, Shard
from pyro_vae.experiment.own_members import FAMILIES
from pyro_vae.experiment.run import files, places

if TYPE_CHECKING:
    from pyro_vae.experiment.run.trained_run import TrainedRun

SHARD = (
    "compute only share i of n, given as i/n with i = 0 ... n-1, into the subfolder shards; by default the share of "
    "this process under torchrun (RANK, WORLD_SIZE) or srun (SLURM_PROCID, SLURM_NTASKS); none computes everything"
)
PROCESSES = (
    "number of processes on this machine that share the work, each with its own copy of program and data; auto is one "
    "for each core where there is work enough. The numbers do not depend on it. On an accelerator there is one"
)


def main(argv: list[str] | None = None) -> None:
    """Evaluates the run that the command line names."""
    parser = run_parser("evaluate", "Report how good a trained run is, and how far that can be trusted.", own=True)
    parser.add_argument("--out", type=str, default="", help="folder for the report; by default the run's own")
    parser.add_argument("--shard", type=str, default="auto", help=SHARD)
    parser.add_argument("--processes", type=str, default="auto", help=PROCESSES)
    parser.add_argument("--merge", action="store_true", help="write the report from all shards, once they are there")
    add_flags(parser, Plan)
    arguments = parser.parse_args(argv)
    with exit_codes("the report is not finished; the same command begins it again", vars(arguments)):
        plan, out = settings_from(arguments, Plan), arguments.out or arguments.run
        if arguments.merge and arguments.shard not in ("auto", "none"):
            raise UsageError("--shard computes a share, --merge joins all shares: give only one of them")
        shard = None if arguments.merge else Shard.wanted(arguments.shard, os.environ)
        places.check_run(arguments.run)
        places.check_data_dir(arguments.data_dir)
        files.check_folder(Path(out))
        where = {**placed(vars(arguments)), **{family: arguments[family] for family in FAMILIES}}
        if shard is not None:
            compute(shard, arguments.run, out, plan, where)
        else:
            evaluate(arguments.run, out, plan, where, arguments.processes, list(vars(arguments)), merge=arguments.merge)


def evaluate(
    run: str,
    out: str,
    plan: Plan,
    where: dict[str, Any],
    processes: str = "1",
    flags: Collection[str] = (),
    *,
    merge: bool,
) -> None:
    """Writes and prints the report, of what is computed here or of shards that are there.

    Args:
        run: its folder.
        out: the folder of the report.
        plan: how much is computed.
        where: device, folder of the data, threads and places of the user's own members, as the command line has them.
        processes: how many share the work.
        flags: the names of those that the command has.
        merge: whether to take what shards have computed.
    """
    from pyro_vae.experiment.evaluate import expected_work, report_files, shards, shared_work
    from pyro_vae.experiment.evaluate.evaluated_run import Subject
    from pyro_vae.experiment.evaluate.measurements import evaluate

    begun = time.perf_counter()
    subject = Subject(opened(run, where), plan)
    known = shards.merge(subject, Path(out) / shards.FOLDER) if merge else {}
    number = shared_work.processes(processes, subject)
    shared = shared_work.team(subject, number, partial(_reopened, run, where, flags), say)
    with expected_work.planned(subject.trained, plan), shared as team:
        look = evaluate(subject.trained, plan, say, known, team)
        say("pictures and files")
        text, written = report_files.write(look, out)
    print(f"\n{text}\n\n{time.perf_counter() - begun:.0f} s. In {out}: {', '.join(written)}")


def compute(shard: Shard, run: str, out: str, plan: Plan, where: dict[str, Any]) -> None:
    """Writes a share, if it is not there."""
    from pyro_vae.experiment.evaluate import shards
    from pyro_vae.experiment.evaluate.evaluated_run import Subject

    subject, folder = Subject(opened(run, where), plan), Path(out) / shards.FOLDER
    if shards.is_done(subject, shard, folder):
        say(f"shard {shard} is in {folder} already")
    else:
        say(f"shard {shard} is in {shards.write(subject, shard, folder, say)}; when all are there, use --merge")


def opened(run: str, where: Mapping[str, Any]) -> "TrainedRun":
    """Opens a run in this process, whether it is the first or one that shares its work.

    Args:
        run, where: as for `evaluate`.

    Raises:
        UsageError: a member of the user's own that the run does not name, or that cannot be imported.
        CheckpointError, DataError: see `open_run`.
    """
    from pyro_vae.experiment.run.trained_run import open_run

    own = own_code.offered(where)
    trained = open_run(run, **placed(where), own=own)
    own_code.check_served(own, trained.config)
    return trained


def _reopened(run: str, where: Mapping[str, Any], flags: Collection[str]) -> "TrainedRun":
    """Opens a run in a process that shares its work."""
    log_in_words(wording_of(flags))
    return opened(run, where)


def say(sentence: str) -> None:
    """Prints what is done, with the time of day."""
    print(f"{time.strftime('%H:%M:%S')}  {sentence}", flush=True)
