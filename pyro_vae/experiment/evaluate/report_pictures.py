"""The pictures of an evaluated run, in the order in which a reader meets them."""

from collections.abc import Iterator

import torch
from torch import Tensor

from pyro_vae.evaluation import PosteriorDraws, PosteriorGrid, subset
from pyro_vae.experiment import build
from pyro_vae.experiment.evaluate.measurements import PICTURE_DIM, Look
from pyro_vae.report.draw import images, latent_figures, latent_pictures
from pyro_vae.report.draw.report_figures import of_report
from pyro_vae.report.render.html import Panel

SHOWN = 10  # data in a row
PAIRS = 3  # of data to go between
CLOUD = 2000  # codes in the cloud


def panels(look: Look) -> list[Panel]:
    """Every picture that this run and this evaluation allow."""
    latent = _latent(look) if look.trained.config.layers == 1 else ()
    return [*_learned(look), *latent, *of_report(look.report), *_posterior(look)]


def _learned(look: Look) -> Iterator[Panel]:
    trained = look.trained
    if images.can_show(trained.data.x_shape):
        yield from _images(look)
    yield Panel(
        "Training",
        "Minus the training loss and the validation score of every epoch. The loss of an epoch is a mean while the "
        "parameters move.",
        images.training(trained.run.history.records()),
        "training",
    )


def _images(look: Look) -> Iterator[Panel]:
    vae, config, data = look.trained.vae, look.trained.config, look.trained.data
    white, num_classes = build.white(config, data.form), data.num_classes if config.conditional else 0
    shown = subset(len(look.test), SHOWN + 2, config.data_seed)
    x, y = look.test.at(shown)
    yield Panel(
        "Reconstructions",
        "Test data in the top row; below each, means of p(x|z) at several draws of z from q(z|x)"
        f"{'. Where they differ, the guide is unsure' if 'curve' in look.report else ', which is a point'}.",
        images.reconstructions(vae, x, config.seed, y=y, white=white),
        "data",
    )
    yield Panel(
        "Samples",
        "z from the prior, then the decoder alone: means of p(x|z), and draws of x at the same z."
        + (
            ""
            if "curve" in look.report
            else " The prior took no part in training: nothing was to make these look like data."
        ),
        images.samples(vae, config.seed, num_classes=num_classes, white=white),
        "data",
    )
    if not num_classes:
        starts, ends = _ends(look)
        (start, _), (end, _) = look.test.at(starts), look.test.at(ends)
        yield Panel(
            "Interpolation",
            "Means of p(x|z) on paths between the codes of two test data, in each row, shown at its ends.",
            latent_pictures.interpolation(vae, start, end, white=white),
            "data",
        )


def _latent(look: Look) -> Iterator[Panel]:
    trained, config = look.trained, look.trained.config
    x, y, labels = trained.training(CLOUD)
    measured = look.report.get("latent", {}).get("marginal_kl") is not None
    yield Panel(
        "Latent cloud",
        "Codes of training data over draws from the prior. That the codes fill the prior without gaps is often said"
        f"{'; the marginal KL in the table measures it' if measured else ''}.",
        latent_pictures.latent_cloud(trained.one_layer, x, config.seed, labels=labels, y=y),
        "latent",
    )
    if not config.conditional and images.can_show(trained.data.x_shape):
        white = build.white(config, trained.data.form)
        yield Panel(
            "Traversal",
            "The most used dimensions, each moved over the quantiles of the prior, the others at one datum's code.",
            latent_pictures.traversal(trained.one_layer, _many(look), config.seed, white=white),
            "latent",
        )
        if look.latent_dim == PICTURE_DIM:
            yield Panel(
                "Latent plane",
                "Means of p(x|z) over the plane, evenly spaced in quantiles of the prior.",
                latent_pictures.latent_grid(trained.one_layer, config.seed, white=white),
                "latent",
            )


def _posterior(look: Look) -> Iterator[Panel]:
    found, about = look.posterior, look.report.get("posterior")
    if found is None or about is None:
        return
    datum = f"Test datum {about['datum']}" + ("" if about["label"] is None else f" (label {about['label']})")
    if not look.curve.khat.isnan().all():
        datum += ", whose k-hat is the middle one"
    if isinstance(found, PosteriorGrid):
        drawn = latent_figures.posterior_grid(found.axes, found.posterior, found.guide)
        yield Panel("On a grid", f"{datum}. No draws are involved.", drawn, "posterior")
    else:
        drawn = latent_figures.posterior_draws(_flat(found, "draws"), _flat(found, "guide"))
        chains = f"{found.num_chains} chains of {found.num_draws} draws, R-hat {found.rhat_max:.3f} at most"
        verdict = "" if found.agree else ". They do NOT agree, and can not be taken for the posterior"
        yield Panel("By NUTS", f"{datum}: {chains}{verdict}.", drawn, "posterior")


def _flat(found: PosteriorDraws, name: str) -> Tensor:
    """(S, D): all sites side by side."""
    sizes = {site: draws.shape[2:].numel() for site, draws in found.draws.items()}
    return torch.cat([draws.reshape(-1, sizes[site]) for site, draws in getattr(found, name).items()], -1).cpu()


def _many(look: Look) -> Tensor:
    """All test data of the run; of a mapped file, which has no room in memory, as many as the cloud has."""
    split = look.trained.data.test
    if split.rows is None:
        return look.trained.test(0).x
    return look.trained.test(min(len(split), CLOUD)).x


def _ends(look: Look) -> tuple[Tensor, Tensor]:
    """Positions of the first and last datum of each path: of different labels where there are any."""
    order = subset(len(look.test), len(look.test), 0) if look.test.labels is None else look.test.labels.argsort()
    places = torch.linspace(0, len(order) - 1, 2 * PAIRS + 1).long()
    return order[places[:PAIRS]], order[places[PAIRS + 1 :]]
