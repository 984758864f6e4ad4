"""What a trained run draws and decodes: pictures as PNG, and beside each the arrays it shows, as NPZ.

N is the number of data shown, D that of latent dimensions, x_shape the shape of one datum. `labels` and `positions`
(among the test data) are there where the data have them; means are those of p(x|z), in the units of x.

    samples.npz          z (N, D) from the prior, mean and x, a draw at the same z, (N, *x_shape); labels (N,)
    reconstructions.npz  x (N, *x_shape); z (K, N, D) from q(z|x); mean (K, N, *x_shape); log_likelihood (K, N),
                         log p(x|z) in nats; log_likelihood_of_draws (100, N), the same at more draws; labels, positions
    interpolation.npz    start, end (N, *x_shape); paths (P,), their kinds; z (P, steps, N, D); mean (P, steps, N,
                         *x_shape); labels, positions (2, N) of starts and ends
    traversal.npz        x and reconstruction (1, *x_shape); code (D,); usage (D,); dimensions (R,); levels (S,);
                         z (R, S, D); mean (R, S, *x_shape); labels, positions (1,)
    latent_cloud.npz     z (N, D), centres of q(z|x); points (N, 2) in the plane; prior (N, 2), draws of p(z) seen the
                         same way; share (D,) of the variance; covariance (N, 2, 2) for D = 2; labels, positions
    latent_grid.npz      D = 2: levels (S,); z (P, S, S, 2); mean (P, S, S, *x_shape); labels (P,)

See `pyro_vae.report.draw.image_views` and `latent_views` for what each of them is.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data import one_hot
from pyro_vae.errors import UsageError, unknown
from pyro_vae.evaluation import subset
from pyro_vae.experiment import build
from pyro_vae.experiment.run import files
from pyro_vae.experiment.run.evaluation_data import DataInMemory
from pyro_vae.experiment.run.trained_run import TrainedRun
from pyro_vae.model import paths
from pyro_vae.randomness import generator
from pyro_vae.report.draw import image_views, images, latent_pictures, latent_views

SHOWN = 12  # reconstructions
DRAWS = 100  # of z for each of them, from which the spread of log p(x|z) is taken
PAIRS = 4  # interpolations, where no ends are chosen
CLOUD = 2000  # data in the cloud
SIDE = 8  # of the panels of samples


@dataclass(frozen=True)
class Wanted:
    """What to draw.

    Attributes:
        seed: of draws, and of the choice of data.
        y: of a conditional run, the one class to sample; None for all classes.
        between: the labels of two test data to go between.
        data: or their positions among the test data.
        paths: kinds of paths; empty for all that the prior allows.
        only: names of `PICTURES`; empty for all that can be drawn.
    """

    seed: int = 0
    y: int | None = None
    between: tuple[int, int] | None = None
    data: tuple[int, int] | None = None
    paths: tuple[str, ...] = ()
    only: tuple[str, ...] = ()


class Source(NamedTuple):
    """A trained run, all its test data, and what is wanted of it."""

    trained: TrainedRun
    test: DataInMemory
    wanted: Wanted


class Made(NamedTuple):
    """A view's arrays by name, how to draw it given the value of x that is white, and a sentence about it."""

    arrays: dict[str, Any]
    draw: Callable[[float], bytes]
    sentence: str


def write(trained: TrainedRun, folder: Path, wanted: Wanted) -> Iterator[str]:
    """Writes pictures and arrays into the folder, one after another, with a sentence about each.

    The same run and the same wishes give the same bytes.

    Args:
        trained: the run, see `open_run`.
        folder: made where it is not there.
        wanted: what to draw.

    Raises:
        UsageError: before anything is written, for what this run can not draw: a class or a label that there is not, a
            position out of range, an unknown path or picture, a path through the base of a prior that is no flow.
        StorageError: the folder can not be written to.
    """
    source = Source(trained, trained.test(0), wanted)
    _check(source)
    files.make_folder(folder)
    white, shows = build.white(trained.config, trained.data.form), images.can_show(trained.data.x_shape)
    if not shows:
        yield f"data of shape {trained.data.x_shape} are no images: arrays, and the picture of the latent cloud, only"
    for name in _names(source):
        made = PICTURES[name](source)
        files.write(folder / f"{name}.npz", to_npz(made.arrays))
        if shows or name == "latent_cloud":
            files.write(folder / f"{name}.png", made.draw(white))
        yield f"{name}: {made.sentence}"


def to_npz(arrays: dict[str, Any]) -> bytes:
    """Tensors, and what numpy takes, as the bytes of an NPZ file; entries that are None are left out."""
    buffer = io.BytesIO()
    found = {name: value.cpu().numpy() if isinstance(value, Tensor) else value for name, value in arrays.items()}
    np.savez_compressed(buffer, allow_pickle=False, **{k: v for k, v in found.items() if v is not None})
    return buffer.getvalue()


def _samples(source: Source) -> Made:
    trained, wanted = source.trained, source.wanted
    labels = _classes(source)
    y = None if labels is None else _one_hot(trained, labels.repeat_interleave(SIDE**2 if len(labels) == 1 else SIDE))
    view = image_views.samples(trained.vae, wanted.seed, SIDE**2 if y is None else len(y), y)
    arrays = {**view._asdict(), "labels": None if y is None else y.argmax(-1)}
    of = "" if labels is None else f" of class {int(labels)}" if len(labels) == 1 else f" of {len(labels)} classes"
    return Made(
        arrays,
        lambda white: images.draw_samples(view.mean, view.x, SIDE, white),
        f"{len(view.z)} data{of} from the prior: means of p(x|z), and draws",
    )


def _reconstructions(source: Source) -> Made:
    trained, test, wanted = source
    positions = subset(len(test.x), SHOWN, trained.config.data_seed)
    x, y, labels = _take(test, positions)
    view = image_views.reconstructions(trained.vae, x, wanted.seed, y=y)
    draws = image_views.log_likelihood_of_draws(trained.vae, x, DRAWS, wanted.seed, y)
    spread = draws.std(0)
    arrays = {**view._asdict(), "log_likelihood_of_draws": draws, "labels": labels, "positions": positions}
    return Made(
        arrays,
        lambda white: images.draw_reconstructions(x, view.mean, white, draws),
        f"log p(x|z) of one datum varies by ± {spread.mean():.2f} nats over draws of z (standard deviation over "
        f"{DRAWS} draws, mean over {len(x)} test data; {spread.min():.2f} to {spread.max():.2f})",
    )


def _interpolation(source: Source) -> Made:
    trained, test, wanted = source
    positions = _pairs(source)
    (start, y, labels), (end, y_end, end_labels) = (_take(test, row) for row in positions)
    kinds = wanted.paths or _kinds(trained)
    view = latent_views.interpolation(trained.vae, start, end, paths=kinds, y=y, y_end=y_end)
    both = None if labels is None or end_labels is None else torch.stack([labels, end_labels])
    arrays = {**view._asdict(), "paths": np.array(kinds), "labels": both, "positions": positions}
    names = ", ".join(f"{_named(test, a)} to {_named(test, b)}" for a, b in positions.T.tolist())
    return Made(
        arrays,
        lambda white: latent_pictures.draw_interpolation(view, white),
        f"test data {names}; paths: {', '.join(kinds)}",
    )


def _traversal(source: Source) -> Made:
    trained, test, wanted = source
    datum = _pairs(source)[0, :1]
    others = subset(len(test.x), CLOUD, trained.config.data_seed)
    x, y, labels = _take(test, torch.cat([datum, others[others != datum]]))
    view = latent_views.traversal(trained.one_layer, x, wanted.seed, y=y)
    arrays = {**view._asdict(), "labels": None if labels is None else labels[:1], "positions": datum}
    moved = ", ".join(map(str, view.dimensions.tolist()))
    return Made(
        arrays,
        lambda white: latent_pictures.draw_traversal(view, white),
        f"test datum {_named(test, int(datum))}, dimensions {moved}, the most used first",
    )


def _latent_cloud(source: Source) -> Made:
    trained, test, wanted = source
    positions = subset(len(test.x), CLOUD, trained.config.data_seed)
    x, y, labels = _take(test, positions)
    view = latent_views.cloud(trained.one_layer, x, wanted.seed, y=y)
    D = view.z.shape[-1]
    plane = f"; two principal components hold {100 * view.share[:2].sum():.0f} % of the variance" if D > 2 else ""
    return Made(
        {**view._asdict(), "labels": labels, "positions": positions},
        lambda white: latent_pictures.draw_latent_cloud(view, labels, wanted.seed),
        f"codes of {len(x)} test data in {D} dimension{'s' * (D > 1)}{plane}",
    )


def _latent_grid(source: Source) -> Made:
    labels = _classes(source)
    y = None if labels is None else _one_hot(source.trained, labels)
    view = latent_views.grid(
        source.trained.one_layer, source.wanted.seed, side=21 if y is None or len(y) == 1 else 7, y=y
    )
    return Made(
        view._asdict(),
        lambda white: latent_pictures.draw_latent_grid(view, white),
        f"means of p(x|z) at {len(view.levels)} x {len(view.levels)} quantiles of the prior",
    )


PICTURES: dict[str, Callable[[Source], Made]] = {
    "samples": _samples,
    "reconstructions": _reconstructions,
    "interpolation": _interpolation,
    "traversal": _traversal,
    "latent_cloud": _latent_cloud,
    "latent_grid": _latent_grid,
}


_OF_TWO_LAYERS = ("samples", "reconstructions", "interpolation")  # the others are about the z of one


def _names(source: Source) -> list[str]:
    config = source.trained.config
    if config.layers == 2 and not source.wanted.only:
        return list(_OF_TWO_LAYERS)
    return [name for name in source.wanted.only or PICTURES if config.latent_dim == 2 or name != "latent_grid"]


def _check(source: Source) -> None:
    trained, wanted = source.trained, source.wanted
    D = trained.config.latent_dim
    for name in wanted.only:
        if name not in PICTURES:
            raise unknown("picture", name, PICTURES)
    if wanted.only and not set(wanted.only) <= set(_OF_TWO_LAYERS):
        _ = trained.one_layer
    if "latent_grid" in wanted.only and D != 2:
        raise UsageError(f"latent_grid shows a plane of 2 latent dimensions; this run has {D}: leave it out")
    for kind in wanted.paths:
        if kind not in paths.PATHS:
            raise unknown("path", kind, paths.PATHS)
    if "base" in wanted.paths and "base" not in _kinds(trained):
        above = " of z2, not of the z1 that the path is in" if trained.config.layers == 2 else ""
        raise UsageError(
            f"the path 'base' leads through the base of a prior that is a flow; this run has --prior "
            f"{trained.config.prior}{above}. Use 'spherical'"
        )
    _check_class(trained, wanted.y)
    _pairs(source)


def _check_class(trained: TrainedRun, y: int | None) -> None:
    if y is None:
        return
    if not trained.config.conditional:
        raise UsageError("--y chooses a class of a conditional run; this one was trained without --conditional")
    if not 0 <= y < trained.data.num_classes:
        raise UsageError(
            f"--y {y} is none of the {trained.data.num_classes} classes 0 ... {trained.data.num_classes - 1}"
        )


def _classes(source: Source) -> Tensor | None:
    """The classes to sample, of a conditional run."""
    if not source.trained.config.conditional:
        return None
    y = source.wanted.y
    return torch.arange(source.trained.data.num_classes) if y is None else torch.tensor([y])


def _kinds(trained: TrainedRun) -> tuple[str, ...]:
    """The kinds of path that there are under this prior."""
    y = torch.eye(trained.data.num_classes, device=trained.config.device)[:1] if trained.config.conditional else None
    with torch.no_grad():
        flow = paths.base_maps(trained.vae.prior_of_codes(y)) is not None
    return paths.PATHS if flow else paths.PATHS[:-1]


def _pairs(source: Source) -> Tensor:
    """Positions of the starts and ends of paths among the test data, (2, N)."""
    test, wanted = source.test, source.wanted
    size = len(test.x)
    if wanted.data and wanted.between:
        raise UsageError("--data and --between both choose the ends of the path: use one of them")
    if wanted.data:
        if wrong := [i for i in wanted.data if not 0 <= i < size]:
            raise UsageError(f"--data {wrong[0]}: the run has {size:,} test data, at positions 0 ... {size - 1}")
        return torch.tensor(wanted.data)[:, None]
    order = torch.randperm(size, generator=generator(wanted.seed, "pairs"))
    if wanted.between:
        return _with_labels(order, test.labels, wanted.between)
    number = min(PAIRS, size // 2)
    return order[: 2 * number].reshape(2, number)


def _with_labels(order: Tensor, labels: Tensor | None, between: tuple[int, int]) -> Tensor:
    """The first data of these labels in that order, two different ones, (2, 1)."""
    if labels is None:
        raise UsageError("--between chooses data by label, and these have none: use --data with two positions")
    found: list[int] = []
    for label in between:
        place = order[labels[order] == label]
        place = place[~torch.isin(place, torch.tensor(found, dtype=torch.long))]
        if not len(place):
            known = ", ".join(map(str, labels.unique().tolist()))
            other = "no other" if label in labels[found] else "no"
            raise UsageError(f"--between {label}: {other} test datum has this label; there are {known}")
        found.append(int(place[0]))
    return torch.tensor(found)[:, None]


def _take(test: DataInMemory, positions: Tensor) -> DataInMemory:
    y, labels = (None if part is None else part[positions] for part in (test.y, test.labels))
    return DataInMemory(test.x[positions], y, labels)


def _one_hot(trained: TrainedRun, labels: Tensor) -> Tensor:
    return one_hot(labels, trained.data.num_classes).to(trained.config.device)


def _named(test: DataInMemory, position: int) -> str:
    return f"{position}" if test.labels is None else f"{position} (label {test.labels[position]})"
