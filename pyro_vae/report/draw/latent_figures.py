"""Draws which latent dimensions are used, and the guide next to the true posterior of one datum, as SVG."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import ArrayLike, NDArray

from pyro_vae.report.draw.style import error, figure, known, plain, svg
from pyro_vae.report.palette import BLUE, INK, RED

Array = NDArray[np.float64]
MASSES = (0.5, 0.9, 0.99)  # of the regions that contours enclose


def kl_spectrum(latent: Mapping[str, Any]) -> bytes:
    """Draws KL(q(z_j|x) || p(z_j)) of every dimension, the largest first; a panel for each site, active ones filled.

    Sites whose guide or prior does not factorise over dimensions have no such KL, and are left out.

    Args:
        latent: "latent" of a report.

    Raises:
        ValueError: no site has a KL by dimension.
    """
    sites = {site: numbers for site, numbers in latent.get("kl_per_dimension", {}).items() if numbers is not None}
    if not sites:
        raise ValueError("no site of this report has a KL by dimension: draw active_units instead")
    with figure(2.5 * len(sites) + 0.3) as drawn:
        for axes, (site, numbers) in zip(drawn.subplots(len(sites), squeeze=False).flat, sites.items(), strict=True):
            mean, bars = _array(numbers["mean"]), _array([error(e) for e in numbers["standard_error"]])
            _spectrum(axes, site, mean, bars, _active(latent, site, len(mean)))
            axes.set_ylabel(f"KL, nats per datum ({numbers['kind']})")
            axes.set_ylim(bottom=min(0.0, float(np.nanmin(mean - bars))))
        return svg(drawn)


def active_units(latent: Mapping[str, Any]) -> bytes:
    """Draws how much the mean of q(z_j|x) varies with x, the largest dimension first; a panel for each site.

    Args:
        latent: "latent" of a report.
    """
    sites = latent["active"]
    with figure(2.5 * len(sites) + 0.3) as drawn:
        for axes, (site, numbers) in zip(drawn.subplots(len(sites), squeeze=False).flat, sites.items(), strict=True):
            variance, bars = _array(numbers["variance"]), _array([error(e) for e in numbers["variance_error"]])
            # An estimate of a dead dimension may come out below 0, and is drawn at the foot of the scale.
            floor = min([numbers["threshold"], *variance[variance > 0]]) / 3
            _spectrum(axes, site, variance.clip(floor), bars, _active(latent, site, len(variance)), points=True)
            axes.axhline(numbers["threshold"], color=INK, lw=0.8, ls=(0, (4, 3)))
            axes.set(yscale="log", ylim=(0.9 * floor, 2 * max(numbers["threshold"], float(np.nanmax(variance + bars)))))
            axes.set_ylabel("variance of E[z|x] over x, log scale")
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.minorticks_off()
        return svg(drawn)


def _active(latent: Mapping[str, Any], site: str, size: int) -> NDArray[np.bool_]:
    numbers = latent.get("active", {}).get(site)
    return np.full(size, True) if numbers is None else _array(numbers["variance"]) > numbers["threshold"]


def _spectrum(
    axes: Any, site: str, height: Array, bars: Array, active: NDArray[np.bool_], *, points: bool = False
) -> None:
    """Draws dimensions by size, as bars from 0, or as points where the scale has no 0."""
    order = np.argsort(-height, kind="stable")
    at, of = np.arange(len(height)), f"of {len(active)}"
    for chosen, face, label in (
        (active[order], BLUE, f"active ({active.sum()} {of})"),
        (~active[order], "white", f"not active ({(~active).sum()} {of})"),
    ):
        if not chosen.any():
            continue
        if points:
            axes.plot(at[chosen], height[order][chosen], "o", color=BLUE, mfc=face, ms=5, label=label)
        else:
            axes.bar(at[chosen], height[order][chosen], 0.75, color=face, edgecolor=BLUE, lw=0.8, label=label)
    axes.errorbar(at, height[order], bars[order], fmt="none", ecolor=INK, lw=1)
    step = math.ceil(len(at) / 24)
    axes.set_xticks(at[::step], [str(j) for j in order[::step]])
    axes.set(xlabel=f"dimension j of {site}, in order of size", xlim=(-0.8, max(len(at), 10) - 0.2))
    axes.legend(loc="upper right")
    plain(axes, "y")


def posterior_grid(axes: Sequence[ArrayLike], log_posterior: ArrayLike, log_guide: ArrayLike) -> bytes:
    """Draws the true posterior of one datum, filled, and its guide, as lines, on a grid in one or two dimensions.

    In two dimensions contours of both enclose 50, 90 and 99 % of the mass on the grid, and both axes have one scale.

    Args:
        axes: D evenly spaced vectors, D one or two.
        log_posterior: log p(z|x), or log p(x, z), in nats, of shape (len(axes[0]), ...).
        log_guide: log q(z|x) at the same places.

    Raises:
        ValueError: the grid has another number of dimensions.
    """
    if len(axes) not in (1, 2):
        raise ValueError(f"a grid can be shown in one or two dimensions; got {len(axes)}: draw posterior_draws instead")
    places = [_array(axis) for axis in axes]
    p, q = (_normalised(_array(values), places) for values in (log_posterior, log_guide))
    both = len(axes) == 2
    with figure(4.6 if both else 3.2) as drawn:
        (_contours if both else _curves)(drawn.subplots(), places, p, q)
        of = ": 50, 90, 99 % of the mass" if both else ""
        fill = Patch(color=_FILLS[1], label=f"p(z|x), the true posterior{of}")
        line = Line2D([], [], color=RED, label="q(z|x), the guide")
        drawn.legend(handles=[fill, line], loc="outside upper left")
        return svg(drawn)


def _normalised(log_density: Array, places: Sequence[Array]) -> Array:
    """Scales a density so that it sums to 1 over the cells of the grid."""
    density = np.exp(log_density - np.nanmax(log_density))
    return density / (density.sum() * np.prod([axis[1] - axis[0] for axis in places]))


def _levels(density: Array) -> list[float]:
    """The heights above which the `MASSES` lie, rising."""
    falling = np.sort(density.ravel())[::-1]
    mass = np.cumsum(falling) / falling.sum()
    return [float(falling[np.searchsorted(mass, share).clip(max=len(mass) - 1)]) for share in reversed(MASSES)]


def _contours(axes: Any, places: Sequence[Array], p: Array, q: Array) -> None:
    axes.contourf(*places, p.T, [*_levels(p), float(p.max()) * 1.001], colors=_FILLS)
    axes.contour(*places, q.T, _levels(q), colors=RED, linewidths=[0.9, 1.3, 1.8])
    axes.set(xlabel="z[0]", ylabel="z[1]", aspect="equal")
    for i, limits in enumerate((axes.set_xlim, axes.set_ylim)):
        limits(*_extent(places[i], np.maximum(p / p.max(), q / q.max()).max(axis=1 - i)))


def _curves(axes: Any, places: Sequence[Array], p: Array, q: Array) -> None:
    (z,) = places
    axes.fill_between(z, p, color=_FILLS[1], lw=0)
    axes.plot(z, q, color=RED, lw=1.6)
    axes.set(xlabel="z", ylabel="density", ylim=(0, None), xlim=_extent(z, np.maximum(p / p.max(), q / q.max())))


def _extent(places: Array, relative: Array) -> tuple[float, float]:
    """The interval in which either density is seen, with a little room."""
    seen = places[relative > 3e-3]
    room = 0.05 * (seen[-1] - seen[0])
    return seen[0] - room, seen[-1] + room


_FILLS = ("#e3edf5", "#c0d8ea", "#8fbbdb")  # light, so that lines on them are seen in grey too


def posterior_draws(posterior: ArrayLike, guide: ArrayLike) -> bytes:
    """Shows draws from the true posterior of one datum next to draws from its guide.

    The panel above has the mean and standard deviation of each dimension. The panels below have the two dimensions that
    are most correlated under the true posterior, which a guide of independent dimensions cannot follow.

    Args:
        posterior: (S, D), draws of MCMC.
        guide: (S', D), independent draws from q(z|x).
    """
    p, q = _array(posterior), _array(guide)
    D = p.shape[1]
    with figure(2.8 if D == 1 else 5.2) as drawn:
        if D == 1:
            _intervals(drawn.subplots(), p, q)
        else:
            parts = drawn.subplot_mosaic([["each", "each"], ["p", "q"]], height_ratios=[5, 6])
            _intervals(parts["each"], p, q)
            _pair(parts["p"], parts["q"], p, q)
        drawn.legend(handles=drawn.axes[0].get_legend_handles_labels()[0], loc="outside upper left", ncols=2)
        return svg(drawn)


def _intervals(axes: Any, p: Array, q: Array) -> None:
    at = np.arange(p.shape[1])
    axes.errorbar(at - 0.15, p.mean(0), p.std(0), fmt="o", color=BLUE, ms=4, lw=3, label="p(z|x), by MCMC")
    axes.errorbar(
        at + 0.15, q.mean(0), q.std(0), fmt="s", color=RED, mfc="white", ms=4, lw=1.2, label="q(z|x), the guide"
    )
    axes.set_xticks(at[:: math.ceil(len(at) / 24)])
    axes.set(xlabel="dimension j of z", ylabel="z[j], mean ± sd", xlim=(-0.8, max(len(at), 10) - 0.2))
    plain(axes, "y")


def _pair(left: Any, right: Any, p: Array, q: Array) -> None:
    correlation = np.corrcoef(p.T) - np.eye(p.shape[1])
    i, j = sorted(int(k) for k in np.unravel_index(np.nanargmax(np.abs(correlation)), correlation.shape))
    few = 1000
    for axes, draws, color, name in ((left, p, BLUE, "p(z|x), by MCMC"), (right, q, RED, "q(z|x), the guide")):
        axes.plot(draws[:few, i], draws[:few, j], "o", color=color, ms=2.5, mew=0, alpha=0.5, rasterized=True)
        axes.set(
            xlabel=f"z[{i}]",
            ylabel=f"z[{j}]",
            aspect="equal",
            xlim=_span(p[:, i], q[:, i]),
            ylim=_span(p[:, j], q[:, j]),
        )
        axes.set_title(name)


def _span(*draws: Array) -> tuple[float, float]:
    low, high = min(part.min() for part in draws), max(part.max() for part in draws)
    return low - 0.05 * (high - low), high + 0.05 * (high - low)


def _array(values: Any) -> Array:
    return np.array([known(v) for v in values]) if isinstance(values, list) else np.asarray(values, dtype=np.float64)
