"""What is on a figure, in numbers and words: labels, limits, ticks, lines, marks and pictures."""

import numpy as np
from matplotlib.figure import Figure


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


def kept(monkeypatch):
    """A list to which each figure is added in place of being saved, one dictionary for each of its axes."""
    figures = []

    def describe(figure, file, **options):
        figure.draw_without_rendering()
        figures.append([_described(axes) for axes in figure.axes])

    monkeypatch.setattr(Figure, "savefig", describe)
    return figures
