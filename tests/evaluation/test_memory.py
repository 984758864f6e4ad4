"""Blocks of draws are small where the program is large, whatever the number of data."""

import pytest
import torch
from exact import binary_data, small_vae

import pyro_vae as pv
from pyro_vae.evaluation import log_weights
from pyro_vae.evaluation.memory import SAMPLE_BLOCK, sample_block
from pyro_vae.model.networks import MLP


def wide(pixels):
    return pv.VAE(
        pv.priors.StandardNormal(2),
        pv.posteriors.DiagonalNormal(MLP((pixels,), (4,), hidden=(2,)), 2),
        pv.likelihoods.Bernoulli(MLP((2,), (pixels,), hidden=(2,))),
    )


def test_a_small_program_has_whole_blocks():
    assert sample_block(small_vae(), binary_data(3), 1000) == SAMPLE_BLOCK


@pytest.mark.parametrize("size", [1, 3, 200])
def test_a_large_program_has_smaller_ones_whatever_the_number_of_data(size):
    pixels = 20_000
    found = sample_block(wide(pixels), torch.zeros(size, pixels), 1000)
    # The budget is 2^27 numbers, for 128 data, of which a Bernoulli makes five to fifteen for each pixel.
    assert 2**27 / (128 * 15 * pixels) <= found <= 2**27 / (128 * 5 * pixels)


def test_a_huge_program_still_gets_two():
    assert sample_block(wide(200_000), torch.zeros(1, 200_000), 1000) == 2


def test_few_draws_are_one_block():
    assert sample_block(wide(200_000), torch.zeros(1, 200_000), 8) == SAMPLE_BLOCK


def test_it_leaves_the_random_state_and_takes_labels():
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.posteriors.DiagonalNormal(MLP((6,), (4,), y_dim=3), 2),
        pv.likelihoods.Bernoulli(MLP((2,), (6,), y_dim=3)),
    )
    state = torch.get_rng_state()
    assert sample_block(vae, torch.zeros(4, 6), 100, (torch.eye(3)[torch.zeros(4, dtype=torch.long)],)) == SAMPLE_BLOCK
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_of_small_blocks_are_those_of_the_program():
    vae, x = wide(20_000), torch.zeros(3, 20_000)
    weights = log_weights(vae, x, 20, seed=0)
    assert weights.shape == (20, 3)
    assert len(weights[:, 0].unique()) == 20  # no two blocks share their noise
    assert torch.equal(log_weights(vae, x, 20, seed=0), weights)
