"""Only reconstruction, only KL, both: three runs that differ in the weights of the loss and in nothing else.

    loss = -reconstruction_weight * E_q[log p(x|z)] + kl_weight * KL(q(z|x) || p(z))

Whatever the loss was, the numbers are those of the program itself: its ELBO, its log p(x), its q(z).
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from pyro_vae import evaluation
from pyro_vae.errors import UsageError
from pyro_vae.evaluation import Estimate, subset
from pyro_vae.experiment import build
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.evaluate.effort import Plan
from pyro_vae.experiment.run import files
from pyro_vae.experiment.run.changes_on_resume import config_for_resume
from pyro_vae.experiment.run.evaluation_data import DataInMemory
from pyro_vae.experiment.run.run_folder import Run
from pyro_vae.experiment.run.trained_run import TrainedRun, open_run
from pyro_vae.experiment.train import training
from pyro_vae.model.program import undisturbed
from pyro_vae.model.vae import VAE
from pyro_vae.randomness import derive, stream
from pyro_vae.report import ablation_report
from pyro_vae.report.ablation_report import Column, Panel
from pyro_vae.report.draw.images import can_show

WEIGHTS = {"only reconstruction": (1.0, 0.0), "only KL": (0.0, 1.0), "both": (1.0, 1.0)}
_CLOUD, _ELLIPSES = 2000, 60  # data whose z is drawn; with an ellipse round their q(z|x)
_SIDE, _SHOWN, _DRAWN = 8, 8, 3  # rows of samples; data that are reconstructed, and how often


def train(folder: Path, config: Config, given: set[str], *, resume: bool = False) -> None:
    """Trains the three runs below a folder, each in one of its own; what is finished is left as it is.

    Args:
        folder: it holds one folder for each key of `WEIGHTS`.
        config: of all three, but for the weights.
        given: names of the flags that were given explicitly, which must agree with runs that are there already.
        resume: whether there may be any.

    Raises:
        UsageError: there are, and may not; or flags that contradict them, or that set a weight.
    """
    if weights := sorted(given & {"kl_weight", "reconstruction_weight"}):
        raise UsageError(f"--{weights[0].replace('_', '-')} is what the three runs differ in: leave it out")
    if config.posterior == "delta":
        raise UsageError("--posterior delta has no finite KL, so that two of the three losses do not exist")
    if config.layers == 2:
        raise UsageError("--layers 2 has two KLs to leave out, and these runs differ in one: leave it out")
    places = {name: place(folder, name) for name in WEIGHTS}
    there = [path for path in places.values() if Run(path, config).exists()]
    if there and not resume:
        raise UsageError(f"{there[0]} holds a run already: add --resume to go on, or use another --out")
    if there:
        config = config_for_resume(there[0], config, given)
    for name, (reconstruction, kl) in WEIGHTS.items():
        weighted = replace(config, reconstruction_weight=reconstruction, kl_weight=kl)
        build.check_names(weighted)
        print(f"\n{name}: reconstruction_weight {reconstruction:g}, kl_weight {kl:g}", flush=True)
        run = Run(places[name], weighted)
        if run.exists() and run.is_finished():
            print(f"{places[name]} is finished: skipped")
        else:
            training.train(run)


def place(folder: Path, name: str) -> Path:
    """The folder of one of the three runs.

    >>> place(Path("out"), "only KL")
    PosixPath('out/only-kl')
    """
    return folder / name.lower().replace(" ", "-")


def report(folder: Path, plan: Plan, data_dir: str = "") -> str:
    """Measures the three runs and writes ablation.txt, .json, .csv and .png into the folder. Returns the text.

    Args:
        folder: as `train` left it.
        plan: how many draws, and of how many data.
        data_dir: where the data are, if not where training found them.
    """
    runs = {name: open_run(place(folder, name), data_dir=data_dir) for name in WEIGHTS}
    columns = {name: measure(trained, plan) for name, trained in runs.items()}
    panels = {name: panel(trained, plan.evaluation_seed) for name, trained in runs.items()}
    both, text = runs["both"], ablation_report.to_text(columns)
    files.write(folder / "ablation.txt", (text + "\n").encode())
    files.write(folder / "ablation.json", files.to_json({name: c.to_dict() for name, c in columns.items()}))
    files.write(folder / "ablation.csv", ablation_report.to_csv(columns).encode())
    white = build.white(both.config, both.data.form)
    files.write(folder / "ablation.png", ablation_report.picture(panels, white))
    return text


def measure(trained: TrainedRun, plan: Plan) -> Column:
    """The numbers of one run, on test and on training data, each with its errors."""
    data = {"test": trained.test(plan.test_data or None), "train": trained.training(plan.latent_data)}
    found = {name: _bounds(trained.one_layer, held, plan) for name, held in data.items()}
    x, y, _ = data["train"]
    noise = derive(plan.evaluation_seed, "ablation")
    return Column(
        bounds={name: bounds for name, (bounds, _) in found.items()},
        khat={name: share for name, (_, share) in found.items()},
        aggregate=_aggregate(trained.one_layer, data["train"], plan.latent_samples, noise),
        active_units=sum(evaluation.active_units(trained.vae, x, y, seed=noise).count.values()),
        latent_dim=trained.config.latent_dim,
        best_epoch=trained.best_epoch,
        epochs=trained.epochs,
        is_conditional=trained.config.conditional,
    )


@torch.no_grad()
def panel(trained: TrainedRun, seed: int) -> Panel:
    """What is drawn of one run: draws of q(z|x) and p(z), samples, reconstructions of test data."""
    vae, (x, y, labels) = trained.one_layer, trained.test(_CLOUD)
    with stream(seed, "ablation cloud", device=x.device), undisturbed(vae):
        q, p = vae.posterior(x, y), vae.prior(y)
        z, prior, centres = q.sample(), p.expand((len(x),)).sample(), vae.posterior.centre(x, y)
    D, ellipses = z.shape[1], None
    axes = torch.eye(D, 2).to(z) if D <= 2 else torch.linalg.svd(centres - centres.mean(0))[2][:2].T
    if D == 2 and isinstance(q, Independent) and isinstance(q.base_dist, Normal):
        ellipses = torch.stack([q.mean, q.stddev], 1)[:_ELLIPSES].cpu()
    names = ("z1", "z2") if D <= 2 else ("first principal axis of the means of q(z|x)", "second")
    return Panel((z @ axes).cpu(), (prior @ axes).cpu(), labels, ellipses, names, *_images(trained, x, y, seed))


def _bounds(vae: VAE, data: DataInMemory, plan: Plan) -> tuple[dict[str, Estimate], float | None]:
    """ELBO, reconstruction, KL and log p(x), and the share of data whose k-hat is above 0.7."""
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
    """Of data of all labels together; no marginal KL where p(z|y) differs between them, as there is no one p(z)."""
    try:
        found = evaluation.aggregate_terms(vae, data.x, num_samples, data.y, seed)
    except ValueError:  # any other reason than the prior is raised again by the next line
        information = evaluation.mutual_information(vae, data.x, num_samples, data.y, seed)
        return {"marginal_kl": None, "mutual_information": information}
    return {"marginal_kl": found.marginal_kl, "mutual_information": found.mutual_information}


def _images(trained: TrainedRun, x: Tensor, y: Tensor | None, seed: int) -> tuple[Tensor | None, Tensor | None]:
    if not can_show(trained.data.x_shape):
        return None, None
    vae, shown = trained.vae, subset(len(x), _SHOWN, seed)
    labels = None if y is None else torch.eye(y.shape[1]).to(y).repeat(_SIDE**2, 1)[: _SIDE**2]
    with stream(seed, "ablation images", device=x.device):
        samples = vae.generate(_SIDE**2 if labels is None else None, labels, mean=True)
        means = vae.reconstruct(x[shown], None if y is None else y[shown], num_samples=_DRAWN)
    return samples.cpu(), torch.cat([x[shown][None], means]).cpu()
