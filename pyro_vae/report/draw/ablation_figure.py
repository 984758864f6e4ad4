"""Draws an ablation as PNG: the runs of only reconstruction, only KL and both, side by side."""

import math
import textwrap
from collections.abc import Mapping
from typing import Any, NamedTuple

import matplotlib as mpl
import torch
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from pyro_vae.report.draw.images import PLAIN, Key, show, tile
from pyro_vae.report.draw.latent_pictures import colours
from pyro_vae.report.draw.style import WIDTH, figure, legend_columns, png
from pyro_vae.report.palette import BEHIND, CLASSES, INK


class AblationView(NamedTuple):
    """The numbers that are drawn of one run.

    Attributes:
        cloud: (S, 2), draws of q(z|x), one for each datum.
        prior: (S, 2), draws of p(z) on the same two axes.
        labels: (S,), the labels of the data, or None.
        ellipses: (E, 2, 2), mean and standard deviation of some q(z|x) where z has two dimensions, else None.
        axes: the names of the two axes.
        samples: (M, C, H, W), means of p(x|z) for z from the prior, or None if the data are not images.
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
    heights = (1.25, 1.0, 0.6) if first.samples is not None else (1.25,)
    with figure(WIDTH / len(views) * sum(heights) + 0.9) as drawn:
        grid = drawn.subplots(len(heights), len(views), squeeze=False, height_ratios=heights)
        for (name, view), axes in zip(views.items(), grid.T, strict=True):
            _draw_cloud(axes[0], view, name)
            if view.samples is not None and view.reconstructions is not None:
                side, rows = math.isqrt(len(view.samples)), view.reconstructions
                show(axes[1], tile(key.shades(view.samples), side))
                show(axes[2], tile(key.shades(rows.flatten(0, 1)), rows.shape[1]))
        if first.samples is not None and first.reconstructions is not None:
            _add_row_title(grid[1, 0], "means of p(x|z), z from the prior")
            draws = len(first.reconstructions) - 1
            _add_row_title(grid[2, 0], f"top row: data; below: means of p(x|z) at {draws} draws of q(z|x)")
        _add_legend(drawn, first, key)
        return png(drawn)


def _draw_cloud(axes: Any, view: AblationView, title: str) -> None:
    hues = [CLASSES[0]] * len(view.cloud) if view.labels is None else _of_labels(view.labels)
    axes.scatter(*view.prior.T.numpy(), s=3, color=BEHIND, lw=0)
    axes.scatter(*view.cloud.T.numpy(), s=5, lw=0, color=hues)
    if view.ellipses is not None:
        mean, scale = view.ellipses.unbind(1)
        width, height = (6 * scale).T.numpy()  # full axes of 3 standard deviations
        ellipses = EllipseCollection(
            width, height, [0.0] * len(mean), units="xy", offsets=mean.numpy(),
            offset_transform=axes.transData, facecolors="none", edgecolors=hues[: len(mean)], lw=0.6,
        )  # fmt: skip
        axes.add_collection(ellipses)
    reach = torch.cat([view.cloud, view.prior]).abs().quantile(0.995).item() * 1.15
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", ylabel=view.axes[1])
    axes.set_xlabel(textwrap.fill(view.axes[0], 18))  # these two are no wider than a third of the figure
    axes.set_title(textwrap.fill(title, 14), fontweight="bold")


def _add_row_title(axes: Any, words: str) -> None:
    """Writes a title that reaches over all columns. As a title of the first column it would make that one wider."""
    axes.set_title(" ")  # leaves room
    pad = mpl.rcParams["axes.titlepad"]
    axes.annotate(words, (0, 1), (0, pad), "axes fraction", "offset points", va="baseline", in_layout=False)


def _of_labels(labels: Tensor) -> list[Any]:
    classes, index = labels.unique(return_inverse=True)
    table = colours(len(classes))
    return [table[i] for i in index.tolist()]


def _add_legend(drawn: Figure, view: AblationView, key: Key) -> None:
    dot: dict[str, Any] = {"ls": "", "marker": "o", "markersize": 5}
    handles = [Line2D([], [], color=BEHIND, label="p(z)", **dot)]
    if view.labels is not None and len(classes := view.labels.unique()) <= len(CLASSES):
        pairs = zip(classes.tolist(), colours(len(classes)), strict=True)
        handles += [Line2D([], [], color=colour, label=key.name(label), **dot) for label, colour in pairs]
    if view.ellipses is not None:
        handles.append(Line2D([], [], color=INK, lw=0.8, label="3 sd of q(z|x)"))
    columns = legend_columns([str(handle.get_label()) for handle in handles])
    drawn.legend(
        handles=handles, loc="outside lower left", ncols=columns, handlelength=1, handletextpad=0.1, columnspacing=1
    )
