"""Train a variational autoencoder by stochastic variational inference, and report how good it is.

python scripts/train_svi.py --likelihood bernoulli
python scripts/train_svi.py --dataset mnist --data-dir data --epochs 20 --out runs/mnist
python scripts/train_svi.py --out runs/mnist --resume
torchrun --nproc-per-node 2 scripts/train_svi.py --out runs/two
"""

from importlib.util import find_spec
from pathlib import Path

from pyro_vae.cli.parser import RESUMABLE, config_from, config_parser, exit_codes, given_flags
from pyro_vae.errors import UsageError
from pyro_vae.experiment.train.torchrun import one_speaks


@one_speaks()
def main(argv: list[str] | None = None) -> None:
    parser = config_parser("Train a variational autoencoder by SVI, and report how good it is.")
    parser.add_argument("--out", type=str, default="", help="run folder; by default a new one below runs/")
    parser.add_argument("--resume", action="store_true", help="go on in --out from its newest checkpoint")
    parser.add_argument(
        "--tensorboard", action="store_true", help="also write scalars, pictures, codes and the program's graph"
    )
    parser.add_argument(
        "--no-test",
        action="store_true",
        help="end without the report, which looks at test data: for runs among which validation data are to choose; "
        "--resume without it reports",
    )
    arguments = parser.parse_args(argv)
    with exit_codes(RESUMABLE):
        if arguments.resume and not arguments.out:
            raise UsageError("--resume needs to know the run: add --out FOLDER")
        if arguments.tensorboard and find_spec("tensorboard") is None:  # before there is a folder
            raise UsageError("--tensorboard needs its package: pip install -e '.[tensorboard]'")
        config, given = config_from(arguments), given_flags(parser, argv)
        folder = Path(arguments.out) if arguments.out else None

        from pyro_vae.experiment.train import training  # here, since torch takes a second and --help does not need it

        training.start_or_resume(
            folder,
            config,
            given,
            resume=arguments.resume,
            tensorboard=arguments.tensorboard,
            test=not arguments.no_test,
        )


if __name__ == "__main__":
    main()
