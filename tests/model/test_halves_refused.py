"""A VAE inside a larger model: what would be a wrong sum is refused, and by which name."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import binary_data, small_vae
from halves import MLP, SHAPE, B, C, D, OwnDecoder, S, bernoulli, diagonal, nested, under
from pyro import poutine
from torch import nn

import pyro_vae as pv
from pyro_vae.errors import DataError, UsageError

# What is refused


def refused(program, match, error=UsageError):
    with pytest.raises(error, match=match):
        program()


def test_a_batch_under_no_plate_would_share_one_latent():
    vae, x = small_vae(), binary_data(4)
    for half in (vae.generative, vae.recognition):
        refused(lambda half=half: half(x), r"x of shape \(4, 6\) has 4 rows at dim -1, where no plate is open")
        refused(under([("data", 4)], half, x.expand(2, 4, 6)), r"2 rows at dim -2, where no plate is open")
    conditioned = poutine.condition(vae.generative, {"x": x})
    refused(conditioned, r"the value of site x of shape \(4, 6\) has 4 rows at dim -1, where no plate is open")


def test_one_datum_would_count_for_all_of_a_plate():
    vae, x = small_vae(), binary_data(4)
    for half in (vae.generative, vae.recognition):
        refused(under([("data", 4)], half, x[:1]), r"has 1 rows at dim -1, where the plate 'data' has 4: pass one")
        refused(under([("data", 4)], half, x[0]), r"x of shape \(6,\) has no dim -1, where the plate 'data' has 4")
        under([("data", 4)], half, x[:1].expand(4, 6))()
        under([("num_particles_vectorized", 3)], half, x[0])()  # as an ELBO opens it around a program of one datum
    conditioned = poutine.condition(vae.generative, {"x": x[0]})
    refused(under([("data", 4)], conditioned), "so it would count 4 times")


def test_data_and_labels_are_checked_and_named_by_their_place_in_the_plates():
    vae = pv.VAE(pv.priors.ConditionalNormal(D, C), diagonal(), bernoulli()).double()
    x, y = binary_data(S * B, SHAPE), torch.eye(C).double()[torch.arange(S * B) % C]
    plates, x, y = [("data", B), ("sets", S)], nested(x), nested(y)
    halves = vae.generative, vae.recognition
    for bad in (math.nan, 0.5):
        x[1, 2, 0, 1, 3] = bad
        for half in halves if math.isnan(bad) else halves[:1]:
            refused(under(plates, half, x, y), r"datum \(1, 2\), position \(0, 1, 3\)", DataError)
    x[1, 2, 0, 1, 3] = 0.0
    y[0, 2, 1] = math.inf
    for half in halves:
        refused(
            under([("data", 4)], half, binary_data(4, SHAPE), y[0, :1]),
            r"y of shape \(1, 3\) has 1 rows at dim -1, where the plate",
        )
        refused(under(plates, half, x, y), r"y holds inf at datum \(0, 2\), position \(1,\)", DataError)
        refused(
            under(plates, half, x, y[:, :2]), r"y of shape \(2, 2, 3\) has 2 rows at dim -1, where the plate 'data'"
        )
        refused(under(plates, half, x, [1, 2]), "labels y must be a tensor", TypeError)
    y[0, 2, 1] = 0.0
    refused(under(plates, vae.generative, x[..., :2], y), r"over data of shape \(1, 2, 4\); got x of shape", DataError)
    refused(under(plates, vae.recognition, None, y), "needs the data", ValueError)
    refused(
        lambda: vae.model(x, y),
        r"labels y are one-hot, \(B, C\); got shape \(2, 3, 3\)\. .* your own plates",
        ValueError,
    )


def test_a_density_that_is_infinite_at_an_end_is_named_by_its_place_in_the_plates():
    class Beta(pv.likelihoods.Likelihood):
        def forward(self, z, y=None):
            return dist.Beta(*self.decode_parts(z, y, 2).exp()).to_event(1)

    vae = small_vae()
    vae.likelihood = Beta(MLP((3,), (2, 6), (5,)).double())
    x = torch.full((2, 3, 6), 0.4).double()
    plates = [("data", 3), ("sets", 2)]
    under(plates, vae.generative, x)()
    x[1, 2, 4] = 0.0
    refused(under(plates, vae.generative, x), r"Beta is not finite at 0, .*datum \(1, 2\), position \(4,\)", DataError)


@pytest.mark.parametrize("plate", ["images", "data"])
def test_a_plate_that_is_open_already_is_named_and_the_halves_are_the_cure(plate):
    vae, x = small_vae(), binary_data(4)
    told = rf"plate 'data' at dim=-1, and the plate '{plate}' \(dim=-1\) is open: .*`vae.generative\(x, y\)`"
    for whole, half in ((vae.model, vae.generative), (vae.guide, vae.recognition)):
        refused(under([(plate, 4)], whole, x), told)
        under([(plate, 4)], half, x)()
        with pyro.plate("draws", 3, dim=-2):  # on the left there is room
            whole(x)


def test_the_dimensions_of_a_datum_may_have_to_be_said():
    """An encoder and a decoder of one's own, where only the decoder takes labels."""
    torch.manual_seed(1)
    encoder = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten(), nn.Linear(6, 2 * D))
    vae = pv.VAE(
        pv.priors.StandardNormal(D), pv.posteriors.DiagonalNormal(encoder, D), pv.likelihoods.Bernoulli(OwnDecoder())
    ).double()
    x = binary_data(S * B, SHAPE)
    assert under([("data", S * B)], vae.recognition, x)().shape == (S * B, D)  # one plate says it
    plates = [("data", B), ("sets", S)]
    refused(under(plates, vae.recognition, nested(x)), r"in several plates.* set DiagonalNormal's `event_dim`, 3 for")
    vae.posterior.event_dim = 3
    assert under(plates, vae.recognition, nested(x))().shape == (S, B, D)
