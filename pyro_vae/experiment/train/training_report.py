"""The report of a finished run: numbers and pictures of its best epoch, on test data, into its folder."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pyro_vae.data import Splits
from pyro_vae.evaluation import Estimate, classify, is_rounded, rounding_loss, subset
from pyro_vae.experiment import build, presets
from pyro_vae.experiment.run import files
from pyro_vae.experiment.run.evaluation_data import DataInMemory
from pyro_vae.experiment.run.run_folder import Run
from pyro_vae.experiment.run.trained_run import TrainedRun
from pyro_vae.inference import Progress
from pyro_vae.model.autoencoder import Autoencoder
from pyro_vae.randomness import derive
from pyro_vae.report import headline
from pyro_vae.report.draw import images

# What only an evaluation writes: of the model before, where training went on after it.
EVALUATED = ("report.html", "report.md", "report.csv", "report.tex", "data.csv", "log_likelihood.nc", "timings.json")


def write(run: Run, vae: Autoencoder, data: Splits, progress: Progress) -> str:
    """Writes report.json, report.txt and the pictures, removes what an evaluation had left, and returns the text."""
    for name in EVALUATED:
        files.remove(run.path / name)
    trained = TrainedRun(run, vae, data, progress.best_epoch, progress.epoch)
    test, config, seed = trained.test(), run.config, derive(run.config.seed, "evaluation")
    draws = {"elbo_samples": config.elbo_samples, "likelihood_samples": config.test_samples}
    with build.estimating(config, len(test.x) * config.test_samples):
        estimates = headline.measure(vae, test.x, test.y, **draws, seed=seed)
    classification = classes(trained, test, estimates, config.elbo_samples, seed)
    found = describe(trained, estimates, classification, rounding(trained, test, config.elbo_samples, seed))
    text = headline.to_text(found)
    files.write(run.path / "report.json", files.to_json(found))
    files.write(run.path / "report.txt", (text + "\n").encode())
    files.write(run.path / "training.png", images.training(run.history.records()))
    if images.can_show(data.x_shape):
        _write_images(trained, test)
    return text


def describe(
    trained: TrainedRun,
    estimates: Mapping[str, Estimate],
    classification: Mapping[str, Any] | None,
    precision: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What report.json says of these estimates: always those of the model itself, without loss weights."""
    epoch = trained.best_epoch
    training = {
        "epochs": trained.epochs,
        "best_epoch": epoch,
        "valid_elbo": trained.run.history.records()[epoch - 1]["valid_elbo"],
    }
    report = headline.to_dict(
        estimates,
        trained.data.protocol,
        training,
        trained.config.scientific(),
        discrete=trained.vae.likelihood.support.is_discrete,
        scales=trained.vae.likelihood.scales(),
        classification=classification,
        precision=precision,
    )
    num_data = estimates["reconstruction"].num_data  # an evaluation may take others than its run was to be tested on
    config = replace(trained.config, test_data=num_data if num_data < len(trained.data.test) else 0)
    cut = trained.epochs < config.epochs and not config.patience
    held_against = presets.verdict(
        config, report["test"], math.prod(trained.data.x_shape), {"epochs": trained.epochs} if cut else None
    )
    return report if held_against is None else {**report, "preset": held_against}


def classes(
    trained: TrainedRun, test: DataInMemory, estimates: Mapping[str, Estimate], num_samples: int, seed: int
) -> dict[str, Any] | None:
    """How a conditional program with a log p(x|y) classifies the test data; None for any other."""
    if test.y is None or test.labels is None or "log_likelihood" not in estimates:
        return None
    frequencies = trained.data.train.one_hot(trained.data.num_classes).mean(0)
    return headline.classification(classify(trained.vae, test.x, frequencies, num_samples, seed), test.labels)


def rounding(trained: TrainedRun, test: DataInMemory, num_samples: int, seed: int) -> dict[str, Any] | None:
    """What networks in bfloat16 change in the ELBO of the test data; None where all are in float32."""
    if not is_rounded(trained.vae):
        return None
    return headline.rounding(rounding_loss(trained.vae, test.x, num_samples, test.y, seed=seed))


def _write_images(trained: TrainedRun, test: DataInMemory) -> None:
    config, folder = trained.config, trained.run.path
    white = build.white(config, trained.data.form)
    shown = subset(len(test.x), 12, config.data_seed)
    y = None if test.y is None else test.y[shown]
    rows = images.reconstructions(trained.vae, test.x[shown], config.seed, y=y, white=white)
    files.write(folder / "reconstructions.png", rows)
    num_classes = trained.data.num_classes if config.conditional else 0
    generated = images.samples(trained.vae, config.seed, num_classes=num_classes, white=white)
    files.write(folder / "samples.png", generated)
