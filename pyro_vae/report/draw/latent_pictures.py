"""Draws the latent space as PNG: paths between data, single dimensions moved, the cloud of codes, the plane decoded.

Each function draws a view of `pyro_vae.report.draw.latent_views`; `key` says what shades and labels stand for.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib import colormaps, patheffects
from matplotlib.collections import EllipseCollection
from torch import Tensor

from pyro_vae.report.cells import MINUS
from pyro_vae.report.draw import latent_views
from pyro_vae.report.draw.images import PLAIN, Key, centres, name_columns, name_rows, show, tile
from pyro_vae.report.draw.style import LETTERS, WIDTH, figure, legend_columns, png
from pyro_vae.report.palette import BEHIND, CLASSES, RED

_HALF_LETTER = 0.3  # half the width of a bold letter, in font sizes
_NARROWEST = 290.0  # points: the least width of a cloud
TITLES = {
    "straight": "straight",
    "spherical": "spherical, about 0",
    "base": "spherical in the base of the prior's flow",
}


def draw_interpolation(view: latent_views.Interpolation, key: Key = PLAIN) -> bytes:
    """Draws decoded paths between codes: a panel for each kind, a row for each pair of data, which stand at both ends.

    Args:
        view: the paths, of images.
        key: what shades and labels stand for.
    """
    kinds, steps = view.mean.shape[:2]
    pictures = [_between(view, means, key) for means in view.mean]
    height, width, _ = pictures[0].shape
    with figure(kinds * (WIDTH * height / width + 0.45)) as drawn:
        for axes, picture, kind in zip(drawn.subplots(kinds, squeeze=False).flat, pictures, view.paths, strict=True):
            show(axes, picture, f"{TITLES[kind]}:\n{steps} means of p(x|z), between the data")
        return png(drawn)


def _between(view: latent_views.Interpolation, means: Tensor, key: Key) -> Tensor:
    """Tiles starts, points of the paths and ends, a row for each pair."""
    steps = len(means)
    parts = [(view.start, 1), (means.transpose(0, 1).flatten(0, 1), steps), (view.end, 1)]
    pictures = [tile(key.shades(images), columns) for images, columns in parts]
    channels = max(picture.shape[-1] for picture in pictures)  # more where numbers are missing
    start, path, end = (picture.expand(-1, -1, channels) for picture in pictures)
    paper = torch.ones_like(start[:, : max(2, view.start.shape[-1] // 6)])
    return torch.cat([start, paper, path, paper, end], 1)


def draw_traversal(view: latent_views.Traversal, key: Key = PLAIN) -> bytes:
    """Draws a row for each dimension, a column for each quantile, and a mark where the code is; the datum at the left.

    Args:
        view: the moved dimensions, of images.
        key: what shades and labels stand for.
    """
    rows, steps = view.mean.shape[:2]
    height = 0.8 * WIDTH / (steps + 1.3) * rows * view.x.shape[-2] / view.x.shape[-1] + 1.5
    with figure(max(height, 2.2)) as drawn:
        left, right = drawn.subplots(1, 2, width_ratios=(1.3, steps))
        show(left, tile(key.shades(torch.cat([view.x, view.reconstruction])), 1), "datum")
        left.set_xlabel("p(x|z) at\nits code")
        picture = tile(key.shades(view.mean.flatten(0, 1)), steps)
        show(right, picture, "means of p(x|z): one dimension of the code\nmoved to quantiles of the prior")
        usage = view.usage.tolist()
        name_rows(right, picture, [f"z[{j}]  {usage[j]:.2f}" for j in view.dimensions.tolist()])
        levels = [f"{100 * level:.3g} %" for level in view.levels.tolist()]
        name_columns(right, picture, [name if i % 2 == 0 else "" for i, name in enumerate(levels)])
        _mark_codes(right, picture, view)
        right.set_xlabel("left: variance of the codes / of the prior\ntriangle: where the code itself is")
        return png(drawn)


def _mark_codes(axes: Any, picture: Tensor, view: latent_views.Traversal) -> None:
    rows, steps = view.mean.shape[:2]
    foot = [place + view.x.shape[-2] / 2 - 0.5 for place in centres(picture.shape[0], rows)]
    for y, z, j in zip(foot, view.z.cpu(), view.dimensions.tolist(), strict=True):
        x = np.interp(float(view.code[j]), z[:, j].numpy(), centres(picture.shape[1], steps))
        axes.plot(x, y, "^", color=RED, ms=5, clip_on=False)


def draw_latent_cloud(view: latent_views.Cloud, key: Key = PLAIN) -> bytes:
    """Draws the codes of many data, coloured by label, over draws from the prior.

    Two dimensions have 3-sigma ellipses of q(z|x). More dimensions are shown by the first two principal components of
    the codes, with their share of the variance, and a single one by a histogram.

    Args:
        view: the codes.
        key: what labels stand for.
    """
    groups = _groups(len(view.z), view.labels, key)
    listed = groups if 1 < len(groups) <= 2 * len(CLASSES) else []
    columns = legend_columns([group.name for group in listed] or [""])
    with figure(WIDTH + 0.5 + 0.3 * math.ceil(len(listed) / columns)) as drawn:
        axes = drawn.subplots()
        if view.points.shape[-1] == 1:
            _histogram(axes, view, groups)
        else:
            _scatter(axes, view, groups)
        if listed:
            tight = {"handlelength": 1, "handletextpad": 0.1, "columnspacing": 1}
            drawn.legend(loc="outside lower center", ncols=columns, markerscale=1.6, **tight)
        return png(drawn)


def draw_latent_grid(view: latent_views.Grid, key: Key = PLAIN) -> bytes:
    """Draws the decoded plane, a panel for each label. z_0 grows to the right and z_1 upwards, as in the cloud.

    Args:
        view: the plane, of images.
        key: what shades and labels stand for.
    """
    panels, side = len(view.z), len(view.levels)
    columns = math.ceil(math.sqrt(panels))
    rows = math.ceil(panels / columns)
    with figure(0.92 * WIDTH * view.mean.shape[-2] / view.mean.shape[-1] * rows / columns + 0.8) as drawn:
        places = list(drawn.subplots(rows, columns, squeeze=False).flat)
        for axes, means, z in zip(places, view.mean, view.z, strict=False):
            picture = tile(key.shades(means.flip(0).flatten(0, 1)), side)
            show(axes, picture.nan_to_num(0.0))
            name_columns(axes, picture, _some(z[0, :, 0].tolist(), 5 if panels == 1 else 2))
            name_rows(axes, picture, _some(z[:, 0, 1].tolist(), 5 if panels == 1 else 2)[::-1])
        for axes, label in zip(places, [] if view.labels is None else view.labels.tolist(), strict=False):
            axes.set_title(f"label {key.name(label)}")
        for axes in places[panels:]:
            axes.set_axis_off()
        title = "means of p(x|z) at quantiles of the prior,\nin equal steps of probability"
        drawn.suptitle(title, x=0.01, ha="left", fontsize=LETTERS)
        drawn.supxlabel("z[0]", fontsize=LETTERS)
        drawn.supylabel("z[1]", fontsize=LETTERS)
        return png(drawn)


def _some(numbers: list[float], number: int) -> list[str]:
    """Writes the first number, the last and some between them as text; the rest is empty."""
    shown = {round(i * (len(numbers) - 1) / (number - 1)) for i in range(number)}
    return [f"{round(value, 2):g}".replace("-", MINUS) if i in shown else "" for i, value in enumerate(numbers)]


class _Group(NamedTuple):
    """The data of one label: its name, their colour, and which of all data they are (N,)."""

    name: str
    colour: Any
    chosen: Tensor


def _groups(size: int, labels: Tensor | None, key: Key) -> list[_Group]:
    if labels is None:
        return [_Group("", CLASSES[0], torch.ones(size, dtype=torch.bool))]
    names = labels.unique()
    return [_Group(key.name(int(n)), c, (labels == n).cpu()) for n, c in zip(names, colours(len(names)), strict=True)]


def colours(number: int) -> list[Any]:
    """Lists a colour for each of a number of classes, the same ones in every picture."""
    if number <= len(CLASSES):
        return list(CLASSES[:number])
    return list(colormaps["turbo"](np.linspace(0.03, 0.97, number)))


def _scatter(axes: Any, view: latent_views.Cloud, groups: list[_Group]) -> None:
    points, prior = view.points.cpu(), view.prior.cpu()
    size = 16 * min(1.0, 600 / len(points))
    axes.scatter(*prior.T, s=size / 3, color=BEHIND, lw=0)
    for name, colour, chosen in groups:
        axes.scatter(*points[chosen].T, s=size, color=colour, lw=0, alpha=0.85, label=name)
    seen: list[Tensor] = []
    title = f"centres of q(z|x) of {len(points):,} data; grey: as many draws of p(z)"
    if view.covariance is not None:
        shown, covariance = view.ellipses, view.covariance.cpu()
        for group in groups:
            _ellipses(axes, points, covariance, group.chosen & shown, group.colour)
        reach = 3 * covariance[shown].diagonal(dim1=-2, dim2=-1).sqrt()
        seen = [points[shown] - reach, points[shown] + reach]
        title += f"\nellipses: 3 sigma of q(z|x), {int(shown.sum())} of them"
    axes.set_title(title)
    # A heavy-tailed prior has draws far outside: most of them are in sight, and all codes.
    inner = prior.quantile(torch.tensor([0.005, 0.995], dtype=prior.dtype), 0)
    _square(axes, torch.cat([points, inner, *seen]))
    _name_groups(axes, points, groups)
    _name_axes(axes, view)


def _name_groups(axes: Any, points: Tensor, groups: list[_Group]) -> None:
    """Writes the name of each group at the middle of its points, or so far from it that none reaches over an edge."""
    size = 13 if all(len(group.name) <= 2 for group in groups) else LETTERS
    left, right = axes.get_xlim()
    for name, _, chosen in groups:
        x, y = points[chosen].median(0).values.tolist()
        half = min(0.5, len(name) * size * _HALF_LETTER / _NARROWEST) * (right - left)
        x = min(max(x, left + half), right - half)
        text = axes.text(x, y, name, ha="center", va="center", fontsize=size, weight="bold")
        text.set_path_effects([patheffects.withStroke(linewidth=3, foreground="white")])


def _square(axes: Any, seen: Tensor) -> None:
    """Sets limits of equal length around points (N, 2)."""
    low, high = seen.amin(0), seen.amax(0)
    half = 0.54 * float((high - low).max()) + 1e-6
    x, y = ((low + high) / 2).tolist()
    axes.set(xlim=(x - half, x + half), ylim=(y - half, y + half), aspect="equal")


def _name_axes(axes: Any, view: latent_views.Cloud) -> None:
    if view.z.shape[-1] == 2:
        axes.set(xlabel="z[0]", ylabel="z[1]")
        return
    first, second = (f"{100 * part:.0f} %" for part in view.share[:2].tolist())
    axes.set_xlabel(f"first principal component: {first} of the variance\nof {view.z.shape[-1]} dimensions")
    axes.set_ylabel(f"second: {second}")


def _ellipses(axes: Any, points: Tensor, covariance: Tensor, chosen: Tensor, colour: Any) -> None:
    variance, axis = torch.linalg.eigh(covariance[chosen].double())
    widths = 6 * variance.clamp(min=0).sqrt()  # 3 sigma to either side
    angles = torch.rad2deg(torch.atan2(axis[:, 1, 1], axis[:, 0, 1]))
    axes.add_collection(
        EllipseCollection(
            widths[:, 1].numpy(),
            widths[:, 0].numpy(),
            angles.numpy(),
            units="xy",
            offsets=points[chosen].numpy(),
            offset_transform=axes.transData,
            facecolors="none",
            edgecolors=colour,
            linewidths=0.8,
            alpha=0.6,
        )
    )


def _histogram(axes: Any, view: latent_views.Cloud, groups: list[_Group]) -> None:
    parts = [view.points[group.chosen, 0].cpu().numpy() for group in groups]
    axes.hist(parts, bins=40, stacked=True, color=[g.colour for g in groups], label=[g.name for g in groups])
    axes.set(xlabel="z", ylabel="data")
    axes.set_title(f"centres of q(z|x) of {len(view.z):,} data")
