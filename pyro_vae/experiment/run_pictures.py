"""The pictures of a trained run, in one table: when there is one, what it shows, how it is made and where it stands.

The report of a training keeps some of them as files, which a shared model takes along; an evaluation sets all on its
page, with those of its numbers; `sample` draws some of other data and seeds, with the arrays behind them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pyro_vae.evaluation import PosteriorDraws, PosteriorGrid, subset
from pyro_vae.experiment import build
from pyro_vae.experiment.run.evaluation_data import DataInMemory, DataReader
from pyro_vae.experiment.run.trained_run import TrainedRun
from pyro_vae.report.document import Picture
from pyro_vae.report.draw import image_views, images, latent_figures, latent_pictures, latent_views
from pyro_vae.report.draw.report_figures import of_report

SHOWN = 12  # data that are reconstructed
SIDE = 8  # of the panels of samples
PAIRS = 3  # of data to go between
CLOUD = 2000  # codes in the cloud
KEPT = ("training", "reconstructions", "samples")  # as files in the folder of a run


@dataclass(eq=False)
class Source:
    """Of which data and draws the pictures of a report are made: always the same ones of a run.

    Attributes:
        trained: the run.
        test: its test data.
        report: what was measured, as report.json has it.
        posterior: the true posterior of one datum.
        label: the one class to sample, of a conditional run; None for all.
        paths: kinds of paths between data.
        side: of the grid over the latent plane.
    """

    trained: TrainedRun
    test: DataReader
    report: Mapping[str, Any] = field(default_factory=dict)
    posterior: PosteriorGrid | PosteriorDraws | None = None
    label: int | None = None
    paths: tuple[str, ...] = ("straight", "spherical")
    side: int = 21

    @property
    def seed(self) -> int:
        """Of all draws."""
        return self.trained.config.seed

    @property
    def white(self) -> float:
        """The value of x that is shown white."""
        return build.white(self.trained.config, self.trained.data.form)

    @property
    def shows(self) -> bool:
        """Whether data are images."""
        return images.can_show(self.trained.data.x_shape)

    @property
    def labels(self) -> Tensor | None:
        """One-hot labels of what is sampled, of a conditional run."""
        config, data = self.trained.config, self.trained.data
        num_classes = data.num_classes if config.conditional else 0
        return images.labels_to_draw(num_classes, SIDE, self.label, torch.device(config.device))

    @cached_property
    def positions(self) -> Tensor:
        """Among the test data, of those that are reconstructed."""
        return subset(len(self.test), SHOWN, self.trained.config.data_seed)

    @cached_property
    def draws(self) -> Tensor | None:
        """log p(x|z) of these at many draws of z, (K, N), where its spread is to be shown."""
        return None

    def at(self, positions: Tensor) -> DataInMemory:
        """Test data."""
        labels = self.test.labels
        return DataInMemory(*self.test.at(positions), None if labels is None else labels[positions])

    @cached_property
    def ends(self) -> Tensor:
        """Positions of the first and the last datum of each path, (2, N): of different labels where there are any."""
        size, labels = len(self.test), self.test.labels
        order = subset(size, size, 0) if labels is None else labels.argsort()
        places = torch.linspace(0, size - 1, 2 * PAIRS + 1).long()
        return torch.stack([order[places[:PAIRS]], order[places[PAIRS + 1 :]]])

    @property
    def moved(self) -> DataInMemory:
        """The datum whose code is moved, and others by which the use of a dimension is seen.

        All test data of the run; of a mapped file, which has no room in memory, as many as the cloud has.
        """
        split = self.trained.data.test
        return self.trained.test(0 if split.rows is None else min(len(split), CLOUD))

    @cached_property
    def cloud(self) -> DataInMemory:
        """Data whose codes are shown."""
        return self.trained.training(CLOUD)

    @property
    def classes(self) -> Tensor | None:
        """One-hot, a grid for each."""
        return None


@dataclass(frozen=True)
class RunPicture:
    """One row of the table.

    Attributes:
        title: a few words.
        group: of `GROUPS`.
        caption: what is seen.
        view: what is shown, mostly a tuple of named tensors.
        draw: the picture of a view.
        is_there: whether a report has it.
    """

    title: str
    group: str
    caption: Callable[[Source], str]
    view: Callable[[Source], Any]
    draw: Callable[[Any, Source], bytes]
    is_there: Callable[[Source], Any]


def kept(source: Source) -> Iterator[tuple[str, bytes]]:
    """The files of pictures in a run's folder: their names and contents."""
    for name in KEPT:
        if PICTURES[name].is_there(source):
            yield f"{name}.png", png(name, source)


def png(name: str, source: Source) -> bytes:
    """One picture of the table."""
    return PICTURES[name].draw(PICTURES[name].view(source), source)


def of_page(source: Source) -> list[Picture]:
    """Every picture that a run and its evaluation allow, in the order in which a reader meets them."""
    own = [
        Picture(row.title, row.caption(source), png(name, source), row.group)
        for name, row in PICTURES.items()
        if row.is_there(source)
    ]
    first, last = ([p for p in own if (p.group == "posterior") is at_the_end] for at_the_end in (False, True))
    return [*first, *of_report(source.report), *last]


def _rebuilt(source: Source) -> image_views.Reconstructions:
    x, y, _ = source.at(source.positions)
    return image_views.reconstructions(source.trained.vae, x, source.seed, y=y)


def _rebuilt_caption(source: Source) -> str:
    differ = ". Where they differ, the guide is unsure" if "curve" in source.report else ", which is a point"
    return f"Test data in the top row; below each, means of p(x|z) at several draws of z from q(z|x){differ}."


def _sampled(source: Source) -> image_views.Samples:
    y = source.labels
    return image_views.samples(source.trained.vae, source.seed, SIDE**2 if y is None else len(y), y)


def _sampled_caption(source: Source) -> str:
    untrained = " The prior took no part in training: nothing was to make these look like data."
    return "z from the prior, then the decoder alone: means of p(x|z), and draws of x at the same z." + (
        "" if "curve" in source.report else untrained
    )


def _between(source: Source) -> latent_views.Interpolation:
    (start, y, _), (end, y_end, _) = map(source.at, source.ends)
    return latent_views.interpolation(source.trained.vae, start, end, paths=source.paths, y=y, y_end=y_end)


def _moved(source: Source) -> latent_views.Traversal:
    x, y, _ = source.moved
    return latent_views.traversal(source.trained.one_layer, x, source.seed, y=y)


def _cloud(source: Source) -> latent_views.Cloud:
    x, y, _ = source.cloud
    return latent_views.cloud(source.trained.one_layer, x, source.seed, y=y)


def _cloud_caption(source: Source) -> str:
    measured = source.report.get("latent", {}).get("marginal_kl") is not None
    return (
        "Codes of training data over draws from the prior. That the codes fill the prior without gaps is often said"
        f"{'; the marginal KL in the table measures it' if measured else ''}."
    )


def _grid(source: Source) -> latent_views.Grid:
    return latent_views.grid(source.trained.one_layer, source.seed, side=source.side, y=source.classes)


def _flat(posterior: PosteriorDraws, name: str) -> Tensor:
    """(S, D): all sites side by side."""
    sizes = {site: draws.shape[2:].numel() for site, draws in posterior.draws.items()}
    return torch.cat([draws.reshape(-1, sizes[site]) for site, draws in getattr(posterior, name).items()], -1).cpu()


def _datum(source: Source) -> str:
    about = source.report["posterior"]
    datum = f"Test datum {about['datum']}" + ("" if about["label"] is None else f" (label {about['label']})")
    is_known = any(khat is not None for khat in source.report["khat"]["values"])
    return f"{datum}{', whose k-hat is the middle one' if is_known else ''}"


def _chains(source: Source) -> str:
    nuts: Any = source.posterior
    chains = f"{nuts.num_chains} chains of {nuts.num_draws} draws, R-hat {nuts.rhat_max:.3f} at most"
    verdict = "" if nuts.agree else ". They do NOT agree, and can not be taken for the posterior"
    return f"{_datum(source)}: {chains}{verdict}."


def _is_plain_image(source: Source) -> bool:
    return source.shows and not source.trained.config.conditional


def _has_one_layer(source: Source) -> bool:
    return source.trained.config.layers == 1


PICTURES = {
    "reconstructions": RunPicture(
        "Reconstructions",
        "data",
        _rebuilt_caption,
        _rebuilt,
        lambda view, source: images.draw_reconstructions(view.x, view.mean, source.white, source.draws),
        lambda source: source.shows,
    ),
    "samples": RunPicture(
        "Samples",
        "data",
        _sampled_caption,
        _sampled,
        lambda view, source: images.draw_samples(view.mean, view.x, SIDE, source.white),
        lambda source: source.shows,
    ),
    "interpolation": RunPicture(
        "Interpolation",
        "data",
        lambda source: "Means of p(x|z) on paths between the codes of two test data, in each row, shown at its ends.",
        _between,
        lambda view, source: latent_pictures.draw_interpolation(view, source.white),
        _is_plain_image,
    ),
    "training": RunPicture(
        "Training",
        "training",
        lambda source: (
            "Minus the training loss and the validation score of every epoch. The loss of an epoch is a "
            "mean while the parameters move."
        ),
        lambda source: source.trained.run.history.records(),
        lambda history, source: images.training(history),
        lambda source: True,
    ),
    "latent_cloud": RunPicture(
        "Latent cloud",
        "latent",
        _cloud_caption,
        _cloud,
        lambda view, source: latent_pictures.draw_latent_cloud(view, source.cloud.labels, source.seed),
        _has_one_layer,
    ),
    "traversal": RunPicture(
        "Traversal",
        "latent",
        lambda source: (
            "The most used dimensions, each moved over the quantiles of the prior, the others at one datum's code."
        ),
        _moved,
        lambda view, source: latent_pictures.draw_traversal(view, source.white),
        lambda source: _has_one_layer(source) and _is_plain_image(source),
    ),
    "latent_grid": RunPicture(
        "Latent plane",
        "latent",
        lambda source: "Means of p(x|z) over the plane, evenly spaced in quantiles of the prior.",
        _grid,
        lambda view, source: latent_pictures.draw_latent_grid(view, source.white),
        lambda source: _has_one_layer(source) and _is_plain_image(source) and source.trained.config.latent_dim == 2,
    ),
    "posterior_grid": RunPicture(
        "On a grid",
        "posterior",
        lambda source: f"{_datum(source)}. No draws are involved.",
        lambda source: source.posterior,
        lambda grid, source: latent_figures.posterior_grid(grid.axes, grid.posterior, grid.guide),
        lambda source: isinstance(source.posterior, PosteriorGrid),
    ),
    "posterior_draws": RunPicture(
        "By NUTS",
        "posterior",
        _chains,
        lambda source: source.posterior,
        lambda nuts, source: latent_figures.posterior_draws(_flat(nuts, "draws"), _flat(nuts, "guide")),
        lambda source: isinstance(source.posterior, PosteriorDraws),
    ),
}
