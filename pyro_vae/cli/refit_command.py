"""Refit the prior of a trained run."""

import sys
from pathlib import Path

from pyro_vae.cli import own_code
from pyro_vae.cli.command_ending import exit_codes
from pyro_vae.cli.parser import add_flags, add_places, given_flags, placed, run_parser, settings_from
from pyro_vae.errors import CheckError, UsageError
from pyro_vae.experiment import tables
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.evaluate.evaluation_plan import Plan
from pyro_vae.experiment.own_members import FAMILIES, is_place, short_name
from pyro_vae.experiment.run import files, places

FLAGS = (
    "prior_args", "num_components", "pseudo_inputs", "flow", "flow_transforms", "flow_hidden", "epochs", "batch_size",
    "fewest_steps", "optimizer", "lr", "lr_schedule", "average", "weight_decay", "max_grad_norm", "patience",
    "seed",
)  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    """Fits another prior to the run that the command line names, and checks what that changed."""
    parser = run_parser(
        "refit",
        "Fit another prior to a trained run, as a new run with the same encoder and decoder. Check that the ELBO "
        "changed by KL(q(z)||old prior) - KL(q(z)||new prior) and that nothing else changed. Settings not given here "
        "are those of the run, not the defaults shown. Exit code "
        f"{CheckError.exit_code} if the check fails.",
    )
    add_flags(parser, Config, ("prior",))
    parser.add_argument(
        "--old-prior",
        type=str,
        default="",
        help="the prior of RUN, if it is your own, as file.py:Class or module:Class",
    )
    add_places(parser, [family for family in FAMILIES if family != "prior"])
    parser.add_argument("--out", type=str, default="", help="folder of the new run; by default RUN-PRIOR, next to RUN")
    add_flags(parser, Config, FLAGS)
    add_flags(parser, Plan, ("latent_data", "latent_samples"))
    arguments, given = parser.parse_args(argv), given_flags(parser, argv)
    with exit_codes(arguments=vars(arguments)):
        if "prior" not in given:
            raise UsageError("name the new prior, e.g. `prior='vamp'`")
        plan, source = settings_from(arguments, Plan), Path(arguments.run)
        places.check_run(source)
        tables.check_name("PRIORS", arguments.prior)
        name = short_name(arguments.prior)
        folder = Path(arguments.out) if arguments.out else source.with_name(f"{source.name}-{name}")
        files.check_folder(folder)
        new = own_code.offered({"prior": [arguments.prior]})[0] if is_place(arguments.prior) else None
        own = own_code.offered({**vars(arguments), "prior": [arguments.old_prior] if arguments.old_prior else []})

        from pyro_vae.experiment import build
        from pyro_vae.experiment.run.trained_run import newest_checkpoint, open_run
        from pyro_vae.experiment.studies import refitting
        from pyro_vae.experiment.train.progress_bar import progress_bar  # here, since --help needs no torch

        before = newest_checkpoint(source).config
        own_code.check_served(own, before)
        if is_place(before.prior) and not arguments.old_prior:
            raise UsageError(
                f"the prior of {source} is code of your own, which is not stored with the run: name it with "
                f"`old_prior={before.prior}`"
            )
        trained = open_run(source, **placed(vars(arguments)), own=own)
        config = refitting.refitted_config(
            trained.config,
            new.name if new else arguments.prior,
            {name: getattr(arguments, name) for name in given & set(FLAGS)},
            new,
        )
        for name in sorted(given & set(build.unused(config))):
            print(f"note: {name} has no effect: --prior {config.prior} does not take it", file=sys.stderr)
        swaps = refitting.refit(trained, config, folder, plan, display=progress_bar)
        print(f"\n{(folder / 'refit.txt').read_text(encoding='utf-8')}\nIn {folder}: an ordinary run, with refit.json.")
        if faults := [fault for swap in swaps for fault in swap.faults()]:
            raise CheckError(f"more than the prior has changed: {'; '.join(faults)}")
