"""One table of the pictures of a program and its data: what each is called, where it stands, how it is drawn.

The report of a training keeps some of them as files, which a shared model takes along. An evaluation puts all of them
on its page, with the pictures of its numbers. `sample` draws some of them for other data and seeds, and writes their
arrays.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae.evaluation import PosteriorDraws, PosteriorGrid, subset
from pyro_vae.experiment.run.evaluation_data import DataInMemory, DataReader
from pyro_vae.experiment.run.program_and_data import ProgramAndData
from pyro_vae.model.autoencoder import Autoencoder
from pyro_vae.model.vae import VAE
from pyro_vae.progress import through
from pyro_vae.report.document import Picture
from pyro_vae.report.documents.estimate_sections import class_name
from pyro_vae.report.documents.training_document import MOST_COLUMNS
from pyro_vae.report.draw import (
    column_pictures,
    column_views,
    image_views,
    images,
    latent_figures,
    latent_pictures,
    latent_views,
    traced_views,
)
from pyro_vae.report.draw.report_figures import of_report

SHOWN = 12  # data that are reconstructed
SIDE = 8  # rows and columns of a panel of samples
PAIRS = 3  # pairs of data to go between
CLOUD = 2000  # codes in the cloud
ROWS = 2000  # of a table
KEPT = ("training", "reconstructions", "samples", "columns")  # files in the folder of a run


@dataclass(eq=False)
class Source:
    """The data and draws that pictures are made of. These are a report's, always the same ones for a run.

    Attributes:
        trained: the program and its data: a run, for example.
        test: its test data.
        report: what was measured, as report.json has it.
        posterior: the true posterior of one datum.
        label: the one class that a conditional run samples; None for all.
        paths: the kinds of paths between data.
        num_draws: how many draws of z give the spread of log p(x|z); 0 where it is not shown.
    """

    trained: ProgramAndData
    test: DataReader
    report: dict[str, Any] = field(default_factory=dict)
    posterior: PosteriorGrid | PosteriorDraws | None = None
    label: int | None = None
    paths: tuple[str, ...] = ("straight", "spherical")
    num_draws: int = 0

    @property
    def seed(self) -> int:
        """The seed of all draws."""
        return self.trained.facts.seed

    @cached_property
    def shows(self) -> bool:
        """True where the data are images."""
        return images.can_show(self.trained.facts.form.x_shape)

    @property
    def decodes(self) -> bool:
        """True for a program that has a prior and a decoder. Any other has only a model and a guide."""
        return isinstance(self.trained.vae, Autoencoder)

    @cached_property
    def has_columns(self) -> bool:
        """True where the data are rows of a table with few enough columns for a picture."""
        x_shape = self.trained.facts.form.x_shape
        return len(x_shape) == 1 and x_shape[0] <= MOST_COLUMNS

    @cached_property
    def shown_rows(self) -> Tensor:
        """Positions of the test data whose columns are shown, (N,)."""
        return subset(len(self.test), ROWS, self.trained.facts.data_seed)

    @cached_property
    def key(self) -> images.Key:
        """What shades and labels stand for."""
        facts = self.trained.facts
        return images.Key(*facts.shown_range, facts.classes)

    @cached_property
    def y(self) -> Tensor | None:
        """One-hot labels of what a conditional run samples, (N, C)."""
        facts = self.trained.facts
        num_classes = facts.form.num_classes if facts.conditional else 0
        return images.labels_to_draw(num_classes, SIDE, self.label, torch.device(facts.device), facts.trained_classes)

    @cached_property
    def known(self) -> Tensor:
        """Positions of the test data whose class a conditional program was trained on, in order."""
        every, labels, facts = torch.arange(len(self.test)), self.test.labels, self.trained.facts
        if not facts.conditional or labels is None:
            return every
        known = every[torch.isin(labels, torch.tensor(facts.trained_classes))]
        return known if len(known) > 1 else every

    @cached_property
    def shown(self) -> Tensor:
        """Positions of the test data that are reconstructed, (N,)."""
        return subset(len(self.test), SHOWN, self.trained.facts.data_seed)

    @cached_property
    def ends(self) -> Tensor:
        """Positions of the first and the last datum of each path, (2, N), with different labels if there are any."""
        size, labels = len(self.test), self.test.labels
        order = subset(size, size, 0) if labels is None else labels.argsort()
        places = torch.linspace(0, size - 1, 2 * PAIRS + 1).long()
        return torch.stack([order[places[:PAIRS]], order[places[PAIRS + 1 :]]])

    def cloud(self) -> DataInMemory:
        """Returns the data whose codes are shown."""
        return self.trained.training(CLOUD)

    def moved(self) -> DataInMemory:
        """Returns the datum whose code is moved, and all others: of a mapped file, as many as fit in memory."""
        split = self.test.split
        return self.trained.test(0 if split.rows is None else min(len(split), CLOUD))

    def at(self, positions: Tensor) -> DataInMemory:
        """Returns the test data at these positions, with their labels."""
        labels = self.test.labels
        return DataInMemory(*self.test.at(positions), None if labels is None else labels[positions])

    def draw(self, name: str, view: Any = None) -> bytes:
        """Draws a picture of the table.

        Args:
            name: its name there.
            view: what it shows; None makes it.

        Returns:
            The bytes of a PNG file.
        """
        row = PICTURES[name]
        return row.draw(row.view(self) if view is None else view, self.key)


class RunPicture(NamedTuple):
    """A row of the table.

    Attributes:
        title: what the picture is called.
        group: where on the page it stands.
        view: makes what it shows, of a `Source`.
        draw: draws that, with what shades and labels stand for.
    """

    title: str
    group: str
    view: Callable[[Any], Any]
    draw: Callable[[Any, images.Key], bytes]


def _samples(source: Source) -> image_views.Samples:
    size = SIDE**2 if source.y is None else len(source.y)
    if not source.decodes:
        x, y, _ = source.at(source.shown)
        return traced_views.samples(source.trained.vae, x, source.seed, size, y=y, wanted=source.y)
    return image_views.samples(source.trained.vae, source.seed, size, source.y)


def _reconstructions(source: Source) -> image_views.Reconstructions:
    x, y, _ = source.at(source.shown)
    if not source.decodes:
        return traced_views.reconstructions(source.trained.vae, x, source.seed, y=y)
    return image_views.reconstructions(source.trained.vae, x, source.seed, y=y, num_draws=source.num_draws)


def _columns(source: Source) -> column_views.Columns:
    x, y, _ = source.at(source.shown_rows)
    card, vae = source.trained.card, source.trained.vae
    view = column_views.columns if source.decodes else traced_views.columns
    return view(vae, x, source.seed, y, card.get("columns") or (), card.get("origin", ()))


def _interpolation(source: Source) -> latent_views.Interpolation:
    (start, y, _), (end, y_end, _) = map(source.at, source.ends)
    return latent_views.interpolation(source.trained.vae, start, end, paths=source.paths, y=y, y_end=y_end)


def _latent_cloud(source: Source) -> latent_views.Cloud:
    x, y, labels = source.cloud()
    return latent_views.cloud(source.trained.one_layer, x, source.seed, labels=labels, y=y)


def _traversal(source: Source) -> latent_views.Traversal:
    x, y, _ = source.moved()
    return latent_views.traversal(source.trained.one_layer, x, source.seed, y=y)


def _latent_grid(source: Source) -> latent_views.Grid:
    """A plane of means; a conditional run has one for each class, smaller where there are several."""
    y = None if source.y is None else source.y.unique_consecutive(dim=0)
    side = 21 if y is None or len(y) == 1 else 7
    return latent_views.grid(source.trained.one_layer, source.seed, side=side, y=y)


def _posterior_draws(posterior: PosteriorDraws, key: images.Key) -> bytes:
    sizes = {site: draws.shape[2:].numel() for site, draws in posterior.draws.items()}

    def side_by_side(sites: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([draws.reshape(-1, sizes[site]) for site, draws in sites.items()], -1).cpu()

    return latent_figures.posterior_draws(side_by_side(posterior.draws), side_by_side(posterior.guide))


PICTURES = {
    "reconstructions": RunPicture("Reconstructions", "data", _reconstructions, images.draw_reconstructions),
    "samples": RunPicture("Samples", "data", _samples, images.draw_samples),
    "columns": RunPicture("Columns", "data", _columns, column_pictures.draw_columns),
    "interpolation": RunPicture("Interpolation", "data", _interpolation, latent_pictures.draw_interpolation),
    "training": RunPicture(
        "Training",
        "training",
        lambda source: (source.trained.records, "kept" if source.trained.is_run else "best"),
        lambda view, key: images.training(*view),
    ),
    "latent_cloud": RunPicture("Latent cloud", "latent", _latent_cloud, latent_pictures.draw_latent_cloud),
    "traversal": RunPicture("Traversal", "latent", _traversal, latent_pictures.draw_traversal),
    "latent_grid": RunPicture("Latent plane", "latent", _latent_grid, latent_pictures.draw_latent_grid),
    "posterior_grid": RunPicture(
        "On a grid",
        "posterior",
        lambda source: source.posterior,
        lambda view, key: latent_figures.posterior_grid(view.axes, view.posterior, view.guide),
    ),
    "posterior_draws": RunPicture("By NUTS", "posterior", lambda source: source.posterior, _posterior_draws),
}


def kept(source: Source) -> Iterator[tuple[str, bytes]]:
    """Draws the pictures that the folder of a run keeps. Yields the names and contents of their files."""
    names = [name for name in KEPT if _is_kept(name, source)]
    return ((f"{name}.png", source.draw(name)) for name in through("", names))


def _is_kept(name: str, source: Source) -> bool:
    if name == "training":
        return True
    return source.has_columns if name == "columns" else source.shows


def of_page(source: Source) -> list[Picture]:
    """Draws every picture that a program and its evaluation allow.

    `left_out` and `not_drawn` of the report say why the others are missing.

    Returns:
        The pictures in the order in which a reader meets them, each with a title, a caption and its group.
    """
    if not source.decodes:
        source.report.setdefault("left_out", {})["pictures of the latent space"] = (
            f"they need members like those of pv.VAE, which {type(source.trained.vae).__name__} does not have"
        )
    if source.trained.silent and (source.shows or source.has_columns):
        source.report.setdefault("left_out", {})["pictures of draws"] = source.trained.silent
    if reasons := dict(_not_drawn(source)):
        source.report["not_drawn"] = reasons
    own = [
        picture for name, caption in through("", list(_captions(source))) if (picture := _drawn(source, name, caption))
    ]
    last = [picture for picture in own if picture.group == "posterior"]
    return [*own[: len(own) - len(last)], *of_report(source.report), *last]


def _drawn(source: Source, name: str, caption: str) -> Picture | None:
    """Draws a picture; None where a member of the user's own cannot be asked for what it shows."""
    row = PICTURES[name]
    try:
        return Picture(row.title, caption, source.draw(name), row.group)
    except (NotImplementedError, AttributeError, ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(f"{type(error).__name__} {error}".split())[:200].rstrip(".")
        source.report.setdefault("left_out", {})[f"picture {row.title!r}"] = reason
        return None


def _not_drawn(source: Source) -> Iterator[tuple[str, str]]:
    """Yields the pictures that these data or this program do not allow, and why."""
    facts, vae = source.trained.facts, source.trained.vae
    shape = facts.form.x_shape
    if not source.shows:
        size = " x ".join(map(str, shape))
        yield (
            "reconstructions, samples, interpolation, traversal",
            f"they need images, and these data are {size} numbers",
        )
    elif source.decodes and facts.conditional:
        yield "interpolation, traversal", "they need a program that takes no labels"
    if len(shape) == 1 and not source.has_columns:
        yield "columns", f"at most {MOST_COLUMNS} are drawn, and these data have {shape[0]}"
    if not source.trained.records:
        yield "training", "its history is not known"
    if source.decodes and not isinstance(vae, VAE):
        yield "latent cloud, traversal, latent plane", "they need one layer of latents"
    elif source.decodes and source.trained.data is None:
        yield "latent cloud", "it needs training data"
    if isinstance(vae, VAE) and source.shows and not facts.conditional and facts.latent_dim != 2:
        yield "latent plane", f"it needs a z of 2 dimensions, and this z has {facts.latent_dim}"


def _captions(source: Source) -> Iterator[tuple[str, str]]:
    """Yields the names of these pictures, and what is seen on them."""
    facts, has_density = source.trained.facts, "curve" in source.report
    is_plain = source.shows and source.decodes and not facts.conditional
    if source.shows:
        guide = ". Where they differ, the guide is unsure" if has_density else ", which is a point"
        yield (
            "reconstructions",
            f"Test data in the top row; below each, means of p(x|z) at several draws of z from q(z|x){guide}.",
        )
        if not source.trained.silent:
            yield "samples", _sampled(source, has_density=has_density)
    if source.has_columns and not source.trained.silent:
        yield (
            "columns",
            "Each column of the test data next to draws from the program, in the data's own units. The last panel "
            "has the correlation of each pair of columns, on the diagonal where the program has it right.",
        )
    if is_plain:
        yield (
            "interpolation",
            "Each row shows means of p(x|z) on the path between the codes of two test data, which stand at its ends.",
        )
    if source.trained.records:
        yield (
            "training",
            "Minus the training loss and the validation score of every epoch. The loss of an epoch is a mean while the "
            "parameters move.",
        )
    if isinstance(source.trained.vae, VAE):
        yield from _of_codes(source, is_plain=is_plain)
    if source.posterior is not None:
        yield _posterior_caption(source.posterior, source.report)


def _sampled(source: Source, *, has_density: bool) -> str:
    if not source.decodes:
        return "The model run without x: means of p(x|z), and draws of x at the same z."
    is_told = bool(source.trained.progress) and not has_density
    prior = " The prior took no part in training: nothing made these look like data." if is_told else ""
    return f"z is drawn from the prior and decoded: means of p(x|z), and draws of x at the same z.{prior}"


def _of_codes(source: Source, *, is_plain: bool) -> Iterator[tuple[str, str]]:
    """Yields the pictures that one layer of latents has."""
    if source.trained.data is not None:
        is_measured = source.report.get("latent", {}).get("marginal_kl") is not None
        yield (
            "latent_cloud",
            "Codes of training data over draws from the prior. It is often said that they fill the prior without "
            f"gaps{'. The marginal KL in the table measures whether they do' if is_measured else ''}.",
        )
    if is_plain:
        yield (
            "traversal",
            "Each row moves one of the most used dimensions over the quantiles of the prior. The others stay at the "
            "code of one datum.",
        )
        if source.trained.facts.latent_dim == 2:
            yield "latent_grid", "Means of p(x|z) over the plane, evenly spaced in quantiles of the prior."


def _posterior_caption(posterior: PosteriorGrid | PosteriorDraws, report: Mapping[str, Any]) -> tuple[str, str]:
    about = report["posterior"]
    place = f"Row {about['row']} of the data" if "row" in about else f"Test datum {about['datum']}"
    datum = place + ("" if about["label"] is None else f" (label {class_name(report, about['label'])})")
    if any(khat is not None for khat in report["khat"]["values"]):
        datum += ", whose k-hat is the middle one"
    if isinstance(posterior, PosteriorGrid):
        return "posterior_grid", f"{datum}. No draws are involved."
    chains = f"{posterior.num_chains} chains of {posterior.num_draws} draws, R-hat {posterior.rhat_max:.3f} at most"
    verdict = "" if posterior.agree else ". They do NOT agree, and are not draws from the posterior"
    return "posterior_draws", f"{datum}: {chains}{verdict}."
