"""Hold every estimator of log p(x) against a truth that it can not have copied; exit with 1 where one is off.

python scripts/selfcheck.py
python scripts/selfcheck.py --json selfcheck.json
"""

import sys
from dataclasses import asdict
from pathlib import Path

from pyro_vae.cli.parser import Parser, exit_codes


def main(argv: list[str] | None = None) -> None:
    parser = Parser(
        description="Hold every estimator of log p(x) against closed forms, quadrature and bounds from both sides. "
        "Takes two to three minutes on two cores. Exit code 1 where an estimator is off, which a sentence then names.",
        default_env=False,
        allow_abbrev=False,
    )
    parser.add_argument("--quick", action="store_true", help="half a minute: fewer draws, and D = 2 alone on rung 1")
    parser.add_argument("--seed", type=int, default=0, help="of programs, data and draws; every seed should pass")
    parser.add_argument("--json", type=str, default="", help="also write the table into this file")
    arguments = parser.parse_args(argv)
    with exit_codes():
        from pyro_vae.experiment.run import files  # here, since --help needs no torch
        from pyro_vae.selfcheck import ladder, verdicts  # here, since --help needs no torch

        budget = ladder.QUICK if arguments.quick else ladder.FULL
        print(ladder.about(budget))
        rows: list[verdicts.Row] = []
        for row in ladder.check(budget, arguments.seed):
            if not rows or row.rung != rows[-1].rung:
                print(f"\n{verdicts.heading(row.rung)}")
            print(row, flush=True)
            rows.append(row)
        print("", *verdicts.sentences(rows), sep="\n")
        off = any(row.faults for row in rows)
        if arguments.json:
            found = {
                "ok": not off,
                "seed": arguments.seed,
                "budget": asdict(budget),
                "rows": [r.to_dict() for r in rows],
            }
            files.write(Path(arguments.json), files.to_json(found))
        sys.exit(off)


if __name__ == "__main__":
    main()
