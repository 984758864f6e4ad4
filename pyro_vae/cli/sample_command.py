"""Sample from a trained run, and decode what lies between data."""

from pathlib import Path
from typing import Any

from pyro_vae.cli import own_code
from pyro_vae.cli.command_ending import exit_codes
from pyro_vae.cli.parser import run_parser
from pyro_vae.experiment.run import files, places
from pyro_vae.option_words import PathKind, words


def main(argv: list[str] | None = None) -> None:
    """Draws the pictures that the command line asks for."""
    parser = run_parser(
        "sample",
        "Samples, reconstructions, interpolations, traversals and the latent map of a trained run: pictures as PNG, "
        "and the arrays that each shows as NPZ.",
        own=True,
    )
    parser.add_argument("--out", type=str, default="", help="folder for them; by default samples/ in the run's folder")
    parser.add_argument("--only", type=str, nargs="+", default=[], help="names of pictures; by default all")
    parser.add_argument(
        "--y", "--label", type=str, default=None, help="the name of the class to sample, of a conditional run; else all"
    )
    parser.add_argument("--between", type=str, nargs=2, default=None, help="interpolate between data of two labels")
    parser.add_argument("--data", type=int, nargs=2, default=None, help="or between test data at two positions")
    kinds = f"{', '.join(words(PathKind))} (that of a flow); by default all there are"
    parser.add_argument("--path", type=str, nargs="+", default=[], help=kinds)
    parser.add_argument(
        "--number", type=int, default=0, help="data to draw from the prior, without a picture; by default its panel"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws, and of the choice of data")
    arguments = parser.parse_args(argv)
    with exit_codes(arguments=vars(arguments)):
        places.check_run(arguments.run)
        folder = Path(arguments.out or Path(arguments.run) / "samples")
        files.check_folder(folder)
        from pyro_vae.experiment.run.trained_run import open_run  # here, since --help needs no torch
        from pyro_vae.experiment.studies import sampling

        wanted = sampling.Wanted(
            seed=arguments.seed,
            y=arguments.y,
            between=arguments.between and tuple(arguments.between),
            data=arguments.data and tuple(arguments.data),
            paths=tuple(arguments.path),
            only=tuple(arguments.only),
            number=arguments.number,
        )
        where: dict[str, Any] = {"device": arguments.device, "data_dir": arguments.data_dir}
        own = own_code.offered(vars(arguments))
        trained = open_run(arguments.run, **where, read=sampling.needs_data(wanted), own=own)
        own_code.check_served(own, trained.config)
        for sentence in sampling.write(trained, folder, wanted):
            print(sentence, flush=True)
        print(f"\nIn {folder}: pictures (*.png) and their arrays (*.npz).")
