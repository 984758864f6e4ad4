"""Compare trained runs."""

import time
from pathlib import Path

from jsonargparse import Namespace

from pyro_vae.cli import own_code
from pyro_vae.cli.command_ending import exit_codes
from pyro_vae.cli.parser import add_flags, run_parser, settings_from
from pyro_vae.experiment.compare.comparison_settings import Evaluation
from pyro_vae.experiment.run import files, places
from pyro_vae.progress import through


def main(argv: list[str] | None = None) -> None:
    """Compares the runs that the command line names."""
    parser = run_parser(
        "compare", "Compare trained runs by log p(x) on the same test data, datum by datum.", many=True, own=True
    )
    add_flags(parser, Evaluation, ("num_samples", "test_data", "seed"))
    parser.add_argument(
        "--reference",
        type=str,
        default="best",
        help="run that the others are compared with: best, first, or one of the folders",
    )
    parser.add_argument(
        "--force", action="store_true", help="compare runs even if they were not tested in the same way, and say so"
    )
    parser.add_argument("--out", type=str, default="", help="folder of the results; by default a new one below runs/")
    arguments = parser.parse_args(argv)
    with exit_codes(arguments=vars(arguments)):
        compare(arguments)


def compare(arguments: Namespace) -> None:
    """Measures each run, and writes and prints their differences."""
    places.check_runs(arguments.runs)
    places.check_reference(arguments.reference, arguments.runs)
    files.check_folder(Path(arguments.out or "runs"))
    evaluation = settings_from(arguments, Evaluation)
    out, own = Path(arguments.out) if arguments.out else None, own_code.offered(vars(arguments))

    from pyro_vae.experiment.compare import comparable_runs, comparing  # here, since --help needs no torch
    from pyro_vae.experiment.run.run_folder import new_folder

    # The runs, and whether they were tested in the same way.
    runs = comparable_runs.candidates(arguments.runs, evaluation.test_data, own)
    own_code.check_served(own, *(run.config for run in runs))
    if (differing := comparable_runs.disagreements(runs)) and not arguments.force:
        raise comparable_runs.refusal(differing)

    # Each of them, on the same data with the same draws.
    measured = []
    for i, run in enumerate(through("runs", runs), 1):
        begun = time.perf_counter()
        measured.append(comparing.measure(run, evaluation))
        seconds = time.perf_counter() - begun
        print(f"{i}/{len(runs)}  {run.name}: {measured[-1].log_likelihood} ({seconds:.0f} s)", flush=True)

    # Their differences.
    comparison = comparing.compare(runs, measured, evaluation, reference=arguments.reference)
    folder = out or new_folder(Path("runs"), "comparison")
    text = comparing.write(folder, comparison)
    print(f"\n{text}\n\nIn {folder}: comparison.json, .txt, .md, .csv, .png.")
