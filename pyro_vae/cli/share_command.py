"""Share a trained run with others."""

from pathlib import Path

from jsonargparse import ActionYesNo

from pyro_vae.cli import own_code
from pyro_vae.cli.command_ending import exit_codes
from pyro_vae.cli.parser import Parser, add_places
from pyro_vae.experiment.run import files, places


def main(argv: list[str] | None = None) -> None:
    """Writes the folder, and sends it to the hub where that is wanted."""
    parser = Parser(
        "share",
        "Write the program of a trained run as a folder for others: model.safetensors, config.json and a "
        'model card. pyro_vae.load(FOLDER) loads it, and pyro_vae.load("hf://user/name") loads it from the hub.',
        "RUN",
    )
    parser.add_argument("run", type=str, help="folder of a trained run")
    parser.add_argument(
        "--out",
        type=str,
        required=True,
        help="folder to write; if it was shared before, its files are replaced, including README.md",
    )
    parser.add_argument(
        "--name", type=str, default="", help="name of the model; by default the name of the run's folder"
    )
    parser.add_argument(
        "--license",
        type=str,
        default="",
        help="licence of the weights, as the hub names it, e.g. apache-2.0; by default none",
    )
    parser.add_argument(
        "--pictures",
        action=ActionYesNo(no_prefix="no-"),
        default=True,
        help="include samples.png, and reconstructions.png or columns.png, which show test data",
    )
    parser.add_argument(
        "--push", type=str, default="", help="upload it to user/name on the hub; a new repository is private"
    )
    add_places(parser)
    arguments = parser.parse_args(argv)
    with exit_codes(arguments=vars(arguments)):
        places.check_run(arguments.run)
        files.check_folder(Path(arguments.out))

        from pyro_vae.experiment.run.trained_run import newest_checkpoint  # here, since --help needs no torch
        from pyro_vae.experiment.share import hub, sharing

        if arguments.push:
            hub.check(arguments.push)
        own = own_code.offered(vars(arguments))
        if own:
            own_code.check_served(own, newest_checkpoint(Path(arguments.run)).config)
        out = Path(arguments.out)
        was = "replaced" if (out / sharing.CONFIG).exists() else "written"
        folder = sharing.share(
            arguments.run,
            out,
            name=arguments.name,
            license_id=arguments.license,
            pictures=arguments.pictures,
            own=own,
        )
        there = [file for file in sharing.FILES if (folder / file).exists()]
        print(f"{was.capitalize()}, in {folder}: {', '.join(there)}. Check README.md before you share it.")
        if arguments.push:
            print(f"Sent: {hub.send(folder, arguments.push, there)}")
