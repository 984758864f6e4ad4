"""Draws an ablation as PNG: the runs of only reconstruction, only KL and both, side by side."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from matplotlib import colormaps
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from pyro_vae.report.draw.images import PLAIN, Key, png, show, tile

_GREY = "0.85"


class AblationView(NamedTuple):
    """The numbers that are drawn of one run.

    Attributes:
        cloud: (S, 2), draws of q(z|x), one for each datum.
        prior: (S, 2), draws of p(z) on the same two axes.
        labels: (S,), the labels of the data, or None.
        ellipses: (E, 2, 2), mean and standard deviation of some q(z|x) where z has two dimensions, else None.
        axes: the names of the two axes.
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


def ablation_picture(views: Mapping[str, AblationView], key: Key = PLAIN) -> bytes:
    """Draws a column for each run: codes by label over draws of the prior, samples, reconstructions.

    Args:
        views: run -> what is drawn of it.
        key: what shades and labels stand for.
    """
    first = next(iter(views.values()))
    heights, height = ((1, 1, 0.5), 10.8) if first.samples is not None else ((1,), 4.4)
    figure = Figure(figsize=(4.2 * len(views), height), layout="constrained")
    grid = figure.subplots(len(heights), len(views), squeeze=False, height_ratios=heights)
    for (name, view), axes in zip(views.items(), grid.T, strict=True):
        _draw_cloud(axes[0], view, name)
        if view.samples is not None and view.reconstructions is not None:
            side, rows = math.isqrt(len(view.samples)), view.reconstructions
            show(axes[1], tile(key.shades(view.samples), side), "means of p(x|z), z from the prior")
            title = f"data; means of p(x|z) at {len(rows) - 1} draws of q(z|x)"
            show(axes[2], tile(key.shades(rows.flatten(0, 1)), rows.shape[1]), title)
    _add_legend(figure, first, key)
    return png(figure)


def _draw_cloud(axes: Any, view: AblationView, title: str) -> None:
    colours = ["C0"] * len(view.cloud) if view.labels is None else _colours(view.labels)
    axes.scatter(*view.prior.T.numpy(), s=3, color=_GREY, lw=0)
    axes.scatter(*view.cloud.T.numpy(), s=5, lw=0, color=colours)
    if view.ellipses is not None:
        mean, scale = view.ellipses.unbind(1)
        width, height = (6 * scale).T.numpy()  # full axes of 3 standard deviations
        ellipses = EllipseCollection(
            width, height, [0.0] * len(mean), units="xy", offsets=mean.numpy(),
            offset_transform=axes.transData, facecolors="none", edgecolors=colours[: len(mean)], lw=0.6,
        )  # fmt: skip
        axes.add_collection(ellipses)
    reach = torch.cat([view.cloud, view.prior]).abs().quantile(0.995).item() * 1.15
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel=view.axes[0], ylabel=view.axes[1])
    axes.set_title(title, fontsize=12, fontweight="bold")


def _colours(labels: Tensor) -> list[Any]:
    classes, index = labels.unique(return_inverse=True)
    table = colormaps["tab10" if len(classes) <= 10 else "turbo"]
    return [table(i if len(classes) <= 10 else i / len(classes)) for i in index.tolist()]


def _add_legend(figure: Figure, view: AblationView, key: Key) -> None:
    dot: dict[str, Any] = {"ls": "", "marker": "o", "markersize": 5}
    handles = [Line2D([], [], color=_GREY, label="p(z)", **dot)]
    if view.labels is not None and len(classes := view.labels.unique()) <= 10:
        colours = zip(classes.tolist(), _colours(classes), strict=True)
        handles += [Line2D([], [], color=colour, label=key.name(label), **dot) for label, colour in colours]
    if view.ellipses is not None:
        handles.append(Line2D([], [], color="0.3", lw=0.8, label="3 sd of q(z|x)"))
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)
