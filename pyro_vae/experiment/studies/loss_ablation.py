r"""Only reconstruction, only KL, both: three runs that differ in the weights of the loss and in nothing else.

With alpha the `reconstruction_weight` and beta the `kl_weight`, the loss of a datum in nats is

.. math:: -\alpha \, E_q[\log p(x|z)] + \beta \, \mathrm{KL}(q(z|x) \,\|\, p(z))

The numbers describe the program itself, whatever its loss was: its ELBO, its log p(x), its q(z).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from pyro_vae import evaluation
from pyro_vae.errors import UsageError
from pyro_vae.evaluation import Estimate, subset
from pyro_vae.experiment import build
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.evaluate.evaluation_plan import Plan
from pyro_vae.experiment.own_members import OwnMember
from pyro_vae.experiment.run import files
from pyro_vae.experiment.run.changes_on_resume import config_for_resume
from pyro_vae.experiment.run.evaluation_data import DataInMemory
from pyro_vae.experiment.run.run_folder import Run
from pyro_vae.experiment.run.trained_run import TrainedRun, open_run
from pyro_vae.experiment.studies.ablated_losses import WEIGHTS, ablated
from pyro_vae.experiment.train import training
from pyro_vae.experiment.train.epoch_display import Display, Wording, as_it_is, nothing
from pyro_vae.model.program import undisturbed
from pyro_vae.model.vae import VAE
from pyro_vae.progress import through
from pyro_vae.randomness import derive, stream
from pyro_vae.report.documents.ablation_document import ablation_document, ablation_rows
from pyro_vae.report.draw.ablation_figure import AblationView, ablation_picture
from pyro_vae.report.draw.images import Key, can_show
from pyro_vae.report.render.csv_file import to_csv
from pyro_vae.report.render.plain_text import to_text
from pyro_vae.threads import computing

_CLOUD, _ELLIPSES = 2000, 60  # data whose z is drawn, and how many of them have an ellipse round their q(z|x)
PRINCIPAL_AXES = ("first principal axis of the means of q(z|x)", "second")  # where z has more than two dimensions
_SIDE, _SHOWN, _DRAWN = 8, 8, 3  # rows of samples; data that are reconstructed, and how often


@dataclass(frozen=True)
class Ablated:
    """The numbers of one run, in nats per datum.

    Attributes:
        bounds: "test" or "train" -> "elbo", "reconstruction", "kl", "log_likelihood" -> its estimate.
        khat: "test" or "train" -> the share of data whose k-hat is above 0.7, under the draws of log_likelihood; None
            where these are too few to tell.
        aggregate: "marginal_kl" and "mutual_information" -> its estimate, on training data of all labels together;
            None for the first where p(z|y) differs between labels.
        active_units: how many of the latent dimensions are used, on training data.
        latent_dim: D.
        best_epoch: the epoch that was kept.
        epochs: how many epochs were trained.
    """

    bounds: Mapping[str, Mapping[str, Estimate]]
    khat: Mapping[str, float | None]
    aggregate: Mapping[str, Estimate | None]
    active_units: int
    latent_dim: int
    best_epoch: int
    epochs: int

    def to_dict(self) -> dict[str, Any]:
        """Converts to plain values for JSON."""
        return {
            **{held: {name: e.to_dict() for name, e in bounds.items()} for held, bounds in self.bounds.items()},
            "khat_above_0.7": dict(self.khat),
            **{name: estimate and estimate.to_dict() for name, estimate in self.aggregate.items()},
            "active_units": self.active_units,
            "latent_dim": self.latent_dim,
            "best_epoch": self.best_epoch,
            "epochs": self.epochs,
        }

    def gaps(self) -> dict[str, tuple[float, float]]:
        """Computes how much better the run is on training data than on test data.

        Returns:
            "elbo" and "reconstruction" -> mean on training data minus mean on test data, and its standard error over
            the data.
        """
        train, test, names = self.bounds["train"], self.bounds["test"], ("elbo", "reconstruction")
        gaps = {name: evaluation.train_test_gap(train[name], test[name]) for name in names}
        return {name: (gap.mean, gap.standard_error) for name, gap in gaps.items()}


def train(
    folder: Path,
    config: Config,
    given: set[str],
    *,
    resume: bool = False,
    display: Display = nothing,
    wording: Wording = as_it_is,
) -> None:
    """Trains the three runs below a folder, each in one of its own. A finished run is left as it is.

    Args:
        folder: it holds one folder for each key of `WEIGHTS`.
        config: the settings of all three, except the weights.
        given: the names of the settings that were given explicitly, which must agree with runs that are there already.
        resume: whether such runs are allowed.
        display: how epochs are shown.
        wording: turns notes on data and settings into the reader's words.

    Raises:
        UsageError: there are runs and `resume` is False, settings contradict them, a weight is given, or the program
            has not one KL of one layer.
    """
    configs = ablated(config, given)
    places = {name: place(folder, name) for name in WEIGHTS}
    there = [path for path in places.values() if Run(path, config).exists()]
    if there and not resume:
        raise UsageError(f"{there[0]} already holds a run: add `resume=True` to go on, or use another `folder`")
    if there:
        configs = ablated(config_for_resume(there[0], config, given), given)
    for name, weighted in through("runs", configs.items(), len(configs)):
        weights = f"reconstruction_weight {weighted.reconstruction_weight:g}, kl_weight {weighted.kl_weight:g}"
        print(f"\n{name}: {weights}", flush=True)
        run = Run(places[name], weighted)
        if run.exists() and run.is_finished():
            print(f"{places[name]} is finished: skipped")
        else:
            training.train(run, check=not there and name == next(iter(WEIGHTS)), display=display, wording=wording)


def place(folder: Path, name: str) -> Path:
    """Returns the folder of one of the three runs.

    Args:
        folder: the folder of all three.
        name: a key of `WEIGHTS`.

    Example:
        >>> place(Path("out"), "only KL")
        PosixPath('out/only-kl')
    """
    return folder / name.lower().replace(" ", "-")


def report(folder: Path, plan: Plan, data_dir: str = "", own: Iterable[OwnMember] = ()) -> str:
    """Measures the three runs and writes ablation.txt, .json, .csv and .png into the folder.

    Args:
        folder: what `train` was given.
        plan: how many draws, and of how many data.
        data_dir: where the data are, if not where they were in training.
        own: classes of a user's own that the runs name.

    Returns:
        The text of the report.

    Raises:
        CheckpointError: a run is not there, or is damaged.
        DataError: the data are not there.
        StorageError: the folder cannot be written to.
    """
    own = list(own)
    runs = {name: open_run(place(folder, name), data_dir=data_dir, own=own) for name in WEIGHTS}
    each = through("runs measured", runs.items(), len(runs))
    measured = {name: measure(trained, plan) for name, trained in each}
    views = {name: view(trained, plan.evaluation_seed) for name, trained in runs.items()}
    both, numbers = runs["both"], {name: run.to_dict() for name, run in measured.items()}
    gaps = {name: run.gaps() for name, run in measured.items()}
    text = to_text(ablation_document(numbers, gaps, is_conditional=both.config.conditional))
    files.write(folder / "ablation.txt", (text + "\n").encode())
    files.write(folder / "ablation.json", files.to_json(numbers))
    files.write(folder / "ablation.csv", to_csv(ablation_rows(numbers)).encode())
    key = Key(*build.shown_range(both.config, both.data.form, both.data.protocol), both.data.classes)
    files.write(folder / "ablation.png", ablation_picture(views, key))
    return text


def measure(trained: TrainedRun, plan: Plan) -> Ablated:
    """Estimates the numbers of one run, on test and on training data, each with its errors.

    Args:
        trained: the run.
        plan: how many draws, and of how many data.
    """
    with computing(trained.threads):
        return _measured(trained, plan)


def _measured(trained: TrainedRun, plan: Plan) -> Ablated:
    data = {"test": trained.test(plan.test_data), "train": trained.training(plan.latent_data)}
    measured = {name: _bounds(trained.one_layer, held, plan) for name, held in data.items()}
    x, y, _ = data["train"]
    noise = derive(plan.evaluation_seed, "ablation")
    return Ablated(
        bounds={name: bounds for name, (bounds, _) in measured.items()},
        khat={name: share for name, (_, share) in measured.items()},
        aggregate=_aggregate(trained.one_layer, data["train"], plan.latent_samples, noise),
        active_units=sum(evaluation.active_units(trained.vae, x, y, seed=noise).count.values()),
        latent_dim=trained.config.latent_dim,
        best_epoch=trained.best_epoch,
        epochs=trained.epochs,
    )


@torch.no_grad()
def view(trained: TrainedRun, seed: int) -> AblationView:
    """Makes what is drawn of one run: draws of q(z|x) and p(z), samples, reconstructions of test data.

    Args:
        trained: the run.
        seed: the seed of all draws.
    """
    vae, (x, y, labels) = trained.one_layer, trained.test(_CLOUD)
    with stream(seed, "ablation cloud", device=x.device), undisturbed(vae):
        q, p = vae.posterior(x, y), vae.prior(y)
        z, prior, centres = q.sample(), p.expand((len(x),)).sample(), vae.posterior.centre(x, y)
    D, ellipses = z.shape[1], None
    axes = torch.eye(D, 2).to(z) if D <= 2 else torch.linalg.svd(centres - centres.mean(0))[2][:2].T
    if D == 2 and isinstance(q, Independent) and isinstance(q.base_dist, Normal):
        ellipses = torch.stack([q.mean, q.stddev], 1)[:_ELLIPSES].cpu()
    names = ("z1", "z2") if D <= 2 else PRINCIPAL_AXES
    return AblationView((z @ axes).cpu(), (prior @ axes).cpu(), labels, ellipses, names, *_images(trained, x, y, seed))


def _bounds(vae: VAE, data: DataInMemory, plan: Plan) -> tuple[dict[str, Estimate], float | None]:
    """Estimates ELBO, reconstruction, KL and log p(x), and the share of data whose k-hat is above 0.7."""
    noise = derive(plan.evaluation_seed, "ablation")
    elbo, reconstruction, kl = evaluation.elbo_terms(vae, data.x, plan.elbo_samples, data.y, noise)
    curve = evaluation.iwae_curve(vae, data.x, plan.num_samples, data.y, noise)
    bounds = {
        "elbo": elbo,
        "reconstruction": reconstruction,
        "kl": kl,
        "log_likelihood": curve.bounds[plan.num_samples],
    }
    return bounds, evaluation.share_above(curve.khat)


def _aggregate(vae: VAE, data: DataInMemory, num_samples: int, seed: int) -> dict[str, Estimate | None]:
    """Estimates the terms of q(z) of all labels together; there is no marginal KL without a single p(z)."""
    try:
        terms = evaluation.aggregate_terms(vae, data.x, num_samples, data.y, seed)
    except ValueError:  # an error with any other cause is raised again by the next line
        information = evaluation.mutual_information(vae, data.x, num_samples, data.y, seed)
        return {"marginal_kl": None, "mutual_information": information}
    return {"marginal_kl": terms.marginal_kl, "mutual_information": terms.mutual_information}


def _images(trained: TrainedRun, x: Tensor, y: Tensor | None, seed: int) -> tuple[Tensor | None, Tensor | None]:
    if not can_show(trained.data.x_shape):
        return None, None
    vae, shown = trained.vae, subset(len(x), _SHOWN, seed)
    labels = None if y is None else torch.eye(y.shape[1]).to(y).repeat(_SIDE**2, 1)[: _SIDE**2]
    with stream(seed, "ablation images", device=x.device):
        samples = vae.generate(_SIDE**2 if labels is None else None, labels, mean=True)
        means = vae.reconstruct(x[shown], None if y is None else y[shown], num_samples=_DRAWN)
    return samples.cpu(), torch.cat([x[shown][None], means]).cpu()
