"""Say how good a trained run is, and how far that can be trusted: one report, as text, tables, files and a page.

python scripts/evaluate.py runs/digits
python scripts/evaluate.py runs/mnist --test-data 1000 --num-samples 5000
python scripts/evaluate.py runs/digits --annealed-data 0 --posterior-draws 0
"""

import time

from pyro_vae.experiment.command_line import add_flags, exit_codes, run_parser
from pyro_vae.experiment.plan import Plan


def main(argv: list[str] | None = None) -> None:
    parser = run_parser("Say how good a trained run is, and how far that can be trusted.")
    parser.add_argument("--out", type=str, default="", help="folder for the report; by default the run's own")
    add_flags(parser, Plan)
    arguments = parser.parse_args(argv)
    with exit_codes():
        plan = Plan.among(arguments)
        evaluate(arguments.run, arguments.out or arguments.run, plan, arguments.device, arguments.data_dir)


def evaluate(run: str, out: str, plan: Plan, device: str, data_dir: str) -> None:
    from pyro_vae.experiment import publishing
    from pyro_vae.experiment.evaluating import evaluate
    from pyro_vae.experiment.trained import open_run

    begun = time.perf_counter()
    trained = open_run(run, device=device, data_dir=data_dir)
    look = evaluate(trained, plan, say)
    say("pictures and files")
    text, files = publishing.write(look, out)
    print(f"\n{text}\n\n{time.perf_counter() - begun:.0f} s. In {out}: {', '.join(files)}")


def say(sentence: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {sentence}", flush=True)


if __name__ == "__main__":
    main()
