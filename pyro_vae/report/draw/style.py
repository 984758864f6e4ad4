"""How the figures of a report look: one palette, one set of line widths, SVG that is the same in every run.

People with any colour vision tell the colours apart. In grey they differ in lightness, and nothing is told by colour
alone.

Reference:
    Okabe & Ito, "Color Universal Design: how to make figures and presentations that are friendly to colorblind people",
    2008. https://jfly.uni-koeln.de/color/
"""

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from pyro_vae.report.cells import MINUS

BLUE, RED, GREEN, ORANGE, GREY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#8a8f98"
PALE, INK = "#e4e7ec", "#22262e"
WIDTH = 5.6  # inches: text of 9 points is read at its size in a column of the page, and on paper

_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "font.size": 9,
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "grid.color": PALE,
    "grid.linewidth": 0.8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "svg.hashsalt": "pyro_vae",
    "text.color": INK,
    "text.parse_math": False,  # labels come from outside, and may hold a "$"
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}


@contextmanager
def figure(height: float, width: float = WIDTH) -> Iterator[tuple[Figure, io.BytesIO]]:
    """Gives a figure to draw into, and the buffer that holds it as SVG afterwards. Settings of matplotlib stay.

    Args:
        height: in inches.
        width: in inches.

    Example:
        >>> with figure(2.0) as (drawn, svg):
        ...     _ = drawn.subplots().plot([0, 1])
        >>> svg.getvalue()[:5]
        b'<?xml'
    """
    buffer = io.BytesIO()
    with mpl.rc_context(_STYLE):
        drawn = Figure(figsize=(width, height), layout="constrained")
        yield drawn, buffer
        drawn.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, dpi=160)


def known(value: Any) -> float:
    """A number of a report, NaN where it has none."""
    return math.nan if value is None else float(value)


def error(value: Any) -> float:
    """An error bar of a report, 0 where it has none: nothing is drawn then."""
    return 0.0 if value is None else float(value)


def signed(value: float, digits: int = 3) -> str:
    """Writes a number with a sign, and a minus as long as the plus.

    >>> signed(0.5), signed(-0.0004)
    ('+0.500', '−0.000')
    """
    return f"{value:+.{digits}f}".replace("-", MINUS)


def plain(axes: Any, of: str) -> None:
    """Leaves only the axis that carries numbers, "x" or "y", with a light grid."""
    axes.grid(axis=of)
    other = "y" if of == "x" else "x"
    axes.spines["left" if of == "x" else "bottom"].set_visible(False)
    axes.tick_params(axis=other, length=0)
