"""Draws the bounds of a report, and how far to trust them, as SVG. Nothing is estimated, no settings are changed.

Every mean has two errors, and they are drawn apart. Estimates on the same data share their error over the data: it
moves all of them together, and says nothing about which of them is larger. The Monte Carlo error and the paired
differences say that. Bounds stand in the order of the report, neither sorted nor clipped.
"""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from pyro_vae.report.cells import MINUS, clipped
from pyro_vae.report.documents.estimate_sections import class_name, place
from pyro_vae.report.draw.style import error, figure, known, plain, signed, svg, typeset
from pyro_vae.report.palette import BLUE, GREEN, GREY, INK, ORANGE, PALE, RED

Numbers = Mapping[str, Any]


def bounds(curve: Sequence[Numbers], jackknife: Numbers | None = None, *, of: str = "x") -> bytes:
    """Draws importance-weighted bounds against the number of draws, and apart from them the jackknife.

    Bars are Monte Carlo errors. The band is the error over the data, by which the whole curve moves up or down.

    Args:
        curve: estimates, whose num_samples is k.
        jackknife: an estimate.
        of: the argument of the density, "x" or "x|y".
    """
    k = [numbers["num_samples"] for numbers in curve]
    mean = np.array([known(numbers["mean"]) for numbers in curve])
    noise = np.array([error(numbers["monte_carlo_error"]) for numbers in curve])
    data = np.array([error(numbers["standard_error"]) for numbers in curve])
    with figure(3.6) as drawn:
        axes, apart = drawn.subplots(1, 2, sharey=True, width_ratios=[6, 1])
        label = f"± over {curve[-1]['num_data']} data, {data[-1]:.3g}: moves all points together"
        axes.fill_between(k, mean - data, mean + data, color=PALE, lw=0, label=label)
        axes.errorbar(k, mean, noise, fmt="o-", color=BLUE, ms=4, lw=1.2, label="lower bound, ± Monte Carlo")
        axes.set(
            xscale="log", xlabel="draws k from q(z|x), log scale", ylabel=f"log p({of}) from below, nats per datum"
        )
        axes.minorticks_off()
        axes.set_xticks(k, _round_numbers(k))
        axes.set_ylim(*_limits(mean, noise, data))
        drawn.legend(*axes.get_legend_handles_labels(), loc="outside upper left")
        plain(axes, "y")
        plain(apart, "y")
        apart.tick_params(axis="y", length=0)
        if jackknife is not None:
            bar = error(jackknife["monte_carlo_error"])
            apart.errorbar([0], [known(jackknife["mean"])], [bar], fmt="D", color=RED, mfc="white", ms=5)
        apart.set(xlim=(-1, 1))
        apart.set_xticks([0], ["jackknife,\nno bound" if jackknife is not None else ""])
        return svg(drawn)


def _round_numbers(k: Sequence[int]) -> list[str]:
    """Labels the powers of ten and the last k, and nothing that would stand in its way."""
    shown = {value for value in k if str(value).strip("0") == "1" and (value == k[-1] or 3 * value < k[-1])}
    return [f"{value:,}" if value in {*shown, k[-1]} else "" for value in k]


def _limits(mean: Any, noise: Any, data: Any) -> tuple[float, float]:
    """The limits of the curve with its bars, and as much of the band as leaves the curve a third of the height."""
    low, high = np.nanmin(mean - noise), np.nanmax(mean + noise)
    room = max(high - low, 1e-3)
    margin = max(0.1 * room, min(1.15 * float(np.nanmax(data)), room))
    return low - margin, high + margin


class _Row(NamedTuple):
    label: str
    mean: float
    noise: float = 0.0
    data: float = 0.0
    bound: str = "lower"


_MARKS = {"lower": (">", BLUE), "upper": ("<", RED), "": ("D", GREEN)}


def reference(numbers: Numbers, *, of: str = "x") -> bytes:
    """Draws bounds of growing cost on the same data, in the order of the report; below, their paired differences.

    Args:
        numbers: "reference" of a report.
        of: the argument of the density, "x" or "x|y".
    """
    rows = [_row(row["label"], row, "" if row["name"] == "grid" else "lower") for row in numbers["rows"]]
    differences = [
        _Row(row["label"], row["mean"], error(row["standard_error"])) for row in numbers.get("differences", ())
    ]
    about = f"log p({of}), nats per datum\nthe same {numbers['num_data']} test data in every row"
    return _ladder(rows, differences, about)


def simulated(numbers: Numbers, *, of: str = "x") -> bytes:
    """Draws bounds from below and from above for data simulated from the model; below, their gap.

    Args:
        numbers: "simulated" of a report.
        of: the argument of the density, "x" or "x|y".
    """
    labels = {"elbo": "ELBO", "iwae": "importance-weighted", "forward": "AIS, forward", "reverse": "AIS, reverse"}
    rows = [
        _row(label, numbers[name], "upper" if name == "reverse" else "lower")
        for name, label in labels.items()
        if numbers.get(name) is not None
    ]
    about = f"log p({of}), nats per datum\n{numbers['num_data']} data simulated from the model, not test data"
    gap = [_Row(f"gap, reverse {MINUS} forward", numbers["gap"], error(numbers["gap_error"]))]
    bracket = numbers["forward"]["mean"], numbers["reverse"]["mean"]
    return _ladder(rows, gap, about, bracket)


def _row(label: str, numbers: Numbers, bound: str) -> _Row:
    mean = known(numbers["mean"])
    return _Row(label, mean, error(numbers["monte_carlo_error"]), error(numbers["standard_error"]), bound)


def _ladder(
    rows: Sequence[_Row], differences: Sequence[_Row], about: str, bracket: tuple[float, float] | None = None
) -> bytes:
    """Draws estimates below each other, and paired differences below them on an axis of their own."""
    counts = [len(rows), max(1, len(differences))]
    with figure(2.1 + 0.34 * sum(counts)) as drawn:
        axes, below = drawn.subplots(2, 1, height_ratios=[counts[0] + 0.5, counts[1] + 0.2])
        for i, row in enumerate(rows):
            mark, color = _MARKS[row.bound]
            axes.errorbar(row.mean, i, xerr=row.data, color=PALE, lw=6, zorder=1)
            axes.errorbar(row.mean, i, xerr=row.noise, fmt=mark, color=color, ms=6, lw=1.6, capsize=3, zorder=3)
        handles = [Patch(color=PALE, label="± over data: moves all rows together")]
        if bracket is not None:
            span = axes.axvspan(min(bracket), max(bracket), color=GREEN, alpha=0.3, lw=1, zorder=2)
            span.set_label("between forward and reverse")
            handles.append(span)
        drawn.legend(handles=handles, loc="outside upper left")
        axes.set_xlabel(about)
        _list(axes, [row.label for row in rows], [_with_error(row.mean, row.noise) for row in rows], "± Monte Carlo")
        below.axvline(0, color=INK, lw=0.8)
        for i, row in enumerate(differences):
            below.errorbar(row.mean, i, xerr=row.noise, fmt="o", color=INK, ms=4, lw=1.2, capsize=3)
        below.set_xlabel("paired differences, nats per datum")
        values = [_with_error(row.mean, row.noise, signed) for row in differences]
        _list(below, [row.label for row in differences], values, "± over data")
        return svg(drawn)


def _list(axes: Any, labels: Sequence[str], values: Sequence[str], head: str, at: Sequence[float] = ()) -> None:
    """Makes a row for each label, the first on top, and writes its value at the right end."""
    at = at or range(len(labels))
    axes.set_yticks(at, [textwrap.fill(label, 24) for label in labels])
    axes.set_ylim(max(at, default=0) + 0.5, -0.5)
    axes.annotate(head, (1.02, 1.0), xycoords="axes fraction", va="bottom", color=GREY)
    for i, value in zip(at, values, strict=True):
        axes.annotate(value, (1.02, i), xycoords=("axes fraction", "data"), va="center")
    plain(axes, "x")
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))


def _with_error(mean: float, bar: float, show: Callable[[float], str] = typeset) -> str:
    value = show(mean)
    return f"{value} ± {bar:.3f}" if bar else value


def khat(numbers: Numbers, classes: Sequence[str] = ()) -> bytes:
    """Draws the sorted k-hat of every datum, so that the share of the data below each threshold can be read off.

    Args:
        numbers: "khat" of a report.
        classes: the names of the classes, where they have any.
    """
    values = np.sort([value for value in numbers["values"] if value is not None])
    unknown, size, threshold = len(numbers["values"]) - len(values), len(numbers["values"]), numbers["threshold"]
    at = 100 * (unknown + np.arange(len(values)) + 0.5) / size
    zones = (
        (values < 0.5, "o", BLUE, "below 0.5"),
        ((values >= 0.5) & (values <= threshold), "s", ORANGE, f"0.5 to {threshold:g}"),
        (values > threshold, "^", RED, f"above {threshold:g}: may be loose"),
    )
    with figure(4.0) as drawn:
        axes = drawn.subplots()
        for line in (0.5, threshold):
            axes.axhline(line, color=GREY, lw=0.8, ls=(0, (4, 3)))
        for chosen, mark, color, label in zones:
            count = int(chosen.sum())
            of = f"{label} ({count} of {size} data)"
            axes.plot(at[chosen], values[chosen], mark, color=color, ms=3.5, mew=0, label=of, rasterized=size > 3000)
        if unknown:
            axes.axvspan(
                0, 100 * unknown / size, color=PALE, lw=0, label=f"none ({unknown}): weights all agree, or too few"
            )
        axes.set(xlabel=_worst(numbers.get("worst", ())[:4], classes), ylabel="k-hat of the importance weights")
        axes.set(xlim=(-1, 101))
        axes.set_ylim(top=max(1.0, 1.1 * values.max(initial=0.0)))
        drawn.legend(loc="outside upper left", handletextpad=0.2)
        plain(axes, "y")
        return svg(drawn)


def _worst(worst: Sequence[Numbers], classes: Sequence[str]) -> str:
    """Describes the axis of the data, and names the worst of them, which are the last ones on the right."""
    axis = "share of the test data, sorted by k-hat, %"
    if not worst:
        return axis
    about = {"protocol": {"classes": classes}}
    labels = [clipped(class_name(about, row.get("label")), 20) for row in worst]
    names = [place(row) + (label and f" (label {label})") for row, label in zip(worst, labels, strict=True)]
    kind = names[0].split()[0]
    listed = ", ".join(name.removeprefix(f"{kind} ") for name in names)
    return f"{axis}\n{textwrap.fill(f'largest: {kind} {listed}', 58)}"


def effective_sample_size(numbers: Numbers) -> bytes:
    """Draws what is left of K draws for every datum, sorted. Where k-hat is above its threshold it is too large.

    Args:
        numbers: "khat" of a report.
    """
    order = np.argsort([error(value) for value in numbers["ess"]])
    ess = np.array([known(value) for value in numbers["ess"]])[order]
    unreliable = np.array([known(value) > numbers["threshold"] for value in numbers["values"]])[order]
    at, K = 100 * (np.arange(len(ess)) + 0.5) / len(ess), numbers["num_samples"]
    with figure(3.0) as drawn:
        axes = drawn.subplots()
        few: Any = {"ms": 3.5, "rasterized": len(ess) > 3000}
        axes.plot(at[~unreliable], ess[~unreliable], "o", color=BLUE, mew=0, label="one datum", **few)
        label = f"k-hat above {numbers['threshold']:g}: may be fewer"
        axes.plot(at[unreliable], ess[unreliable], "^", color=RED, mfc="white", label=label, **few)
        axes.set(yscale="log", ylim=(0.8, 1.3 * K), xlim=(-1, 101))
        axes.minorticks_off()
        ticks = [10**power for power in range(len(str(K))) if 3 * 10**power < K] + [K]
        axes.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.set(xlabel="share of the test data, sorted, %", ylabel=f"effective draws of {K:,}, log scale")
        axes.legend(loc="lower right", handletextpad=0.2)
        plain(axes, "y")
        return svg(drawn)


LISTED = 20  # data: more make a picture that is longer than the page


def escalation(numbers: Numbers) -> bytes:
    """Draws what more draws and annealing change for the data above the threshold, against the bound at K draws.

    These are K new draws where they are known: those that chose the data lie high.

    It shows at most `LISTED` of them, the largest k-hat first.

    Args:
        numbers: "escalation" of a report.
    """
    rows = numbers["rows"][:LISTED]
    first, draws = ("iwae_anew", "K new draws") if "iwae_anew" in rows[0] else ("iwae", "the K draws that chose them")
    with figure(1.5 + (0.42 if len(rows) <= 12 else 0.26) * len(rows)) as drawn:
        axes = drawn.subplots()
        axes.axvline(0, color=INK, lw=0.8)
        for i, row in enumerate(rows):
            base = known(row[first])
            axes.errorbar(0, i, xerr=error(row[f"{first}_error"]), color=PALE, lw=6, zorder=1)
            for name, mark, color, shift in (("iwae_more", "o", BLUE, -0.13), ("ais", "s", RED, 0.13)):
                change, bar = known(row[name]) - base, error(row[f"{name}_error"])
                axes.errorbar(change, i + shift, xerr=bar, fmt=mark, color=color, ms=4.5, lw=1.2, capsize=2)
        handles: list[Any] = [
            axes.errorbar([], [], xerr=[], fmt="o", color=BLUE, ms=4.5, label=f"{rows[0]['more_samples']:,} draws"),
            axes.errorbar([], [], xerr=[], fmt="s", color=RED, ms=4.5, label="AIS"),
        ]
        handles.append(Patch(color=PALE, label=f"± Monte Carlo of the bound at {draws}"))
        drawn.legend(handles=handles, loc="outside upper left", ncols=2)
        labels = [f"{place(row)}, k-hat {known(row['khat']):.2f}" for row in rows]
        _list(
            axes,
            labels,
            ["n/a" if row["khat_more"] is None else f"{row['khat_more']:.2f}" for row in rows],
            "k-hat then",
        )
        axes.set_xlabel(f"change against the bound at {draws}, nats, ± Monte Carlo")
        return svg(drawn)


def gaps(numbers: Numbers) -> bytes:
    """Draws the gap between the ELBO and the reference, its two parts end to end, and the train-test gap below.

    The parts are drawn as steps and not stacked, so that a negative one is seen.

    Args:
        numbers: "gaps" of a report.
    """
    inference = known(numbers["inference"]["mean"])
    bars = [("inference gap", 0.0, 0.0, numbers["inference"], BLUE)]
    if numbers.get("amortisation") is not None and numbers.get("approximation") is not None:
        first = known(numbers["amortisation"]["mean"])
        bars.append(("amortisation gap", 1.0, 0.0, numbers["amortisation"], ORANGE))
        bars.append(("approximation gap", 2.0, first, numbers["approximation"], GREEN))
    with figure(1.3 + 0.36 * (len(bars) + 1)) as drawn:
        axes = drawn.subplots()
        axes.plot([inference, inference], [0, len(bars) - 1], color=GREY, lw=0.8, ls=(0, (4, 3)), zorder=0)
        if numbers.get("train_test") is not None:
            bars.append((f"train {MINUS} test ELBO", len(bars) + 0.4, 0.0, numbers["train_test"], GREY))
        for _, at, start, gap, color in bars:
            axes.barh(at, known(gap["mean"]), 0.6, left=start, color=color)
            end = start + known(gap["mean"])
            axes.errorbar(end, at, xerr=error(gap["standard_error"]), color=INK, lw=1.2, capsize=3)
        axes.axvline(0, color=INK, lw=0.8)
        values = [_with_error(known(gap["mean"]), error(gap["standard_error"]), signed) for *_, gap, _ in bars]
        _list(axes, [label for label, *_ in bars], values, "± over data", [at for _, at, *_ in bars])
        about = f"nats per datum, {numbers['num_data']} test data; reference: {numbers['reference']}"
        axes.set_xlabel(textwrap.fill(about, 64))
        return svg(drawn)
