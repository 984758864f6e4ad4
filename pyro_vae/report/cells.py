"""The values of a report and how they are shown. A cell keeps all digits for programs, and its text is for people."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pyro_vae.notebook_html import clean as clean

MINUS = "\N{MINUS SIGN}"  # as wide as a digit, for pictures and pages
UNKNOWN = "n/a"
_LONGEST = 40


class Cell(NamedTuple):
    """A value, and the text that people read. Printing it gives the text.

    Attributes:
        value: the value at full precision; None where it is unknown.
        text: the value as it is shown.
    """

    value: Any
    text: str

    def __str__(self) -> str:
        return self.text


def number(value: float | None, digits: int = 3) -> Cell:
    """Shows a number with a fixed count of decimals; "n/a" if unknown. What is not zero never reads as zero.

    >>> print(number(-22.14757), number(0.0), number(4.6e-5), number(None))
    -22.148 0.000 <0.001 n/a
    """
    if value and float(f"{value:.{digits}f}") == 0:
        least = f"{10.0**-digits:.{digits}f}"
        return Cell(value, f"<{least}" if value > 0 else f">-{least}")
    return fixed(value if value is None or math.isfinite(value) else None, digits)


def fixed(value: float | None, digits: int = 3, sign: str = "") -> Cell:
    """Shows a number with a fixed count of decimals, even where that rounds it to zero; "n/a" if unknown.

    >>> print(fixed(4.6e-5), fixed(0.25, 1, "+"), fixed(None))
    0.000 +0.2 n/a
    """
    return Cell(value, UNKNOWN if value is None else f"{value:{sign}.{digits}f}")


def nats(value: float | None, sign: str = "") -> Cell:
    """Shows nats, thousands with fewer decimals. Under the sign "+" it is a difference, which may round to zero.

    >>> print(nats(-22.14757), nats(-54321.0), nats(0.25, "+"))
    -22.148 -54321.0 +0.250
    """
    digits = 3 if abs(value or 0.0) < 1000 else 1
    return fixed(value, digits, sign) if sign else number(value, digits)


def share(value: float | None) -> Cell:
    """Shows a share in per cent, which is never rounded to none or to all.

    >>> print(share(0.25), share(0.0), share(0.0004), share(0.9999), share(None), sep=", ")
    25 %, 0 %, <0.1 %, >99.9 %, n/a
    """
    if value is None:
        return Cell(None, UNKNOWN)
    if 0 < value < 0.001:
        return Cell(value, "<0.1 %")
    if 0.999 < value < 1:
        return Cell(value, ">99.9 %")
    return Cell(value, f"{100 * value:.{0 if value in (0, 1) or 0.095 <= value <= 0.905 else 1}f} %")


def estimate(value: float | None, error: float | None, digits: int = 2) -> Cell:
    """Shows a mean and one of its errors.

    >>> print(estimate(-28.5014, 0.1324), estimate(None, None), sep=", ")
    -28.50 ± 0.13, n/a
    """
    return Cell(value, UNKNOWN if value is None else f"{number(value, digits)} ± {number(error, digits)}")


def too_small(cell: Cell) -> Cell:
    """Marks an error that is known to be too small.

    >>> print(too_small(number(0.0021)), too_small(number(None)))
    0.002* n/a
    """
    return cell if cell.value is None else Cell(cell.value, f"{cell}*")


def both_errors(numbers: Mapping[str, Any] | None, mark: str = "") -> Cell:
    """Shows an estimate with its error over the data and, in brackets, its Monte Carlo error and a mark of that.

    >>> print(both_errors({"mean": -22.5061, "standard_error": 0.2, "monte_carlo_error": None}))
    -22.506 ± 0.200 (?)
    """
    if numbers is None or numbers.get("mean") is None:
        return Cell(None, "")
    errors = (numbers.get(error) for error in ("standard_error", "monte_carlo_error"))
    over_data, over_draws = ("?" if error is None else number(error) for error in errors)
    return Cell(numbers["mean"], f"{number(numbers['mean'])} ± {over_data} ({over_draws}{mark})")


def interval(ends: Sequence[float] | None) -> Cell:
    """Shows an interval of differences; "n/a" where there is none.

    >>> print(interval([-0.417, -0.187]), interval(None))
    [-0.417, -0.187] n/a
    """
    return Cell(ends, f"[{nats(ends[0], '+')}, {nats(ends[1], '+')}]" if ends else UNKNOWN)


def plain(value: Any, digits: int = 6) -> str:
    """Writes any value of a report as text.

    >>> plain({"sigma": 0.25, "learned": "one number"}), plain([1, 2.0])
    ('sigma 0.25, learned one number', '1, 2')
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {plain(inner, digits)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain(inner, digits) for inner in value)
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def as_typed(value: Any) -> str:
    """Writes a setting as one types it.

    >>> as_typed([256, 256]), as_typed(True), as_typed(0.001), as_typed("vamp")
    ('256,256', 'true', '0.001', 'vamp')
    """
    if isinstance(value, list | tuple):
        return ",".join(map(as_typed, value))
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def clipped(text: str, width: int = _LONGEST) -> str:
    """Cuts a text to `width` characters. The middle goes, since paths differ at their ends.

    >>> clipped("runs/2026/standard-0", 11)
    'runs...rd-0'
    """
    if len(text) <= width:
        return text
    kept = (width - 3) // 2
    return f"{text[: width - 3 - kept]}...{text[-kept:]}"
