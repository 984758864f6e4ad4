"""Draws a comparison of groups of runs as PNG. No state of matplotlib is touched."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pyro_vae.report.cells import clipped
from pyro_vae.report.documents.comparison_document import FORCED, interval_head
from pyro_vae.report.draw.images import png


def picture(comparison: Mapping[str, Any]) -> bytes:
    """Draws a row for each group, the highest log p(x) on top: means and differences, each with their errors.

    It is like `arviz.plot_compare`, except that the differences have an axis of their own: they are known far better
    than the means, and on one axis with these they would not be seen.

    Args:
        comparison: what comparison.json holds.
    """
    groups = comparison["groups"]
    has_differences = len(groups) > 1
    size = (11 if has_differences else 7, 1.9 + 0.5 * len(groups))
    figure = Figure(figsize=size, layout="constrained")
    if comparison["disagreements"]:
        figure.suptitle(FORCED, fontsize=10, color="C3", x=0.01, ha="left")
    axes = figure.subplots(1, 1 + has_differences, sharey=True, squeeze=False)[0]
    _draw_means(axes[0], comparison)
    if has_differences:
        handles = _draw_differences(axes[1], comparison)
        figure.legend(handles.values(), handles.keys(), loc="outside lower right", ncols=5, frameon=False, fontsize=9)
    for ax in axes:
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="y", color="0.92", lw=0.8)
        ax.set_axisbelow(True)
        ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        ax.set_ylim(len(groups) - 0.4, -0.6)
    return png(figure)


def _draw_means(ax: Any, comparison: Mapping[str, Any]) -> None:
    groups, reference = comparison["groups"], comparison["reference"]["label"]
    for place, group in enumerate(groups):
        mean, is_reference = group["log_likelihood"], group["label"] == reference
        color = "C3" if is_reference else "C0"
        ax.errorbar(
            mean["mean"], place, xerr=mean["standard_error"] or 0.0, fmt="o", ms=6, color=color, lw=1.6, capsize=3
        )
        _draw_seeds(ax, place, group["run_means"])
        if is_reference:
            ax.axvline(mean["mean"], color=color, lw=0.8, ls=":", zorder=0)
    ax.set_yticks(range(len(groups)), [_ticked(group, reference) for group in groups], parse_math=False)
    ax.set_title(f"{' / '.join(comparison['quantities'])}, nats per datum", fontsize=10, loc="left", parse_math=False)
    ax.set_xlabel("mean ± standard error over the data", fontsize=9)


def _ticked(group: Mapping[str, Any], reference: str) -> str:
    seeds = f"{len(group['seeds'])} seeds" if len(group["seeds"]) > 1 else ""
    more = ", ".join(part for part in ("reference" if group["label"] == reference else "", seeds) if part)
    return "\n".join(part for part in (clipped(group["label"]), more) if part)


def _draw_differences(ax: Any, comparison: Mapping[str, Any]) -> dict[str, Any]:
    """Draws the differences to the reference, and returns what the legend shows, label -> artist."""
    groups, reference = comparison["groups"], comparison["reference"]["label"]
    zero = next(group for group in groups if group["label"] == reference)
    level = zero["log_likelihood"]["mean"]
    ax.axvline(0.0, color="C3", lw=0.8, ls=":", zorder=0)
    handles: dict[str, Any] = {}
    for place, group in enumerate(groups):
        handles |= _draw_intervals(ax, place, group)
        if dots := _draw_seeds(ax, place, [mean - level for mean in group["run_means"]]):
            handles["single seeds"] = dots
    ax.set_title("difference to the reference, nats per datum", fontsize=10, loc="left", parse_math=False)
    ax.set_xlabel(f"mean and {interval_head(comparison)}", fontsize=9)
    return handles


def _draw_intervals(ax: Any, place: int, group: Mapping[str, Any]) -> dict[str, Any]:
    difference, seeds, handles = group["difference"], group["difference_over_seeds"], {}
    if not difference:
        ax.plot(0.0, place, "o", ms=6, color="C3")
        return {}
    low, high = difference["interval"] or (difference["mean"],) * 2
    handles["over the data"] = ax.hlines(place, low, high, color="C0", lw=2)
    (dot,) = ax.plot(difference["mean"], place, "o" if difference["is_paired"] else "X", ms=6, color="C0")
    if not difference["is_paired"]:
        handles["unpaired: other test data"] = dot
    if both := group.get("difference_over_both"):
        low, high = both["interval"] or (both["mean"],) * 2
        handles["over data and seeds"] = ax.hlines(place + 0.1, low, high, color="C2", lw=4)
    if seeds:
        handles["over training seeds (Welch)"] = ax.hlines(place + 0.2, *seeds["interval"], color="C1", lw=2)
    return handles


def _draw_seeds(ax: Any, place: int, means: Sequence[float]) -> Any:
    if len(means) < 2:
        return None
    return ax.scatter(means, [place - 0.2] * len(means), s=14, facecolors="none", edgecolors="0.3", lw=0.9)
