"""Draws the columns of a table as PNG: how the rows of program and data are distributed."""

import math
from typing import Any

import numpy as np

from pyro_vae.report.cells import MINUS, clipped
from pyro_vae.report.draw.column_views import Columns
from pyro_vae.report.draw.images import PLAIN, Key
from pyro_vae.report.draw.style import figure, png
from pyro_vae.report.palette import BLUE, INK, PALE, RED

_BINS = 24  # at most
_SIDE = 3  # panels in a row


def draw_columns(view: Columns, key: Key = PLAIN) -> bytes:
    """Draws a histogram for each column, data filled and draws as a line, and the correlations of all pairs in a panel.

    The axes are in the data's own units. A few draws far outside are out of sight; the histograms have the same bins.

    Args:
        view: the rows.
        key: not used: every picture of a run takes it.
    """
    x, drawn = view.x.cpu().double().numpy(), view.drawn.cpu().double().numpy()
    panels = x.shape[1] + (x.shape[1] > 1)
    side = min(_SIDE, math.ceil(math.sqrt(panels)))
    rows = math.ceil(panels / side)
    with figure(1.75 * rows + 0.5) as page:
        places = list(page.subplots(rows, side, squeeze=False).flat)
        for i, axes in enumerate(places[: x.shape[1]]):
            _histogram(axes, x[:, i], drawn[:, i])
            axes.set_xlabel(_named(view.names[i], view.origin[i]))
        if x.shape[1] > 1:
            _correlations(places[x.shape[1]], x, drawn)
        for axes in places[panels:]:
            axes.set_axis_off()
        page.legend(*places[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
        return png(page)


def _named(name: str, origin: float) -> str:
    return clipped(name, 20) + (f" {MINUS} {origin:.6g}" if origin else "")


def _histogram(axes: Any, x: np.ndarray, drawn: np.ndarray) -> None:
    x, drawn = x[np.isfinite(x)], drawn[np.isfinite(drawn)]
    edges = _edges(x, drawn)
    axes.hist(x, edges, density=len(x) > 0, color=BLUE, alpha=0.45, label=f"{len(x):,} test data")
    axes.hist(
        drawn,
        edges,
        density=len(drawn) > 0,
        histtype="step",
        color=RED,
        lw=1.3,
        label=f"{len(drawn):,} draws from the program",
    )
    axes.set(yticks=[], xlim=(edges[0], edges[-1]))
    axes.locator_params(axis="x", nbins=3)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _edges(x: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Bins over the data and most of the draws; whole numbers that are few have a bin each."""
    if not len(x):
        x = np.zeros(1)
    inner = np.quantile(drawn, [0.01, 0.99]) if len(drawn) else x[:1]
    low, high = min(x.min(), inner[0]), max(x.max(), inner[-1])
    if (np.floor(x) == x).all() and high - low <= _BINS:
        return np.arange(np.floor(low) - 0.5, np.ceil(high) + 1)
    bins = min(_BINS, max(6, 2 * math.isqrt(len(x))))
    return np.linspace(low, high, bins + 1) if high > low else np.array([low - 0.5, low + 0.5])


def _correlations(axes: Any, x: np.ndarray, drawn: np.ndarray) -> None:
    """Shows a point for each pair of columns: its correlation among the data, and among the draws."""
    axes.plot([-1, 1], [-1, 1], color=PALE, lw=1)
    pairs = np.stack([_pairs(x), _pairs(drawn)])
    axes.plot(*pairs[:, np.isfinite(pairs).all(0)], "o", color=INK, ms=2.5, mew=0, alpha=0.7)
    axes.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), xticks=[-1, 0, 1], yticks=[-1, 0, 1])
    axes.set_xlabel("correlations of two columns:\ndata (across), draws (up)")


def _pairs(x: np.ndarray) -> np.ndarray:
    """The correlations of all pairs of columns, of the rows that have both numbers; NaN where one is constant."""
    first, second = np.triu_indices(x.shape[1], 1)
    return np.array([_correlation(x[:, i], x[:, j]) for i, j in zip(first, second, strict=True)])


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    both = np.isfinite(a) & np.isfinite(b)
    if both.sum() < 2:
        return math.nan
    a, b = a[both] - a[both].mean(), b[both] - b[both].mean()
    scale = math.sqrt((a @ a) * (b @ b))
    return float(a @ b) / scale if scale > 0 else math.nan
