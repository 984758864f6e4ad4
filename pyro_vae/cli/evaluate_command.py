"""Evaluate a trained run, whole or by shares."""

import os
import time
from pathlib import Path
from typing import Any

from pyro_vae.cli import own_code
from pyro_vae.cli.command_ending import exit_codes
from pyro_vae.cli.parser import MACHINE, add_flags, run_parser, settings_from
from pyro_vae.errors import UsageError
from pyro_vae.experiment.evaluate.evaluation_plan import Plan, Shard
from pyro_vae.experiment.run import files, places

SHARD = (
    "compute only share i of n, given as i/n with i = 0 ... n-1, into the subfolder shards; by default the share of "
    "this process under torchrun (RANK, WORLD_SIZE) or srun (SLURM_PROCID, SLURM_NTASKS); none computes everything"
)


def main(argv: list[str] | None = None) -> None:
    """Evaluates the run that the command line names."""
    parser = run_parser("evaluate", "Report how good a trained run is, and how far that can be trusted.", own=True)
    parser.add_argument("--out", type=str, default="", help="folder for the report; by default the run's own")
    parser.add_argument("--shard", type=str, default="auto", help=SHARD)
    parser.add_argument("--merge", action="store_true", help="write the report from all shards, once they are there")
    add_flags(parser, Plan)
    arguments = parser.parse_args(argv)
    with exit_codes(arguments=vars(arguments)):
        plan, out = settings_from(arguments, Plan), arguments.out or arguments.run
        if arguments.merge and arguments.shard not in ("auto", "none"):
            raise UsageError("--shard computes a share, --merge joins all shares: give only one of them")
        shard = None if arguments.merge else Shard.wanted(arguments.shard, os.environ)
        places.check_run(arguments.run)
        places.check_data_dir(arguments.data_dir)
        files.check_folder(Path(out))
        own = own_code.offered(vars(arguments))
        where: dict[str, Any] = {name: arguments[name] for name in MACHINE} | {"own": own}
        if shard is not None:
            compute(shard, arguments.run, out, plan, where)
        else:
            evaluate(arguments.run, out, plan, where, merge=arguments.merge)


def evaluate(run: str, out: str, plan: Plan, where: dict[str, Any], *, merge: bool) -> None:
    """Writes and prints the report, of what is computed here or of shards that are there."""
    from pyro_vae.experiment.evaluate import expected_work, report_files, shards
    from pyro_vae.experiment.evaluate.evaluated_run import Subject
    from pyro_vae.experiment.evaluate.measurements import evaluate
    from pyro_vae.experiment.run.trained_run import open_run

    begun = time.perf_counter()
    trained = open_run(run, **where)
    own_code.check_served(where["own"], trained.config)
    known = shards.merge(Subject(trained, plan), Path(out) / shards.FOLDER) if merge else {}
    with expected_work.planned(trained, plan):
        look = evaluate(trained, plan, say, known)
        say("pictures and files")
        text, written = report_files.write(look, out)
    print(f"\n{text}\n\n{time.perf_counter() - begun:.0f} s. In {out}: {', '.join(written)}")


def compute(shard: Shard, run: str, out: str, plan: Plan, where: dict[str, Any]) -> None:
    """Writes a share, if it is not there."""
    from pyro_vae.experiment.evaluate import shards
    from pyro_vae.experiment.evaluate.evaluated_run import Subject
    from pyro_vae.experiment.run.trained_run import open_run

    trained, folder = open_run(run, **where), Path(out) / shards.FOLDER
    own_code.check_served(where["own"], trained.config)
    subject = Subject(trained, plan)
    if shards.is_done(subject, shard, folder):
        say(f"shard {shard} is in {folder} already")
    else:
        say(f"shard {shard} is in {shards.write(subject, shard, folder, say)}; when all are there, use --merge")


def say(sentence: str) -> None:
    """Prints what is done, with the time of day."""
    print(f"{time.strftime('%H:%M:%S')}  {sentence}", flush=True)
