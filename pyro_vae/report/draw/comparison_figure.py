"""Draws a comparison of groups of runs as PNG. No state of matplotlib is touched."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.ticker import MaxNLocator

from pyro_vae.report.cells import clipped
from pyro_vae.report.documents.comparison_document import FORCED, interval_head
from pyro_vae.report.draw.style import LETTERS, figure, plain, png
from pyro_vae.report.palette import BLUE, GREEN, INK, ORANGE, RED


def picture(comparison: Mapping[str, Any]) -> bytes:
    """Draws a row for each group, the highest log p(x) on top: means, and below them differences, with their errors.

    It is like `arviz.plot_compare`, except that the differences have an axis of their own: they are known far better
    than the means, and could not be seen on one axis with them.

    Args:
        comparison: what comparison.json holds.
    """
    groups = comparison["groups"]
    panels = 1 + (len(groups) > 1)
    with figure(0.9 + panels * (0.9 + 0.5 * len(groups))) as drawn:
        if comparison["disagreements"]:
            drawn.suptitle(textwrap.fill(FORCED, 64), color=RED, x=0.01, ha="left", fontsize=LETTERS)
        axes = drawn.subplots(panels, 1, squeeze=False)[:, 0]
        _draw_means(axes[0], comparison)
        if panels > 1:
            handles = _draw_differences(axes[1], comparison)
            drawn.legend(handles.values(), handles.keys(), loc="outside lower left", ncols=2)
        labels = [_ticked(group, comparison["reference"]["label"]) for group in groups]
        for ax in axes:
            plain(ax, "x")
            ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
            ax.set_yticks(range(len(groups)), labels)
            ax.set_ylim(len(groups) - 0.4, -0.6)
        return png(drawn)


def _draw_means(ax: Any, comparison: Mapping[str, Any]) -> None:
    groups, reference = comparison["groups"], comparison["reference"]["label"]
    for place, group in enumerate(groups):
        mean, is_reference = group["log_likelihood"], group["label"] == reference
        color = RED if is_reference else BLUE
        ax.errorbar(
            mean["mean"], place, xerr=mean["standard_error"] or 0.0, fmt="o", ms=6, color=color, lw=1.6, capsize=3
        )
        _draw_seeds(ax, place, group["run_means"])
        if is_reference:
            ax.axvline(mean["mean"], color=color, lw=0.8, ls=":", zorder=0)
    ax.set_title(f"{' / '.join(comparison['quantities'])}, nats per datum")
    ax.set_xlabel("mean ± standard error over the data")


def _ticked(group: Mapping[str, Any], reference: str) -> str:
    seeds = f"{len(group['seeds'])} seeds" if len(group["seeds"]) > 1 else ""
    more = ", ".join(part for part in ("reference" if group["label"] == reference else "", seeds) if part)
    return "\n".join(part for part in (textwrap.fill(clipped(group["label"]), 24), more) if part)


def _draw_differences(ax: Any, comparison: Mapping[str, Any]) -> dict[str, Any]:
    """Draws the differences from the reference, and returns what the legend shows, label -> artist."""
    groups, reference = comparison["groups"], comparison["reference"]["label"]
    zero = next(group for group in groups if group["label"] == reference)
    level = zero["log_likelihood"]["mean"]
    ax.axvline(0.0, color=RED, lw=0.8, ls=":", zorder=0)
    handles: dict[str, Any] = {}
    for place, group in enumerate(groups):
        handles |= _draw_intervals(ax, place, group)
        if dots := _draw_seeds(ax, place, [mean - level for mean in group["run_means"]]):
            handles["single seeds"] = dots
    ax.set_title("difference from the reference, nats per datum")
    ax.set_xlabel(f"mean and {interval_head(comparison)}")
    return handles


def _draw_intervals(ax: Any, place: int, group: Mapping[str, Any]) -> dict[str, Any]:
    difference, seeds, handles = group["difference"], group["difference_over_seeds"], {}
    if not difference:
        ax.plot(0.0, place, "o", ms=6, color=RED)
        return {}
    low, high = difference["interval"] or (difference["mean"],) * 2
    handles["over the data"] = ax.hlines(place, low, high, color=BLUE, lw=2)
    (dot,) = ax.plot(difference["mean"], place, "o" if difference["is_paired"] else "X", ms=6, color=BLUE, zorder=4)
    if not difference["is_paired"]:
        handles["unpaired: other test data"] = dot
    if both := group.get("difference_over_both"):
        low, high = both["interval"] or (both["mean"],) * 2
        handles["over data and seeds"] = ax.hlines(place + 0.1, low, high, color=GREEN, lw=4)
    if seeds:
        handles["over training seeds (Welch)"] = ax.hlines(place + 0.2, *seeds["interval"], color=ORANGE, lw=2)
    return handles


def _draw_seeds(ax: Any, place: int, means: Sequence[float]) -> Any:
    if len(means) < 2:
        return None
    return ax.scatter(means, [place - 0.2] * len(means), s=14, facecolors="none", edgecolors=INK, lw=0.9)
