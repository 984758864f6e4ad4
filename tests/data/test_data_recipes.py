"""Recipes: noise and x apart; the probability of a draw is exact, and x can be traced into a graph."""

import pytest
import scipy.stats
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.data import Batch, Split
from pyro_vae.data.recipes import RECIPES

SHAPE = torch.Size([64, 3])


def noise_of(recipe, num_levels, shape=SHAPE, seed=0):
    return RECIPES[recipe](num_levels).noise(shape, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("num_levels", [2, 3, 17, 256, 1000])
def test_of_all_noise_that_there_is_as_many_give_one_as_the_level_says(num_levels):
    """P(x = 1) = v / (L - 1): of the L - 1 values of u exactly v, for every v."""
    whole = torch.uint8 if num_levels <= 256 else torch.int32
    levels, u = torch.arange(num_levels, dtype=whole), torch.arange(num_levels - 1, dtype=whole)
    x = RECIPES["dynamic"](num_levels).make(levels.expand(len(u), -1), u[:, None].expand(-1, num_levels))
    assert x.dtype == torch.float32
    assert x.sum(0).tolist() == list(range(num_levels))


@pytest.mark.parametrize(("num_levels", "dtype"), [(2, torch.uint8), (17, torch.uint8), (256, torch.uint8)])
def test_the_noise_is_uniform_on_so_many_values(num_levels, dtype):
    """Chi-square of 200,000 draws, refused at p < 1e-5."""
    u = noise_of("dynamic", num_levels, torch.Size([200_000]))
    assert u.dtype == dtype
    counts = torch.bincount(u.long(), minlength=num_levels - 1)
    assert len(counts) == num_levels - 1
    assert num_levels == 2 or scipy.stats.chisquare(counts.numpy()).pvalue > 1e-5


def test_more_levels_than_a_byte_holds_have_wider_noise():
    u = noise_of("dynamic", 1000, torch.Size([100_000]))
    assert (u.min(), u.max()) == (0, 998)


@pytest.mark.parametrize("value", [0, 1, 2, 127, 128, 254, 255])
def test_draws_of_a_level_have_its_probability(value):
    """100,000 draws, 4.5 standard errors; never at 0, always at 255."""
    levels = torch.full((100_000,), value, dtype=torch.uint8)
    x = RECIPES["dynamic"](256).make(levels, noise_of("dynamic", 256, levels.shape, seed=value))
    p = value / 255
    assert abs(x.mean(dtype=torch.float64) - p) <= 4.5 * (p * (1 - p) / len(x)) ** 0.5


def test_draws_of_floats():
    """100,000 draws for each of 5 values, 4.5 standard errors; never at 0, always at 1."""
    p = torch.tensor([0.0, 0.01, 0.3, 0.99, 1.0])
    x = RECIPES["dynamic"](None).make(p, noise_of("dynamic", None, torch.Size([100_000, 5])))
    assert ((x.double().mean(0) - p).abs() <= 4.5 * (p * (1 - p) / len(x)).sqrt()).all()
    ends = torch.tensor([[0.0], [1 - 2.0**-24]])  # the least and the largest number that torch.rand gives
    assert RECIPES["dynamic"](None).make(torch.tensor([0.0, 1.0]), ends).tolist() == [[0.0, 1.0], [0.0, 1.0]]


@pytest.mark.parametrize("recipe", ["none", "threshold", "levels"])
def test_nothing_is_drawn_where_nothing_is_random(recipe):
    assert noise_of(recipe, 256) is None
    assert not RECIPES[recipe](256).stream


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("num_levels", [17, None])
def test_x_is_traced_as_a_function_of_levels_and_noise(recipe, num_levels):
    """Traced on one batch, right on another: nothing of the first one is in the graph."""
    draws = torch.Generator().manual_seed(1)
    first, second = (
        torch.rand(SHAPE, generator=draws)
        if num_levels is None
        else torch.randint(17, SHAPE, generator=draws, dtype=torch.uint8)
        for _ in range(2)
    )
    split = Split("train", first, None, num_levels, recipe, 0)
    noise, other = (noise_of(recipe, num_levels, seed=seed) for seed in (0, 1))
    for graph in (
        torch.fx.symbolic_trace(lambda v, u: split.x(v, u)),
        make_fx(lambda v, u: split.x(v, u))(first, noise),
    ):
        assert torch.equal(graph(second, other), split.x(second, other))
        assert not torch.equal(graph(second, other), graph(first, noise))
        assert graph(second, other).dtype == torch.float32


@pytest.mark.parametrize("recipe", RECIPES)
def test_raw_batches_are_the_batches_before_x_is_made(recipe):
    levels = torch.randint(256, (50, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    split = Split.make("train", levels, torch.arange(50), 256, recipe, 0)
    raw = list(split.raw_batches(20, seed=3, epoch=2))
    assert all(isinstance(batch, Batch) and batch.levels.dtype == torch.uint8 for batch in raw)
    assert all((batch.noise is None) == (recipe not in ("dynamic", "dequantize")) for batch in raw)
    for batch, (x, labels) in zip(raw, split.batches(20, seed=3, epoch=2), strict=True):
        assert torch.equal(split.x(batch.levels, batch.noise), x)
        assert torch.equal(batch.labels, labels)
        assert recipe == "static" or torch.equal(batch.levels, levels[labels])
