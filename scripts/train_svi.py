"""Train a variational autoencoder by stochastic variational inference, and report how good it is.

python scripts/train_svi.py --likelihood bernoulli
python scripts/train_svi.py --dataset mnist --data-dir data --epochs 20 --out runs/mnist
python scripts/train_svi.py --out runs/mnist --resume
"""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pyro_vae.errors import UsageError
from pyro_vae.experiment.command_line import config_from, config_parser, exit_codes, given_flags
from pyro_vae.experiment.config import Config

# Whatever imports torch is imported where it is used, so that --help and a mistyped flag answer at once.
if TYPE_CHECKING:
    from pyro_vae.data import Splits
    from pyro_vae.experiment.run import Run
    from pyro_vae.inference import Progress
    from pyro_vae.model.vae import VAE


def main(argv: list[str] | None = None) -> None:
    parser = config_parser("Train a variational autoencoder by SVI, and report how good it is.")
    parser.add_argument("--out", type=str, default="", help="run folder; by default a new one below runs/")
    parser.add_argument("--resume", action="store_true", help="go on in --out from its newest checkpoint")
    parser.add_argument("--tensorboard", action="store_true", help="also write the epochs as TensorBoard scalars")
    arguments = parser.parse_args(argv)
    with exit_codes():
        if arguments.resume and not arguments.out:
            raise UsageError("--resume needs to know the run: add --out FOLDER")
        config = config_from(arguments)
        folder = Path(arguments.out) if arguments.out else None
        if folder and folder.exists():
            resume(folder, config, given_flags(parser, argv), arguments.tensorboard, allowed=arguments.resume)
        else:
            train(folder, config, arguments.tensorboard)


def resume(folder: Path, config: Config, given: set[str], tensorboard: bool, *, allowed: bool) -> None:
    from pyro_vae.experiment.run import Run, config_for_resume

    if not Run(folder, config).exists():
        train(folder, config, tensorboard)
        return
    if not allowed:
        raise UsageError(f"{folder} holds a run already: add --resume to go on with it, or use another --out")
    run = Run(folder, config_for_resume(folder, config, given))
    if run.is_finished():
        print(f"{folder} is finished. Its report:\n\n{(folder / 'report.txt').read_text(encoding='utf-8')}")
    else:
        train(folder, run.config, tensorboard)


def train(folder: Path | None, config: Config, tensorboard: bool) -> None:
    from pyro_vae.experiment import build, console
    from pyro_vae.experiment.run import Run, new_folder
    from pyro_vae.inference import fit

    # Data, program, step.
    data = build.data(config)
    vae = build.vae(config, data.x_shape)
    for split in (data.train, data.valid, data.test):
        vae.likelihood.check(split.fixed())
    vae.likelihood.start_at(data.train.expected())
    svi = build.svi(config, vae)

    # The run folder, new or taken up again.
    run = Run(folder or new_folder(Path("runs"), config), config)
    progress, complaints = run.open(vae, svi, data.protocol)
    for complaint in complaints:
        print(f"warning: {complaint} Going on from an older checkpoint.", file=sys.stderr)
    again = f", going on after epoch {progress.epoch}" if progress.epoch else ""
    print(f"{config.dataset}: {len(data.train):,} data to train on; run folder {run.path}{again}", flush=True)

    # Training, then the report on the best epoch.
    begun = time.perf_counter()
    with run.status_on_exit():
        done = progress.epoch
        with console.progress(config.epochs, done) as show, console.tensorboard(run.path, tensorboard, done) as log:
            for record in fit(vae, svi, data, build.schedule(config), seed=config.seed, progress=progress):
                run.save(record, vae, svi, progress, data.x_shape)
                show(record)
                log(record)
        trained = time.perf_counter() - begun
        text = report(run, vae, data, progress)
        seconds = time.perf_counter() - begun
        run.set_status("finished", seconds={"training": round(trained, 1), "report": round(seconds - trained, 1)})
    print(f"\n{text}\n\n{seconds:.0f} s. In {run.path}: report.json, report.txt, pictures (*.png), checkpoints.")


def report(run: "Run", vae: "VAE", data: "Splits", progress: "Progress") -> str:
    from pyro_vae.evaluation import subset
    from pyro_vae.experiment import storage
    from pyro_vae.randomness import derive
    from pyro_vae.report import numbers, pictures

    # Numbers: always those of the model itself, without loss weights, on test data.
    config = run.config
    x = data.test.fixed()
    if 0 < config.test_data < len(x):
        x = x[subset(len(x), config.test_data, config.data_seed)]
    x = x.to(config.device)
    history = run.history()
    estimates = numbers.measure(
        vae, x, elbo_samples=config.elbo_samples, likelihood_samples=config.test_samples,
        seed=derive(config.seed, "evaluation"),
    )  # fmt: skip
    found = numbers.to_dict(
        estimates,
        data.protocol,
        {
            "epochs": progress.epoch,
            "best_epoch": progress.best_epoch,
            "valid_elbo": history[progress.best_epoch - 1]["valid_elbo"],
        },
        config.scientific(),
    )
    text = numbers.to_text(found)
    storage.write(run.path / "report.json", storage.to_json(found))
    storage.write(run.path / "report.txt", (text + "\n").encode())

    # Pictures.
    storage.write(run.path / "training.png", pictures.training(history))
    if pictures.can_show(data.x_shape):
        shown = x[subset(len(x), 12, config.data_seed)]
        storage.write(run.path / "samples.png", pictures.samples(vae, config.seed))
        storage.write(run.path / "reconstructions.png", pictures.reconstructions(vae, shown, config.seed))
    return text


if __name__ == "__main__":
    main()
