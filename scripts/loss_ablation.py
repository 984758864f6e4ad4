"""Train with only reconstruction, only KL and both, and put the three side by side, in numbers and in a picture.

python scripts/loss_ablation.py --out runs/ablation
python scripts/loss_ablation.py --latent-dim 2 --epochs 200 --out runs/ablation-2
python scripts/loss_ablation.py --out runs/ablation --resume
"""

from pathlib import Path

from pyro_vae.cli.parser import RESUMABLE, add_flags, config_from, config_parser, exit_codes, given_flags
from pyro_vae.errors import UsageError
from pyro_vae.experiment.evaluate.effort import Plan


def main(argv: list[str] | None = None) -> None:
    parser = config_parser(
        "Train the same program with only reconstruction, only KL and both, and put the three side by side. The flags "
        "are those of train_svi.py; the two weights are set here."
    )
    parser.add_argument("--out", type=str, default="", help="folder of the three runs, the table and the picture")
    parser.add_argument("--resume", action="store_true", help="go on in --out; what is finished there is skipped")
    add_flags(parser, Plan, ("latent_data", "latent_samples"))
    arguments = parser.parse_args(argv)
    with exit_codes(RESUMABLE):
        if not arguments.out:
            raise UsageError("three runs need a place: add --out FOLDER")
        config, given, folder = config_from(arguments), given_flags(parser, argv), Path(arguments.out)
        plan = Plan(
            elbo_samples=config.elbo_samples,
            num_samples=config.test_samples,
            latent_data=arguments.latent_data,
            latent_samples=arguments.latent_samples,
        )

        from pyro_vae.experiment.studies import loss_ablation  # here, since --help needs no torch

        loss_ablation.train(folder, config, given, resume=arguments.resume)
        print(
            f"\n{loss_ablation.report(folder, plan)}\n\nIn {folder}: ablation.txt, .json, .csv, .png, and the "
            "three runs."
        )


if __name__ == "__main__":
    main()
