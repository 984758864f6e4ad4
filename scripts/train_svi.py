"""Train a variational autoencoder by stochastic variational inference, and report how good it is.

python scripts/train_svi.py --likelihood bernoulli
python scripts/train_svi.py --dataset mnist --data-dir data --epochs 20 --out runs/mnist
python scripts/train_svi.py --out runs/mnist --resume
"""

import sys
import time
from pathlib import Path

from pyro_vae.errors import UsageError
from pyro_vae.experiment.command_line import config_from, config_parser, exit_codes, given_flags
from pyro_vae.experiment.config import Config


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
    from pyro_vae.experiment import build, console, reporting
    from pyro_vae.experiment.run import Run, new_folder
    from pyro_vae.inference import fit

    # Data, program, step.
    data = build.data(config)
    vae = build.vae(config, *data.form)
    build.start(config, vae, data)
    svi = build.svi(config, vae)
    for name in build.unused(config):
        print(f"note: {name}={getattr(config, name)} has no effect: the members chosen do not take it", file=sys.stderr)

    # The run folder, new or taken up again.
    run = Run(folder or new_folder(Path("runs"), config), config)
    progress, complaints = run.open(vae, svi, data.protocol)
    for complaint in complaints:
        print(f"warning: {complaint} Going on from an older checkpoint.", file=sys.stderr)
    again = f", going on after epoch {progress.epoch}" if progress.epoch else ""
    print(f"{config.dataset}: {len(data.train):,} data to train on; run folder {run.path}{again}", flush=True)

    # Training, then the report on the best epoch, on test data.
    begun = time.perf_counter()
    with run.status_on_exit():
        done = progress.epoch
        with console.progress(config.epochs, done) as show, console.tensorboard(run.path, tensorboard, done) as log:
            epochs = fit(
                vae, svi, data, build.schedule(config),
                conditional=config.conditional, seed=config.seed, progress=progress,
            )  # fmt: skip
            for record in epochs:
                run.save(record, vae, svi, progress, data.form)
                show(record)
                log(record)
        trained = time.perf_counter() - begun
        text = reporting.write(run, vae, data, progress)
        seconds = time.perf_counter() - begun
        run.set_status("finished", seconds={"training": round(trained, 1), "report": round(seconds - trained, 1)})
    print(f"\n{text}\n\n{seconds:.0f} s. In {run.path}: report.json, report.txt, pictures (*.png), checkpoints.")


if __name__ == "__main__":
    main()
