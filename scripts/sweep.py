"""Train over grids of settings and several seeds, choose on validation data, and test the chosen setting alone.

python scripts/sweep.py --grid kl_weight=0.5,1,2 --grid prior=standard,vamp --seeds 3 --out runs/sweep
python scripts/sweep.py --range lr=1e-4..1e-2 --grid hidden=256,"300 300" --search 30 --out runs/search
"""

import sys
from pathlib import Path
from typing import Any

from pyro_vae.cli.parser import config_parser, exit_codes
from pyro_vae.errors import UsageError
from pyro_vae.experiment.sweep.swept_settings import space


def main(argv: list[str] | None = None) -> None:
    parser = config_parser(
        "Train every setting of some grids from several seeds, choose the best by its ELBO on validation data, and "
        "test that one alone. The other flags are those of train_svi.py, common to all runs. The same command goes on "
        "with a sweep that was cut."
    )
    listed: dict[str, Any] = {"action": "append", "type": str, "default": []}
    parser.add_argument("--grid", **listed, help="flag=value,value,...; several grids are crossed, all with all")
    parser.add_argument("--seeds", type=int, default=1, help="train each setting from seeds 0 to N - 1; 1 is no spread")
    parser.add_argument(
        "--jobs",
        type=int,
        default=0,
        help="processes side by side, 0 for one a core; they share the cores, unless OMP_NUM_THREADS says how many "
        "threads each may have",
    )
    parser.add_argument(
        "--search", type=int, default=0, help="let Optuna choose so many settings; 0 tries all there are"
    )
    parser.add_argument("--range", **listed, help="flag=low..high: numbers that --search chooses between")
    parser.add_argument("--out", type=str, default="", help="folder of all runs, the table and the pictures")
    arguments = parser.parse_args(argv)
    with exit_codes("what was reached is kept; the same command goes on"):
        if not arguments.out:
            raise UsageError("a sweep needs a place: add --out FOLDER")
        command = sys.argv[1:] if argv is None else argv
        wanted = space(parser, command, arguments.grid, arguments.range, arguments.search, arguments.seeds)
        if not arguments.search:
            wanted.settings()  # so that a wrong one is answered at once

        from pyro_vae.experiment.sweep import sweeping  # here, since --help needs no torch

        script = Path(__file__).with_name("train_svi.py")
        sweeping.sweep(Path(arguments.out), wanted, script, arguments.jobs)


if __name__ == "__main__":
    main()
