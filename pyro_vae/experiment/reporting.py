"""The report of a finished run: numbers and pictures of its best epoch, on test data, into its folder."""

from pyro_vae.data import Splits
from pyro_vae.evaluation import classify, subset
from pyro_vae.experiment import build, storage
from pyro_vae.experiment.run import Run
from pyro_vae.experiment.trained import Held, held
from pyro_vae.inference import Progress
from pyro_vae.model.vae import VAE
from pyro_vae.randomness import derive
from pyro_vae.report import numbers, pictures


def write(run: Run, vae: VAE, data: Splits, progress: Progress) -> str:
    """Writes report.json, report.txt and the pictures, and returns the text."""
    test = held(run.config, data.test, data.num_classes)
    found = _numbers(run, vae, data, test, progress)
    text = numbers.to_text(found)
    storage.write(run.path / "report.json", storage.to_json(found))
    storage.write(run.path / "report.txt", (text + "\n").encode())
    storage.write(run.path / "training.png", pictures.training(run.history()))
    if pictures.can_show(data.x_shape):
        _write_images(run, vae, data, test)
    return text


def _numbers(run: Run, vae: VAE, data: Splits, test: Held, progress: Progress) -> dict[str, object]:
    # Always those of the model itself, without loss weights.
    config, seed = run.config, derive(run.config.seed, "evaluation")
    draws = {"elbo_samples": config.elbo_samples, "likelihood_samples": config.test_samples}
    estimates = numbers.measure(vae, test.x, test.y, **draws, seed=seed)
    classes = None
    if test.y is not None and test.labels is not None and "log_likelihood" in estimates:
        frequencies = data.train.one_hot(data.num_classes).mean(0)
        found = classify(vae, test.x, frequencies, config.elbo_samples, seed)
        classes = numbers.classification(found, test.labels)
    return numbers.to_dict(
        estimates,
        data.protocol,
        {
            "epochs": progress.epoch,
            "best_epoch": progress.best_epoch,
            "valid_elbo": run.history()[progress.best_epoch - 1]["valid_elbo"],
        },
        config.scientific(),
        discrete=vae.likelihood.support.is_discrete,
        scales=vae.likelihood.scales(),
        classification=classes,
    )


def _write_images(run: Run, vae: VAE, data: Splits, test: Held) -> None:
    config, white = run.config, build.white(run.config, data.form)
    shown = subset(len(test.x), 12, config.data_seed)
    y = None if test.y is None else test.y[shown]
    rows = pictures.reconstructions(vae, test.x[shown], config.seed, y=y, white=white)
    storage.write(run.path / "reconstructions.png", rows)
    num_classes = data.num_classes if config.conditional else 0
    generated = pictures.samples(vae, config.seed, num_classes=num_classes, white=white)
    storage.write(run.path / "samples.png", generated)
