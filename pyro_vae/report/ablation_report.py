"""Only reconstruction, only KL, both, side by side: a table of numbers, what it shows and does not show, a picture."""

import csv
import io
import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from matplotlib import colormaps
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from pyro_vae.evaluation import Estimate
from pyro_vae.report.draw.images import tile

SETS = ("test", "train")
_BOUNDS = {"elbo": "ELBO", "reconstruction": "reconstruction", "kl": "KL(q(z|x)||p(z))", "log_likelihood": "log p(x)"}
_GIVEN_LABELS = {**_BOUNDS, "kl": "KL(q(z|x,y)||p(z|y))", "log_likelihood": "log p(x|y)"}
_GREY = "0.85"


@dataclass(frozen=True)
class Column:
    """The numbers of one run.

    Attributes:
        bounds: "test" or "train" -> "elbo", "reconstruction", "kl", "log_likelihood" -> its estimate.
        khat: "test" or "train" -> the share of data whose k-hat is above 0.7, under the draws of log_likelihood; None
            where these are too few to tell.
        aggregate: "marginal_kl" and "mutual_information" -> its estimate, on training data of all labels together;
            None for the first where p(z|y) differs between labels.
        active_units: of latent_dim, on training data.
        latent_dim: D.
        best_epoch: the epoch that was kept, of `epochs`.
        epochs: how many were trained.
        is_conditional: whether all of it is given labels.
    """

    bounds: Mapping[str, Mapping[str, Estimate]]
    khat: Mapping[str, float | None]
    aggregate: Mapping[str, Estimate | None]
    active_units: int
    latent_dim: int
    best_epoch: int
    epochs: int
    is_conditional: bool = False

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **{held: {name: e.to_dict() for name, e in found.items()} for held, found in self.bounds.items()},
            "khat_above_0.7": dict(self.khat),
            **{name: estimate and estimate.to_dict() for name, estimate in self.aggregate.items()},
            "active_units": self.active_units,
            "latent_dim": self.latent_dim,
            "best_epoch": self.best_epoch,
            "epochs": self.epochs,
        }

    def generalisation_gap(self, name: str) -> tuple[float, float]:
        """Mean on training data minus mean on test data, and its standard error over the data."""
        test, train = (self.bounds[held][name] for held in SETS)
        return train.mean - test.mean, math.hypot(test.standard_error, train.standard_error)


class Panel(NamedTuple):
    """What is drawn of one run.

    Attributes:
        cloud: (S, 2), draws of q(z|x), one a datum.
        prior: (S, 2), draws of p(z) on the same two axes.
        labels: (S,) of the data, or None.
        ellipses: (E, 2, 2), mean and standard deviation of some q(z|x) where z has two dimensions, else None.
        axes: what the two axes are.
        samples: (M, C, H, W), means of p(x|z) for z from the prior, or None where data are no images.
        reconstructions: (R, M, C, H, W): data, then means of p(x|z) for draws of z from q(z|x); or None.
    """

    cloud: Tensor
    prior: Tensor
    labels: Tensor | None
    ellipses: Tensor | None
    axes: tuple[str, str]
    samples: Tensor | None
    reconstructions: Tensor | None


def to_text(columns: Mapping[str, Column]) -> str:
    """The table, every mean with its standard error over the data, and what it shows and does not show."""
    head = f"{'nats per datum, ± over data':<32}" + "".join(f"{name:>24}" for name in columns)
    rows = [f"{label:<32}" + "".join(f"{cell:>24}" for cell in cells) for label, cells in _cells(columns)]
    notes = [textwrap.fill(note, 104, subsequent_indent="  ") for note in _notes(columns)]
    return "\n".join([head, *rows, "", *notes])


def to_csv(columns: Mapping[str, Column]) -> str:
    """One line for each run, set of data and quantity, with both errors."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        ["loss", "data", "quantity", "mean", "standard_error", "monte_carlo_error", "num_samples", "num_data"]
    )
    for loss, column in columns.items():
        found = [(held, name, e) for held, bounds in column.bounds.items() for name, e in bounds.items()]
        for held, name, estimate in [*found, *(("train", name, e) for name, e in column.aggregate.items() if e)]:
            entry = estimate.to_dict()
            numbers = ("mean", "standard_error", "monte_carlo_error", "num_samples", "num_data")
            writer.writerow([loss, held, name, *(entry[key] for key in numbers)])
        writer.writerows([loss, held, "khat_above_0.7", share, "", "", "", ""] for held, share in column.khat.items())
        writer.writerow([loss, "train", "active_units", column.active_units, "", "", "", ""])
    return buffer.getvalue()


def picture(panels: Mapping[str, Panel], white: float = 1.0) -> bytes:
    """PNG: a column for each run; latent cloud by label over draws of the prior, samples, reconstructions.

    Args:
        panels: by the name of the run.
        white: the value of x that is shown white.
    """
    images = next(iter(panels.values())).samples is not None
    figure = Figure(figsize=(4.2 * len(panels), 10.8 if images else 4.4), layout="constrained")
    heights = (1, 1, 0.5) if images else (1,)
    grid = figure.subplots(len(heights), len(panels), squeeze=False, height_ratios=heights)
    for (name, panel), axes in zip(panels.items(), grid.T, strict=True):
        _draw_cloud(axes[0], panel, name)
        if panel.samples is not None and panel.reconstructions is not None:
            side = math.isqrt(len(panel.samples))
            _draw_images(axes[1], tile(panel.samples / white, side), "means of p(x|z), z from the prior")
            rows = panel.reconstructions
            title = f"data; means of p(x|z) at {len(rows) - 1} draws of q(z|x)"
            _draw_images(axes[2], tile(rows.flatten(0, 1) / white, rows.shape[1]), title)
    _add_legend(figure, next(iter(panels.values())))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _cells(columns: Mapping[str, Column]) -> list[tuple[str, list[str]]]:
    found = list(columns.values())
    labels = _GIVEN_LABELS if found[0].is_conditional else _BOUNDS
    rows = [
        (f"{label}, {held}", [_number(c.bounds[held][name]) for c in found])
        for name, label in labels.items()
        for held in SETS
    ]
    rows += [(f"k-hat above 0.7, {held}", [_share(c.khat[held]) for c in found]) for held in SETS]
    for name in ("elbo", "reconstruction"):
        gaps = [c.generalisation_gap(name) for c in found]
        rows.append((f"{labels[name]}, train - test", [f"{gap:+.2f} ± {error:.2f}" for gap, error in gaps]))
    aggregate = {"marginal_kl": "KL(q(z)||p(z))", "mutual_information": _information(found[0])}
    rows += [(f"{label}, train", [_number(c.aggregate[name]) for c in found]) for name, label in aggregate.items()]
    rows.append(("active units", [f"{c.active_units} of {c.latent_dim}" for c in found]))
    rows.append(("epoch kept", [f"{c.best_epoch} of {c.epochs}" for c in found]))
    return rows


def _information(column: Column) -> str:
    return "I((x,y); z)" if column.is_conditional else "mutual information"


def _number(estimate: Estimate | None) -> str:
    return f"{_plain(estimate.mean)} ± {estimate.standard_error:.2f}" if estimate else "n/a"


def _plain(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # never -0.00


def _share(share: float | None) -> str:
    return "n/a" if share is None else f"{share:.0%}"


def _notes(columns: Mapping[str, Column]) -> list[str]:
    alone, nothing, both = (columns[name] for name in ("only reconstruction", "only KL", "both"))
    return [_bound_note(both), _overfitting(alone, both), *_unregularised(alone), _untold(nothing), *_marginal(both)]


def _bound_note(both: Column) -> str:
    bound, num_data = both.bounds["test"]["log_likelihood"], both.bounds["train"]["elbo"].num_data
    known = "" if None not in both.khat.values() else " K is too small for a k-hat."
    most = f" {_information(both).capitalize()} can not exceed log N = {math.log(num_data):.2f}."
    name = (_GIVEN_LABELS if both.is_conditional else _BOUNDS)["log_likelihood"]
    return (
        f"All numbers are those of the program itself, without weights. {name} is a lower bound, "
        f"K = {bound.num_samples}; where k-hat is above 0.7 it is loose, and how loose is not known.{known}{most}"
    )


def _overfitting(alone: Column, both: Column) -> str:
    (a, a_error), (b, b_error) = (c.generalisation_gap("reconstruction") for c in (alone, both))
    return (
        f"Overfitting: on training data the reconstruction is {_better(a, a_error)} without the KL, and "
        f"{_better(b, b_error)} with it, than on test data; the difference is {a - b:+.2f} ± "
        f"{math.hypot(a_error, b_error):.2f}. That is what these data, one seed and one size of networks show, at the "
        "epoch that did best on validation data by its own loss, which hides what later epochs would do. It does not "
        "show that one loss overfits, or that the other prevents it."
    )


def _better(gap: float, error: float) -> str:
    return f"{'worse' if gap < 0 else 'better'} by {abs(gap):.2f} ± {error:.2f} nats"


def _unregularised(alone: Column) -> list[str]:
    found = alone.aggregate["marginal_kl"]
    if found is None:
        return ["KL(q(z)||p(z)) is n/a where p(z|y) differs between labels: there is no one p(z) then."]
    return [
        f"Only reconstruction: q(z) is {found.mean:.1f} nats from p(z). The further, the rarer is a z from the prior "
        "where data were encoded: compare samples with reconstructions."
    ]


def _untold(nothing: Column) -> str:
    kl = nothing.bounds["test"]["kl"]
    return (
        f"Only KL: q(z|x) is {kl.mean:.2g} nats from the prior and says no more than that about x; the decoder was "
        "not trained, but for its start at the mean of the data."
    )


def _marginal(both: Column) -> list[str]:
    """That it is not 0 is claimed beyond two standard errors over the data, which contain those over draws."""
    found = both.aggregate["marginal_kl"]
    if found is None:
        return []
    error = found.standard_error
    number = f"Both: KL(q(z)||p(z)) is {_plain(found.mean)} ± {error:.2f} nats"
    if found.mean > 2 * error:
        return [f"{number} and not 0: the KL term draws q(z) to the prior, and does not make it the prior."]
    return [f"{number}, not told apart from 0 by so many draws and data."]


def _draw_cloud(axes: Any, panel: Panel, title: str) -> None:
    colours = ["C0"] * len(panel.cloud) if panel.labels is None else _colours(panel.labels)
    axes.scatter(*panel.prior.T.numpy(), s=3, color=_GREY, lw=0)
    axes.scatter(*panel.cloud.T.numpy(), s=5, lw=0, color=colours)
    if panel.ellipses is not None:
        mean, scale = panel.ellipses.unbind(1)
        width, height = (6 * scale).T.numpy()  # full axes of 3 standard deviations
        ellipses = EllipseCollection(
            width, height, [0.0] * len(mean), units="xy", offsets=mean.numpy(),
            offset_transform=axes.transData, facecolors="none", edgecolors=colours[: len(mean)], lw=0.6,
        )  # fmt: skip
        axes.add_collection(ellipses)
    reach = torch.cat([panel.cloud, panel.prior]).abs().quantile(0.995).item() * 1.15
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel=panel.axes[0], ylabel=panel.axes[1])
    axes.set_title(title, fontsize=12, fontweight="bold")


def _colours(labels: Tensor) -> list[Any]:
    classes, index = labels.unique(return_inverse=True)
    table = colormaps["tab10" if len(classes) <= 10 else "turbo"]
    return [table(i if len(classes) <= 10 else i / len(classes)) for i in index.tolist()]


def _add_legend(figure: Figure, panel: Panel) -> None:
    dot: dict[str, Any] = {"ls": "", "marker": "o", "markersize": 5}
    handles = [Line2D([], [], color=_GREY, label="p(z)", **dot)]
    if panel.labels is not None and len(classes := panel.labels.unique()) <= 10:
        colours = zip(classes.tolist(), _colours(classes), strict=True)
        handles += [Line2D([], [], color=colour, label=str(label), **dot) for label, colour in colours]
    if panel.ellipses is not None:
        handles.append(Line2D([], [], color="0.3", lw=0.8, label="3 sd of q(z|x)"))
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)


def _draw_images(axes: Any, shown: Tensor, title: str) -> None:
    shown = torch.where(shown.isnan(), 0.5, shown.clamp(0, 1))
    axes.imshow(shown.squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title, fontsize=10)
    axes.set_axis_off()
