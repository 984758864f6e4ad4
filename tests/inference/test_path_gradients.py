"""Gradients along paths: the mean of the total gradient, by quadrature and by draws; no noise at the optimum."""

import itertools

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import thorough
from exact import MixturePrior, ProbabilisticPCA, binary_data, small_vae, two_layers
from pyro.infer import Trace_ELBO
from torch import nn

import pyro_vae as pv
from pyro_vae.errors import UsageError
from pyro_vae.inference import SVI, ImportanceWeightedELBO, MeanFieldELBO, SampledELBO, weighted
from pyro_vae.randomness import stream

STL, DREG = "sticking_the_landing", "doubly_reparametrised"
MLP = pv.networks.MLP


def gradients(loss, vae, *args, seed=5, **weights):
    """The loss, and its gradient by each parameter, of the noise of a seed."""
    vae.zero_grad()
    torch.manual_seed(seed)
    value = loss.loss_and_grads(*weighted(vae.model, vae.guide, **weights), *args)
    return value, [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in vae.parameters()]


def sampled(gradient, num_particles=1):
    return SampledELBO(num_particles, gradient, max_plate_nesting=1, vectorize_particles=num_particles > 1)


def one_dimensional(prior=None, y_dim=0, **options):
    """One latent, two numbers of x; all that the guide and the model learn reaches the loss."""
    with stream(3, "init"):
        posterior = pv.posteriors.DiagonalNormal(MLP((2,), (2,), (3,), nn.Tanh, y_dim=y_dim), 1)
        made = prior(posterior) if prior else pv.priors.StandardNormal(1)
        likelihood = pv.likelihoods.Bernoulli(MLP((1,), (2,), (3,), nn.Tanh, y_dim=y_dim))
        return pv.VAE(made, posterior, likelihood, **options).double()


def one_dimensional_layers(guide):
    top_down = guide == "top_down"
    with stream(4, "init"):
        return pv.HierarchicalVAE(
            pv.priors.StandardNormal(1),
            pv.likelihoods.Normal(MLP((1,), (1,), (3,), nn.Tanh)),
            pv.likelihoods.Bernoulli(MLP((1,), (2,), (3,), nn.Tanh)),
            pv.posteriors.DiagonalNormal(MLP((2,), (2,), (3,), nn.Tanh, y_dim=1 if top_down else 0), 1),
            pv.posteriors.DiagonalNormal(MLP((2,) if top_down else (1,), (2,), (3,), nn.Tanh), 1),
            guide=guide,
        ).double()


def expected(monkeypatch, loss, vae, x, dimensions, num_nodes, **weights):
    """The expected gradient by each parameter: a Gauss-Hermite sum over all base noise of one datum."""
    nodes, masses = np.polynomial.hermite_e.hermegauss(num_nodes)
    masses = masses / masses.sum()
    left = []

    def standard_normal(shape, dtype, device):
        return torch.tensor([left.pop(0) for _ in range(torch.Size(shape).numel())], dtype=dtype).reshape(shape)

    monkeypatch.setattr(torch.distributions.normal, "_standard_normal", standard_normal)
    total = [torch.zeros_like(parameter) for parameter in vae.parameters()]
    for chosen in itertools.product(range(num_nodes), repeat=dimensions):
        left[:] = nodes[list(chosen)]
        _, found = gradients(loss, vae, x, **weights)
        assert not left
        for sum_, part in zip(total, found, strict=True):
            sum_ += masses[list(chosen)].prod() * part
    return total


def furthest(some, others):
    return max((a - b).abs().max().item() for a, b in zip(some, others, strict=True))


def vamp(posterior):
    return pv.priors.VampPrior(posterior, (2,), num_components=3)


X = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
SMOOTH = {
    "standard": lambda: one_dimensional(),
    "mixture": lambda: one_dimensional(lambda _: MixturePrior(1)),
    "vamp": lambda: one_dimensional(vamp),
}
WEIGHTED = {"reconstruction": 0.7, "kl": 0.4}


class TestExpectation:
    """Both expectations by quadrature over the base noise, so that no draw is left: equal to 1e-10."""

    @pytest.mark.parametrize(
        ("program", "weights"),
        [
            ("vamp", {}),
            ("standard", WEIGHTED),
            *thorough(("standard", {}), ("mixture", {}), ("vamp", WEIGHTED), ("vamp", {"kl": 0.0})),
            *thorough(("mixture", {"reconstruction": 0.0}), ("standard", {"kl": 0.0})),
        ],
    )
    def test_of_one_latent_is_that_of_the_total_gradient(self, monkeypatch, program, weights):
        vae = SMOOTH[program]()
        total, path = (
            expected(monkeypatch, sampled(gradient), vae, X, 1, 60, **weights) for gradient in ("total", STL)
        )
        assert furthest(total, path) < 1e-10
        assert max(part.abs().max() for part in total) > 0.05

    @pytest.mark.parametrize("guide", ["top_down", "bottom_up"])
    @pytest.mark.parametrize("weights", [WEIGHTED, *thorough({}, {"kl": 0.0})])
    def test_of_two_latents_is_that_of_the_total_gradient(self, monkeypatch, guide, weights):
        vae = one_dimensional_layers(guide)
        total, path = (expected(monkeypatch, sampled(gradient), vae, X, 2, 8, **weights) for gradient in ("total", STL))
        assert furthest(total, path) < 1e-10 * max(part.abs().max() for part in total)

    @pytest.mark.parametrize(
        ("program", "num_nodes", "error"),
        [("vamp", 10, 1e-5), *thorough(("vamp", 24, 1e-9), ("standard", 36, 1e-9), ("mixture", 36, 1e-8))],
    )
    def test_of_two_particles_is_that_of_the_total_gradient(self, monkeypatch, program, num_nodes, error):
        """The weights are no polynomial of the noise: the error left is that of the sum, and falls with its nodes."""
        vae = SMOOTH[program]()
        with torch.no_grad():
            vae.posterior.encoder.output_bias[1] -= 0.4
        total, path = (
            expected(monkeypatch, ImportanceWeightedELBO(2, gradient), vae, X, 2, num_nodes)
            for gradient in ("total", DREG)
        )
        assert furthest(total, path) < error


# Every member whose draws a gradient can follow, with dropout and batch norm, labels, gaps and two layers.


def norm(*widths):
    """A network with dropout and batch norm, in training."""
    return nn.Sequential(
        nn.Linear(widths[0], 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, widths[1])
    )


def built(posterior="diagonal", prior="standard", **settings):
    """A program as the command line builds it, over six binary numbers."""
    from pyro_vae.experiment import build
    from pyro_vae.experiment.config import Config

    small = {"latent_dim": 2, "hidden": (4,), "num_components": 3, "flow_hidden": (4,), "flow_transforms": 1, "rank": 1}
    vae = build.vae(Config(posterior=posterior, prior=prior, **small, **settings), (6,), 2, num_classes=2).double()
    with torch.no_grad(), stream(8, "noise"):
        for parameter in vae.parameters():  # away from where paths and scores start at 0
            parameter += 0.1 * torch.randn_like(parameter)
    return vae


def of_networks(encoder, decoder, prior=None):
    with stream(6, "init"):
        posterior = pv.posteriors.DiagonalNormal(encoder(6, 4), 2)
        made = prior(posterior) if prior else pv.priors.StandardNormal(2)
        return pv.VAE(made, posterior, pv.likelihoods.Bernoulli(decoder(2, 6))).double()


def linear(*widths):
    return nn.Linear(*widths)


class LogNormalPosterior(pv.posteriors.Posterior):
    """A transformed normal: z is above 0."""

    @staticmethod
    def encoder_shape(latent_dim):
        return (2 * latent_dim,)

    def forward(self, x, y=None):
        loc, log_scale = self.encode(x, y).chunk(2, -1)
        return dist.LogNormal(loc, log_scale.exp()).to_event(1)


class GammaPrior(pv.priors.Prior):
    def forward(self, y=None):
        return dist.Gamma(2 * self.scale, self.scale).to_event(1)


def above_zero():
    with stream(6, "init"):
        decoder = pv.likelihoods.Bernoulli(linear(2, 6))
        return pv.VAE(GammaPrior(2), LogNormalPosterior(linear(6, 4), 2), decoder).double()


def gappy():
    vae = built(prior="vamp", missing="nan")
    return vae, torch.where(torch.rand(8, 6, generator=torch.Generator().manual_seed(1)) < 0.3, torch.nan, BITS)


BITS = binary_data(8)
LABELS = torch.eye(2, dtype=torch.float64)[[0, 1] * 4]
PROGRAMS = {
    "vamp": lambda: (built(prior="vamp"), BITS),
    "low_rank": lambda: (built("low_rank"), BITS),
    "full": lambda: (built("full", "full"), BITS),
    "flow": lambda: (built("flow", "vamp"), BITS),
    "flow_prior": lambda: (built(prior="flow"), BITS),
    "mixture": lambda: (built(prior="mixture"), BITS),
    "conditional": lambda: (built(prior="conditional", conditional=True), BITS, LABELS),
    "gaps": gappy,
    "top_down": lambda: (two_layers("top_down"), BITS),
    "bottom_up": lambda: (two_layers("bottom_up"), BITS),
    "flow_over_flow": lambda: (built("flow", layers=2, latent_dim2=2, hidden2=(4,)), BITS),
    "transformed": lambda: (above_zero(), BITS),
    "normed_encoder": lambda: (of_networks(norm, linear), BITS),
    "normed_prior": lambda: (of_networks(norm, linear, lambda q: pv.priors.VampPrior(q, (6,), 3)), BITS),
    "dropout": lambda: (of_networks(norm, lambda *widths: nn.Sequential(nn.Dropout(0.2), nn.Linear(*widths))), BITS),
    "normed_decoder": lambda: (of_networks(norm, norm), BITS),
}
DIRECTIONS, DRAWS, COPIES = 4, 400, 12


def projected(loss, vae, *args, seed=0, **weights):
    """Mean and standard error of the gradient of each parameter in four random directions, over many steps."""
    copies = [arg.repeat(COPIES, 1) for arg in args]
    noise = torch.Generator().manual_seed(7)
    directions = [torch.randn(DIRECTIONS, p.numel(), generator=noise, dtype=p.dtype) for p in vae.parameters()]
    found = []
    for step in range(DRAWS):
        _, parts = gradients(loss, vae, *copies, seed=(seed + 1) * DRAWS + step, **weights)
        found.append(torch.cat([d @ part.flatten() for d, part in zip(directions, parts, strict=True)]))
    found = torch.stack(found)
    return found.mean(0), found.std(0) / DRAWS**0.5


def check_same_mean(losses, vae, *args, **weights):
    """Each of some 4 x 8 comparisons within 4 standard errors, which one in 16,000 fails by chance alone."""
    (mean, error), (other, other_error) = (
        projected(loss, vae, *args, seed=seed, **weights) for seed, loss in enumerate(losses)
    )
    spread = (error.square() + other_error.square()).sqrt()
    assert (error > 0).any()
    assert ((mean - other).abs() <= 4 * spread + 1e-9).all()


@pytest.mark.parametrize("name", ["vamp", *thorough(*(name for name in PROGRAMS if name != "vamp"))])
def test_sticking_the_landing_has_the_mean_of_the_total_gradient(name):
    check_same_mean([sampled("total"), sampled(STL)], *PROGRAMS[name](), **WEIGHTED)


@pytest.mark.parametrize(
    "name", ["top_down", *thorough(*(name for name in PROGRAMS if name not in ("top_down", "normed_decoder")))]
)
def test_the_doubly_reparametrised_one_has_the_mean_of_the_total_gradient(name):
    check_same_mean([ImportanceWeightedELBO(3, "total"), ImportanceWeightedELBO(3, DREG)], *PROGRAMS[name]())
