"""Draws a sweep as PNG: rate against distortion, and the validation ELBO against the values of a setting."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

from matplotlib.ticker import MaxNLocator

from pyro_vae.report.cells import MINUS, as_typed, clipped
from pyro_vae.report.draw.style import error, figure, png
from pyro_vae.report.palette import BLUE, GREEN, GREY, INK, ORANGE, PALE, RED

Group = Mapping[str, Any]  # one of the settings, or a part of one

_COLOURS, _MARKERS = (BLUE, RED, GREEN, ORANGE, GREY), "os^Dv"
_MOST_NAMES = 16  # written next to their points, and in a legend


def rate_distortion(sweep: Mapping[str, Any]) -> bytes:
    """Draws rate against distortion: runs, the mean of each setting with its errors over seeds, lines of equal ELBO.

    A line joins the settings that differ in one number, in the order of its values.

    Args:
        sweep: what report.json holds.
    """
    axis, lines = _lines(sweep["groups"])
    with figure(4.8) as drawn:
        axes = drawn.subplots()
        for (name, groups), colour, marker in _styled(lines):
            rate, distortion = ([group[part] for group in groups] for part in ("rate", "distortion"))
            _draw(axes, rate, distortion, colour, marker, "-" if axis else "", name)
            if sum(map(len, lines.values())) <= _MOST_NAMES:
                _name_points(axes, rate, distortion, [_named(group["values"], axis) for group in groups], colour)
            _ring_chosen(axes, rate, distortion, [group["name"] == sweep["chosen"] for group in groups])
        _draw_levels(axes)
        axes.set_xlabel("rate: KL(q(z|x) || p(z)), nats per datum")
        axes.set_ylabel("distortion: -E[log p(x|z)], nats per datum")
        axes.set_title(
            "validation data; grey: lines of equal ELBO; ringed: chosen" + (f"\nat the points: {axis}" if axis else "")
        )
        _add_legend(axes, lines)
        return png(drawn)


def curve(sweep: Mapping[str, Any]) -> bytes | None:
    """Draws the validation ELBO against the values of the first flag that has numbers; None where there is none.

    Args:
        sweep: what report.json holds.
    """
    axis, lines = _lines(sweep["groups"])
    if axis is None:
        return None
    with figure(3.4) as drawn:
        axes = drawn.subplots()
        for (name, groups), colour, marker in _styled(lines):
            values = [_exactly(group["values"][axis], len(group["elbo"]["runs"])) for group in groups]
            _draw(axes, values, [group["elbo"] for group in groups], colour, marker, "-", name)
        every = [group["values"][axis] for groups in lines.values() for group in groups]
        if 0 < 10 * min(every) <= max(every):
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")  # since text is not mathematics here
            axes.xaxis.set_minor_formatter(lambda value, _: "")
        axes.grid(axis="y")
        axes.set_xlabel(axis)
        axes.set_ylabel("validation ELBO, nats per datum")
        has_errors = any(group["elbo"]["standard_error"] is not None for groups in lines.values() for group in groups)
        axes.set_title("mean ± standard error over seeds; small: single runs" if has_errors else "one run per setting")
        _add_legend(axes, lines)
        return png(drawn)


def _lines(groups: Sequence[Group]) -> tuple[str | None, dict[str, list[Group]]]:
    """The first flag that has several numbers, and the settings by their other values, in the order of these."""
    groups = [group for group in groups if group["elbo"]]
    axis = next((name for name in (groups[0]["values"] if groups else ()) if _is_axis(name, groups)), None)
    lines: dict[str, list[Group]] = {}
    for group in sorted(groups, key=lambda group: group["values"][axis]) if axis else groups:
        others = {name: value for name, value in group["values"].items() if name != axis}
        lines.setdefault(_named(others) if axis else "", []).append(group)
    return axis, dict(sorted(lines.items()))


def _is_axis(name: str, groups: Sequence[Group]) -> bool:
    values = [group["values"][name] for group in groups]
    return len(set(map(str, values))) > 1 and all(type(value) in (int, float) for value in values)


def _named(values: Mapping[str, Any], axis: str | None = None) -> str:
    """A short name of a setting: its value on the axis, or all its values."""
    return as_typed(values[axis]) if axis else clipped(", ".join(f"{name}={as_typed(v)}" for name, v in values.items()))


def _exactly(value: float, times: int) -> dict[str, Any]:
    return {"mean": value, "standard_error": None, "runs": [value] * times}


def _styled(lines: Mapping[str, list[Group]]) -> Iterator[tuple[tuple[str, list[Group]], str, str]]:
    return zip(lines.items(), cycle(_COLOURS), cycle(_MARKERS))


def _draw(axes: Any, x: Sequence[Group], y: Sequence[Group], colour: str, marker: str, line: str, name: str) -> None:
    """Draws means with their errors, and the runs behind them; x and y are parts of the `groups` of the report."""
    means, errors = ([[part[key] for part in parts] for parts in (x, y)] for key in ("mean", "standard_error"))
    bars = dict(zip(("xerr", "yerr"), ([*map(error, of)] for of in errors), strict=True))
    axes.errorbar(*means, **bars, fmt=marker, ls=line, color=colour, ms=5, lw=1.2, capsize=2, label=name)
    runs = [[value for part in parts for value in part["runs"]] for parts in (x, y)]
    axes.scatter(*runs, s=12, marker=marker, facecolors="none", edgecolors=colour, lw=0.6, zorder=3)


def _name_points(axes: Any, x: Sequence[Group], y: Sequence[Group], names: Sequence[str], colour: str) -> None:
    for across, up, name in zip(x, y, names, strict=True):
        place = across["mean"], up["mean"]
        axes.annotate(name, place, xytext=(6, 4), textcoords="offset points", color=colour)


def _ring_chosen(axes: Any, x: Sequence[Group], y: Sequence[Group], chosen: Sequence[bool]) -> None:
    for across, up, is_chosen in zip(x, y, chosen, strict=True):
        if is_chosen:
            axes.plot(across["mean"], up["mean"], "o", ms=13, mfc="none", mec=INK, mew=0.9)


def _draw_levels(axes: Any) -> None:
    """Draws lines where rate + distortion is the same, within what is shown; a number that hits a name is left out."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    axes.set(xlim=(left, right), ylim=(low, high))
    axes.figure.draw_without_rendering()  # only then have the names their places
    names = [name.get_window_extent() for name in axes.texts]
    levels = MaxNLocator(7).tick_values(left + low, right + high)
    for level in levels[(left + low < levels) & (levels < right + high)]:
        axes.plot((left, right), (level - left, level - right), color=PALE, lw=0.9, zorder=0)
        place = (left, level - left) if low < level - left < high else (level - high, high)
        number = axes.annotate(
            f"{0.0 - level:g}".replace("-", MINUS), place, xytext=(2, -11), textcoords="offset points", color=GREY
        )
        if number.get_window_extent().count_overlaps(names):
            number.remove()


def _add_legend(axes: Any, lines: Mapping[str, Any]) -> None:
    if 1 < len(lines) <= _MOST_NAMES:
        axes.legend()
