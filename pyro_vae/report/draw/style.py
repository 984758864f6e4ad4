"""How the figures of a report look: one palette, one width, one set of lines and letters.

A figure is as wide as a column of the page, and its letters are as large as the text around it. On a telephone, where
a figure is 370 pixels wide, its letters are still 9 pixels high: no letter of a figure is smaller than `LETTERS`.
"""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

from pyro_vae.report.cells import MINUS
from pyro_vae.report.palette import CLASSES, GREY, INK, PALE

WIDTH = 5.6  # inches: a column of the page
LETTERS = 10  # points
_LINE = 66  # letters of a legend in a row, with six for each mark
_DPI = 180  # of a PNG: sharp on a telephone, and two columns of the page wide

_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=CLASSES),
    "axes.edgecolor": GREY,
    "axes.formatter.useoffset": False,  # no ticks that count from a number above the axis
    "axes.labelcolor": INK,
    "axes.labelsize": LETTERS,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": LETTERS,
    "font.size": LETTERS,
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "grid.color": PALE,
    "grid.linewidth": 0.8,
    "legend.fontsize": LETTERS,
    "legend.frameon": False,
    "svg.hashsalt": "pyro_vae",
    "text.color": INK,
    "text.parse_math": False,  # labels come from outside, and may hold a "$"
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": LETTERS,
    "ytick.labelsize": LETTERS,
}


def styled() -> Any:
    """Opens a block in which matplotlib draws and writes as figures of a report look. Its settings stay."""
    return mpl.rc_context(_STYLE)


@contextmanager
def figure(height: float) -> Iterator[Figure]:
    """Makes a figure to draw into, and to write by `svg` or `png` inside the block. Settings of matplotlib stay.

    Args:
        height: in inches.

    Example:
        >>> with figure(2.0) as drawn:
        ...     _ = drawn.subplots().plot([0, 1])
        ...     svg(drawn)[:5]
        b'<?xml'
    """
    with styled():
        yield Figure(figsize=(WIDTH, height), layout="constrained")


def svg(drawn: Figure) -> bytes:
    """Writes a figure as SVG, the same bytes at any time."""
    return _written(drawn, format="svg", metadata={"Date": None, "Creator": None})


def png(drawn: Figure) -> bytes:
    """Writes a figure as PNG, the same bytes at any time."""
    return _written(drawn, format="png", metadata={"Software": None})


def _written(drawn: Figure, **options: Any) -> bytes:
    buffer = io.BytesIO()
    drawn.savefig(buffer, dpi=_DPI, **options)
    return buffer.getvalue()


def legend_columns(names: Sequence[str]) -> int:
    """Computes how many of these names a legend has room for in a row, so that its rows are about equally long.

    >>> legend_columns([str(digit) for digit in range(10)]), legend_columns(["a long name of a class"] * 3)
    (5, 2)
    """
    fit = max(1, _LINE // (6 + max(map(len, names))))
    return math.ceil(len(names) / math.ceil(len(names) / fit))


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


def typeset(value: float, digits: int = 3) -> str:
    """Writes a number with a minus as long as a plus.

    >>> typeset(0.5), typeset(-0.25, 1)
    ('0.500', '−0.2')
    """
    return f"{value:.{digits}f}".replace("-", MINUS)


def plain(axes: Any, of: str) -> None:
    """Leaves only the axis that carries numbers, "x" or "y", with a light grid."""
    axes.grid(axis=of)
    other = "y" if of == "x" else "x"
    axes.spines["left" if of == "x" else "bottom"].set_visible(False)
    axes.tick_params(axis=other, length=0)
