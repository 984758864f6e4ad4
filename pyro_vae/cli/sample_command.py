"""Sample from a trained run, and decode what lies between data."""

from pathlib import Path

from pyro_vae.cli import own_code
from pyro_vae.cli.command_ending import exit_codes
from pyro_vae.cli.parser import placed, run_parser
from pyro_vae.experiment.run import files, places
from pyro_vae.option_words import PathKind, Picture, check_word, words


def main(argv: list[str] | None = None) -> None:
    """Draws the pictures that the command line asks for."""
    parser = run_parser(
        "sample",
        "Draw samples, reconstructions, interpolations, traversals and the latent map of a trained run, as PNG "
        "pictures and as NPZ files of the arrays that they show.",
        own=True,
    )
    parser.add_argument(
        "--out", type=str, default="", help="folder of the results; by default samples/ in the run's folder"
    )
    pictures = f"pictures to draw: {', '.join(words(Picture))}; by default all that apply"
    parser.add_argument("--only", type=str, nargs="+", default=[], help=pictures)
    parser.add_argument(
        "--y",
        "--label",
        type=str,
        default=None,
        help="name of the class to sample, for a conditional run; by default all",
    )
    parser.add_argument(
        "--between", type=str, nargs=2, default=None, help="interpolate between two data with these labels"
    )
    parser.add_argument(
        "--data", type=int, nargs=2, default=None, help="interpolate between the test data at these two positions"
    )
    kinds = f"kinds of interpolation: {', '.join(words(PathKind))} (needs a flow prior); by default all that apply"
    parser.add_argument("--path", type=str, nargs="+", default=[], help=kinds)
    parser.add_argument(
        "--number",
        type=int,
        default=0,
        help="number of data to draw from the prior, without a picture; by default enough for the picture",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws and of the choice of data")
    arguments = parser.parse_args(argv)
    with exit_codes(arguments=vars(arguments)):
        places.check_run(arguments.run)
        for name in arguments.only:
            check_word("picture", name, Picture)
        for kind in arguments.path:
            check_word("path", kind, PathKind)
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
        own = own_code.offered(vars(arguments))
        trained = open_run(arguments.run, **placed(vars(arguments)), read=sampling.needs_data(wanted), own=own)
        own_code.check_served(own, trained.config)
        for sentence in sampling.write(trained, folder, wanted):
            print(sentence, flush=True)
        print(f"\nIn {folder}: pictures (*.png) and their arrays (*.npz).")
