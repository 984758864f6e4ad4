"""The halves of a program under two plates, and with enumerated labels: each member is what it is for flat data."""

import math

import pyro
import pyro.distributions as dist
import pytest
import test_likelihoods as likelihoods
import test_posteriors as posteriors
import test_priors as priors
import torch
from cases import all_but
from densities import perturbed
from halves import (
    SHAPE,
    B,
    C,
    D,
    Normal,
    OwnDecoder,
    S,
    bernoulli,
    diagonal,
    latents,
    log_probs,
    nested,
    small,
    two_layers,
    under,
)
from pyro import poutine
from torch import nn

import pyro_vae as pv


def with_likelihood(case):
    return pv.VAE(pv.priors.ConditionalNormal(D, C), diagonal(), case.build(C))


def with_prior(case):
    if case.kind == "VampPrior":
        prior = case.build_prior()
        return pv.VAE(prior, prior.posterior, bernoulli(case.y_dim))
    return pv.VAE(case.build_prior(), diagonal(), bernoulli())


def with_posterior(case):
    return pv.VAE(pv.priors.StandardNormal(D), case.build(y_dim=C), bernoulli())


class OwnEncoder(nn.Module):
    """It sees rows alone."""

    def __init__(self):
        super().__init__()
        self.convolution, self.head = nn.Conv2d(1, 2, 2), nn.Linear(6 + C, 2 * D)

    def forward(self, x, y):
        return self.head(torch.cat([self.convolution(x).flatten(1), y], 1))


def own_networks():
    posterior = pv.posteriors.DiagonalNormal(OwnEncoder(), D)
    return pv.VAE(pv.priors.StandardNormal(D), posterior, pv.likelihoods.Bernoulli(OwnDecoder()))


def with_gaps(name, **options):
    scaling = pv.scaling.Centred(SHAPE)
    inner = small(pv.networks.WithMask.in_shape(SHAPE), (2 * D,))
    encoder = pv.scaling.Rescaled(pv.networks.WithMask(inner), scaling)
    likelihood = likelihoods.Case(name, None, None, None, **options).build(C)
    return pv.VAE(pv.priors.StandardNormal(D), pv.posteriors.DiagonalNormal(encoder, D), likelihood, missing=True)


def scaled_columns():
    scale = pv.scaling.ColumnScale(SHAPE)
    likelihood = Normal(small((D,), SHAPE), scale=1.0, learn_scale="pixel", x_shape=SHAPE, column_scale=scale)
    posterior = pv.posteriors.DiagonalNormal(pv.scaling.Rescaled(small(SHAPE, (2 * D,)), scale), D)
    program = pv.VAE(pv.priors.StandardNormal(D), posterior, likelihood)
    scale.fit(3 + 2 * torch.randn(20, *SHAPE))
    return program


BINARY = [0.0, 1.0]
REAL, LEVELS, COUNTS = likelihoods.REAL, likelihoods.LEVEL, likelihoods.COUNTS
PROGRAMS = {
    **{f"p(x|z): {n}": (lambda c=c: with_likelihood(c), c.inside) for n, c in likelihoods.CASES.items()},
    **{f"p(z): {n}": (lambda c=c: with_prior(c), BINARY) for n, c in priors.CASES.items()},
    **{f"q(z|x): {n}": (lambda c=c: with_posterior(c), BINARY) for n, c in posteriors.CASES.items()},
    "two layers, top-down": (lambda: two_layers("top_down"), BINARY),
    "two layers, bottom-up": (lambda: two_layers("bottom_up"), BINARY),
    "networks of one's own": (own_networks, BINARY),
    "columns in units of their spread": (scaled_columns, REAL),
    "missing: Normal": (lambda: with_gaps("Normal", scale=0.3), REAL),
    "missing: LowRankNormal": (lambda: with_gaps("LowRankNormal", rank=2, scale=0.3), REAL),
    "missing: Categorical": (lambda: with_gaps("Categorical", num_levels=likelihoods.LEVELS), LEVELS),
    "missing: NegativeBinomial": (lambda: with_gaps("NegativeBinomial", total_count=4.0), COUNTS),
}
ORDINARY = [
    "p(x|z): LowRankNormal",
    "p(x|z): Categorical",
    "p(x|z): NegativeBinomial",
    "p(z): ConditionalNormal",
    "p(z): VampPrior over DiagonalNormal, labels",
    "p(z): FlowPrior, spline",
    "q(z|x): FlowPosterior",
    "two layers, top-down",
    "networks of one's own",
    "missing: LowRankNormal",
]
LABELLED = [name for name in PROGRAMS if not name.startswith("p(z): Vamp") or name.endswith("labels")]
every_program = pytest.mark.parametrize("name", all_but(ORDINARY, list(PROGRAMS)))
every_labelled = pytest.mark.parametrize("name", all_but(ORDINARY, LABELLED))


def built(name):
    make, inside = PROGRAMS[name]
    torch.manual_seed(1)
    vae = perturbed(make()).double()
    x = torch.tensor(inside, dtype=torch.float64)[torch.randint(len(inside), (S * B, *SHAPE))]
    if vae.missing:
        x = torch.where(torch.rand(x.shape) < 0.4, math.nan, x)
    return vae, x, torch.eye(C, dtype=torch.float64)[torch.arange(S * B) % C]


@every_program
def test_under_two_plates_each_datum_has_the_log_p_that_it_has_flat(name):
    vae, x, y = built(name)
    y = y if name in LABELLED else None
    z = latents(vae, x, y)
    inner, plates = {site: nested(value) for site, value in z.items()}, [("data", B), ("sets", S)]
    for half, whole in ((vae.generative, vae.model), (vae.recognition, vae.guide)):
        expected = log_probs(whole, z, x, y)
        found = log_probs(under(plates, half, nested(x), nested(y)), inner)
        assert found.keys() == expected.keys() != set()
        for site in expected:
            torch.testing.assert_close(found[site], nested(expected[site]), rtol=1e-10, atol=1e-10)


@every_labelled
def test_enumerated_labels_give_what_a_loop_over_the_classes_gives(name):
    vae, x, _ = built(name)
    eye, size = torch.eye(C, dtype=torch.float64), len(x)
    each = [eye[c].expand(size, C) for c in range(C)]
    z = [latents(vae, x, y) for y in each]
    together = {site: torch.stack([values[site] for values in z]) for site in z[0]}

    def enumerated(half):
        y = pyro.sample("y", dist.OneHotCategorical(torch.ones(C).double()), infer={"enumerate": "parallel"})
        assert y.shape == (C, 1, C)
        return half(x, y)

    for half, whole in ((vae.generative, vae.model), (vae.recognition, vae.guide)):
        with poutine.enum(first_available_dim=-2):
            found = log_probs(under([("data", size)], enumerated, half), together)
        loop = [log_probs(whole, values, x, y) for values, y in zip(z, each, strict=True)]
        for site in loop[0]:
            expected = torch.stack([log_p[site] for log_p in loop])
            torch.testing.assert_close(found[site].expand_as(expected), expected, rtol=1e-10, atol=1e-10)
