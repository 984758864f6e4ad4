"""What is on a figure, in numbers and words: labels, limits, ticks, lines, marks and pictures."""

from itertools import combinations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text


def in_numbers(values):
    """The size of an array, and a few numbers that tell where it lies and in which order."""
    array = np.ma.filled(np.ma.asarray(values, float), -1.0)
    flat = array.ravel()
    some = [flat.mean(), flat.std(), *flat[:4], *flat[-2:]] if flat.size else []
    return [*array.shape, *(float(f"{number:.5g}") for number in some)]


def _described(axes):
    ticks = [[text.get_text() for text in axis.get_ticklabels()] for axis in (axes.xaxis, axes.yaxis)]
    titles = [axes.get_title(loc=place) for place in ("left", "center", "right")]
    legend = axes.get_legend()
    return {
        "words": [*titles, axes.get_xlabel(), axes.get_ylabel(), *(text.get_text() for text in axes.texts)],
        "ticks": ticks,
        "places of ticks": [in_numbers(axis.get_ticklocs()) for axis in (axes.xaxis, axes.yaxis)],
        "legend": [text.get_text() for text in legend.get_texts()] if legend else [],
        "scales": [axes.get_xscale(), axes.get_yscale()],
        "limits": in_numbers([*axes.get_xlim(), *axes.get_ylim()]),
        "lines": [in_numbers(line.get_xydata()) for line in axes.lines],
        "marks": [in_numbers(each.get_offsets()) for each in axes.collections],
        "paths": [in_numbers(path.vertices) for each in axes.collections for path in each.get_paths()[:9]],
        "areas": [in_numbers(patch.get_extents().bounds) for patch in axes.patches],
        "pictures": [in_numbers(picture.get_array()) for picture in axes.images],
    }


def unreadable(figure, least):
    """What is written on a drawn figure in letters of fewer points than `least`, over its edge, or over other words."""
    page, hidden = figure.bbox.padded(1.0), _beyond_limits(figure)
    shown = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    boxes = [(text, text.get_window_extent()) for text in shown if text not in hidden]
    return [
        text.get_text()
        for text, box in boxes
        if text.get_fontsize() < least or not (page.contains(*box.min) and page.contains(*box.max))
    ] + [
        f"{one.get_text()!r} over {other.get_text()!r}"
        for (one, box), (other, other_box) in combinations(boxes, 2)
        if box.padded(-1.0).overlaps(other_box.padded(-1.0))
    ]


def _beyond_limits(figure):
    """The labels of ticks outside the limits of their axes. They are not drawn."""
    every = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    ticks = [
        (tick, sorted(axis.get_view_interval())) for axis in every for tick in (*axis.majorTicks, *axis.minorTicks)
    ]
    return {tick.label1 for tick, (low, high) in ticks if not low <= tick.get_loc() <= high}


def kept(monkeypatch, checked=None):
    """A list to which each figure is added in place of being saved, one dictionary for each of its axes.

    Args:
        monkeypatch: puts saving back.
        checked: is called with each drawn figure.
    """
    figures = []

    def describe(figure, file, **options):
        figure.draw_without_rendering()
        if checked is not None:
            checked(figure)
        figures.append([_described(axes) for axes in figure.axes])

    monkeypatch.setattr(Figure, "savefig", describe)
    return figures
