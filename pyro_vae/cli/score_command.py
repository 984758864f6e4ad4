"""Score the rows of a file, or of a run's own split, whole or by shares."""

import os
import time
from pathlib import Path

from jsonargparse import ActionYesNo

from pyro_vae.cli import own_code
from pyro_vae.cli.command_ending import exit_codes
from pyro_vae.cli.evaluate_command import say
from pyro_vae.cli.parser import add_flags, placed, run_parser, settings_from
from pyro_vae.errors import UsageError
from pyro_vae.experiment.evaluate.evaluation_plan import Plan, Shard
from pyro_vae.experiment.run import places
from pyro_vae.experiment.score import score_table
from pyro_vae.option_words import Scored, check_word

SHARD = (
    "compute only share i of n, given as i/n with i = 0 ... n-1, into the folder OUT.shards; by default the share of "
    "this process under torchrun (RANK, WORLD_SIZE) or srun (SLURM_PROCID, SLURM_NTASKS); none computes everything"
)
_DRAWS = ("test_data", "elbo_samples", "num_samples", "evaluation_seed")


def main(argv: list[str] | None = None) -> None:
    """Scores what the command line names."""
    parser = run_parser(
        "score",
        "Score new data with a trained run. For each row of a file it gives log p(x) with its error and k-hat, its "
        "percentile among the test data, ELBO, reconstruction, KL, mean and spread of q(z|x), the class if the run "
        "is conditional, and whether the row was in the training data.",
        own=True,
    )
    parser.add_argument(
        "--data",
        type=str,
        default="",
        help="file to score: .npy, .npz, .csv or a folder, in the form of the training data",
    )
    parser.add_argument(
        "--split", type=str, default="", help="split of the run's data to score instead: test, valid or train"
    )
    parser.add_argument("--out", type=str, required=True, help="file to write, scores.csv or scores.npz")
    parser.add_argument(
        "--array", type=str, default="", help="name of the array in an .npz file; by default x, or the only array"
    )
    parser.add_argument(
        "--reconstructions",
        action=ActionYesNo(no_prefix="no-"),
        default=False,
        help="add the mean of p(x|z) at the centre of q(z|x); needs an .npz file as --out",
    )
    parser.add_argument("--shard", type=str, default="auto", help=SHARD)
    parser.add_argument("--merge", action="store_true", help="write the table from all shards, once they are there")
    add_flags(parser, Plan, _DRAWS)
    arguments = parser.parse_args(argv)
    with exit_codes(arguments=vars(arguments)):
        if bool(arguments.data) == bool(arguments.split):
            raise UsageError("name what to score: --data FILE, or --split test, valid or train")
        if arguments.array and not arguments.data:
            raise UsageError("--array names an array of --data FILE: give both, or none")
        if arguments.merge and arguments.shard not in ("auto", "none"):
            raise UsageError("--shard computes a share, --merge joins all shares: give only one of them")
        shard = None if arguments.merge else Shard.wanted(arguments.shard, os.environ)
        _score(arguments, settings_from(arguments, Plan), shard)


def _score(arguments: object, plan: Plan, shard: Shard | None) -> None:
    given = vars(arguments)
    places.check_run(given["run"])
    if given["split"]:
        check_word("split", given["split"], Scored)
    if given["data"]:
        places.check_data(given["data"])
    begun, out, wants = time.perf_counter(), Path(given["out"]), {"reconstructions": given["reconstructions"]}
    score_table.check_out(out, **wants)

    from pyro_vae.experiment.score import score_files, scored_rows, scored_run  # here, since --help needs no torch

    own = own_code.offered(given)
    run = scored_run.open_scored(given["run"], **placed(given), own=own)
    own_code.check_served(own, run.config)
    if given["data"]:
        rows = scored_rows.of_file(run, given["data"], plan, array=given["array"], **wants)
    else:
        rows = scored_rows.of_split(run, given["split"], plan, **wants)
    if shard is not None:
        score_files.write_share(rows, shard, out, say)
        return
    sentences = (score_files.merge if given["merge"] else score_files.write)(rows, out, say)
    print("\n" + "\n".join(sentences))
    for note in run.notes:
        print(f"note: {note}")
    print(f"\n{time.perf_counter() - begun:.0f} s. In {out}: {len(rows):,} rows.")
