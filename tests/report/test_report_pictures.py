"""Pictures: valid PNGs of a sensible size that show what they should, and leave no trace."""

import io

import matplotlib.image
import numpy as np
import pyro
import pytest
import torch

import pyro_vae as pv
from pyro_vae.report import palette
from pyro_vae.report.draw import image_views, images


def network(shape_in, shape_out):
    return pv.networks.MLP(shape_in, shape_out, (8,))


def program(shape):
    torch.manual_seed(0)
    posterior = pv.posteriors.DiagonalNormal(network(shape, (4,)), 2)
    return pv.VAE(pv.priors.StandardNormal(2), posterior, pv.likelihoods.Bernoulli(network((2,), shape)))


def samples(vae, seed, rows=8, *, num_classes=0, label=None, key=images.PLAIN):
    y = images.labels_to_draw(num_classes, rows, label)
    return images.draw_samples(image_views.samples(vae, seed, rows**2 if y is None else len(y), y), key, rows)


def reconstructions(vae, x, seed, num_samples=4, *, y=None, key=images.PLAIN):
    return images.draw_reconstructions(image_views.reconstructions(vae, x, seed, num_samples, y), key)


def read(png):
    """Height, width and pixels of a PNG."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    image = matplotlib.image.imread(io.BytesIO(png))
    return image[..., :3]


def history(elbos, kept=None):
    """Records; kept is the epoch that is best by the objective, by default the one of the highest ELBO."""
    kept = kept or max(range(len(elbos)), key=elbos.__getitem__) + 1
    return [
        {
            "epoch": i,
            "loss": -elbo - 0.5,
            "valid_elbo": elbo,
            "valid_standard_error": None if i == 1 else 0.1,
            "best": i == kept,
        }
        for i, elbo in enumerate(elbos, 1)
    ]


def slow_tile(images, columns):
    size, channels, height, width = images.shape
    rows = -(-size // columns)
    picture = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, channels), np.nan, np.float32)
    for i in range(size):
        top, left = i // columns * (height + 1), i % columns * (width + 1)
        for row in range(height):
            for column in range(width):
                for channel in range(channels):
                    picture[top + row, left + column, channel] = images[i, channel, row, column]
    return picture


@pytest.mark.parametrize(("size", "columns"), [(6, 3), (6, 6), (6, 1), (1, 1), (5, 3), (2, 3)])
@pytest.mark.parametrize("channels", [1, 3])
def test_tile_is_a_slow_loop(size, columns, channels):
    data = torch.rand(size, channels, 4, 5)
    np.testing.assert_array_equal(images.tile(data, columns).numpy(), slow_tile(data, columns))


@pytest.mark.thorough
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 20), (3, 8, 8)])
@pytest.mark.parametrize("size", [1, 3, 12])
def test_pictures_have_a_sensible_size(shape, size):
    vae = program(shape)
    x = torch.rand(size, *shape).round()
    for png in (samples(vae, seed=0, rows=4), reconstructions(vae, x, seed=0)):
        height, width, _ = read(png).shape
        assert 150 <= height <= 1500
        assert 300 <= width <= 1500
        assert 0.25 <= height / width <= 2


def test_data_stand_in_the_top_row_with_black_for_0_and_white_for_1():
    vae = program((1, 8, 8))
    with torch.no_grad():
        for p in vae.likelihood.decoder.parameters():
            p.zero_()  # every reconstruction is the grey 1/2
    x = torch.zeros(4, 1, 8, 8)
    x[:, :, :, 2:] = 1.0
    shown = read(reconstructions(vae, x, seed=0, num_samples=2))
    grey = shown[..., 0]
    used = grey[110:]  # below the title
    assert (used.min(), used.max()) == (0.0, 1.0)
    top, bottom = used[: len(used) // 4], used[len(used) // 2 : -len(used) // 8]
    assert 0.1 < (top == 0).mean() < 0.35  # a quarter of each image is black
    assert (bottom == 0).mean() == 0
    assert (abs(bottom - 0.5) < 0.01).mean() > 0.3


def test_colours_are_kept():
    vae = program((3, 8, 8))
    x = torch.zeros(4, 3, 8, 8)
    x[:, 0] = 1.0
    shown = read(reconstructions(vae, x, seed=0))
    assert (shown == [1.0, 0.0, 0.0]).all(-1).mean() > 0.01


@pytest.mark.parametrize("elbos", [[-30.0], [-30.0, -30.0], [-300.0, *np.linspace(-30, -25, 50)]])
def test_the_training_curve_is_drawn_for_any_history(elbos):
    assert read(images.training(history(elbos))).shape[1:] == (1008, 3)


def axes_of(elbos):
    return images.training_figure(history(elbos)).axes


def test_every_epoch_is_in_the_training_curve_and_the_last_has_its_tick():
    first, close = axes_of([-300.0, *np.linspace(-30, -25, 50)])  # the others have a panel of their own
    assert first.get_ylim()[0] < -300
    assert -40 < close.get_ylim()[0] < -30
    for epochs in (1, 2, 7, 51, 600):
        (axes,) = axes_of(list(np.linspace(-30, -25, epochs)))
        ticks = axes.get_xticks()
        assert (ticks[0], ticks[-1]) == (1, epochs)
        assert axes.get_ylim()[0] < -30


def test_the_best_epoch_is_marked_where_it_is():
    # The red mark moves to the left when the best epoch does.
    def red(elbos, kept=None):
        image = read(images.training(history(elbos, kept)))
        distance = abs(image - matplotlib.colors.to_rgb(palette.RED)).sum(-1)
        return np.argwhere(distance < 0.05)[:, 1].min()

    assert red([-30.0, -20.0, -25.0, -25.0, -25.0]) < red([-30.0, -29.0, -28.0, -20.0, -25.0])
    assert red([-30.0, -29.0, -28.0, -20.0, -25.0], kept=2) < red([-30.0, -29.0, -28.0, -20.0, -25.0])


def test_images_can_be_shown_and_vectors_can_not():
    assert [images.can_show(shape) for shape in ((1, 8, 8), (3, 8, 8), (2, 8, 8), (64,), (8, 8))] == [
        True, True, False, False, False,
    ]  # fmt: skip


def test_pictures_are_reproducible_and_leave_no_trace():
    vae = program((1, 8, 8))
    x = torch.ones(3, 1, 8, 8)
    before = torch.random.get_rng_state()
    flags = [module.training for module in vae.modules()]
    store = pyro.get_param_store()
    with store.scope():
        pyro.param("mine", torch.ones(1))
        first, again = ((samples(vae, 0, 2), reconstructions(vae, x, 0)) for _ in range(2))
        assert list(store) == ["mine"]
    assert first == again
    assert samples(vae, 1, 2) != first[0]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [module.training for module in vae.modules()] == flags


def test_no_window_and_no_global_figure_is_made():
    import sys

    images.training(history([-1.0, -2.0]))
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


# Classes and levels.

GREYS = torch.tensor([0.0, 0.25, 0.75])


class GreyOfClass(torch.nn.Module):
    """A decoder under which class c is a plain image of grey GREYS[c]."""

    def forward(self, z, y):
        lead = torch.broadcast_shapes(z.shape[:-1], y.shape[:-1])
        return (y @ GREYS)[..., None, None, None].expand(*lead, 1, 4, 4)


def conditional():
    torch.manual_seed(0)
    posterior = pv.posteriors.DiagonalNormal(pv.networks.MLP((1, 4, 4), (4,), (8,), y_dim=3), 2)
    return pv.VAE(pv.priors.StandardNormal(2), posterior, pv.likelihoods.Normal(GreyOfClass(), scale=1e-3))


def runs(line):
    """The values along a line of pixels, neighbours that are alike counted once."""
    values = np.round(line, 2)
    return tuple(values[np.insert(values[1:] != values[:-1], 0, True)].tolist())


def test_each_row_of_samples_shows_one_class():
    grey = read(samples(conditional(), seed=0, rows=4, num_classes=3))[..., 0]
    means, draws = np.split(grey, 2, axis=1)
    # From above: paper, three rows with half-grey gaps between them, paper.
    shown = [runs(column) for column in means.T]
    assert shown.count((1.0, 0.0, 0.5, 0.25, 0.5, 0.75, 1.0)) > 0.3 * len(shown)  # title and margins have the rest
    for grey_of_class in GREYS.tolist():
        near = abs(draws - grey_of_class) < 0.02  # the draws have a sigma of 0.001
        assert near.sum() > 0.5 * (abs(means - grey_of_class) < 0.02).sum()


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_pictures_of_classes_grow_with_their_number(num_classes):
    vae = program((1, 8, 8))
    vae.likelihood.decode = lambda z, y: vae.likelihood.decoder(z)
    height, width, _ = read(samples(vae, seed=0, rows=4, num_classes=num_classes)).shape
    assert (width, height) == (1008, pytest.approx(504 * num_classes / 4 + 72, abs=1))


def test_reconstructions_are_given_the_labels_of_their_data():
    y = torch.eye(3)[[2, 0, 1, 2, 2]]
    x = torch.full((5, 1, 4, 4), 0.5)
    grey = read(reconstructions(conditional(), x[:4], seed=0, num_samples=2, y=y[:4]))[..., 0]
    # From the left: paper, four images in the order of the data, paper.
    assert (1.0, 0.75, 0.5, 0.0, 0.5, 0.25, 0.5, 0.75, 1.0) in {runs(row) for row in grey}


def scaled(factor):
    """A program of levels 0..factor; a power of two moves no bit of any mantissa."""
    torch.manual_seed(0)
    encoder = pv.networks.MLP((1, 4, 4), (4,), (8,), input_scale=1 / factor)
    decoder = pv.networks.MLP((2,), (1, 4, 4), (8,))
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.posteriors.DiagonalNormal(encoder, 2),
        pv.likelihoods.Normal(decoder, scale=0.1 * factor),
    )
    with torch.no_grad():
        decoder.output_bias.fill_(0.5)
        for parameter in (decoder.output_bias, decoder.head.weight):
            parameter.mul_(factor)
    return vae


def test_any_range_looks_like_that_from_0_to_1():
    x = torch.rand(3, 1, 6, 6)
    one = images.draw_reconstructions(image_views.Reconstructions(x, x, x[None], x))
    y = 10 * x - 5
    other = images.draw_reconstructions(image_views.Reconstructions(y, y, y[None], y), images.Key(-5.0, 5.0))
    shown, expected = read(other), read(one)
    np.testing.assert_allclose(shown, expected, atol=1.01 / 255)


def test_missing_numbers_have_a_colour_that_is_no_grey_and_no_gap():
    x = torch.linspace(0, 1, 8).reshape(2, 1, 2, 2)
    x[0, 0, 0, 1] = torch.nan
    shades = images.PLAIN.shades(x)
    assert shades.shape == (2, 3, 2, 2)
    np.testing.assert_allclose(shades[0, :, 0, 1], images.MISSING)
    assert torch.equal(shades[1], x[1].expand(3, 2, 2))
    assert images.PLAIN.shades(x[1:]).shape == (1, 1, 2, 2)
    in_colour = torch.rand(2, 3, 2, 2)
    in_colour[1, 2, 0, 0] = torch.nan
    shades = images.Key(-1.0, 3.0).shades(in_colour)
    np.testing.assert_allclose(shades[1, :, 0, 0], images.MISSING)
    np.testing.assert_allclose(shades[0], (in_colour[0] + 1) / 4)


def test_rows_of_samples_are_the_trained_classes_and_no_more_than_30():
    assert images.labels_to_draw(5, 2, trained=(1, 4)).argmax(-1).tolist() == [1, 1, 4, 4]
    assert images.labels_to_draw(5, 1, trained=(1, 4), label=0).argmax(-1).tolist() == [0]
    assert len(images.labels_to_draw(1000, 8)) == 240


def test_the_highest_level_is_shown_white():
    x = torch.rand(5, 1, 4, 4)
    one, many = scaled(1), scaled(64)
    assert samples(many, 0, 4, key=images.Key(white=64.0)) == samples(one, 0, 4)
    assert reconstructions(many, 64 * x, 0, key=images.Key(white=64.0)) == reconstructions(one, x, 0)
    assert samples(many, 0, 4, key=images.Key(white=32.0)) != samples(one, 0, 4)


def test_the_training_curve_of_an_autoencoder_is_its_reconstruction():
    """The same numbers, be they ELBO or reconstruction, are drawn at the same place."""
    elbos = history([-30.0, -20.0, -25.0])
    codes = [
        {**record, "valid_elbo": None, "valid_standard_error": None, "valid_reconstruction": record["valid_elbo"]}
        for record in elbos
    ]
    elbos = [{**record, "valid_standard_error": None} for record in elbos]
    blue = matplotlib.colors.to_rgb(palette.BLUE)
    drawn = [abs(read(images.training(h))[:300] - blue).sum(-1) < 0.05 for h in (elbos, codes)]
    assert drawn[0].sum() > 200
    np.testing.assert_array_equal(*drawn)
