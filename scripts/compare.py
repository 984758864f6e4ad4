"""Compare trained runs by log p(x) on the same test data, datum by datum.

python scripts/compare.py runs/standard runs/vamp
python scripts/compare.py runs/standard-* runs/vamp-* --reference first --out runs/priors
"""

import time
from pathlib import Path

from jsonargparse import Namespace

from pyro_vae.cli.parser import exit_codes, run_parser


def main(argv: list[str] | None = None) -> None:
    parser = run_parser("Compare trained runs by log p(x) on the same test data, datum by datum.", many=True)
    parser.add_argument("--num-samples", type=int, default=1000, help="draws per datum for log p(x), in every run")
    parser.add_argument(
        "--test-data", type=int, help="a random subset of so many test data, 0 for all; else that of the runs"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws, the same for every run")
    parser.add_argument("--reference", type=str, default="best", help="best, first, or one of the runs")
    parser.add_argument("--force", action="store_true", help="go on where runs were not tested alike, and say so")
    parser.add_argument("--out", type=str, default="", help="folder of the results; by default a new one below runs/")
    arguments = parser.parse_args(argv)
    with exit_codes():
        compare(arguments)


def compare(arguments: Namespace) -> None:
    from pyro_vae.experiment.compare import comparable_runs, comparing
    from pyro_vae.experiment.run import files

    # The runs, and whether they were tested alike.
    evaluation = comparing.Evaluation(
        arguments.num_samples, arguments.seed, arguments.test_data, arguments.data_dir, arguments.device
    )
    runs = comparable_runs.candidates(arguments.runs, arguments.test_data)
    comparing.check_reference(arguments.reference, runs)
    if (found := comparable_runs.disagreements(runs)) and not arguments.force:
        raise comparable_runs.refusal(found)
    folder = Path(arguments.out) if arguments.out else comparing.new_folder(Path("runs"))

    # Each of them, on the same data with the same draws.
    measured = []
    for i, run in enumerate(runs, 1):
        begun = time.perf_counter()
        measured.append(comparing.measure(run, evaluation))
        seconds = time.perf_counter() - begun
        print(f"{i}/{len(runs)}  {run.name}: {measured[-1].log_likelihood} ({seconds:.0f} s)", flush=True)

    # Their differences.
    files.make_folder(folder)
    text = comparing.write(folder, comparing.compare(runs, measured, evaluation, reference=arguments.reference))
    print(f"\n{text}\n\nIn {folder}: comparison.json, .txt, .md, .csv, .png.")


if __name__ == "__main__":
    main()
