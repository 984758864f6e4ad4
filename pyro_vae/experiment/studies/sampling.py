"""What a trained run draws and decodes: PNG pictures, each with an NPZ file of the arrays that it shows.

N is the number of data shown, D that of latent dimensions, x_shape the shape of one datum. Where test data are shown,
`positions` are theirs among the test data, `rows` those in the file, and `ids` what the file calls them. `labels` are
there if the data have them, numbers of `classes` where these have names. Means are those of p(x|z), in the units of x,
which for a table are the units of its file; `names` are the names of its columns.

    samples.npz          z (N, D) from the prior, mean and x, a draw at the same z, (N, *x_shape); labels (N,)
    samples.csv          of tables: x, with the names of the columns, and the label
    reconstructions.npz  x (N, *x_shape); z (K, N, D) from q(z|x); mean (K, N, *x_shape); log_likelihood (K, N),
                         log p(x|z) in nats; log_likelihood_of_draws (100, N), the same at more draws; labels, ...
    interpolation.npz    start, end (N, *x_shape); paths (P,), their kinds; z (P, steps, N, D); mean (P, steps, N,
                         *x_shape); labels, positions, ... (2, N) of starts and ends
    traversal.npz        x and reconstruction (1, *x_shape); code (D,); usage (D,); dimensions (R,); levels (S,);
                         z (R, S, D); mean (R, S, *x_shape); labels, positions, ... (1,)
    latent_cloud.npz     z (N, D), centres of q(z|x); points (N, 2) in the plane; prior (N, 2), draws of p(z) seen the
                         same way; share (D,) of the variance; covariance (N, 2, 2) for D = 2; labels, ...
    columns.npz          of tables: x (N, D), drawn (M, D); labels, ...
    latent_grid.npz      D = 2: levels (S,); z (P, S, S, 2); mean (P, S, S, *x_shape); labels (P,)

See `pyro_vae.report.draw.image_views` and `latent_views` for what each of them is.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.errors import UsageError
from pyro_vae.evaluation import subset
from pyro_vae.experiment.run import files
from pyro_vae.experiment.run.evaluation_data import DataInMemory
from pyro_vae.experiment.run.trained_run import TrainedRun
from pyro_vae.experiment.run_pictures import CLOUD, PICTURES, Source
from pyro_vae.model import paths
from pyro_vae.option_words import PathKind, Picture, check_word
from pyro_vae.progress import through
from pyro_vae.randomness import generator
from pyro_vae.report.documents.training_document import MOST_COLUMNS
from pyro_vae.report.draw import column_views, image_views, latent_views
from pyro_vae.report.render.csv_file import csv_lines, harmless
from pyro_vae.threads import computing

DRAWS = 100  # draws of z for each datum that is reconstructed, which show the spread of log p(x|z)
_LISTED = 20  # classes in a message
_OF_DATA = {"x", "mean", "drawn", "start", "end", "reconstruction"}  # arrays in the space of the data
MOST = 1_000_000  # data that are drawn at once
PAIRS = 4  # interpolations, where no ends are chosen


@dataclass(frozen=True)
class Wanted:
    """The choice of what to draw.

    Attributes:
        seed: the seed of the draws, and of the choice of data.
        y: the one class that a conditional run samples, its number or, as a string, its name; None for all classes.
        between: the labels of two test data to go between, numbers or names.
        data: the positions of two test data to go between, in place of their labels.
        paths: the kinds of paths; empty for all that the prior allows.
        only: names of `ABOUT`; empty for all that can be drawn.
        number: how many data to draw from the prior; 0 for as many as a picture shows.
    """

    seed: int = 0
    y: int | str | None = None
    between: tuple[int | str, int | str] | None = None
    data: tuple[int, int] | None = None
    paths: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    number: int = 0


class Chosen(Source):
    """A run with all its test data, and what to draw."""

    trained: TrainedRun

    def __init__(self, trained: TrainedRun, wanted: Wanted) -> None:
        kinds = wanted.paths or _kinds(trained)
        label = None if wanted.y is None else _class(trained, "y", wanted.y)
        test: Any = trained.reader("test", 0) if needs_data(wanted) else None  # which nothing looks at then
        super().__init__(trained, test, label=label, paths=kinds, num_draws=DRAWS)
        self.wanted = wanted

    @property
    def seed(self) -> int:
        """The seed that was asked for."""
        return self.wanted.seed

    @cached_property
    def ends(self) -> Tensor:
        """Positions of the ends that were asked for, or of others at random, (2, N)."""
        return _pairs(self)

    @cached_property
    def many(self) -> Tensor:
        """Positions of the data of the cloud, (N,)."""
        return subset(len(self.test), CLOUD, self.trained.config.data_seed)

    def named(self, positions: Tensor) -> dict[str, Any]:
        """Describes which test data these are, (N,) or (2, N): positions, rows of the file, ids and labels."""
        labels, ids, data = self.test.labels, self.test.ids, self.trained.data
        return {
            "labels": None if labels is None else labels[positions],
            "classes": None if labels is None else _names_of_classes(data.protocol),
            "positions": positions,
            "rows": self.test.rows[positions],
            "ids": None if ids is None else ids[positions.numpy()].astype(str),
        }

    def samples(self) -> image_views.Samples:
        """Draws as many data as are wanted; a conditional run takes the classes in turn."""
        number, y = self.wanted.number, self.y
        if y is not None:
            kinds = y.unique_consecutive(dim=0)
            y = kinds.repeat(-(-number // len(kinds)), 1)[:number]
        return image_views.samples(self.trained.vae, self.seed, number, y)

    def cloud(self) -> DataInMemory:
        """Returns the test data whose codes are shown."""
        return self.at(self.many)

    def moved(self) -> DataInMemory:
        """Returns the start of the first path, whose code is moved, and the data of the cloud."""
        datum = self.ends[0, :1]
        return self.at(torch.cat([datum, self.many[self.many != datum]]))


def write(trained: TrainedRun, folder: Path, wanted: Wanted) -> Iterator[str]:
    """Writes pictures and arrays into the folder, one after another, and yields a sentence about each.

    The same run and the same choices give the same bytes.

    Args:
        trained: the run, see `open_run`.
        folder: where to; it is made if it is not there.
        wanted: what to draw.

    Raises:
        UsageError: this run cannot draw what is wanted: there is no such class or label, a position is out of range, a
            path or picture is unknown, or a path leads through the base of a prior that is not a flow. It is raised
            before anything is written.
        StorageError: the folder cannot be written to.
    """
    _check(trained, wanted)
    source = Chosen(trained, wanted)
    names = _names(source)
    if source.test is not None:
        _ = source.ends
    files.make_folder(folder)
    if not source.shows:
        drawn = "the pictures of columns and" if source.has_columns else "the picture of"
        yield (
            f"data of shape {trained.form.x_shape} are not images, so only arrays are written, and {drawn} the latent "
            "cloud"
        )
    for name in through("pictures", names):
        with computing(trained.threads):
            view = source.samples() if name == "samples" and wanted.number else PICTURES[name].view(source)
        more, sentence = ABOUT[name](view, source)
        arrays = in_own_units({**view._asdict(), **more}, source)
        files.write(folder / f"{name}.npz", to_npz(arrays))
        if name == "samples" and "names" in arrays:
            files.write(folder / "samples.csv", _as_csv(arrays).encode())
        if (source.shows or name in ("latent_cloud", "columns")) and not (name == "samples" and wanted.number):
            files.write(folder / f"{name}.png", source.draw(name, view))
        yield f"{name}: {sentence}"


def needs_data(wanted: Wanted) -> bool:
    """Returns whether something is wanted that shows data, and not only draws."""
    return not set(wanted.only or ABOUT) <= set(_OF_DRAWS)


def in_own_units(arrays: dict[str, Any], source: Chosen) -> dict[str, Any]:
    """Adds to data what was taken from the columns of their table, in float64, and the names of the columns."""
    known = source.trained.vae.intake
    if known is None or len(known.x_shape) != 1:
        return arrays
    made = {name: value for name, value in arrays.items() if name != "origin"}
    if any(known.origin):
        origin = torch.tensor(known.origin, dtype=torch.float64)
        made |= {name: made[name].double().cpu() + origin for name in _OF_DATA & made.keys()}
    return made | ({"names": np.array(known.columns)} if known.columns else {})


def _as_csv(arrays: dict[str, Any]) -> str:
    """Writes generated rows as a table: to the last digit, of float32 where x is."""
    x, labels, classes = arrays["x"].cpu().numpy(), arrays.get("labels"), arrays.get("classes")
    head, rows = [harmless(name) for name in arrays["names"].tolist()], [list(map(str, row)) for row in x]
    if labels is not None:
        called = labels.tolist() if classes is None else [harmless(str(classes[label])) for label in labels.tolist()]
        head, rows = [*head, "label"], [[*row, str(name)] for row, name in zip(rows, called, strict=True)]
    return csv_lines([head, *rows])


def to_npz(arrays: dict[str, Any]) -> bytes:
    """Converts tensors, and what numpy takes, to the bytes of an NPZ file. Entries that are None are left out."""
    buffer = io.BytesIO()
    known = {name: value for name, value in arrays.items() if value is not None}
    numpy = {name: value.cpu().numpy() if isinstance(value, Tensor) else value for name, value in known.items()}
    np.savez_compressed(buffer, allow_pickle=False, **numpy)
    return buffer.getvalue()


# The arrays that a picture has in addition to those of its view, and a sentence about it.
About = tuple[dict[str, Any], str]


def _samples(view: image_views.Samples, source: Chosen) -> About:
    classes = None if view.labels is None else _names_of_classes(source.trained.protocol)
    return {
        "classes": classes
    }, f"{len(view.z)} data{_of_classes(view, source)} from the prior: means of p(x|z), and draws"


def _of_classes(view: image_views.Samples, source: Chosen) -> str:
    if view.labels is None:
        return ""
    if source.label is not None:
        return f" of class {_called(source, source.label)}"
    number, every = len(view.labels.unique()), source.trained.form.num_classes
    return f" of {number} classes" if number == every else f" of {number} of {every} classes"


def _names_of_classes(protocol: dict[str, Any]) -> np.ndarray | None:
    return np.array(protocol["classes"]) if "classes" in protocol else None


def _called(source: Chosen, label: int) -> str:
    names = source.trained.classes
    return names[label] if names else str(label)


def _reconstructions(view: Any, source: Chosen) -> About:
    spread = view.log_likelihood_of_draws.std(0)
    return source.named(source.shown), (
        f"log p(x|z) of one datum varies by ± {spread.mean():.2f} nats over draws of z (standard deviation over "
        f"{DRAWS} draws, mean over {len(view.x)} test data; {spread.min():.2f} to {spread.max():.2f})"
    )


def _interpolation(view: latent_views.Interpolation, source: Chosen) -> About:
    names = ", ".join(f"{_named(source, a)} to {_named(source, b)}" for a, b in source.ends.T.tolist())
    more = {"paths": np.array(view.paths), **source.named(source.ends)}
    return more, f"test data {names}; paths: {', '.join(view.paths)}"


def _traversal(view: latent_views.Traversal, source: Chosen) -> About:
    datum, moved = source.ends[0, :1], ", ".join(map(str, view.dimensions.tolist()))
    return source.named(datum), f"test datum {_named(source, int(datum))}, dimensions {moved}, the most used first"


def _latent_cloud(view: latent_views.Cloud, source: Chosen) -> About:
    D = view.z.shape[-1]
    plane = f"; two principal components hold {100 * view.share[:2].sum():.0f} % of the variance" if D > 2 else ""
    sentence = f"codes of {len(view.z)} test data in {D} dimension{'s' * (D > 1)}{plane}"
    return {"ellipses": None, **source.named(source.many)}, sentence


def _latent_grid(view: latent_views.Grid, source: Chosen) -> About:
    return {}, f"means of p(x|z) at {len(view.levels)} x {len(view.levels)} quantiles of the prior"


def _columns(view: column_views.Columns, source: Chosen) -> About:
    more = {"names": np.array(view.names), "origin": np.array(view.origin), **source.named(source.shown_rows)}
    return more, f"{view.x.shape[1]} columns of {len(view.x)} test data, and {len(view.drawn)} draws from the program"


ABOUT: dict[str, Callable[[Any, Chosen], About]] = {
    "samples": _samples,
    "reconstructions": _reconstructions,
    "columns": _columns,
    "interpolation": _interpolation,
    "traversal": _traversal,
    "latent_cloud": _latent_cloud,
    "latent_grid": _latent_grid,
}


_OF_DRAWS = ("samples", "latent_grid")  # the others show data
_OF_TWO_LAYERS = ("samples", "reconstructions", "columns", "interpolation")  # the others are about the z of one


def _names(source: Chosen) -> list[str]:
    config, only = source.trained.config, source.wanted.only
    wanted = only or (_OF_TWO_LAYERS if config.layers == 2 else tuple(ABOUT))
    possible = {"latent_grid": config.latent_dim == 2, "columns": source.has_columns}
    return [name for name in wanted if possible.get(name, True)]


def _check(trained: TrainedRun, wanted: Wanted) -> None:
    D = trained.config.latent_dim
    if not 0 <= wanted.number <= MOST:
        raise UsageError(f"`number` of data is 1 ... {MOST:,}; got {wanted.number}")
    for name in wanted.only:
        check_word("picture", name, Picture)
    if wanted.only and not set(wanted.only) <= set(_OF_TWO_LAYERS):
        _ = trained.one_layer
    if "latent_grid" in wanted.only and D != 2:
        raise UsageError(f"latent_grid shows a plane of 2 latent dimensions; this run has {D}: leave it out")
    if "columns" in wanted.only and not (len(shape := trained.data.x_shape) == 1 and shape[0] <= MOST_COLUMNS):
        raise UsageError(
            f"columns shows those of a table, at most {MOST_COLUMNS}; these data have the shape {shape}: leave it out"
        )
    for kind in wanted.paths:
        check_word("path", kind, PathKind)
    if "base" in wanted.paths and "base" not in _kinds(trained):
        above = " of z2, not of the z1 that the path is in" if trained.config.layers == 2 else ""
        raise UsageError(
            f"the path 'base' needs a prior that is a flow; this run has "
            f"`prior={trained.config.prior!r}`{above}. Use 'spherical'"
        )
    _check_class(trained, wanted.y)


def _check_class(trained: TrainedRun, y: int | str | None) -> None:
    if y is None:
        return
    if not trained.config.conditional:
        raise UsageError(
            "`y` chooses a class of a conditional run; this one was trained without `conditional=True`. Leave it out"
        )
    number = _class(trained, "y", y)
    if number not in trained.trained_classes:
        raise UsageError(f"`y={y}`: no training datum has this label, so there is nothing to sample from")


def _class(trained: TrainedRun, argument: str, label: int | str) -> int:
    """Returns the number of a class that is given by its number, or as a string by its name."""
    size, names = trained.form.num_classes, trained.classes
    numbers = tuple(map(str, range(size)))
    names = names or numbers
    if isinstance(label, int) and 0 <= label < size:
        return label
    if label in names:
        return names.index(str(label))
    listed = ", ".join(names) if names != numbers and size <= _LISTED else f"{names[0]} ... {names[-1]}"
    raise UsageError(f"`{argument}={label}` is none of the {size} classes {listed}")


def _kinds(trained: TrainedRun) -> tuple[str, ...]:
    """The kinds of path that this prior allows."""
    y = torch.eye(trained.form.num_classes, device=trained.config.device)[:1] if trained.config.conditional else None
    with torch.no_grad():
        flow = paths.base_maps(trained.vae.prior_of_codes(y)) is not None
    return paths.PATHS if flow else paths.PATHS[:-1]


def _pairs(source: Chosen) -> Tensor:
    """Positions of the starts and ends of paths among the test data, (2, N)."""
    test, wanted = source.test, source.wanted
    size = len(test)
    if wanted.data and wanted.between:
        raise UsageError("`data` and `between` both choose the ends of the path: use one of them")
    if wanted.data:
        if wrong := [i for i in wanted.data if not 0 <= i < size]:
            raise UsageError(f"`data={wrong[0]}`: the run has {size:,} test data, at positions 0 ... {size - 1}")
        return torch.tensor(wanted.data)[:, None]
    order = torch.randperm(size, generator=generator(wanted.seed, "pairs"))
    if wanted.between:
        return _with_labels(source, order, wanted.between)
    order = order[torch.isin(order, source.known)]
    number = min(PAIRS, len(order) // 2)
    return order[: 2 * number].reshape(2, number)


def _with_labels(source: Chosen, order: Tensor, between: tuple[int | str, int | str]) -> Tensor:
    """Positions of the first datum of each label in that order, two different data, (2, 1)."""
    if (labels := source.test.labels) is None:
        raise UsageError("`between` chooses data by label, and these have none: use `data` with two positions")
    ends: list[int] = []
    for wanted in between:
        label = _class(source.trained, "between", wanted)
        place = order[labels[order] == label]
        place = place[~torch.isin(place, torch.tensor(ends, dtype=torch.long))]
        if not len(place):
            known = ", ".join(_called(source, n) for n in labels.unique().tolist())
            other = "no other" if label in labels[ends] else "no"
            raise UsageError(f"`between={wanted}`: {other} test datum has this label; there are {known}")
        ends.append(int(place[0]))
    return torch.tensor(ends)[:, None]


def _named(source: Chosen, position: int) -> str:
    labels = source.test.labels
    label = "" if labels is None else f", label {_called(source, int(labels[position]))}"
    return f"{position} ({source.test.place(position)}{label})"
