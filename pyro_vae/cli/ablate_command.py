"""Train with one term of the loss, with the other, and with both."""

import sys
from pathlib import Path

from pyro_vae.cli.command_ending import exit_codes, kept, wording_of
from pyro_vae.cli.parser import add_flags, config_from, config_parser, given_flags
from pyro_vae.command_lines import command_line, script
from pyro_vae.errors import UsageError
from pyro_vae.experiment.evaluate.evaluation_plan import Plan
from pyro_vae.experiment.run import files, places
from pyro_vae.experiment.studies.ablated_losses import ablated


def main(argv: list[str] | None = None) -> None:
    """Trains the three runs, and writes and prints their table."""
    parser = config_parser(
        "ablate",
        "Train the same program with only reconstruction, only KL and both, and put the three side by side. The "
        f"flags are those of {script('train')}, except that this command sets the two weights.",
    )
    parser.add_argument("--out", type=str, default="", help="folder of the three runs, the table and the picture")
    parser.add_argument("--resume", action="store_true", help="continue in --out; finished runs there are skipped")
    add_flags(parser, Plan, ("latent_data", "latent_samples"))
    arguments = parser.parse_args(argv)
    words = [word for word in (sys.argv[1:] if argv is None else argv) if word != "--resume"]
    with exit_codes(kept(command_line("ablate", *words, resume=True)), vars(arguments)):
        if not arguments.out:
            raise UsageError("three runs need a folder: add --out, e.g. --out runs/ablation")
        given, folder = given_flags(parser, argv), Path(arguments.out)
        config = config_from(arguments, lambda config: ablated(config, given), argv)
        places.check_data(config.dataset)
        files.check_folder(folder)
        plan = Plan(
            elbo_samples=config.elbo_samples,
            num_samples=config.test_samples,
            latent_data=arguments.latent_data,
            latent_samples=arguments.latent_samples,
        )

        from pyro_vae.experiment.studies import loss_ablation
        from pyro_vae.experiment.train.progress_bar import progress_bar  # here, since --help needs no torch

        loss_ablation.train(
            folder, config, given, resume=arguments.resume, display=progress_bar, wording=wording_of(vars(arguments))
        )
        text = loss_ablation.report(folder, plan, own=config.own.given().values())
        print(f"\n{text}\n\nIn {folder}: ablation.txt, .json, .csv, .png, and the three runs.")
