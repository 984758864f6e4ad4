"""Hold every estimator against a known truth."""

from dataclasses import asdict
from pathlib import Path

from pyro_vae.cli.command_ending import exit_codes
from pyro_vae.cli.parser import Parser
from pyro_vae.errors import CheckError
from pyro_vae.experiment.run import files


def main(argv: list[str] | None = None) -> None:
    """Climbs the ladder, and prints each of its rows."""
    parser = Parser(
        "selfcheck",
        "Compare every estimator of log p(x) with closed forms, quadrature and bounds from both sides. Takes two to "
        f"three minutes on two cores. Exit code {CheckError.exit_code} if an estimator is off, with a sentence that "
        "names it.",
    )
    parser.add_argument(
        "--quick", action="store_true", help="take half a minute: fewer draws, and only D = 2 on rung 1"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of programs, data and draws; every seed should pass")
    parser.add_argument("--json", type=str, default="", help="also write the table to this file")
    arguments = parser.parse_args(argv)
    with exit_codes(arguments=vars(arguments), place="json"):
        if arguments.json:
            files.check_file(Path(arguments.json))

        from pyro_vae.selfcheck import ladder, verdicts  # here, since --help needs no torch

        budget = ladder.QUICK if arguments.quick else ladder.FULL
        print(ladder.about(budget))
        rows: list[verdicts.Row] = []
        for row in ladder.check(budget, arguments.seed):
            if not rows or row.rung != rows[-1].rung:
                print(f"\n{verdicts.heading(row.rung)}")
            print(row, flush=True)
            rows.append(row)
        print("", *verdicts.sentences(rows), sep="\n", flush=True)
        off = [row for row in rows if row.faults]
        if arguments.json:
            table = {
                "ok": not off,
                "seed": arguments.seed,
                "budget": asdict(budget),
                "rows": [row.to_dict() for row in rows],
            }
            files.write(Path(arguments.json), files.to_json(table))
        if off:
            raise CheckError(f"{len(off)} of {len(rows)} rows are off: {', '.join(row.estimator for row in off)}")
