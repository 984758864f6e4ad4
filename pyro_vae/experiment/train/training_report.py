"""Writes the report of a training into its folder: the headline of an evaluation of its best epoch, and pictures."""

from pyro_vae.data import Splits
from pyro_vae.experiment import run_pictures
from pyro_vae.experiment.evaluate import expected_work
from pyro_vae.experiment.evaluate.evaluated_run import HeadlinePlan
from pyro_vae.experiment.evaluate.measurements import Look, evaluate
from pyro_vae.experiment.run import files
from pyro_vae.experiment.run.run_folder import Run
from pyro_vae.experiment.run.trained_run import TrainedRun
from pyro_vae.inference import Progress
from pyro_vae.model.autoencoder import Autoencoder
from pyro_vae.progress import section
from pyro_vae.report.documents.training_document import training_document
from pyro_vae.report.render.plain_text import to_text

# Files that only an evaluation writes. Where training went on after it, they describe an older model.
EVALUATED = ("report.html", "report.md", "report.csv", "report.tex", "data.csv", "log_likelihood.nc", "timings.json")


def write(run: Run, vae: Autoencoder, data: Splits, progress: Progress) -> str:
    """Writes report.json, report.txt and the pictures, and removes what an evaluation had left.

    Args:
        run: the folder of the run.
        vae: the program, with the values of its best epoch.
        data: the data, of which the test data are reported on.
        progress: how far the training came.

    Returns:
        The text of the report.
    """
    for name in EVALUATED:
        files.remove(run.path / name)
    plan = HeadlinePlan(elbo_samples=run.config.elbo_samples, num_samples=run.config.test_samples)
    trained = TrainedRun(run, vae, data, progress.best_epoch, progress.epoch)
    with expected_work.planned(trained, plan):
        look = evaluate(trained, plan)
        with section("files", "pictures and files"):
            return _written(run, look)


def _written(run: Run, look: Look) -> str:
    text = to_text(training_document(look.report))
    files.write(run.path / "report.json", files.to_json(look.report))
    files.write(run.path / "report.txt", (text + "\n").encode())
    for name, picture in run_pictures.kept(run_pictures.Source(look.trained, look.test, look.report)):
        files.write(run.path / name, picture)
    return text
