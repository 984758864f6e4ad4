"""Pictures of the latent space: the pixels that must be there, for programs whose pictures are known."""

import io
import math
from itertools import product

import matplotlib.image
import numpy as np
import pytest
import torch
from cases import all_but
from matplotlib.colors import rgb_to_hsv, to_rgb
from matplotlib.figure import Figure

import pyro_vae as pv
from pyro_vae.report import palette
from pyro_vae.report.cells import MINUS
from pyro_vae.report.draw import image_views, images, latent_pictures, latent_views
from pyro_vae.report.draw.images import PLAIN, Key


def read(png):
    return matplotlib.image.imread(io.BytesIO(png))[..., :3]


def runs(line):
    """The values along a line of pixels, neighbours that are alike counted once."""
    values = np.round(np.asarray(line, np.float64), 2)
    return tuple(values[np.insert(values[1:] != values[:-1], 0, True)].tolist())


def interpolation(vae, start, end, key=PLAIN, **options):
    return latent_pictures.draw_interpolation(latent_views.interpolation(vae, start, end, **options), key)


def latent_cloud(vae, x, seed, **options):
    return latent_pictures.draw_latent_cloud(latent_views.cloud(vae, x, seed, **options))


def latent_grid(vae, seed, key=PLAIN, **options):
    return latent_pictures.draw_latent_grid(latent_views.grid(vae, seed, **options), key)


def traversal(vae, x, seed, key=PLAIN, **options):
    return latent_pictures.draw_traversal(latent_views.traversal(vae, x, seed, **options), key)


class Plain(torch.nn.Module):
    """Decodes z to a plain image whose grey is its first number (+ 1/4 for the second label)."""

    def forward(self, z, y=None):
        grey = z[..., 0] if y is None else z[..., 0] + y @ torch.tensor([0.0, 0.25])
        return grey[..., None, None, None].expand(*grey.shape, 1, 4, 4)


class Grey(torch.nn.Module):
    """Encodes an image as (its first pixel, 1/2 of its last)."""

    def forward(self, x, y=None):
        code = torch.stack([x[:, 0, 0, 0], x[:, 0, -1, -1] / 2], -1)
        return torch.cat([code, torch.full_like(code, -3.0)], -1)


def plain(prior=None):
    likelihood = pv.likelihoods.Normal(Plain(), scale=0.1)
    return pv.VAE(prior or pv.priors.StandardNormal(2), pv.posteriors.DiagonalNormal(Grey(), 2), likelihood)


def in_grey(*greys):
    return torch.tensor(greys)[:, None, None, None].expand(-1, 1, 4, 4).contiguous()


def rows_of(png):
    return {runs(row) for row in read(png)[..., 0]}


def test_an_interpolation_is_a_row_of_greys_between_the_data():
    png = interpolation(plain(), in_grey(0.0, 0.8), in_grey(0.8, 0.4), paths=("straight",), steps=3)
    # From the left: paper, datum, paper, three means with half-grey gaps between them, paper, datum, paper.
    first = (1.0, 0.0, 1.0, 0.0, 0.5, 0.4, 0.5, 0.8, 1.0, 0.8, 1.0)
    second = (1.0, 0.8, 1.0, 0.8, 0.5, 0.6, 0.5, 0.4, 1.0, 0.4, 1.0)
    assert {first, second} <= rows_of(png)


def test_each_kind_of_path_has_its_panel():
    data = in_grey(0.9, 0.0), in_grey(0.0, 0.9)
    one = interpolation(plain(), *data, paths=("straight",))
    two = interpolation(plain(), *data, paths=("straight", "spherical"))
    assert 1.7 * len(read(one)) < len(read(two)) < 2.1 * len(read(one))


def test_an_interpolation_shows_the_labels_of_both_ends():
    y, data = torch.eye(2), (in_grey(0.0), in_grey(0.55))
    png = interpolation(plain(), *data, paths=("straight",), steps=3, y=y[:1], y_end=y[1:])
    assert (1.0, 0.0, 1.0, 0.0, 0.5, 0.4, 0.5, 0.8, 1.0, 0.55, 1.0) in rows_of(png)


def test_a_traversal_is_a_row_of_greys_where_the_moved_dimension_is_seen():
    prior = pv.priors.DiagonalNormal(2)
    with torch.no_grad():
        prior.mean.fill_(0.6)
        prior.log_scale.fill_(math.log(0.2))
    x = in_grey(0.3, 0.1, 0.9, 0.7)
    png = traversal(plain(prior), x, 0, steps=3, reach=1.0)
    shown = {row[-6:] for row in rows_of(png)}
    assert (0.4, 0.5, 0.6, 0.5, 0.8, 1.0) in shown  # the first dimension
    assert (0.3, 0.5, 0.3, 0.5, 0.3, 1.0) in shown  # the second is not seen: the datum's own grey
    assert (abs(read(png) - to_rgb(palette.RED)).sum(-1) < 0.05).sum() > 20  # where the code is


def test_the_mark_of_the_code_stands_between_the_quantiles_that_enclose_it():
    def red(grey):
        png = traversal(plain(), in_grey(grey, 0.1, 0.9), 0, steps=3, reach=1.0, rows=1)
        return np.argwhere(abs(read(png) - to_rgb(palette.RED)).sum(-1) < 0.1)[:, 1].mean()

    low, middle, high = red(-1.0), red(0.0), red(1.0)
    assert red(0.5) == pytest.approx((middle + high) / 2, abs=1.5)
    assert high - middle == pytest.approx(middle - low, abs=1.5)
    assert high - middle > 100


def test_the_grid_grows_to_the_right_and_upwards():
    class Both(torch.nn.Module):
        def forward(self, z, y=None):
            left, right = (0.2 * z + 0.5).unbind(-1)
            return torch.stack([left, right], -1)[..., None, None, :].expand(*left.shape, 1, 1, 2)

    likelihood = pv.likelihoods.Normal(Both(), scale=0.1)
    posterior = pv.posteriors.DiagonalNormal(pv.networks.MLP((1, 1, 2), (4,)), 2)
    vae = pv.VAE(pv.priors.StandardNormal(2), posterior, likelihood)
    png = read(latent_grid(vae, 0, side=3))[..., 0]
    low, high = (0.5 + 0.2 * 0.967421566 * sign for sign in (-1, 1))
    inside = png[2 * len(png) // 5 : 3 * len(png) // 5, 250:-150]
    row = next(row for row in map(runs, inside) if len(row) > 6)
    left = [value for value in row if abs(value - 0.5) > 0.01 and value > 0.01]
    assert left == pytest.approx([low, high], abs=0.01)  # z_0 along the row through the middle, where z_1 is 0
    column = [v for v in runs(png[60:-60, 3 * png.shape[1] // 5]) if v > 0.01 and v != 1.0]
    assert column[0] > column[-1]  # z_1 falls from the top down


def test_places_are_named_at_both_ends_and_between():
    assert latent_pictures._some([-2.0, -1.004, 0.0, 1.0, 2.0], 3) == [f"{MINUS}2", "", "0", "", "2"]
    assert latent_pictures._some([float(i) for i in range(6)], 5) == ["0", "1", "2", "", "4", "5"]


@pytest.mark.thorough
@pytest.mark.parametrize("panels", [1, 2, 3, 10])
def test_a_grid_for_each_label(panels):
    vae = plain()
    y = None if panels == 1 else torch.eye(10)[:panels, :2]
    height, width, _ = read(latent_grid(vae, 0, side=5, y=y)).shape
    assert width == 1008
    assert 400 < height < 1400


# The cloud.


def view(points, labels, sigma=None):
    z = torch.tensor(points)
    covariance = None if sigma is None else torch.tensor(sigma).square().diag_embed().expand(len(z), 2, 2)
    every = torch.ones(len(z), dtype=torch.bool)
    return latent_views.Cloud(z, z, z[:2], torch.tensor([0.75, 0.25]), covariance, torch.tensor(labels), every)


def coloured(png, colour):
    """Where the hue of a colour is: row and column of each such pixel."""
    image = rgb_to_hsv(read(png))
    hue, saturation, _ = rgb_to_hsv(to_rgb(colour))
    near = (abs(image[..., 0] - hue) < 0.02) & (image[..., 1] > 0.15 * saturation)
    near[int(0.86 * near.shape[0]) :] = False  # the legend
    return np.argwhere(near)


BLUE, ORANGE = palette.CLASSES[:2]


@pytest.mark.thorough
def test_labels_have_their_colours_where_their_data_lie():
    # A label's name stands on the middle of its data, which are therefore not there themselves.
    cloud = view([[-2.0, 0.0], [-2.0, 2.0], [2.0, 0.0], [2.0, 2.0]], [3, 3, 8, 8])
    png = latent_pictures.draw_latent_cloud(cloud)
    blue, orange = coloured(png, BLUE), coloured(png, ORANGE)
    assert len(blue) > 30
    assert len(orange) > 30
    assert orange[:, 1].min() - blue[:, 1].max() > 200
    swapped = latent_pictures.draw_latent_cloud(cloud._replace(labels=cloud.labels.flip(0)))
    assert coloured(swapped, BLUE)[:, 1].min() > coloured(swapped, ORANGE)[:, 1].max()


def test_without_labels_there_is_one_colour():
    cloud = view([[-2.0, 0.0], [2.0, 2.0], [2.0, -2.0]], [0, 0, 0])._replace(labels=None)
    png = latent_pictures.draw_latent_cloud(cloud)
    assert len(coloured(png, BLUE)) > 30
    assert len(coloured(png, ORANGE)) == 0


def test_an_ellipse_reaches_three_sigma():
    sigma = [1.0, 0.25]
    cloud = view([[-10.0, 0.0], [10.0, 0.0]], [0, 1], sigma)
    png = latent_pictures.draw_latent_cloud(cloud)
    left, right = coloured(png, BLUE), coloured(png, ORANGE)
    unit = (right.mean(0) - left.mean(0))[1] / 20  # pixels
    assert unit > 10
    for found in (left, right):
        height, width = np.ptp(found, axis=0)
        assert width == pytest.approx(6 * sigma[0] * unit, abs=4)
        assert height == pytest.approx(6 * sigma[1] * unit, abs=4)


def test_an_ellipse_is_turned_with_the_covariance():
    points = torch.tensor([[-10.0, 0.0], [10.0, 0.0]])
    covariance = torch.tensor([[1.0, 0.95], [0.95, 1.0]]).expand(2, 2, 2)
    labels, every = torch.tensor([0, 1]), torch.ones(2, dtype=torch.bool)
    cloud = latent_views.Cloud(points, points, points, torch.tensor([1.0, 0.0]), covariance, labels, every)
    found = coloured(latent_pictures.draw_latent_cloud(cloud), BLUE)
    rows, columns = (found - found.mean(0)).T
    assert np.corrcoef(-rows, columns)[0, 1] > 0.7  # rows count downwards


@pytest.mark.parametrize(("latent_dim", "classes"), all_but([(2, 0), (5, 15)], product([1, 2, 5], [0, 1, 10, 15, 40])))
def test_clouds_of_any_dimension_and_number_of_classes(latent_dim, classes):
    posterior = pv.posteriors.DiagonalNormal(pv.networks.MLP((6,), (2 * latent_dim,)), latent_dim)
    likelihood = pv.likelihoods.Normal(pv.networks.MLP((latent_dim,), (6,)))
    vae = pv.VAE(pv.priors.StudentT(latent_dim, df=1.0), posterior, likelihood)
    labels = torch.arange(80) % classes if classes else None
    height, width, _ = read(latent_cloud(vae, torch.randn(80, 6), 0, labels=labels)).shape
    assert width == 1008 <= height < 1600


def test_far_draws_of_a_heavy_tailed_prior_do_not_hide_the_codes():
    cloud = view([[-2.0, 0.0], [-2.0, 2.0], [2.0, 0.0], [2.0, 2.0]], [3, 3, 8, 8])
    draws = torch.randn(1000, 2)
    draws[0] = 1e6
    png = latent_pictures.draw_latent_cloud(cloud._replace(prior=draws))
    assert coloured(png, ORANGE)[:, 1].min() - coloured(png, BLUE)[:, 1].max() > 150


def test_colours_are_told_apart():
    many = np.array(latent_pictures.colours(15))
    assert len(np.unique(many, axis=0)) == 15


# What pictures.py has besides.


def test_the_spread_of_the_reconstruction_is_written_below():
    vae, x = plain(), in_grey(0.2, 0.8, 0.5)
    without, noted = (image_views.reconstructions(vae, x, 0, num_draws=n) for n in (0, 50))
    draws = image_views.log_likelihood_of_draws(vae, x, 50, 0)
    assert torch.equal(noted.log_likelihood_of_draws, draws)
    png = images.draw_reconstructions(noted)
    assert len(read(png)) > len(read(images.draw_reconstructions(without))) + 30
    for others in (draws - 1, 2 * draws - draws.mean(0)):  # of which the second have the same means
        assert images.draw_reconstructions(noted._replace(log_likelihood_of_draws=others)) != png


def test_samples_of_one_class_fill_the_panel():
    class GreyOfClass(torch.nn.Module):
        def forward(self, z, y):
            grey = y @ torch.tensor([0.0, 0.25, 0.75])
            return grey[..., None, None, None].expand(*z.shape[:-1], 1, 4, 4)

    posterior = pv.posteriors.DiagonalNormal(pv.networks.MLP((1, 4, 4), (4,), y_dim=3), 2)
    vae = pv.VAE(pv.priors.StandardNormal(2), posterior, pv.likelihoods.Normal(GreyOfClass(), scale=1e-3))
    y = images.labels_to_draw(3, 3, label=2)
    image = read(images.draw_samples(image_views.samples(vae, 0, len(y), y), columns=3))[..., 0]
    means = image[:, : image.shape[1] // 2]
    assert (abs(means - 0.75) < 0.01).mean() > 0.5
    assert (abs(means - 0.25) < 0.01).mean() < 0.001


@pytest.mark.thorough
@pytest.mark.parametrize(
    "draw",
    [
        lambda vae, x: interpolation(vae, x[:2], x[2:4], key=Key(white=255.0)),
        lambda vae, x: traversal(vae, x, 0, key=Key(white=255.0)),
        lambda vae, x: latent_cloud(vae, x, 0, labels=torch.tensor([0, 1, 1, 2])),
        lambda vae, x: latent_grid(vae, 0, side=3, key=Key(white=255.0)),
    ],
    ids=["interpolation", "traversal", "cloud", "grid"],
)
def test_pictures_repeat_themselves_and_leave_no_trace(draw):
    vae, x = plain().train(), in_grey(0.1, 0.9, 0.4, 0.6)
    before = torch.random.get_rng_state()
    assert draw(vae, x) == draw(vae, x)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert vae.training


@pytest.mark.parametrize("name", ["interpolation", "traversal", "grid"])
def test_the_highest_level_is_shown_white(name):
    made = {
        "interpolation": latent_views.interpolation(plain(), in_grey(0.0, 0.8), in_grey(0.8, 0.4)),
        "traversal": latent_views.traversal(plain(), in_grey(0.0, 0.8, 0.3), 0),
        "grid": latent_views.grid(plain(), 0, side=3),
    }[name]
    draw = getattr(latent_pictures, {"grid": "draw_latent_grid"}.get(name, f"draw_{name}"))
    shown = {"start", "end", "x", "reconstruction", "mean"} & set(made._fields)
    louder = made._replace(**{field: 64 * getattr(made, field) for field in shown})
    assert draw(louder, Key(white=64.0)) == draw(made) != draw(louder)


def test_the_axes_of_a_cloud_say_what_they_are():
    axes = Figure().subplots()
    latent_pictures._name_axes(axes, latent_views.cloud(plain(), torch.rand(5, 1, 4, 4), 0))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("z[0]", "z[1]")


def test_a_long_name_at_an_edge_stays_inside():
    figure = Figure(figsize=(5.6, 6), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal")
    groups = [latent_pictures._Group("Iris vers...ariety 1", "C0", torch.arange(3) == i) for i in range(3)]
    latent_pictures._name_groups(axes, torch.tensor([[-1.0, 0.0], [1.0, 0.5], [0.0, -0.5]]), groups)
    figure.draw_without_rendering()
    inside = axes.get_window_extent()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert all(inside.x0 <= box.x0 and box.x1 <= inside.x1 for box in boxes)
    assert axes.texts[2].get_position() == (0.0, -0.5)
