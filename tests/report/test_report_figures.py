"""Figures: marks stand where the numbers say, in the order of the report; errors are named; no settings are changed."""

import functools
import re
import sys
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from cases import all_but
from evaluated import estimates, full

from pyro_vae.report import palette
from pyro_vae.report.cells import MINUS
from pyro_vae.report.draw import estimate_figures, latent_figures, report_figures, style

SVG, HREF = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
GRID = [np.linspace(-6, 6, 121), np.linspace(-5, 5, 81)]


def normal(sds, correlation=0.0):
    """The log-density of a normal at 0 on GRID, up to a constant."""
    x, y = np.meshgrid(GRID[0] / sds[0], GRID[1] / sds[1], indexing="ij")
    return -(x**2 - 2 * correlation * x * y + y**2) / (2 * (1 - correlation**2))


def draws(seed, size=200, D=4):
    return np.random.default_rng(seed).normal(size=(size, D))


DRAWN = {
    "bounds": lambda found: estimate_figures.bounds(found["curve"], found["jackknife"]),
    "reference": lambda found: estimate_figures.reference(found["reference"]),
    "simulated": lambda found: estimate_figures.simulated(found["simulated"]),
    "khat": lambda found: estimate_figures.khat(found["khat"]),
    "effective_sample_size": lambda found: estimate_figures.effective_sample_size(found["khat"]),
    "escalation": lambda found: estimate_figures.escalation(found["escalation"]),
    "gaps": lambda found: estimate_figures.gaps(found["gaps"]),
    "kl_spectrum": lambda found: latent_figures.kl_spectrum(found["latent"]),
    "active_units": lambda found: latent_figures.active_units(found["latent"]),
    "posterior_grid": lambda _: latent_figures.posterior_grid(GRID, normal((2, 1)), normal((1, 1))),
    "posterior_draws": lambda _: latent_figures.posterior_draws(draws(0), draws(1)),
}


@functools.cache
def of_full(name):
    return draw(name, full())


def draw(name, found=None):
    """A figure whose text is text, parsed."""
    if found is None:
        return of_full(name)
    with mpl.rc_context({"svg.fonttype": "none"}):
        return ElementTree.fromstring(DRAWN[name](found))  # noqa: S314 - our own


def words(tree):
    return " ".join("".join(node.itertext()) for node in tree.iter(f"{SVG}text")).replace(MINUS, "-")


def placed(tree, color):
    """Places of the marks filled with a colour, in the order in which they were drawn; y grows upwards."""
    shapes = {f"#{node.get('id')}": node.get("d", "") for node in tree.iter(f"{SVG}path")}
    return np.array([
        (float(node.get("x")), -float(node.get("y")))
        for node in tree.iter(f"{SVG}use")
        # The caps of error bars are marks as well, but lines.
        if f"fill: {color.lower()}" in node.get("style", "") and "z" in shapes.get(node.get(HREF), "")
    ])  # fmt: skip


def residual(values, places):
    """How far places are from a straight line in values, in points."""
    slope, start = np.polyfit(values, places, 1)
    return abs(places - slope * np.array(values) - start).max(), slope


LONG = {"bounds", "reference", "simulated", "posterior_draws"}


@pytest.mark.thorough
@pytest.mark.parametrize("name", all_but(DRAWN.keys() - LONG, DRAWN))
def test_figures_are_whole_reproducible_and_leave_settings_alone(name):
    before = dict(mpl.rcParams)
    first = DRAWN[name](full())
    assert first.startswith(b"<?xml")
    assert ElementTree.fromstring(first).tag == f"{SVG}svg"  # noqa: S314
    assert b"<script" not in first
    assert first == DRAWN[name](full())
    assert dict(mpl.rcParams) == before
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_settings_are_put_back_after_an_error():
    before = dict(mpl.rcParams)
    with pytest.raises(KeyError), style.figure(2.0):
        raise KeyError
    assert dict(mpl.rcParams) == before


@pytest.mark.thorough
@pytest.mark.parametrize("name", sorted(set(DRAWN) - {"posterior_grid", "posterior_draws"}))
def test_figures_of_numbers_that_are_not_known(name):
    found = full()
    for _, entry in list(estimates(found)):
        entry["standard_error"] = None
        if "monte_carlo_error" in entry:
            entry["monte_carlo_error"] = None
    found["simulated"]["gap_error"] = None
    found["escalation"]["rows"][0] |= {"ais": None, "ais_error": None, "iwae_error": None, "khat_more": None}
    found["gaps"] |= {"amortisation": None, "approximation": None, "train_test": None}
    found["latent"]["kl_per_dimension"]["z"]["standard_error"] = [None] * 3
    found["latent"]["active"]["z"]["variance_error"] = [None] * 3
    assert "nan" not in words(draw(name, found)).split()


# Where marks stand


def test_bounds_rise_with_the_logarithm_of_the_draws():
    places = placed(draw("bounds"), palette.BLUE)[:3]
    k, mean = [1, 5, 1000], [-22.51, -22.24, -22.15]
    assert residual(np.log(k), places[:, 0])[0] < 0.01
    off, slope = residual(mean, places[:, 1])
    assert off < 0.01
    assert slope > 0


def test_the_jackknife_stands_apart_on_the_same_scale():
    tree = draw("bounds")
    curve, (apart,) = placed(tree, palette.BLUE)[:3], placed(tree, "#ffffff")
    slope, start = np.polyfit([-22.51, -22.24, -22.15], curve[:, 1], 1)
    assert apart[1] == pytest.approx(slope * -22.1482 + start, abs=0.01)
    assert apart[0] > curve[:, 0].max() + 20
    assert "no bound" in words(tree)


def test_bounds_stand_in_the_order_of_the_report_neither_sorted_nor_clipped():
    tree = draw("reference")
    lower, (grid,) = placed(tree, palette.BLUE), placed(tree, palette.GREEN)
    places = np.array([*lower, grid])
    assert (np.diff(places[:, 1]) < 0).all()  # from above: ELBO, AIS, IWAE, grid
    off, slope = residual([-22.364, -22.03, -22.021, -22.025], places[:, 0])
    assert off < 0.01
    assert slope > 0
    text = words(tree)
    assert text.index("ELBO, 100 draws") < text.index("AIS from q") < text.index("IWAE, K = 1000") < text.index("grid")
    assert "-22.030 ± 0.003" in text
    assert "+0.334 ± 0.017" in text


def test_the_simulated_panel_says_so_and_brackets_the_truth():
    tree = draw("simulated")
    text = words(tree)
    assert "5 data simulated from the model, not test data" in text
    assert "-0.003 ± 0.005" in text
    lower, (reverse,) = placed(tree, palette.BLUE), placed(tree, palette.RED)
    means = [-22.9277, -22.5736, -22.5716]
    slope, start = np.polyfit(means, lower[:, 0], 1)
    assert reverse[0] == pytest.approx(slope * -22.5745 + start, abs=0.01)
    (span,) = [
        node for node in tree.iter(f"{SVG}path")
        if f"fill: {palette.GREEN.lower()}" in node.get("style", "") and "opacity: 0.3" in node.get("style")
        and node.get("clip-path")
    ]  # fmt: skip
    ends = [float(x) for x in re.findall(r"[ML] ([\d.]+) ", span.get("d"))]
    assert (min(ends), max(ends)) == pytest.approx((reverse[0], lower[2, 0]), abs=0.05)


def test_both_errors_are_named():
    for name in ("reference", "simulated"):
        assert "± over data: moves all rows together" in words(draw(name))
        assert "± Monte Carlo" in words(draw(name))
    assert "± over 6 data, 0.19: moves all points together" in words(draw("bounds"))


def test_every_khat_is_a_mark_of_its_zone():
    tree = draw("khat")
    # The last of each colour is the one in the legend.
    marks = {color: placed(tree, color)[:-1] for color in (palette.BLUE, palette.ORANGE, palette.RED)}
    assert [len(places) for places in marks.values()] == [2, 1, 2]
    places = np.concatenate(list(marks.values()))
    assert residual([0.12, 0.31, 0.58, 0.74, 0.82], places[:, 1])[0] < 0.01
    off, step = residual([1, 2, 3, 4, 5], places[:, 0])
    assert off < 0.01
    (unknown,) = bars(tree, palette.PALE)  # as wide as one datum, and left of all marks
    assert unknown == pytest.approx((places[0, 0] - 1.5 * step, places[0, 0] - 0.5 * step), abs=0.01)
    text = words(tree)
    assert "above 0.7: may be loose (2 of 6 data)" in text
    assert "none (1)" in text
    assert "datum 2 (label 6), 5" in text


def test_effective_sample_sizes_are_sorted_on_a_logarithmic_scale():
    tree = draw("effective_sample_size")
    reliable = placed(tree, palette.BLUE)[:-1]
    assert residual(np.log([300.5, 640.0, 811.0, 1000.0]), reliable[:, 1])[0] < 0.01
    assert len(placed(tree, "#ffffff")) == 2 + 1


def test_escalation_shows_changes_of_each_datum():
    tree = draw("escalation")
    (more, _), (ais, _) = placed(tree, palette.BLUE), placed(tree, palette.RED)
    assert more[0] < ais[0]  # -0.048 and +0.066
    assert "datum 2, k-hat 0.82" in words(tree)


def bars(tree, color):
    """(left, right) of the filled rectangles of one colour."""
    found = []
    for node in tree.iter(f"{SVG}path"):
        if f"fill: {color.lower()}" in node.get("style", "") and node.get("clip-path"):
            ends = [float(x) for x in re.findall(r"[ML] ([\d.]+) ", node.get("d"))]
            found.append((min(ends), max(ends)))
    return found


def test_the_parts_of_the_gap_stand_end_to_end():
    tree = draw("gaps")
    (whole,), (first,), (second,) = (bars(tree, color) for color in (palette.BLUE, palette.ORANGE, palette.GREEN))
    unit = (whole[1] - whole[0]) / 0.3413
    assert first == pytest.approx((whole[0], whole[0] + 0.1807 * unit), abs=0.01)
    assert second == pytest.approx((first[1], first[1] + 0.1606 * unit), abs=0.01)
    assert second[1] == pytest.approx(whole[1], abs=0.02)


def test_a_part_that_is_negative_goes_back():
    found = full()
    found["gaps"]["approximation"] = {"mean": -0.05, "standard_error": 0.01}
    tree = draw("gaps", found)
    ((_, end),), (back,) = bars(tree, palette.ORANGE), bars(tree, palette.GREEN)
    assert back[1] == pytest.approx(end, abs=0.01)
    assert "-0.050 ± 0.010" in words(tree)


def test_dimensions_are_drawn_by_size_and_active_ones_filled():
    tree = draw("kl_spectrum")
    active = bars(tree, palette.BLUE)
    inactive = bars(tree, "#ffffff")
    assert len([bar for bar in active if bar[1] - bar[0] > 5]) >= 2
    assert "active (2 of 3)" in words(tree)
    assert "not active (1 of 3)" in words(tree)
    assert inactive
    assert re.search(r"2 0 1 dimension j of z", words(tree))


def test_variances_of_dead_dimensions_may_be_negative():
    found = full()
    found["latent"]["active"]["z"]["variance"] = [0.23, -1e-5, 1.58]
    tree = draw("active_units", found)
    off, _ = residual(
        np.log([1.58, 0.23, 0.01 / 3]), [*placed(tree, palette.BLUE)[:2, 1], placed(tree, "#ffffff")[0, 1]]
    )
    assert off < 0.01
    found["latent"]["active"]["z"]["variance"] = [-1e-5, -1e-5, -1e-4]
    assert "active" in words(draw("active_units", found))


def test_sites_have_a_panel_each():
    found = full()
    for part in ("active", "kl_per_dimension"):
        found["latent"][part]["z2"] = found["latent"][part]["z"]
    for name in ("kl_spectrum", "active_units"):
        assert "dimension j of z," in words(draw(name, found))
        assert "dimension j of z2," in words(draw(name, found))
    found["latent"]["kl_per_dimension"]["z2"] = None
    assert "z2" not in words(draw("kl_spectrum", found))


def test_without_any_kl_by_dimension_there_is_no_spectrum():
    with pytest.raises(ValueError, match="draw active_units instead"):
        latent_figures.kl_spectrum({"kl_per_dimension": {"z": None}})


# The posterior of one datum


def test_contours_enclose_their_share_of_a_normal():
    """In two dimensions the region of mass m of a normal lies above (1 - m) times its peak."""
    density = np.exp(normal((1.0, 1.0), 0.4))
    np.testing.assert_allclose(latent_figures._levels(density), [0.01, 0.1, 0.5], rtol=0.03)


def test_contours_are_drawn_where_the_densities_are():
    svg = latent_figures.posterior_grid(GRID, normal((1, 1)), normal((1.6, 0.8)))
    tree = ElementTree.fromstring(svg)  # noqa: S314
    lines = [
        node.get("d") for node in tree.iter(f"{SVG}path")
        if f"stroke: {palette.RED.lower()}" in node.get("style", "") and node.get("clip-path")
    ]  # fmt: skip
    assert len(lines) == 3
    spans = [np.ptp(np.array([float(v) for v in re.findall(r"-?[\d.]+", d)]).reshape(-1, 2), axis=0) for d in lines]
    for width, height in spans:
        assert width / height == pytest.approx(2.0, rel=0.03)  # z[0] runs to the right, at the scale of z[1]
    # Radii sqrt(-2 log(1 - m)) for 99, 90 and 50 %.
    radii = np.sqrt(-2 * np.log([0.01, 0.1, 0.5]))
    np.testing.assert_allclose(np.array(spans)[:, 0] / spans[0][0], radii / radii[0], rtol=0.03)


def test_one_dimension_is_drawn_as_curves_and_three_are_refused():
    z = np.linspace(-4, 4, 81)
    assert latent_figures.posterior_grid([z], -(z**2) / 2, -(z**2)).startswith(b"<?xml")
    with pytest.raises(ValueError, match="got 3: draw posterior_draws instead"):
        latent_figures.posterior_grid([z, z, z], np.zeros((81,) * 3), np.zeros((81,) * 3))


def test_an_unnormalised_posterior_is_drawn_the_same():
    z = np.linspace(-4, 4, 81)
    same = [latent_figures.posterior_grid([z], -(z**2) / 2 + shift, -(z**2)) for shift in (0.0, -900.0)]
    assert same[0] == same[1]


def test_the_most_correlated_pair_is_shown():
    p = draws(0, 400, 5)
    p[:, 3] = -0.9 * p[:, 1] + 0.3 * p[:, 3]
    with mpl.rc_context({"svg.fonttype": "none"}):
        svg = latent_figures.posterior_draws(p, draws(1, 400, 5))
    text = words(ElementTree.fromstring(svg))  # noqa: S314
    assert {f"z[{j}]" for j in range(5)} & set(text.split()) == {"z[1]", "z[3]"}
    assert latent_figures.posterior_draws(p[:, :1], draws(1, 400, 1)).startswith(b"<?xml")


# Panels


def test_a_report_draws_all_its_panels_with_honest_captions():
    found = {panel.title: panel for panel in report_figures.of_report(full())}
    assert len(found) == 9
    assert "not a bound" in found["Importance-weighted bounds"].caption
    assert "4 test data" in found["Bounds of growing cost"].caption
    assert "there is no upper bound" in found["Simulated data only: the truth bracketed"].caption
    assert "They stand apart" in found["More work on the worst data"].caption


@pytest.mark.parametrize(
    "key", ["curve", "jackknife", "reference", "simulated", "khat", "escalation", "latent", "gaps"]
)
def test_panels_of_what_is_absent_are_left_out(key, monkeypatch):
    for module in (estimate_figures, latent_figures):
        for name in DRAWN.keys() & vars(module).keys():
            monkeypatch.setattr(module, name, lambda *_, **__: b"")
    found = full()
    del found[key]
    fewer = {"jackknife": 0, "khat": 2, "latent": 2}.get(key, 1)
    assert len(report_figures.of_report(found)) == 9 - fewer


def test_labels_with_signs_of_mathematics_are_drawn_as_they_are():
    found = full()
    found["reference"]["rows"][0]["label"] = "$\\frac"
    found["reference"]["differences"][0]["label"] = "a$b$c"
    assert "$\\frac" in words(draw("reference", found))
    assert "a$b$c" in words(draw("reference", found))


@pytest.mark.parametrize(
    ("k", "labels"),
    [((1, 10, 100, 1000, 2000), ["1", "10", "100", "", "2,000"]), ((1, 5, 10, 1000), ["1", "", "10", "1,000"])],
)
def test_no_label_of_a_power_of_ten_stands_in_the_way_of_the_last(k, labels):
    assert estimate_figures._round_numbers(k) == labels
