"""Train a program, and report how good it is."""

from importlib.util import find_spec
from pathlib import Path

from pyro_vae.cli.command_ending import exit_codes, wording_of
from pyro_vae.cli.parser import config_from, config_parser, given_flags
from pyro_vae.errors import UsageError, uninstalled
from pyro_vae.experiment import build
from pyro_vae.experiment.run import files, places
from pyro_vae.experiment.train.torchrun import one_speaks


@one_speaks()
def main(argv: list[str] | None = None) -> None:
    """Trains what the flags say, from the beginning or on."""
    parser = config_parser("train", "Train a variational autoencoder by SVI, and report how good it is.")
    parser.add_argument("--out", type=str, default="", help="run folder; by default a new one below runs/")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out from its newest checkpoint")
    parser.add_argument(
        "--start-from",
        type=str,
        default="",
        metavar="RUN",
        help="begin a new run with the weights of RUN at its best epoch. Settings not given here, including "
        "--epochs, are those of RUN, not the defaults shown below; only --kl-warmup begins at 0. With --preset all "
        "settings are those of the preset. The program "
        "must stay the same, the optimiser starts from scratch, and validation or test data that RUN was trained "
        "on are refused",
    )
    parser.add_argument(
        "--tensorboard",
        action="store_true",
        help="also write scalars, pictures, codes and the program's graph for TensorBoard",
    )
    parser.add_argument(
        "--no-test",
        action="store_true",
        help="end without the report, so that the test data are not looked at while you choose among runs by "
        "validation data; --resume without this flag writes the report",
    )
    parser.add_argument(
        "--no-check",
        action="store_true",
        help="skip the check of your own members against the contract of their family, if they have passed it "
        "before; their shapes are always checked",
    )
    arguments = parser.parse_args(argv)
    with exit_codes("nothing new is kept; the same command starts again", vars(arguments), noted=True):
        if arguments.resume and not arguments.out:
            raise UsageError("--resume needs the folder of the run: add --out, e.g. --out runs/digits")
        if (start := arguments.start_from) and not Path(start, "config.json").is_file():
            raise UsageError(f"--start-from {start}: there is no run. Name the folder of one, which has a config.json")
        if arguments.tensorboard and find_spec("tensorboard") is None:  # before there is a folder
            raise uninstalled("--tensorboard", "tensorboard")
        # A continued run can have the settings that go with those given here.
        check = build.check_each_name if arguments.resume or start else build.check_names
        config, given = config_from(arguments, check, argv), given_flags(parser, argv)
        folder = Path(arguments.out) if arguments.out else None
        if not arguments.resume:
            if folder is not None:
                places.check_free(folder)
            places.check_data(config.dataset)
        files.check_folder(folder or Path("runs"))

        from pyro_vae.experiment.train import training
        from pyro_vae.experiment.train.progress_bar import (
            progress_bar,  # here, since torch takes a second and --help does not need it
        )

        training.start_or_resume(
            folder,
            config,
            given,
            resume=arguments.resume,
            start_from=Path(start) if start else None,
            tensorboard=arguments.tensorboard,
            test=not arguments.no_test,
            check=not arguments.no_check,
            display=progress_bar,
            wording=wording_of(vars(arguments)),
        )
